"""Finding the data place of a container from the address of its domain/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.places import check_data_place, later_notes, open_container_store
from cdp_container.errors import StoreRefused
from cdp_container.format.domain import build_config, build_owner, config_digest, parse_config
from cdp_container.format.keys import OWNER_KEY, config_key, segment_key
from cdp_container.store.address import open_store, with_data
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import S3Settings
from cdp_container.store.split import SplitStore
from cdp_container.store.zones import public_address
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server
from tests.unit.format import samples

CLOCK = SystemClock()


@pytest.fixture
def buckets(_moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, Bucket]]:
    with fresh_bucket(_moto) as plain, fresh_bucket(_moto) as versioned:
        s3_environment(_moto, monkeypatch)
        versioned.admin.put_bucket_versioning(
            Bucket=versioned.name, VersioningConfiguration={"Status": "Enabled"}
        )
        yield plain, versioned


def publish(home: S3Settings, *data: str) -> None:
    config = build_config(replace(samples.config(), data=data))
    owner = replace(samples.owner(), config=config_digest(config))
    store = S3Store(home)
    store.put_new(config_key(owner.config), config)
    store.put_new(OWNER_KEY, build_owner(owner))
    store.close()


def test_the_configuration_names_the_data_place(buckets: tuple[Bucket, Bucket]) -> None:
    plain, versioned = buckets
    home = S3Settings(plain.name, "shop", plain.server.endpoint)
    data = S3Settings(versioned.name, "shop", plain.server.endpoint, versions="oldest")
    publish(home, data.address())
    address, store = open_container_store(home.address(), CLOCK)
    assert isinstance(store, SplitStore)
    assert store.address == address
    key = segment_key(1, 1)
    store.put_new(key, b"right")
    versioned.admin.put_object(Bucket=versioned.name, Key=f"shop/{key}", Body=b"wrong")
    assert [found.size for found in store.list("log/")] == [5]
    assert store.get(key).data == b"right"
    assert len(later_notes(store)) == 1
    store.close()
    again, store = open_container_store(address, CLOCK)
    assert again == address
    store.close()


def test_what_a_writer_published_gives_the_address_that_it_has(buckets: tuple[Bucket, Bucket]) -> None:
    """A prepared configuration and the one that a failover makes are compared word by word."""
    plain, versioned = buckets
    home = S3Settings(plain.name, "shop", plain.server.endpoint)
    written = with_data(home, f"s3://{versioned.name}/shop?versions=oldest").address()
    store = open_store(written)
    assert isinstance(store, SplitStore)
    publish(home, public_address(store.data))
    store.close()
    found, store = open_container_store(home.address(), CLOCK)
    assert found == written
    store.close()


def test_one_place_stays_one(buckets: tuple[Bucket, Bucket], tmp_path: Path) -> None:
    home = S3Settings(buckets[0].name, "shop", buckets[0].server.endpoint)
    for _ in range(2):
        address, store = open_container_store(home.address(), CLOCK)
        assert (address, isinstance(store, SplitStore)) == (home.address(), False)
        assert later_notes(store) == []
        store.close()
        if not any(store.list("")):
            publish(home)
    assert open_container_store(str(tmp_path), CLOCK)[0] == str(tmp_path)


def test_what_cannot_be_read_names_none(buckets: tuple[Bucket, Bucket]) -> None:
    home = S3Settings(buckets[0].name, "shop", buckets[0].server.endpoint)
    buckets[0].admin.put_object(Bucket=buckets[0].name, Key=f"shop/{OWNER_KEY}", Body=os.urandom(9))
    assert open_container_store(home.address(), CLOCK)[0] == home.address()


@pytest.mark.parametrize(
    ("data", "address", "fits"),
    [
        ((), "s3://control/shop", True),
        ((), "/backup", True),
        ((), "s3://control/shop?data=s3://locked/shop", False),
        (("s3://locked/shop?versions=oldest",), "s3://control/shop", False),
        (("s3://locked/shop?endpoint=https://h",), "s3://control/shop?data=s3://locked/shop", True),
        (("s3://locked/shop",), "s3://control/shop?data=s3://locked/shop2", False),
        (("s3://locked/shop",), "/backup", False),
    ],
)
def test_a_writer_must_mean_the_domains_data_place(data: tuple[str, ...], address: str, fits: bool) -> None:
    config = replace(samples.config(), data=data)
    assert parse_config(build_config(config), "k", config.domain) == config
    if fits:
        check_data_place(config, address)
    else:
        with pytest.raises(StoreRefused, match="data place"):
            check_data_place(config, address)
