"""deploy/policies on the real gateway: two domains in one bucket, and no credentials reach the other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from cdp_agent.cli.init import initialise
from cdp_container.clock import SystemClock
from cdp_container.domain.owner_runner import OwnerRunner
from cdp_container.domain.owner_types import Claimant, TakeOver
from cdp_container.domain.requests import list_requests
from cdp_container.domain.settings import parse_settings
from cdp_container.errors import AccessDenied, NotFound
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.holds import Holds, build_holds, parse_holds
from cdp_container.format.keyblock import ScryptCost
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, epoch_key, segment_key
from cdp_container.format.seal import NO_KEYS
from cdp_container.store.attest import probe
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import S3Settings
from deploy.bucket_policy import ROLES, bucket_policy
from rehydrate.cli.commands import Access
from rehydrate.cli.restoring import restore
from rehydrate.cli.targets import Targets
from rehydrate.plan import Choice
from rehydrate.request import make_request
from tests.containers import Site, write
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.ceph import another_user
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

DOMAINS: Final = ("shop", "shop2")
"""One name begins with the other: a prefix that forgets its slash would reach over."""
CLOCK: Final = SystemClock()

As = Callable[[str, str, str], S3Store]


@pytest.fixture(scope="module")
def users(ceph: S3Server) -> dict[tuple[str, str], S3Server]:
    return {
        (domain, role): another_user(ceph, f"{domain}-{role}") for domain, role in product(DOMAINS, ROLES)
    }


@pytest.fixture(scope="module")
def bucket(ceph: S3Server, users: dict[tuple[str, str], S3Server]) -> Iterator[Bucket]:
    with fresh_bucket(ceph) as bucket:
        policy = bucket_policy(bucket.name, [(domain, role, f"{domain}-{role}") for domain, role in users])
        bucket.admin.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
        yield bucket


@pytest.fixture
def acting(
    bucket: Bucket, users: dict[tuple[str, str], S3Server], monkeypatch: pytest.MonkeyPatch
) -> Iterator[As]:
    """Opens the container of a domain with the credentials of a role of some domain."""
    opened: list[S3Store] = []

    def act(owner: str, role: str, domain: str) -> S3Store:
        s3_environment(users[owner, role], monkeypatch)
        store = S3Store(S3Settings(bucket.name, domain, bucket.server.endpoint, tag_spelling="unquoted"))
        opened.append(store)
        return store

    yield act
    for store in opened:
        store.close()


@pytest.fixture
def container(acting: As, tmp_path: Path) -> As:
    """Both domains are there, each created with its own writer's credentials; gives `acting`."""
    for domain in DOMAINS:
        store = acting(domain, "writer", domain)
        if any(store.list("")):
            continue
        (tmp_path / f"{domain}.raw").write_bytes(bytes(1 << 20))
        settings = parse_settings(
            f"domain: {domain}\nsite: hamburg\nstore: {store.address}\nencryption: none\n"
            f"journal:\n  directory: {tmp_path}/{domain}\n"
            f"volumes:\n  - name: db01\n    path: {tmp_path}/{domain}.raw\n".encode(),
            "agent.yaml",
        )
        initialise(settings, store, lambda: "", CLOCK, os.urandom, ScryptCost(n=16))
        store.put_new(segment_key(1, 1), b"a segment")
    return acting


def owner_of(store: S3Store) -> Owner:
    return parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_of_one_domain_reaches_the_other(container: As, role: str) -> None:
    other = container("shop", role, "shop2")
    there = epoch_key(7)
    for attempt in (
        lambda: other.get(OWNER_KEY),
        lambda: other.get_unless(OWNER_KEY, '"0"'),
        lambda: other.get_range(segment_key(1, 1), 0, 4),
        lambda: other.head(OWNER_KEY),
        lambda: [*other.list("")],
        lambda: [*other.list("domain/")],
        lambda: other.put_new(there, b"x"),
        lambda: other.put_if(OWNER_KEY, b"x", "0"),
        lambda: other.delete(OWNER_KEY),
    ):
        with pytest.raises(AccessDenied):
            attempt()
    mine = container("shop2", "writer", "shop2")
    assert owner_of(mine).name == "shop2"
    with pytest.raises(NotFound):
        mine.get(there)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_lists_the_bucket(container: As, bucket: Bucket, role: str) -> None:
    for prefix in ("", "shop", "sho"):
        store = container("shop", role, "shop")
        with closing(store), pytest.raises(AccessDenied):
            [*S3Store(replace(store.settings, prefix="")).list(prefix)]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_reads_and_lists_its_domain_and_sees_what_is_not_there(container: As, role: str) -> None:
    store = container("shop", role, "shop")
    assert owner_of(store).name == "shop"
    assert store.get_range(segment_key(1, 1), 2, 7) == b"segment"
    assert [found.key for found in store.list("log/")] == [segment_key(1, 1)]
    assert OWNER_KEY in [found.key for found in store.list("")]
    for absent in (segment_key(1, 2), epoch_key(9)):
        for look in (store.get, store.head):
            with pytest.raises(NotFound):
                look(absent)


def test_a_reader_asks_for_the_domain_and_writes_nothing_else(container: As) -> None:
    store = container("shop", "reader", "shop")
    made = make_request(store, "munich", "Sepp", "drill", CLOCK, os.urandom)
    assert [one.request.request_id for one in list_requests(store, made.domain).pending] == [made.request_id]
    blob = store.get(OWNER_KEY)
    for attempt in (
        lambda: store.put_if(OWNER_KEY, blob.data, blob.found.tag),
        lambda: store.put_new(epoch_key(1), b"x"),
        lambda: store.put_new(segment_key(1, 2), b"x"),
        lambda: store.delete(segment_key(1, 1)),
        lambda: store.delete(HOLDS_KEY),
    ):
        with pytest.raises(AccessDenied):
            attempt()


