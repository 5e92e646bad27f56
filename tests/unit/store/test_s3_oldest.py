"""A place where an object is its oldest version: nothing that is put upon it later hides it."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.cli.attest import attest_store
from cdp_agent.streamer.put import put_object
from cdp_agent.streamer.step_types import PutOutcome
from cdp_container.errors import (
    AccessDenied,
    NotFound,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from cdp_container.format.assemble import SealedObject
from cdp_container.store.address import data_place, open_store, parse_address, with_data
from cdp_container.store.attest import probe
from cdp_container.store.prompt import prompt
from cdp_container.store.s3_oldest import OldestS3Store
from cdp_container.store.s3_settings import DataClientName, S3Settings
from cdp_container.store.split import SplitStore
from cdp_container.store.zones import public_address
from tests.servers.bucket import Bucket, fresh_bucket, opened, s3_environment
from tests.servers.front import running_front
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(_moto: S3Server) -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(_moto) as bucket:
        s3_environment(_moto, patch)
        bucket.admin.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        yield bucket


class Place:
    """A store, and what somebody with more rights does behind its back."""

    def __init__(self, bucket: Bucket, client: DataClientName) -> None:
        self.bucket = bucket
        self.settings = S3Settings(
            bucket.name,
            secrets.token_hex(8),
            bucket.server.endpoint,
            data_client=client,
            versions="oldest",
        )
        self.store = OldestS3Store(self.settings)

    def overwrite(self, key: str, data: bytes) -> None:
        self.bucket.admin.put_object(Bucket=self.bucket.name, Key=self.settings.full_key(key), Body=data)

    def mark(self, key: str) -> None:
        self.bucket.admin.delete_object(Bucket=self.bucket.name, Key=self.settings.full_key(key))

    def versions(self, key: str) -> int:
        name = self.settings.full_key(key)
        page = self.bucket.admin.list_object_versions(Bucket=self.bucket.name, Prefix=name)
        return len(page.get("Versions", [])) + len(page.get("DeleteMarkers", []))

    def ignore_conditions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Ceph 16 does in a versioned bucket."""

        def put(key: str, data: bytes, limit_seconds: int) -> str:
            return self.bucket.admin.put_object(Bucket=self.bucket.name, Key=key, Body=data)["ETag"]

        monkeypatch.setattr(self.store._data, "put_new", put)


@pytest.fixture(params=["obstore", "boto3"])
def place(request: pytest.FixtureRequest, bucket: Bucket) -> Iterator[Place]:
    place = Place(bucket, request.param)
    yield place
    place.store.close()


def test_what_is_put_upon_an_object_hides_nothing(place: Place) -> None:
    store = place.store
    for number in range(5):
        store.put_new(f"log/{number}", b"right %d" % number)
    for _ in range(2):
        place.overwrite("log/1", b"wrong")
        place.mark("log/2")
    place.mark("log/3")
    place.overwrite("log/3", b"longer than what was there before")
    fresh = OldestS3Store(place.settings)
    for reader in (store, fresh):
        assert [reader.get(f"log/{number}").data for number in range(5)] == [
            b"right %d" % number for number in range(5)
        ]
        assert reader.get_range("log/3", 6, 100) == b"3"
        assert reader.get_range("log/1", 7, 3) == b""
        assert reader.head("log/2").size == 7
        assert [(found.key, found.size) for found in reader.list("log/")] == [
            (f"log/{number}", 7) for number in range(5)
        ]
        assert [found.key for found in reader.list("", start_after="log/2")] == ["log/3", "log/4"]
        tag = reader.head("log/1").tag
        assert reader.get_unless("log/1", tag) is None
        assert reader.later.overwritten == {"log/1", "log/3"}
        assert reader.later.marked == {"log/2", "log/3"}
        assert len(reader.later.notes()) == 2
    fresh.close()


