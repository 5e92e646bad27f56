"""The policy of a real agent: in the container from its first day, and changed by `reload`."""

from __future__ import annotations

import pytest

from cdp_container.domain.history import read_config
from cdp_container.domain.retention_policy import Retention, parse_retention
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.directory import DirectoryStore
from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

WAIT_SECONDS_MAX = 120.0
DAY = 86400


def policy(site: Site) -> Retention:
    """What the configuration in force says."""
    store = DirectoryStore(site.container)
    owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    return parse_retention(read_config(store, owner).retention, "domain/config")


def test_a_policy_is_published_and_changed_while_guests_write() -> None:
    with new_site({"db": 2 * MIB}, encrypted=False) as site:
        site.write_config("retention: {every: 1d}")
        site.init().must()
        assert policy(site) == Retention(DAY)
        agent = site.start()
        with site.client("db") as guest:
            guest.write(0, b"a" * 4096)
            site.flush_when_ready()
            site.write_config("retention: {every: 2d, hourly: 7d}")
            said = site.agent_command("reload").must().err
            assert "the owner puts them into the container" in said
            wait_until(
                lambda: policy(site) == Retention(2 * DAY, hourly_seconds=7 * DAY), "it is in force",
                WAIT_SECONDS_MAX,
            )  # fmt: skip
            assert "nothing to do" in site.agent_command("reload").must().err
            guest.write(4096, b"b" * 4096)
            site.flush_when_ready()
        agent.kill("streamer")
        site.flush_when_ready()
        assert policy(site) == Retention(2 * DAY, hourly_seconds=7 * DAY)
        assert "KEPT UNTIL ABOUT" in site.rehydrate("points").must().out
