"""What people and programs are told of policy, holds, plans, collections and locks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cdp_agent.cli.usage_text import usage_members, usage_text
from cdp_agent.collector.pass_types import Wishes
from cdp_agent.usage.kinds import DAY_NS
from cdp_agent.usage.look import Look, look_at
from cdp_agent.usage.survey import Survey, survey
from cdp_container.domain.retention_policy import KEEP_ALL, Retention
from cdp_container.format.domain import PlanName, PlanState
from cdp_container.store.api import Store
from cdp_container.store.inventory import Rules, Standing, Taken
from tests.unit.collector.collecting_site import HOUR, CollectedSite
from tests.unit.usage.account_site import around


@dataclass
class Listing:
    """The inventory of a store in memory, with an upload that began when the world did."""

    store: Store
    rule: Rules
    address = "memory"

    def rules(self) -> Rules:
        return self.rule

    def objects(self) -> Iterator[Taken]:
        for found in self.store.list(""):
            yield Taken(found.key, found.size, found.modified_ns)
            yield Taken(found.key, 1, found.modified_ns, Standing.OTHER)

    def current(self) -> Iterator[Taken]:
        return iter(())

    def uploads(self) -> Iterator[Taken]:
        yield Taken("big", 5, DAY_NS, Standing.UPLOAD)

    def abort(self, upload: Taken) -> None:
        raise AssertionError(upload)

    def close(self) -> None:
        """Nothing to give back."""


def a_site() -> CollectedSite:
    site = CollectedSite()
    site.retention = Retention(4 * HOUR, daily_seconds=30 * 24 * HOUR, monthly_seconds=None)
    site.add_disk("disk", 300_000)
    site.begin_epoch()
    site.busy(30)
    return site


def looked(site: CollectedSite, tmp_path: Path, lock_days: int | None = None) -> tuple[Look, Survey]:
    found = look_at(around(site, tmp_path / "collector"), Wishes())
    rules = Rules(versioned=lock_days is not None, locks=lock_days is not None, lock_days=lock_days)
    return found, survey([Listing(site.store, rules)], found.known, found.now_ns, {})


def test_the_policy_and_what_a_collection_would_do(tmp_path: Path) -> None:
    site = a_site()
    found, seen = looked(site, tmp_path)
    text = "\n".join(usage_text(found, seen))
    assert "retention: every 4h, daily 30d, monthly forever, markers forever; " in text
    assert "collection: never yet" in text
    assert "collection, if it ran now: " in text
    assert "uploads: the oldest that nobody ended began 1970-01-02" in text
    assert "lock:" not in text
    members = usage_members(found, seen)
    assert members["retention"]["daily_seconds"] == 30 * 24 * HOUR
    assert members["next_collection"]["victims"] > 0
    assert members["oldest_upload_ns"] == DAY_NS
    assert members["locked_until_ns"] is None
    site.run_pass(tmp_path)
    found, seen = looked(site, tmp_path)
    assert "collection: the last one 2023-" in "\n".join(usage_text(found, seen))
    assert usage_members(found, seen)["last_collection"]["key"].startswith("domain/gc/")


def test_holds_plans_and_locks_are_told(tmp_path: Path) -> None:
    site = a_site()
    site.hold("0" * 32, None)
    found, seen = looked(site, tmp_path, lock_days=3)
    assert found.owner is not None
    plan = PlanName(found.owner.epoch, 7, bytes(32), PlanState.NAMED)
    found = replace(found, owner=replace(found.owner, plan=plan))
    text = "\n".join(usage_text(found, seen))
    assert (
        "holds: 1 hold in the roster (`rehydrate holds`); one is on everything: nothing is collected" in text
    )
    assert "collection: a plan is named" in text
    assert "lock: the last of what is dead is locked until 2023-" in text
    assert "of other versions are locked" in text
    assert usage_members(found, seen)["everything_is_held"] is True
    keeps_all = "\n".join(usage_text(replace(found, retention=KEEP_ALL), seen))
    assert "none, so every cut is kept for ever" in keeps_all