def test_what_is_not_there_is_not_there(place: Place) -> None:
    store = place.store
    for look in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFound):
            look("log/1")
    place.mark("log/1")
    with pytest.raises(NotFound):
        store.get("log/1")
    store.put_new("log/1", b"first")
    store.put_new("log/10", b"another")
    assert store.get("log/1").data == b"first"
    assert store.later.notes() == []


def test_a_listing_over_many_pages_parts_no_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = place.store._control.list_object_versions
    monkeypatch.setattr(
        place.store._control, "list_object_versions", lambda **words: real(**{**words, "MaxKeys": 2})
    )
    for number in range(4):
        place.store.put_new(f"log/{number}", b"right")
        for _ in range(number):
            place.overwrite(f"log/{number}", b"wrong!")
    assert [(found.key, found.size) for found in place.store.list("")] == [
        (f"log/{number}", 5) for number in range(4)
    ]
    assert place.store.get("log/3").data == b"right"
    stuck = {"Versions": [], "IsTruncated": True, "NextKeyMarker": "x", "NextVersionIdMarker": "y"}
    monkeypatch.setattr(place.store._control, "list_object_versions", lambda **_: stuck)
    with pytest.raises(StoreRefused, match="does not end"):
        [*place.store.list("")]


@pytest.mark.parametrize("enforced", [True, False])
def test_who_comes_second_is_told_so(place: Place, monkeypatch: pytest.MonkeyPatch, enforced: bool) -> None:
    if not enforced:
        place.ignore_conditions(monkeypatch)
    place.overwrite("log/1", b"a twin was quicker")
    with pytest.raises(PreconditionFailed):
        place.store.put_new("log/1", b"ours")
    assert place.store.get("log/1").data == b"a twin was quicker"
    place.store.put_new("log/2", b"ours")
    with pytest.raises(PreconditionFailed):
        place.store.put_new("log/2", b"ours, changed")


def test_a_lost_reply_leaves_no_second_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.ignore_conditions(monkeypatch)
    real: Callable[..., str] = place.store._data.put_new

    def lost(*words: Any) -> str:  # noqa: ANN401
        real(*words)
        raise StoreUnavailable("create", "the connection broke off")

    monkeypatch.setattr(place.store._data, "put_new", lost)
    with pytest.raises(StoreUnavailable):
        place.store.put_new("log/1", b"ours")
    with pytest.raises(PreconditionFailed):  # and who asks finds its own trailer there
        place.store.put_new("log/1", b"ours")
    assert place.versions("log/1") == 1
    assert place.store.get("log/1").data == b"ours"


def test_a_put_that_never_arrived_is_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise StoreUnavailable("create", "no connection")

    with monkeypatch.context() as patch:
        patch.setattr(place.store._data, "put_new", broken)
        with pytest.raises(StoreUnavailable):
            place.store.put_new("log/1", b"ours")
    place.store.put_new("log/1", b"ours")
    assert place.versions("log/1") == 1


