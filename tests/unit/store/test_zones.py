"""Which zone an address is in: however a server is spelled, it is one; another one never passes for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from cdp_container.clock import SystemClock
from cdp_container.store.address import parse_address
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.memory import MemoryStore
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_settings import S3Settings
from cdp_container.store.zones import Zone, pinned_zones, public_address, zone_of, zone_of_store
from tests.servers.bucket import s3_environment
from tests.servers.s3 import S3Server

SERVER = S3Server("http://127.0.0.1:1", "access", "secret", region="eu-north-1")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(SERVER, monkeypatch)


@contextmanager
def opened(settings: S3Settings) -> Iterator[S3Store]:
    """No request is ever made: nobody listens."""
    with closing(S3Store(settings)) as store:
        yield store


def zone(endpoint: str, bucket: str = "backups", prefix: str = "shop") -> Zone | None:
    return zone_of(S3Settings(bucket, prefix, endpoint))


HOME = zone("https://s3.example.com")


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://S3.Example.COM",
        "https://s3.example.com:443",
        "https://s3.example.com.",
        "http://s3.example.com",
        "http://s3.example.com:80",
    ],
)
def test_another_spelling_is_the_same_zone(endpoint: str) -> None:
    assert zone(endpoint) == HOME


@pytest.mark.parametrize(
    "other",
    [
        zone("https://s3.example.com:8443"),
        zone("https://s3.example.org"),
        zone("https://s3.example.com", bucket="copies"),
        zone("https://s3.example.com", prefix="shop2"),
        zone("http://s3.example.com:443"),
        zone("https://[::1]"),
    ],
    ids=str,
)
def test_another_zone(other: Zone | None) -> None:
    assert other != HOME


def test_an_address_by_the_way_an_administrator_writes_it() -> None:
    addresses = (
        "s3://backups/shop/?endpoint=https://s3.example.com/",
        "s3://backups/shop?endpoint=HTTPS://S3.example.com:443",
    )
    assert pinned_zones(addresses) == {HOME}


def test_what_names_no_zone(tmp_path: Path) -> None:
    assert (
        pinned_zones(["/backup", "https://s3.example.com", "gs://x", "", "s3://backups/shop?profile=dr"])
        == frozenset()
    )
    assert zone_of_store(MemoryStore(SystemClock())) is None
    directory = DirectoryStore(tmp_path)
    assert zone_of_store(directory) is None
    assert public_address(directory) == str(tmp_path)


@pytest.mark.parametrize("addressing", [None, "path", "virtual"])
@pytest.mark.parametrize("port", ["", ":8080"])
def test_what_is_pinned_is_found_again(addressing: Literal["path", "virtual"] | None, port: str) -> None:
    settings = S3Settings("backups", "shop", f"https://S3.example.com{port}", "eu-1", addressing)
    with opened(settings) as store:
        pinned = public_address(store)
        assert pinned_zones([pinned]) == {zone_of_store(store)}
    again = parse_address(pinned)
    assert isinstance(again, S3Settings)
    assert (again.endpoint, again.region) == (f"https://s3.example.com{port}", "eu-1")
    assert again.in_path is settings.in_path


def test_an_ipv6_server() -> None:
    with opened(S3Settings("backups", "shop", "http://[::1]:9000")) as store:
        assert (
            pinned_zones([public_address(store)])
            == {zone_of_store(store)}
            == {Zone("::1", 9000, "backups", "shop")}
        )


def test_aws_by_its_region_alone() -> None:
    with opened(S3Settings("backups", "shop", region="eu-central-1")) as store:
        pinned = public_address(store)
        assert pinned_zones([pinned]) == {zone_of_store(store)}
    assert "endpoint=https://s3.eu-central-1.amazonaws.com" in pinned
    with opened(S3Settings("backups", "shop", region="eu-west-1")) as other:
        assert zone_of_store(other) not in pinned_zones([pinned]), "a bucket's copy in another region"


def test_nothing_of_this_machine_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "config"
    profile.write_text(
        "[profile dr]\nregion = eu-1\nendpoint_url = https://s3.example.com\n"
        "aws_access_key_id = access\naws_secret_access_key = hidden\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with opened(S3Settings("backups", "shop", profile="dr", tag_spelling="unquoted")) as store:
        pinned = public_address(store)
        assert zone_of_store(store) == HOME, "the profile names the server"
    assert (
        pinned
        == "s3://backups/shop?endpoint=https://s3.example.com&region=eu-1&addressing=virtual&etag=unquoted"
    )
