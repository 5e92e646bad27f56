"""A streamer owns a domain in its home zone only; elsewhere it waits, says why, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.format.domain import (
    OwnerState,
    build_config,
    build_owner,
    config_digest,
    parse_config,
    parse_owner,
)
from cdp_container.format.keys import OWNER_KEY, config_key
from tests.unit.streamer.site import AgentSite

HOME = "s3://backups/shop?endpoint=https://s3.example.com"


def pin(site: AgentSite, endpoint: str) -> None:
    """As if `init` had been at this address, and its container was copied to the site's directory."""
    blob = site.store.get(OWNER_KEY)
    owner = parse_owner(blob.data, OWNER_KEY, None)
    key = config_key(owner.config)
    config = build_config(replace(parse_config(site.store.get(key).data, key, None), endpoints=(endpoint,)))
    site.store.put_new(config_key(config_digest(config)), config)
    site.store.put_if(OWNER_KEY, build_owner(replace(owner, config=config_digest(config))), blob.found.tag)


def owner_state(site: AgentSite) -> OwnerState:
    return parse_owner(site.store.get(OWNER_KEY).data, OWNER_KEY, None).state


def test_in_another_zone_it_claims_nothing_and_says_why(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    pin(site, HOME)
    with site.streaming():
        site.write(0, 0, b"captured even so")
        facts = site.facts_once(lambda facts: HOME in facts["state"], "it says where the home is")
    assert "store_is_home" in facts["state"], "and what to do"
    assert HOME in facts["store_refused"], "which alerts tell"
    assert owner_state(site) is OwnerState.RELEASED


def test_an_operator_says_that_it_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = AgentSite(tmp_path)
    pin(site, HOME)
    vouched = replace(site.settings(), store_is_home=True)
    monkeypatch.setattr(site, "settings", lambda: vouched)
    with site.streaming():
        site.write(0, 0, b"sent")
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_a_directory_has_no_zones(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    pin(site, "/where/it/was/mounted/before")
    with site.streaming():
        site.write(0, 0, b"sent")
        site.flush()
    assert site.restored("disk") == site.images[0]
