"""An Object Lock on the real gateway: who has the writer's key, and who owns the bucket, destroys nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import boto3
import pytest
from botocore.exceptions import ClientError

from cdp_agent.collector.lock_note import load_note
from cdp_agent.collector.locks import Lock, extend_locks
from cdp_container.errors import (
    AccessDenied,
    ConfigInvalid,
    NotFound,
    ObjectLocked,
    PreconditionFailed,
    StoreRefused,
)
from cdp_container.format.keys import segment_key
from cdp_container.store import s3_oldest
from cdp_container.store.address import parse_address, with_data
from cdp_container.store.credentials_file import credentials_text
from cdp_container.store.s3_oldest import OldestS3Store
from cdp_container.store.s3_settings import S3Settings
from deploy.bucket_policy import bucket_policy
from tests.e2e.processes import run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.e2e.test_failback import assert_disks, assert_goes_on, failback, lose, two_ways
from tests.e2e.test_failover import failover, fill, fill_small, force_word
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.ceph import another_user
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]

SIZE: Final = 4 * MIB
LOCK_DAYS: Final = 2
DAY_NS: Final = 86_400 * 10**9
ROLES: Final = ("writer", "reader", "collector")


@pytest.fixture(scope="module")
def users(ceph: S3Server) -> dict[str, S3Server]:
    return {role: another_user(ceph, f"lock-{role}") for role in ROLES}


@dataclass(frozen=True, slots=True)
class Places:
    """The bucket of `domain/`, and the locked one of the data."""

    domain: Bucket
    data: Bucket

    @property
    def address(self) -> str:
        return S3Settings(self.domain.name, "shop", self.domain.server.endpoint).address()

    @property
    def settings(self) -> S3Settings:
        return S3Settings(self.data.name, "shop", self.data.server.endpoint, versions="oldest")

    def configuration(self) -> tuple[str, ...]:
        return (
            f"data_store: s3://{self.data.name}/shop?versions=oldest",
            "lock: {outage: 36h}",
            "retention: {every: 12h}",
        )


def locked_bucket(server: S3Server, plain: Bucket, days: int) -> Bucket:
    """A bucket of its own, in which all is locked from the start."""
    name = f"{plain.name}-locked"
    plain.admin.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    plain.admin.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}},
        },
    )
    return Bucket(server, name, plain.admin)


@pytest.fixture
def places(ceph: S3Server, users: dict[str, S3Server]) -> Iterator[Places]:
    with fresh_bucket(ceph) as plain:
        places = Places(plain, locked_bucket(ceph, plain, LOCK_DAYS))
        for bucket in (places.domain, places.data):
            policy = bucket_policy(bucket.name, [("shop", role, f"lock-{role}") for role in users])
            bucket.admin.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
        yield places


@contextmanager
def protected(places: Places, writer: S3Server) -> Iterator[tuple[Site, bytes]]:
    """A domain whose site died, and what its disk held."""
    with new_site({"db": SIZE}, store=places.address, secrets=writer.environment(), with_key=True) as a:
        a.write_config(*places.configuration())
        done = a.init().must()
        assert f"locked for {LOCK_DAYS} days (COMPLIANCE" in done.err + done.out
        agent = a.start()
        image = bytearray(SIZE)
        rng = random.Random(5)
        with a.client("db") as client:
            for _ in range(6):
                at, data = rng.randrange(SIZE // 65536) * 65536, rng.randbytes(65536)
                client.write(at, data)
                image[at : at + len(data)] = data
                a.flush_when_ready()
        agent.kill_group()
        yield a, bytes(image)


def everything_in(bucket: Bucket) -> list[tuple[str, str]]:
    """Key and version of all that is stored."""
    page = bucket.admin.list_object_versions(Bucket=bucket.name)
    assert not page["IsTruncated"]
    return [(entry["Key"], entry["VersionId"]) for entry in page.get("Versions", [])]


def attack(places: Places, writer: S3Server) -> None:
    """With the writer's key: rubbish upon everything. With the owner's: a delete marker upon that."""
    thief = boto3.client(
        "s3",
        endpoint_url=writer.endpoint,
        aws_access_key_id=writer.access_key,
        aws_secret_access_key=writer.secret_key,
        region_name=writer.region,
    )
    stored = everything_in(places.data)
    assert len(stored) > 1
    for key, version in stored:
        for client in (thief, places.data.admin):
            with pytest.raises(ClientError) as refused:
                client.delete_object(Bucket=places.data.name, Key=key, VersionId=version)
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        thief.put_object(Bucket=places.data.name, Key=key, Body=b"your files are encrypted")
        places.data.admin.delete_object(Bucket=places.data.name, Key=key)
    thief.close()


def read_back(
    a: Site, environment: dict[str, str], target: Path, command: str, store: str
) -> tuple[bytes, str]:
    words = [str(BIN / "rehydrate"), command, store, "--volume", "db", "--target", str(target)]
    done = run([*words, *a.secret_options()], environment).must()
    return target.read_bytes(), done.err


def test_nothing_that_was_locked_is_lost(places: Places, users: dict[str, S3Server]) -> None:
    with protected(places, users["writer"]) as (a, image):
        reader = a.environment(a.base / "r") | users["reader"].environment()
        attack(places, users["writer"])
        restored, said = read_back(a, reader, a.base / "1.raw", "restore", places.address)
        assert restored == image
        assert "a later version upon the object" in said
        verified = run(
            [str(BIN / "rehydrate"), "verify", places.address, "--json", *a.secret_options()], reader
        ).must()
        assert "a delete marker upon the object" in verified.err
        # The agent goes on over the rubbish, and what it writes then comes back as well.
        a.start()
        with a.client("db") as client:
            client.write(0, b"after the attack".ljust(4096))
        a.flush_when_ready()
        a.agents[-1].kill_group()
        image = b"after the attack".ljust(4096) + image[4096:]
        assert read_back(a, reader, a.base / "2.raw", "restore", places.address)[0] == image
        # And where all under domain/ is rubbish too, the locked place alone is enough.
        for key, _ in everything_in(places.domain):
            places.domain.admin.put_object(Bucket=places.domain.name, Key=key, Body=b"rubbish")
        rescued, _ = read_back(a, reader, a.base / "3.raw", "rescue", places.settings.address())
        assert rescued == image


def test_a_pass_has_rights_of_its_own_and_extends_what_is_needed(
    places: Places, users: dict[str, S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with protected(places, users["writer"]) as (a, image):
        collector = users["collector"]
        keys = a.base / "collector"
        keys.write_text(
            credentials_text("default", collector.access_key, collector.secret_key, None).decode()
        )
        own = f"collection: {{store: '{places.address}&credentials={keys}', grace: 1s}}"
        a.write_config(*places.configuration(), own)
        a.start()
        a.flush_when_ready()
        a.agent_command("gc").must()
        note = load_note(a.journal)
        assert note.lock_seconds == LOCK_DAYS * 86_400
        assert note.soonest_ns > 0
        a.agents[-1].kill_group()
        s3_environment(collector, monkeypatch)
        store = OldestS3Store(places.settings)
        needed = {found.key: found.modified_ns for found in store.list("log/")}
        assert needed
        now_ns = max(needed.values()) + DAY_NS * 3 // 2
        lock = Lock("COMPLIANCE", LOCK_DAYS * 86_400)
        after = extend_locks(store, needed, note, lock, now_ns)
        assert set(after.extended) == set(needed)
        for key in needed:
            with pytest.raises(ObjectLocked) as locked:
                store.delete(key)
            assert locked.value.until_ns is not None
            assert 0 <= locked.value.until_ns - now_ns - LOCK_DAYS * DAY_NS < 2 * 10**9
        store.extend(min(needed), "COMPLIANCE", now_ns)  # shorter than it is: nothing to do
        with pytest.raises(AccessDenied):
            store.put_new(segment_key(99, 1), b"not the collector's to write")
        store.close()
        reader = a.environment(a.base / "r") | users["reader"].environment()
        assert read_back(a, reader, a.base / "1.raw", "restore", places.address)[0] == image


def test_a_clone_that_comes_second_is_told_so_though_the_gateway_takes_its_put(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_environment(places.data.server, monkeypatch)
    first, second = OldestS3Store(places.settings), OldestS3Store(places.settings)
    for number in range(1, 5):
        first.put_new(segment_key(1, number), b"of the first %d" % number)
    with pytest.raises(PreconditionFailed):
        second.put_new(segment_key(1, 2), b"of its twin")
    assert len(everything_in(places.data)) == 5, "this gateway enforces nothing in a versioned bucket"
    assert second.get(segment_key(1, 2)).data == b"of the first 2"
    assert second.get_range(segment_key(1, 3), 7, 5) == b"first"
    after = [found.key for found in second.list("log/", start_after=segment_key(1, 1)[:-1])]
    assert after == [segment_key(1, number) for number in range(1, 5)]
    assert [found.key for found in second.list("log/", segment_key(1, 2))] == after[2:]
    with pytest.raises(ObjectLocked, match="locked until") as locked:
        first.delete(segment_key(1, 1))
    assert locked.value.until_ns is not None
    assert (
        0
        < locked.value.until_ns - first.head(segment_key(1, 1)).modified_ns
        <= (LOCK_DAYS * 86400 + 60) * 10**9
    )
    with pytest.raises(NotFound):
        first.head(segment_key(1, 9))
    for store in (first, second):
        store.close()


def test_pages_of_this_gateway_part_no_key(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(places.data.server, monkeypatch)
    store = OldestS3Store(places.settings)
    keys = [segment_key(1, number) for number in range(1, 6)]
    for number, key in enumerate(keys):
        store.put_new(key, b"right")
        for _ in range(number):
            places.data.admin.put_object(Bucket=places.data.name, Key=f"shop/{key}", Body=b"wrong!")
            places.data.admin.delete_object(Bucket=places.data.name, Key=f"shop/{key}")
    for size in (1, 2, 3):
        monkeypatch.setattr(s3_oldest, "LIST_PAGE_KEYS", size)
        fresh = OldestS3Store(places.settings)
        assert [(found.key, found.size) for found in fresh.list("")] == [(key, 5) for key in keys]
        assert [fresh.get(key).data for key in keys] == [b"right"] * 5
        assert fresh.later.overwritten == fresh.later.marked == set(keys[1:])
        assert [fresh.head(key).size for key in keys] == [5] * 5
        fresh.close()
    store.close()


def test_a_site_takes_over_and_gives_back_by_the_address_of_domain_alone(
    places: Places, users: dict[str, S3Server]
) -> None:
    both = with_data(parse_address(places.address), f"s3://{places.data.name}/shop?versions=oldest").address()
    images: dict[str, bytearray] = {}
    with two_ways(both, users["writer"].environment()) as (a, b):
        b.store = places.address
        a.start()
        fill(a, 1, images)
        a.agents[-1].kill_group()
        taken = failover(b, "--force", force_word(b)).must()
        assert "unheld" not in taken.err
        fill_small(b, images)
        lose(b)
        attack(places, users["writer"])
        a.store = places.address
        failback(a, "--force", force_word(b)).must()
        assert_disks(a, images)
        assert_goes_on(a, images)


def test_a_place_that_does_less_than_was_asked_for_is_refused(ceph: S3Server, tmp_path: Path) -> None:
    with fresh_bucket(ceph) as plain:
        places = Places(plain, locked_bucket(ceph, plain, 1))
        with new_site({"db": SIZE}, store=places.address, secrets=ceph.environment(), encrypted=False) as a:
            a.write_config(*places.configuration())
            assert "it must be 2" in a.init().must(ConfigInvalid.exit_code).err
            a.write_config(*places.configuration()[:1], "retention: {every: 36h}")
            done = a.init().must()
            assert "warning: the bucket locks for 1 days" in done.err + done.out
            a.write_config()
            refused = a.agent_command("check-config").must(StoreRefused.exit_code)
            assert "data_store" in refused.err + refused.out
        with new_site({"db": SIZE}, store=places.settings.address(), secrets=ceph.environment()) as b:
            assert "keeps old versions" in b.init().must(StoreRefused.exit_code).err