def test_deleting_takes_all_versions_the_oldest_last(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.store.put_new("log/1", b"right")
    place.store.put_new("log/11", b"another")
    place.overwrite("log/1", b"wrong")
    place.mark("log/1")
    real, deleted = place.store._control.delete_object, []

    def delete(**words: Any) -> object:  # noqa: ANN401
        deleted.append(place.store.get("log/1").data)
        return real(**words)

    monkeypatch.setattr(place.store._control, "delete_object", delete)
    place.store.delete("log/1")
    assert deleted == [b"right"] * 3, "no later version was ever the object"
    assert [found.key for found in place.store.list("")] == ["log/11"]
    with pytest.raises(NotFound):
        place.store.get("log/1")
    place.store.delete("log/1")


def test_a_table_of_promises_leaves_nothing_in_a_data_place(place: Place) -> None:
    with pytest.raises(UsageError, match="locked"):
        attest_store(place.settings.address(), Path("/nonexistent"), 2, 1, as_json=False)
    assert [*place.store.list("")] == []


def test_a_twin_finds_itself_fenced_where_conditions_are_ignored(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an unversioned place: a key that is taken is success only if the stored trailer is ours."""
    place.ignore_conditions(monkeypatch)
    ours, twins = (
        SealedObject("log/1", data + digest, digest, 4)
        for data, digest in ((b"ours", b"o" * 32), (b"twin", b"t" * 32))
    )
    assert put_object(place.store, ours).outcome is PutOutcome.STORED
    assert put_object(place.store, twins).outcome is PutOutcome.FOREIGN
    assert put_object(place.store, ours).outcome is PutOutcome.STORED, "put again, as its answer was lost"


def test_nothing_is_replaced(place: Place) -> None:
    tag = place.store.put_new("log/1", b"x")
    with pytest.raises(StoreRefused):
        place.store.put_if("log/1", b"y", tag)


# --- a bucket that locks -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(bucket: Bucket) -> Bucket:
    """One that locks new objects, and so takes none without a checksum, as AWS does."""
    name = f"{bucket.name}-locked"
    bucket.admin.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    bucket.admin.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    return replace(bucket, name=name)


@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_a_bucket_that_locks_takes_what_is_put(locked: Bucket, client: DataClientName) -> None:
    place = Place(locked, client)
    with opened(replace(place.settings, versions="newest")) as plain, pytest.raises(StoreRefused):
        plain.put_new("log/1", b"without a checksum")
    place.store.put_new("log/1", b"right")
    place.store.put_new("log/big", bytes(6 << 20))
    assert place.store.get("log/1").data == b"right"
    with pytest.raises(StoreUnavailable):  # moto locks, and fails to tell until when
        place.store.delete("log/1")
    place.store.close()


@pytest.mark.parametrize("client", ["obstore", "boto3"])
def test_only_puts_have_a_checksum_and_it_is_a_header(bucket: Bucket, client: DataClientName) -> None:
    with running_front(bucket.server.endpoint) as front:
        store = OldestS3Store(replace(Place(bucket, client).settings, endpoint=front.endpoint))
        store.put_new("log/1", b"right")
        put, *_ = front.asked
        assert put.headers["x-amz-checksum-sha256"] == b64encode(sha256(b"right").digest()).decode()
        assert put.headers["x-amz-sdk-checksum-algorithm"] == "SHA256"
        assert "x-amz-checksum-sha256" in put.headers["authorization"], "it is signed"
        front.asked.clear()
        store.get("log/1")
        store.head("log/1")
        assert len(list(store.list(""))) == 1
        for asked in (put, *front.asked):
            assert not [name for name in asked.headers if "trailer" in name], asked
        for asked in front.asked:
            assert not [name for name in asked.headers if "checksum" in name], asked
        store.close()


# --- a container in two places -----------------------------------------------------------------


@pytest.fixture
def split(bucket: Bucket) -> Iterator[SplitStore]:
    with fresh_bucket(bucket.server) as plain:
        home = S3Settings(plain.name, "shop", bucket.server.endpoint)
        data = replace(home, bucket=bucket.name, prefix=secrets.token_hex(8), versions="oldest")
        store = open_store(with_data(home, data.address()))
        assert isinstance(store, SplitStore)
        yield store
        store.close()


def test_each_key_is_in_its_place(split: SplitStore) -> None:
    keys = ["catalog/1", "domain/owner", "domain/zzz", "log/1", "packs/1"]
    for key in keys:
        split.put_new(key, key.encode())
    # Moto leaves out what follows a marker that is no key.
    split.data.put_new("domain/owner", b"no domain stands here")
    assert [found.key for found in split.list("")] == keys
    assert [found.key for found in split.list("", "domain/owner")] == keys[2:]
    assert [found.key for found in split.list("domain/z")] == ["domain/zzz"]
    assert [found.key for found in split.list("d")] == keys[1:3]
    assert [found.key for found in split.data.list("")] == ["catalog/1", "domain/owner", "log/1", "packs/1"]
    assert [split.get(key).data for key in keys] == [key.encode() for key in keys]
    assert split.get("domain/owner").data == b"domain/owner"
    assert [found.key for found in split.list("")] == keys
    split.delete("log/1")
    with pytest.raises(NotFound):
        split.head("log/1")


def test_the_probe_asks_each_place_for_what_it_must_do(split: SplitStore, bucket: Bucket) -> None:
    probe(split, secrets.token_bytes)
    assert [*split.list("")] == []
    both = parse_address(split.address)
    assert isinstance(both, S3Settings)
    with fresh_bucket(bucket.server) as plain:
        unversioned = with_data(replace(both, data=None), f"s3://{plain.name}/x?versions=oldest")
        with pytest.raises(StoreRefused, match="keeps no versions"):
            probe(open_store(unversioned), secrets.token_bytes)
        probe(open_store(with_data(replace(both, data=None), f"s3://{plain.name}/x")), secrets.token_bytes)
    versioned = with_data(replace(both, data=None), f"s3://{bucket.name}/elsewhere")
    with pytest.raises(StoreRefused) as refused:
        probe(open_store(versioned), secrets.token_bytes)
    assert "versions=oldest" in refused.value.hint


def test_a_short_limit_holds_in_both_places(split: SplitStore) -> None:
    class Clock:
        def boottime_ns(self) -> int:
            return 0

        wall_ns = boottime_ns

        def sleep(self, seconds: float) -> None:
            assert seconds == 0

    quick = prompt(split, Clock(), 5)
    quick.put_new("domain/x", b"x")
    quick.put_new("log/x", b"y")
    quick.close()
    assert split.get("log/x").data == b"y"


# --- addresses ---------------------------------------------------------------------------------

HOME = "s3://control/shop?endpoint=https://h:1&profile=dr&credentials=/c"


def test_an_address_names_the_data_place_in_its_shortest_form() -> None:
    home = parse_address(HOME)
    both = with_data(home, "s3://locked/shop?versions=oldest&endpoint=https://h:1")
    assert both.data == "s3://locked/shop?versions=oldest"
    assert parse_address(both.address()) == both
    assert both.address() == f"{HOME}&data=s3://locked/shop?versions=oldest"
    further = with_data(home, "s3://locked/shop?versions=oldest&endpoint=https://h:2")
    assert parse_address(further.address()) == further
    assert data_place(both) == parse_address(
        "s3://locked/shop?endpoint=https://h:1&profile=dr&credentials=/c&versions=oldest"
    )
    elsewhere = data_place(with_data(home, "s3://locked/shop?endpoint=https://other"))
    assert elsewhere is not None
    assert (elsewhere.endpoint, elsewhere.profile) == ("https://other", "dr")


@pytest.mark.parametrize(
    ("home", "data"),
    [
        (HOME, "/a/directory"),
        ("/a/directory", "s3://locked"),
        (HOME, "s3://control/shop"),
        (HOME, "s3://control/other?versions=oldest"),
        (HOME, "s3://locked/x?data=s3://further/x"),
        (HOME, "s3://locked/x?versions=every"),
        (HOME, "s3://locked/x?secret=x"),
    ],
)
def test_data_places_that_are_none(home: str, data: str) -> None:
    with pytest.raises(UsageError):
        with_data(parse_address(home), data)


def test_the_place_of_domain_keeps_no_versions() -> None:
    with pytest.raises(UsageError):
        parse_address(HOME + "&versions=oldest&data=s3://locked")


def test_endpoints_are_published_without_the_data_place(split: SplitStore) -> None:
    assert "data" not in public_address(split)
    assert "versions=oldest" in public_address(split.data)


def test_who_may_not_see_versions_is_denied(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.store.put_new("log/1", b"x")

    def denied(*_: object) -> bytes:
        raise AccessDenied("read", "no")

    monkeypatch.setattr(place.store._data, "get_range", denied)
    with pytest.raises(AccessDenied):
        place.store.get_range("log/1", 0, 1)
