"""Where a domain may be owned: in its home zone, by whatever name; elsewhere only by force, with a jump."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.streamer.limited import LimitedStore, Limiter
from cdp_container.clock import SystemClock
from cdp_container.domain.home import EPOCH_STRIDE, check_home, is_home, jump_of
from cdp_container.domain.places import check_places
from cdp_container.domain.settings import LimitsSettings
from cdp_container.errors import DamagedObject, MissingObject, NotHome
from cdp_container.format.domain import DomainConfig, build_config, build_owner, config_digest
from cdp_container.format.keys import OWNER_KEY, config_key
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.memory import MemoryStore
from cdp_container.store.retry import with_retries
from cdp_container.store.s3_settings import S3Settings
from cdp_container.store.zones import public_address
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

HOME = "s3://backups/shop?endpoint=https://s3.example.com"


class ZoneStore(MemoryStore):
    """Answers like a zone of an S3 server."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(SystemClock())
        self.endpoint = endpoint

    @property
    def resolved(self) -> S3Settings:
        return S3Settings("backups", "shop", self.endpoint)


def config(*endpoints: str) -> DomainConfig:
    return replace(samples.config(), endpoints=endpoints)


def fill(store: MemoryStore, wanted: DomainConfig) -> None:
    data = build_config(wanted)
    store.put_new(config_key(config_digest(data)), data)
    store.put_new(OWNER_KEY, build_owner(replace(samples.owner(), config=config_digest(data))))


def test_the_home_is_known_through_whatever_is_put_around_a_store() -> None:
    """A reader holds what it reads with a patient store, and a collector with one that is limited as well."""
    clock = SystemClock()
    home = ZoneStore("https://s3.example.com")
    limited = LimitedStore(home, Limiter(LimitsSettings(), clock), patient=True)
    assert is_home(config(HOME), home)
    for store in (with_retries(home, clock, lambda: 0.0), with_retries(limited, clock, lambda: 0.0)):
        assert is_home(config(HOME), store)
        assert public_address(store) == public_address(home)


def test_another_zone_is_refused() -> None:
    replica = ZoneStore("https://s3.copy.example.com")
    assert not is_home(config(HOME), replica)
    assert jump_of(config(HOME), replica) == EPOCH_STRIDE == 1000
    with pytest.raises(
        NotHome, match=r"s3\.copy\.example\.com.*: its home is s3://backups/shop\?endpoint"
    ) as raised:
        check_home(config(HOME), replica)
    assert "store_is_home" in raised.value.hint
    fill(replica, config(HOME))
    with pytest.raises(NotHome):
        check_places(replica, "/x", DOMAIN, is_home=False)


def test_a_copy_in_a_directory_is_not_the_home(tmp_path: Path) -> None:
    assert not is_home(config(HOME), DirectoryStore(tmp_path))


def test_the_home_itself() -> None:
    store = ZoneStore("https://S3.example.com:443/")
    assert jump_of(config("https://gone.example.org", HOME), store) == 0
    check_home(config(HOME), store)
    fill(store, config(HOME))
    check_places(store, "/x", DOMAIN, is_home=False)


@pytest.mark.parametrize("endpoints", [(), ("/backup/shop",), ("s3://backups/shop?profile=dr",)])
def test_where_no_zone_is_pinned_every_store_is_home(tmp_path: Path, endpoints: tuple[str, ...]) -> None:
    """A directory that was moved or mounted elsewhere, and containers of before."""
    for store in (DirectoryStore(tmp_path), ZoneStore("https://elsewhere.example.com")):
        assert is_home(config(*endpoints), store)
        assert jump_of(config(*endpoints), store) == 0


def test_a_zone_that_has_no_configuration_yet() -> None:
    store = ZoneStore("https://s3.copy.example.com")
    store.put_new(OWNER_KEY, build_owner(samples.owner()))
    with pytest.raises(MissingObject, match=config_key(samples.owner().config)):
        check_places(store, "/x", DOMAIN, is_home=False)


def test_a_configuration_that_is_damaged() -> None:
    store = ZoneStore("https://s3.example.com")
    data = build_config(config(HOME))
    store.put_new(config_key(config_digest(data)), data[:-1])
    store.put_new(OWNER_KEY, build_owner(replace(samples.owner(), config=config_digest(data))))
    with pytest.raises(DamagedObject):
        check_places(store, "/x", DOMAIN, is_home=False)


@pytest.mark.parametrize("data", [None, b"{", build_owner(replace(samples.owner(), domain=bytes(16)))])
def test_without_an_owner_that_can_be_read_the_claim_says_what_is_wrong(data: bytes | None) -> None:
    store = ZoneStore("https://s3.copy.example.com")
    if data is not None:
        store.put_new(OWNER_KEY, data)
    check_places(store, "/x", DOMAIN, is_home=False)
