"""The collector asks the streamer over control.sock, and `domain/owner` says what became of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.streamer.control import call
from cdp_agent.streamer.planning import Planning, change_request, parse_change
from cdp_agent.streamer.resume import epoch_keys
from cdp_container.domain import owner_types as ot
from cdp_container.domain.plan_changes import end_plan, execute_plan, name_plan
from cdp_container.errors import DamagedObject
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import ObjectName, Owner, PlanState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.ledger import LedgerFacts, build_ledger
from tests.unit.domain.owner_play import SECOND, Play
from tests.unit.streamer.site import AgentSite


def owned(site: AgentSite) -> Owner:
    return parse_owner(site.store.get(OWNER_KEY).data, OWNER_KEY, None)


def put_ledger(site: AgentSite) -> ObjectName:
    """One by which nothing was collected: whoever claims reads it."""
    keys = epoch_keys(site.identity, os.urandom)
    built = build_ledger(LedgerFacts(1, 1, None), [], keys, os.urandom(16), Compressor())
    site.store.put_new(built.key, built.data)
    return ObjectName(built.key, built.digest)


def ask(site: AgentSite, change: ot.ChangePlan) -> dict[str, Any]:
    return call(site.directory, change_request(change), 30.0)


def test_a_pass_through_the_real_streamer_and_what_the_next_run_inherits(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"data" * 1024)
        site.flush()
        before = owned(site)
        assert ask(site, name_plan(before, 1, b"p" * 32)) == {"ok": True}
        named = owned(site)
        assert named.plan is not None
        assert named.plan.state is PlanState.NAMED
        refused = ask(site, name_plan(before, 2, b"q" * 32))
        assert "not any more what they were" in refused["error"]
        ledger = put_ledger(site)
        assert ask(site, execute_plan(named, ledger)) == {"ok": True}
    site.begin_generation()
    with site.streaming():
        site.write(0, 0, b"more" * 1024)
        site.flush()
        inherited = owned(site)
        assert inherited.epoch > before.epoch
        assert inherited.plan is not None
        assert (inherited.plan.state, inherited.ledger) == (PlanState.EXECUTING, ledger)
        assert "the plan's" in ask(site, end_plan(before_of(inherited, before.epoch)))["error"]
        assert ask(site, end_plan(inherited)) == {"ok": True}
        assert (owned(site).plan, owned(site).ledger) == (None, ledger)


def test_a_lost_ledger_does_not_keep_the_owner_out_and_is_shown(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"data" * 1024)
        site.flush()
        assert ask(site, name_plan(owned(site), 1, b"p" * 32)) == {"ok": True}
        ledger = put_ledger(site)
        assert ask(site, execute_plan(owned(site), ledger)) == {"ok": True}
    before = owned(site)
    site.store.delete(ledger.key)
    site.begin_generation()
    with site.streaming():
        facts = site.facts_once(lambda facts: "ledger" in facts.get("troubles", {}), "it says so")
        site.write(0, 0, b"more" * 1024)
        site.flush()
        assert owned(site).epoch > before.epoch
    assert ledger.key in facts["troubles"]["ledger"]


def before_of(owner: Owner, epoch: int) -> Owner:
    return replace(owner, epoch=epoch)


class Machine:
    """The owner's machine, stepped at once; nothing is sent."""

    def __init__(self) -> None:
        self.play = Play().active()
        self.planning = Planning(self)
        self.answers: list[dict[str, Any]] = []

    @property
    def run(self) -> ot.RunState:
        return self.play.state

    def tell_owner(self, event: ot.Event) -> None:
        self.play.on(event)
        self.planning.look()

    def ask(self, request: dict[str, Any]) -> None:
        self.planning.ask(request, self.answers.append)

    @property
    def owner(self) -> Owner:
        assert self.run.seen is not None
        return self.run.seen


def test_one_at_a_time_and_asked_again_it_goes_on() -> None:
    machine = Machine()
    change = name_plan(machine.owner, 1, b"p" * 32)
    machine.ask(change_request(change))
    machine.ask(change_request(replace(change, plan=replace(change.plan, n=2))))  # type: ignore[type-var]
    assert machine.answers == [{"ok": False, "error": "another change is under way", "again": True}]
    machine.ask(change_request(change))
    machine.tell_owner(ot.Swapped("tag-3"))
    assert machine.answers[1:] == [{"ok": True}]


def test_overtaken_while_it_is_sent() -> None:
    machine = Machine()
    machine.ask(change_request(name_plan(machine.owner, 1, b"p" * 32)))
    sent = machine.play.sent
    machine.tell_owner(ot.OwnerFailed(ot.Failure.PRECONDITION, "412"))
    theirs = replace(sent, nonce=b"z" * 16, epoch=sent.epoch + 5, site="site-b")
    machine.tell_owner(ot.OwnerRead(theirs, "tag-9"))
    assert machine.run.phase is ot.Phase.FENCED
    [answer] = machine.answers
    assert "does not own" in answer["error"]


def test_a_request_that_makes_no_sense_changes_nothing() -> None:
    machine = Machine()
    sound = change_request(name_plan(machine.owner, 1, b"p" * 32))
    for wrong in (
        {"command": "plan"},
        {**sound, "epoch": 0},
        {**sound, "ledger": {}},
        {**sound, "plan": None},
    ):
        machine.ask(wrong)
        assert not machine.answers[-1]["ok"]
    assert machine.run.change is None
    with pytest.raises(DamagedObject):
        parse_change({})
    machine.play.now_ns += SECOND
    assert parse_change(sound) == name_plan(machine.owner, 1, b"p" * 32)