def test_takeover_credentials_claim_the_domain_and_write_no_data(container: As, tmp_path: Path) -> None:
    store = container("shop2", "takeover", "shop2")
    probe(store, os.urandom)
    seen = owner_of(store)
    claimant = Claimant(seen.domain, "munich", os.urandom(16), 30, "Sepp", "drill", "test")
    directory = tmp_path / "journal"
    directory.mkdir()
    # What stands under log/ is no segment that a claim would look for: nobody ever owned the domain.
    with OwnerRunner(store, claimant, directory, CLOCK, os.urandom, lambda line: None, NO_KEYS) as runner:
        activated = runner.take_over(TakeOver(forced=(seen.epoch, seen.nonce)))
    assert (owner_of(store).site, owner_of(store).state) == ("munich", OwnerState.ACTIVE)
    assert store.get(epoch_key(activated.record.epoch)).data
    for attempt in (
        lambda: store.put_new(segment_key(activated.record.epoch, 1), b"x"),
        lambda: store.delete(segment_key(1, 1)),
        lambda: store.delete(OWNER_KEY),
    ):
        with pytest.raises(AccessDenied):
            attempt()


def test_a_writer_deletes_nothing_of_the_history(container: As) -> None:
    store = container("shop", "writer", "shop")
    probe(store, os.urandom)
    for key in (OWNER_KEY, HOLDS_KEY, segment_key(1, 1)):
        with pytest.raises(AccessDenied):
            store.delete(key)
        assert store.head(key).key == key


# --- holds ---------------------------------------------------------------------------------------

HELD: Final = "held"


@pytest.fixture(scope="module")
def readers(ceph: S3Server) -> dict[str, S3Server]:
    return {name: another_user(ceph, f"{HELD}-{name}") for name in ("writer", "reader", "onlooker", "warden")}


@pytest.fixture
def held(
    ceph: S3Server, readers: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Site]]:
    """The address of a container, as an operator without `etag` knows it, and its site.

    An onlooker may do all that a reader may but write; a warden may write the roster beside that.
    """
    with fresh_bucket(ceph) as bucket:
        named = [(HELD, "writer", f"{HELD}-writer"), (HELD, "reader", f"{HELD}-reader")]
        policy = bucket_policy(
            bucket.name, [*named, *((HELD, "reader", f"{HELD}-{name}") for name in ("onlooker", "warden"))]
        )
        denied = {"AskForTheDomain": ("onlooker", "warden"), "HoldWhatIsRead": ("onlooker",)}
        policy["Statement"] = [
            statement
            for statement in policy["Statement"]
            if not any(
                statement["Sid"].endswith(sid) and statement["Principal"]["AWS"][0].endswith(tuple(names))
                for sid, names in denied.items()
            )
        ]
        bucket.admin.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
        s3_environment(readers["writer"], monkeypatch)
        settings = S3Settings(bucket.name, HELD, bucket.server.endpoint, tag_spelling="unquoted")
        with closing(S3Store(settings)) as store:
            site = Site(store, encrypted=False)
            disk = site.add_volume("disk", 1 << 20)
            site.begin_epoch()
            site.protect(site.cut([write(disk, 4096, site.rng.randbytes(300_000))]))
            store.put_new(HOLDS_KEY, build_holds(Holds(site.domain, 1, bytes(16))))
            yield replace(settings, tag_spelling="as-given").address(), site


@pytest.mark.parametrize("name", ["onlooker", "warden", "reader", "writer"])
def test_who_may_write_the_roster_holds_and_who_may_not_restores_all_the_same(
    held: tuple[str, Site],
    readers: dict[str, S3Server],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, site = held
    s3_environment(readers[name], monkeypatch)
    monkeypatch.delenv("CDP_PASSPHRASE", raising=False)
    wrote: list[str] = []
    real = S3Store.put_if

    def put_if(store: S3Store, key: str, data: bytes, tag: str) -> str:
        found = real(store, key, data, tag)
        wrote.append(key)
        return found

    monkeypatch.setattr(S3Store, "put_if", put_if)
    target = tmp_path / "disk.raw"
    access = Access(address, None, None)
    assert restore(access, Choice(), Targets([], target, False, None, force=False), None, as_json=False) == 0
    ((image,),) = [found.values() for found in site.images.values()]
    assert target.read_bytes() == image
    stderr = capsys.readouterr().err
    if name == "onlooker":
        assert stderr.count("unheld: these credentials may not write") == 1
        assert wrote == []
    else:
        assert "unheld" not in stderr
        assert wrote == [HOLDS_KEY] * 3, "placed, narrowed, taken away"
    assert parse_holds(site.store.get(HOLDS_KEY).data, HOLDS_KEY, site.domain).holds == {}


def test_a_warden_writes_the_roster_and_nothing_else(
    held: tuple[str, Site], readers: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, site = held
    s3_environment(readers["warden"], monkeypatch)
    assert isinstance(site.store, S3Store)
    with closing(S3Store(site.store.settings)) as store:
        owner = store.get(OWNER_KEY)
        for attempt in (
            lambda: store.put_if(OWNER_KEY, owner.data, owner.found.tag),
            lambda: store.put_new(epoch_key(9), b"x"),
            lambda: store.put_new(segment_key(1, 2), b"x"),
            lambda: store.put_new(f"{HOLDS_KEY}x", b"x"),
            lambda: store.delete(HOLDS_KEY),
            lambda: store.delete(segment_key(1, 1)),
        ):
            with pytest.raises(AccessDenied):
                attempt()
