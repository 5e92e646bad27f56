"""The configuration in the container follows its owner, by put and swap; nobody else changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.streamer.configuring import Configuring, put_wanted
from cdp_agent.streamer.engine_types import Job, Shown
from cdp_container.domain import owner_types as ot
from cdp_container.domain.history import read_config
from cdp_container.domain.owner_types import Configure, Phase
from cdp_container.domain.retention_policy import Retention, build_retention
from cdp_container.errors import CdpError, DamagedObject, MissingObject, StoreUnavailable
from cdp_container.format.domain import (
    DomainConfig,
    Owner,
    Source,
    build_config,
    build_owner,
    config_digest,
    parse_owner,
)
from cdp_container.format.keys import CONFIG_PREFIX, OWNER_KEY, config_key
from tests.unit.streamer.site import AgentSite
from tests.unit.streamer.test_home import HOME, pin
from tests.waiting import wait_until

DEADLINE_SECONDS = 30.0


def owner_of(site: AgentSite) -> Owner:
    return parse_owner(site.store.get(OWNER_KEY).data, OWNER_KEY, None)


def in_force(site: AgentSite) -> DomainConfig:
    return read_config(site.store, owner_of(site))


def configs(site: AgentSite) -> int:
    return len([*site.store.list(CONFIG_PREFIX)])


def until(site: AgentSite, condition: Callable[[DomainConfig], object], what: str) -> None:
    wait_until(lambda: condition(in_force(site)), what, DEADLINE_SECONDS)


def change(site: AgentSite, **changes: object) -> DomainConfig:
    """Put another configuration in force, as an owner before this one would have."""
    blob = site.store.get(OWNER_KEY)
    config = replace(in_force(site), **changes)  # type: ignore[arg-type]  # tests name them
    data = build_config(config)
    site.store.put_new(config_key(config_digest(data)), data)
    owner = replace(parse_owner(blob.data, OWNER_KEY, None), config=config_digest(data))
    site.store.put_if(OWNER_KEY, build_owner(owner), blob.found.tag)
    return config


def test_an_owner_that_wants_nothing_else_writes_none(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    before = owner_of(site).config
    with site.streaming():
        site.write(0, 0, b"sent")
        site.flush()
    assert (owner_of(site).config, configs(site)) == (before, 1)


def test_volumes_of_agent_json_come_into_force_and_the_rest_stays(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    before = change(site, sources=(), replicas=("s3://copy/shop",), retention={"every_cut_hours": 1})
    with site.streaming():
        site.write(0, 0, b"sent")
        site.flush()
        until(site, lambda config: config.sources, "the volumes are in force")
        site.write(0, 4096, b"and it goes on")
        site.flush()
    source = site.identity.sources[0]
    volume = Source("volume", source.name, source.space, source.size_bytes)
    assert in_force(site) == replace(before, sources=(volume,))
    assert site.restored("disk") == site.images[0]


def test_the_next_run_finds_it_done(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    change(site, sources=())
    for _ in range(2):
        with site.streaming():
            site.write(0, 0, b"sent")
            site.flush()
            until(site, lambda config: config.sources, "the volumes are in force")
    assert configs(site) == 2, "the second run found the first one's"


def test_a_run_that_does_not_own_changes_nothing(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    change(site, sources=())
    blob = site.store.get(OWNER_KEY)
    taken = replace(parse_owner(blob.data, OWNER_KEY, None), site="site-b", nonce=b"b" * 16)
    site.store.put_if(OWNER_KEY, build_owner(replace(taken, released_to="site-b")), blob.found.tag)
    before = configs(site)
    with site.streaming():
        site.write(0, 0, b"kept here")
        site.facts_once(lambda facts: "owned elsewhere" in facts["state"], "it finds another owner")
    assert (owner_of(site).nonce, configs(site)) == (b"b" * 16, before)


def test_the_operator_s_word_pins_the_home_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = AgentSite(tmp_path)
    pin(site, HOME)
    vouched = replace(site.settings(), store_is_home=True)
    plain = site.settings()
    monkeypatch.setattr(site, "settings", lambda: vouched)
    with site.streaming():
        site.write(0, 0, b"sent")
        site.flush()
        until(site, lambda config: config.endpoints == (str(tmp_path / "container"),), "it is pinned")
    monkeypatch.setattr(site, "settings", lambda: plain)
    with site.streaming():
        site.write(0, 0, b"owns without the word, too")
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_trouble_with_it_is_told_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = AgentSite(tmp_path)
    sealing = replace(site.settings(), seal_credentials=True)
    monkeypatch.setattr(site, "settings", lambda: sealing)
    with site.streaming():
        site.write(0, 0, b"sent")
        site.flush()
        facts = site.facts_once(lambda facts: "asks for none" in str(facts), "it is told")
    assert "could not be brought up to date" in str(facts)
    assert site.restored("disk") == site.images[0]


def test_the_owner_puts_its_policy_in_force_and_one_without_a_word_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = AgentSite(tmp_path)
    policy = Retention(86400, hourly_seconds=7 * 86400)
    silent, wordy = site.settings(), replace(site.settings(), retention=lambda: policy)
    monkeypatch.setattr(site, "settings", lambda: wordy)
    with site.streaming():
        until(site, lambda config: config.retention == build_retention(policy), "it is in force")
    monkeypatch.setattr(site, "settings", lambda: silent)
    with site.streaming():
        site.write(0, 0, b"owns without the word, too")
        site.flush()
    assert in_force(site).retention == build_retention(policy)


def test_a_policy_that_changed_is_seen_when_somebody_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = AgentSite(tmp_path)
    policies = [Retention(86400)]
    settings = replace(site.settings(), retention=lambda: policies[-1])
    monkeypatch.setattr(site, "settings", lambda: settings)
    with site.streaming():
        until(site, lambda config: config.retention == build_retention(policies[0]), "it is in force")
        policies.append(Retention(2 * 86400))
        assert site.ask("configure")["ok"]
        until(site, lambda config: config.retention == build_retention(policies[1]), "the next one is")


def test_the_owner_publishes_its_replicas_and_takes_them_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = AgentSite(tmp_path)
    replicas = ["/mnt/copy", "s3://bucket/p?endpoint=https://other"]
    said: list[list[str] | None] = [replicas]
    settings = replace(site.settings(), replicas=lambda: said[-1])
    monkeypatch.setattr(site, "settings", lambda: settings)
    with site.streaming():
        until(site, lambda config: config.replicas == tuple(replicas), "they are in force")
        said.append(None)
        assert site.ask("configure")["ok"]
        site.write(0, 0, b"and a word less changes nothing")
        site.flush()
        assert in_force(site).replicas == tuple(replicas)
        said.append([])
        assert site.ask("configure")["ok"]
        until(site, lambda config: not config.replicas, "they are out")


# --- put_wanted --------------------------------------------------------------------------------


def renamed(config: DomainConfig) -> DomainConfig:
    return replace(config, replicas=("s3://copy/shop",))


def test_a_put_whose_swap_never_came_is_found_and_named(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    owner = owner_of(site)
    digest = put_wanted(site.store, owner, renamed)
    assert owner_of(site) == owner, "a crash here leaves what nobody names"
    assert put_wanted(site.store, owner, renamed) == digest
    assert configs(site) == 2


def test_what_stands_under_its_key_and_is_another_is_never_named(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    owner = owner_of(site)
    key = config_key(config_digest(build_config(renamed(in_force(site)))))
    site.store.put_new(key, b"forged")
    with pytest.raises(DamagedObject, match="digest"):
        put_wanted(site.store, owner, renamed)


def test_nothing_is_made_of_one_that_is_gone(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with pytest.raises(MissingObject):
        put_wanted(site.store, replace(owner_of(site), config=b"x" * 32), renamed)
    assert configs(site) == 1


# --- when it looks -----------------------------------------------------------------------------


class Machine:
    """An owner's machine that is active, and a clock."""

    def __init__(self, site: AgentSite) -> None:
        claimant = ot.Claimant(site.identity.domain, "site-a", b"i" * 16, 30, "", "", "")
        self.run = ot.RunState(claimant, frozenset(), ot.Phase.ACTIVE, seen=owner_of(site))
        self.shown = Shown()
        self.told: list[object] = []
        self.jobs: list[Job] = []
        self.now_ns = 0

    def tell_owner(self, event: object) -> None:
        self.told.append(event)

    def start(self, job: Job) -> None:
        self.jobs.append(job)

    def do(self) -> int:
        """Does the jobs that are wanted; gives how many that were."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job.work()()
        return len(jobs)

    # the clock, and what is noted
    def boottime_ns(self) -> int:
        return self.now_ns

    def trouble(self, topic: str, why: str) -> None:
        self.shown.troubles[topic] = why


def configuring(site: AgentSite, wanted: Callable[[DomainConfig], DomainConfig]) -> tuple[Any, Machine]:
    machine = Machine(site)
    stand_in: Any = machine
    return Configuring(site.store, wanted, stand_in, stand_in, stand_in), machine


def test_it_looks_once_and_again_after_an_hour(tmp_path: Path) -> None:
    looker, machine = configuring(AgentSite(tmp_path), renamed)
    looker.poll()
    looker.poll()
    assert machine.do() == 1, "one look at a time"
    assert len(machine.told) == 1
    assert isinstance(machine.told[0], Configure)
    machine.now_ns = 3_599 * 10**9
    looker.poll()
    assert machine.do() == 0
    machine.now_ns = 3_600 * 10**9
    looker.poll()
    assert machine.do() == 1


def test_a_failure_is_shown_and_tried_again(tmp_path: Path) -> None:
    failures: list[CdpError] = [StoreUnavailable("read", "it is away")]

    def wanted(config: DomainConfig) -> DomainConfig:
        if failures:
            raise failures.pop()
        return renamed(config)

    looker, machine = configuring(AgentSite(tmp_path), wanted)
    looker.poll()
    machine.do()
    assert "it is away" in machine.shown.troubles["configuration"]
    assert not machine.told
    looker.poll()
    assert machine.do() == 0, "not at once"
    machine.now_ns = 30 * 10**9
    looker.poll()
    assert machine.do() == 1
    assert (len(machine.told), machine.shown.troubles) == (1, {})


def test_it_looks_at_nothing_that_is_not_ours_or_not_there(tmp_path: Path) -> None:
    looker, machine = configuring(AgentSite(tmp_path), renamed)
    active = machine.run
    for phase in Phase:
        if phase is not Phase.ACTIVE:
            machine.run = replace(active, phase=phase)
            looker.poll()
    assert active.seen is not None
    machine.run = replace(active, seen=replace(active.seen, config=bytes(32)))
    looker.poll()
    assert not machine.jobs


def test_the_next_look_waits_until_the_last_one_is_named(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    looker, machine = configuring(site, renamed)
    looker.poll()
    machine.do()
    (event,) = machine.told
    assert isinstance(event, Configure)
    before = machine.run.seen
    assert before is not None
    machine.run = replace(machine.run, config=event.config)
    looker.look()
    looker.poll()
    assert not machine.jobs, "made of the one before, it would take the change back"
    machine.run = replace(machine.run, seen=replace(before, config=event.config))
    looker.poll()
    assert machine.do() == 1
