"""What takes space at a place: in a directory, and in a bucket with and without versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied, NotFound, StoreRefused
from cdp_container.store.address import open_store
from cdp_container.store.inventory import Standing, Taken, open_inventories, open_inventory
from cdp_container.store.s3_inventory import S3Inventory
from cdp_container.store.s3_settings import S3Settings
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server

PART = 5 << 20


@pytest.fixture
def bucket(_moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    s3_environment(_moto, monkeypatch)
    with fresh_bucket(_moto) as bucket:
        yield bucket


def settings_of(bucket: Bucket, prefix: str = "shop") -> S3Settings:
    return S3Settings(bucket.name, prefix, endpoint=bucket.server.endpoint)


def by_standing(found: list[Taken]) -> Counter[Standing]:
    return Counter(item.standing for item in found)


def test_a_directory_shows_objects_other_files_and_what_writes_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put_new("log/0000000001/000000000001", b"segment")
    (tmp_path / "notes of somebody.txt").write_bytes(b"12345")
    (tmp_path / ".tmp").mkdir(exist_ok=True)
    (tmp_path / ".tmp" / "half").write_bytes(b"123")
    (tmp_path / "broken").symlink_to("nowhere")
    inventory = open_inventory(str(tmp_path))
    found = {item.name: item for item in inventory.objects()}
    assert list(inventory.current()) == list(inventory.objects())
    assert list(inventory.uploads()) == []
    assert found["log/0000000001/000000000001"].size_bytes == 7
    assert found["notes of somebody.txt"].size_bytes == 5
    assert found[".tmp/half"].standing is Standing.LEFT
    assert found["broken"].size_bytes == 0
    with pytest.raises(NotFound):
        list(open_inventory(str(tmp_path / "absent")).objects())


def test_a_bucket_shows_every_name_and_uploads_that_nobody_ended(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bucket.admin
    client.put_object(Bucket=bucket.name, Key="shop/log/x y", Body=b"12")
    client.put_object(Bucket=bucket.name, Key="shopping/other", Body=b"12")
    upload = client.create_multipart_upload(Bucket=bucket.name, Key="shop/big")["UploadId"]
    for number in (1, 2):
        client.upload_part(
            Bucket=bucket.name, Key="shop/big", UploadId=upload, PartNumber=number, Body=bytes(PART)
        )
    inventory = S3Inventory(settings_of(bucket))
    found = [*inventory.objects(), *inventory.uploads()]
    assert {(item.name, item.size_bytes, item.standing) for item in found} == {
        ("log/x y", 2, Standing.CURRENT),
        ("big", 2 * PART, Standing.UPLOAD),
    }
    big = next(item for item in found if item.upload)
    inventory.abort(big)
    inventory.abort(big)  # gone already
    assert [item.name for item in inventory.objects()] == ["log/x y"]
    assert list(inventory.uploads()) == []
    assert not inventory.rules().versioned
    inventory.close()


def test_a_versioned_bucket_shows_what_readers_do_not(bucket: Bucket) -> None:
    client = bucket.admin
    client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"22"):
        client.put_object(Bucket=bucket.name, Key="shop/a", Body=body)
    client.put_object(Bucket=bucket.name, Key="shop/b", Body=b"333")
    client.delete_object(Bucket=bucket.name, Key="shop/b")
    inventory = S3Inventory(settings_of(bucket))
    found = list(inventory.objects())
    assert [item.name for item in inventory.current()] == ["a"]
    assert by_standing(found) == {Standing.CURRENT: 1, Standing.OTHER: 2, Standing.MARKER: 1}
    assert all(item.version for item in found)
    assert inventory.rules().versioned
    assert not inventory.rules().locks


def test_where_an_object_is_its_oldest_version_later_ones_are_others(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bucket.admin
    client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    for key, bodies in (("a", (b"1", b"22", b"333")), ("b", (b"4444",)), ("c", (b"55555", b"666666"))):
        for body in bodies:
            client.put_object(Bucket=bucket.name, Key=f"shop/{key}", Body=body)
    client.delete_object(Bucket=bucket.name, Key="shop/c")
    settings = replace(settings_of(bucket), versions="oldest")
    whole = S3Settings(bucket.name, "owner", bucket.server.endpoint, data=settings.address())
    [of_domain, inventory] = open_inventories(whole)
    assert of_domain.address == settings_of(bucket, "owner").address()
    assert isinstance(inventory, S3Inventory)
    real = inventory._client.list_object_versions
    for listing in (real, partial(real, MaxKeys=2)):
        monkeypatch.setattr(inventory._client, "list_object_versions", listing)
        found = list(inventory.objects())
        objects = {item.name: item.size_bytes for item in found if item.standing is Standing.CURRENT}
        assert objects == {"a": 1, "b": 4, "c": 5}
        others = sorted(item.size_bytes for item in found if item.standing is Standing.OTHER)
        assert others == [2, 3, 6]
        assert by_standing(found)[Standing.MARKER] == 1


def test_a_default_lock_is_told(bucket: Bucket) -> None:
    name = f"{bucket.name}-locked"
    bucket.admin.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    inventory = S3Inventory(S3Settings(name, endpoint=bucket.server.endpoint))
    assert (inventory.rules().locks, inventory.rules().lock_days) == (True, None)
    bucket.admin.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 3}},
        },
    )
    rules = inventory.rules()
    assert (rules.lock_mode, rules.lock_days) == ("COMPLIANCE", 3)


def test_listings_go_on_page_by_page_and_end(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        bucket.admin.put_object(Bucket=bucket.name, Key=f"shop/{number}", Body=b"")
    inventory = S3Inventory(settings_of(bucket))
    real = inventory._client.list_object_versions
    monkeypatch.setattr(inventory._client, "list_object_versions", lambda **words: real(**words, MaxKeys=2))
    assert sorted(item.name for item in inventory.objects()) == list("01234")
    real_newest = inventory._client.list_objects_v2
    monkeypatch.setattr(inventory._client, "list_objects_v2", lambda **words: real_newest(**words, MaxKeys=2))
    assert sorted(item.name for item in inventory.current()) == list("01234")
    stuck = {"IsTruncated": True, "NextKeyMarker": "a"}
    monkeypatch.setattr(inventory._client, "list_object_versions", lambda **_: stuck)
    with pytest.raises(StoreRefused, match="does not end"):
        list(inventory.objects())


def test_who_may_not_ask_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(AccessDenied):
        open_inventory("s3://bucket/shop?endpoint=http://127.0.0.1:1")
