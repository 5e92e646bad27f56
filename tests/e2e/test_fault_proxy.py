"""The fault proxy between our S3 store and a real Ceph gateway: each fault is what it says it is."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from cdp_container.errors import AccessDenied, PreconditionFailed, StoreThrottled, StoreUnavailable
from cdp_container.store.attest import probe
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_clients import Waits
from cdp_container.store.s3_settings import S3Settings
from tests.servers import faults
from tests.servers.bucket import Bucket, fresh_bucket, opened, s3_environment
from tests.servers.faults import Fate, FaultProxy, Faults, running_faults
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

DEADLINE_SECONDS = 30.0


@pytest.fixture(scope="module")
def bucket(ceph: S3Server) -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(ceph) as bucket:
        s3_environment(ceph, patch)
        yield bucket


@pytest.fixture
def proxy(ceph: S3Server) -> Iterator[FaultProxy]:
    with running_faults(ceph.endpoint, random.Random(1)) as proxy:
        yield proxy


@pytest.fixture(params=["obstore", "boto3"])
def store(request: pytest.FixtureRequest, bucket: Bucket, proxy: FaultProxy) -> Iterator[S3Store]:
    settings = S3Settings(bucket.name, os.urandom(4).hex(), proxy.endpoint, data_client=request.param)
    with opened(settings) as store:
        probe(store, os.urandom)
        yield store


@pytest.fixture
def direct(store: S3Store, bucket: Bucket) -> Iterator[S3Store]:
    """The same place, past the proxy."""
    with opened(replace(store.settings, endpoint=bucket.server.endpoint)) as direct:
        yield direct


def test_without_faults_everything_passes(store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
    data = os.urandom(3 << 20)
    tag = store.put_new("a", data)
    assert store.get("a").data == data
    assert store.get_range("a", 5, 10) == data[5:15]
    store.put_if("a", b"b", tag)
    assert [found.key for found in store.list("")] == ["a"]
    assert direct.get("a").data == b"b"
    assert set(proxy.counts()) == {Fate.PASSED}
    assert {seen.method for seen in proxy.seen} >= {"PUT", "GET"}
    assert proxy.busiest_second() >= 1


def test_resets_and_refusals_never_reach_the_server(
    store: S3Store, direct: S3Store, proxy: FaultProxy
) -> None:
    cases: list[tuple[Faults, type[Exception], Fate]] = [
        (faults.AWAY, StoreUnavailable, Fate.RESET),
        (Faults(refused=1.0), StoreUnavailable, Fate.ANSWERED),
        (Faults(refused=1.0, refusal=faults.SLOW_DOWN), StoreThrottled, Fate.ANSWERED),
        (Faults(refused=1.0, refusal=faults.EXPIRED_TOKEN), AccessDenied, Fate.ANSWERED),
        (Faults(refused=1.0, refusal=faults.INVALID_KEY), AccessDenied, Fate.ANSWERED),
    ]
    for wrong, error, fate in cases:
        proxy.set(wrong)
        before = len(proxy.seen)
        for request in (
            lambda: store.put_new("a", b"x" * 300_000),
            lambda: store.put_if("a", b"x", "tag"),
            lambda: store.get("a"),
            lambda: store.delete("a"),
        ):
            with pytest.raises(error):
                request()
        assert proxy.counts(before) == {fate: 4}
    assert list(direct.list("")) == []


def test_a_port_at_which_nobody_listens(store: S3Store, proxy: FaultProxy) -> None:
    with proxy.refusing():
        for request in (lambda: store.put_new("a", b"x"), lambda: store.head("a")):
            with pytest.raises(StoreUnavailable):
                request()
    store.put_new("a", b"x")


def test_a_lost_answer_was_done(store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
    proxy.set(Faults(lost=1.0))
    with pytest.raises(StoreUnavailable):
        store.put_new("a", b"x" * 300_000)
    assert direct.get("a").data == b"x" * 300_000
    with pytest.raises(StoreUnavailable):
        store.put_if("a", b"y", direct.head("a").tag)
    assert direct.get("a").data == b"y"
    proxy.set(faults.NONE)
    with pytest.raises(PreconditionFailed):
        store.put_new("a", b"x" * 300_000)


def test_an_answer_that_breaks_off_is_no_answer(store: S3Store, proxy: FaultProxy) -> None:
    store.put_new("a", b"x" * 300_000)
    proxy.set(Faults(broken=1.0))
    for request in (
        lambda: store.get("a"),
        lambda: store.get_range("a", 0, 100_000),
        lambda: store.head("a"),
    ):
        with pytest.raises(StoreUnavailable):
            request()


def test_what_is_stalled_is_reset_when_the_faults_change(store: S3Store, proxy: FaultProxy) -> None:
    proxy.set(faults.SILENT)
    failed: list[Exception] = []

    def ask(request: Callable[[], object]) -> None:
        try:
            request()
        except StoreUnavailable as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(lambda: store.put_new("a", b"x"),)) for _ in range(3)]
    before = len(proxy.seen)
    for thread in threads:
        thread.start()
    wait_until(lambda: len(proxy.seen) == before + 3, "all are stalled", DEADLINE_SECONDS)
    assert failed == []
    proxy.set(faults.NONE)
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert len(failed) == 3


def test_a_trickle_and_a_delay_change_no_byte(store: S3Store, direct: S3Store, proxy: FaultProxy) -> None:
    data = os.urandom(100_000)
    proxy.set(Faults(delay_seconds=0.05, bytes_per_second=200_000))
    store.put_new("a", data)
    assert direct.get("a").data == data
    assert store.get("a").data == data


def test_the_same_seed_gives_the_same_fates(ceph: S3Server) -> None:
    drawn = []
    for _ in range(2):
        with running_faults(ceph.endpoint, random.Random(7)) as proxy:
            proxy.set(Faults(reset=0.3, refused=0.3))
            for number in range(40):
                with contextlib.suppress(ConnectionResetError):
                    _ask_once(proxy)
                wait_until(lambda n=number: len(proxy.seen) == n + 1, "it was counted", DEADLINE_SECONDS)  # type: ignore[misc]
            drawn.append([seen.fate for seen in proxy.seen])
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {Fate.RESET, Fate.ANSWERED, Fate.PASSED}


def _ask_once(proxy: FaultProxy) -> None:
    with socket.create_connection(proxy.listener.getsockname(), DEADLINE_SECONDS) as client:
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        while client.recv(4096):
            pass


def test_a_line_on_which_a_put_takes_longer_than_the_limit(
    store: S3Store, direct: S3Store, proxy: FaultProxy
) -> None:
    """The first put times out; the second has more time, and is done."""
    data = os.urandom(400_000)
    with closing(S3Store(store.settings, waits=Waits(put_seconds=(1, 30)))) as slow:
        proxy.set(Faults(bytes_per_second=200_000))
        with pytest.raises(StoreUnavailable, match="in time"):
            slow.put_new("a", data)
        slow.put_new("b", data)
    assert direct.get("b").data == data


def test_what_hangs_is_given_up_and_asked_again_on_a_fresh_connection(
    store: S3Store, direct: S3Store, proxy: FaultProxy
) -> None:
    """Reads and swaps of one object hang, and no others; a swap that was given up may land all the same."""
    tag = store.put_new("domain/owner", b"1")
    store.put_new("domain/epochs", b"x")
    with closing(store.limited(1)) as quick:
        requests: list[Callable[[], object]] = [
            lambda: quick.get("domain/owner"),
            lambda: quick.get_unless("domain/owner", tag),
            lambda: quick.put_if("domain/owner", b"2", tag),
        ]
        for request in requests:
            request()  # so that there is a connection, if this server keeps one
            assert direct.get("domain/epochs").data == b"x"
        tag = direct.get("domain/owner").found.tag
        proxy.set(Faults(stalled=1.0, only="/domain/owner"))
        for request in requests:
            with pytest.raises(StoreUnavailable, match="in time"):
                request()
            assert quick.get("domain/epochs").data == b"x"
        proxy.set(Faults(delay_seconds=1.5, only="/domain/owner"))
        with pytest.raises(StoreUnavailable, match="in time"):
            quick.put_if("domain/owner", b"3", tag)
        proxy.set(faults.NONE)
        wait_until(lambda: direct.get("domain/owner").data == b"3", "it lands", DEADLINE_SECONDS)
        assert quick.get("domain/owner").data == b"3"
