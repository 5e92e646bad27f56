"""The S3 store on a real Ceph gateway: the suite, races, credentials, what an independent client reads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from minio import Minio

from cdp_container.errors import AccessDenied, Contention, NoSuchBucket, PreconditionFailed, StoreUnavailable
from cdp_container.store.attest import probe
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import S3Settings
from tests.conformance.store_suite import BIG_BYTES, StoreRaces, StoreSuite
from tests.servers.bucket import Bucket, fresh_bucket, opened, s3_environment
from tests.servers.front import running_front
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]


@pytest.fixture(scope="module")
def bucket(ceph: S3Server) -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(ceph) as bucket:
        s3_environment(ceph, patch)
        yield bucket


@pytest.fixture(scope="module", params=["obstore", "boto3"])
def shared(request: pytest.FixtureRequest, bucket: Bucket) -> Iterator[S3Store]:
    """One store for all, told by the probe how Ceph wants its tags."""
    settings = S3Settings(
        bucket.name, f"place/{request.param}", bucket.server.endpoint, data_client=request.param
    )
    with opened(settings) as store:
        probe(store, os.urandom)
        yield store


@pytest.fixture
def store(shared: S3Store) -> S3Store:
    for found in shared.list(""):
        shared.delete(found.key)
    return shared


class TestCephStore(StoreSuite, StoreRaces):
    """See `StoreSuite` and `StoreRaces`."""

    CONNECTIONS = 32
    ROUNDS = 10


def test_an_independent_client_reads_what_we_wrote(store: S3Store, bucket: Bucket) -> None:
    minio = Minio(
        bucket.server.endpoint.removeprefix("http://"),
        access_key=bucket.server.access_key,
        secret_key=bucket.server.secret_key,
        secure=False,
        region=bucket.server.region,
    )
    written = {f"log/{size:08}": os.urandom(size) for size in (0, 1, 4096, BIG_BYTES)}
    tags = {key: store.put_new(key, data) for key, data in written.items()}
    tags["log/00000001"] = store.put_if("log/00000001", b"replaced", tags["log/00000001"])
    written["log/00000001"] = b"replaced"
    prefix = store.settings.prefix
    for key, data in written.items():
        answer = minio.get_object(bucket.name, f"{prefix}/{key}")
        try:
            assert answer.read() == data
            assert answer.headers["ETag"] == tags[key]
        finally:
            answer.close()
            answer.release_conn()
    listed = [entry.object_name for entry in minio.list_objects(bucket.name, f"{prefix}/", recursive=True)]
    assert listed == [f"{prefix}/{key}" for key in sorted(written)]


def test_no_multipart_upload_is_ever_begun(store: S3Store, bucket: Bucket) -> None:
    with running_front(bucket.server.endpoint) as front:
        with opened(replace(store.settings, endpoint=front.endpoint)) as fronted:
            tag = fronted.put_new("log/0001", os.urandom(2 * BIG_BYTES))
            fronted.put_if("log/0001", os.urandom(BIG_BYTES), tag)
        assert [asked.method for asked in front.asked] == ["PUT", "PUT"]
        assert front.began_multipart() == []
    assert bucket.admin.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []) == []


@pytest.mark.parametrize(("access", "secret"), [(None, "wrong"), ("nobody", "wrong")])
def test_wrong_credentials_are_denied(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, access: str | None, secret: str
) -> None:
    if access is not None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    store.put_new("domain/owner", b"x")
    with opened(store.settings) as stranger:
        for request in (
            lambda: stranger.get("domain/owner"),
            lambda: stranger.get_range("domain/owner", 0, 1),
            lambda: stranger.head("domain/owner"),
            lambda: stranger.put_new("domain/holds", b"x"),
            lambda: stranger.put_if("domain/owner", b"y", "tag"),
            lambda: list(stranger.list("")),
            lambda: stranger.delete("domain/owner"),
            lambda: probe(stranger, os.urandom),
        ):
            with pytest.raises(AccessDenied):
                request()
    assert store.get("domain/owner").data == b"x"


def test_no_such_bucket(store: S3Store) -> None:
    with opened(replace(store.settings, bucket="no-such-bucket")) as nowhere:
        for request in (
            lambda: nowhere.get("a"),
            lambda: nowhere.get_range("a", 0, 1),
            lambda: nowhere.head("a"),
            lambda: nowhere.put_new("a", b"x"),
            lambda: nowhere.put_if("a", b"x", "tag"),
            lambda: list(nowhere.list("")),
            lambda: probe(nowhere, os.urandom),
        ):
            with pytest.raises(NoSuchBucket):
                request()


def test_a_chain_of_swaps_by_many_loses_no_step(store: S3Store) -> None:
    """What a lease needs: every increment that was acknowledged, or read back as ours, counts once."""
    store.put_new("domain/owner", b"0 start")
    done: list[str] = []

    def increment(name: str) -> None:
        for number in range(5):
            nonce = f"{name}-{number}"
            while not _step(store, nonce):
                pass
            done.append(nonce)

    threads = [threading.Thread(target=increment, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = store.get("domain/owner").data.split(b" ")
    assert int(steps[0]) == 20
    assert sorted(step.decode() for step in steps[2:]) == sorted(done)


def _step(store: S3Store, nonce: str) -> bool:
    """Add our nonce once; whether it is in, however the write was answered."""
    blob = store.get("domain/owner")
    count, *nonces = blob.data.decode().split(" ")
    if nonce in nonces:
        return True
    data = " ".join([str(int(count) + 1), *nonces, nonce]).encode()
    try:
        store.put_if("domain/owner", data, blob.found.tag)
    except (PreconditionFailed, Contention, StoreUnavailable):
        return False  # look again: Ceph 16 answers 500 to some losers
    return True
