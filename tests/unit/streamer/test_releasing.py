"""Giving the domain up, step by step, over crashes of the streamer, and taking it back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdp_agent.streamer.engine_types import Answered
from cdp_agent.streamer.releasing import Releasing
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Notes, save_notes
from cdp_container.domain.owner_types import Phase, Release
from cdp_container.errors import LocalDiskFull
from cdp_container.format.domain import Owner, OwnerState, build_owner, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE
from cdp_container.journal.shared import GateLevel, SplitterPage
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def owner_of(site: AgentSite) -> Owner:
    return parse_owner(site.store.get(OWNER_KEY).data, OWNER_KEY, site.identity.domain)


def gate_of(site: AgentSite) -> GateLevel:
    page = site.pages.streamer.read()
    assert page is not None
    return page.gate


def noted(site: AgentSite, condition: Callable[[Notes], object], what: str) -> Notes:
    wait_until(lambda: condition(site.notes()), what, DEADLINE_SECONDS)
    return site.notes()


def begin(site: AgentSite, to: str = "site-b") -> None:
    """Ask until the site owns its domain."""
    answer = site.ask("release", site=to)
    while answer.get("again"):
        answer = site.ask("release", site=to)
    assert answer["ok"], answer
    assert site.notes().releasing_to == to


def released(site: AgentSite) -> Notes:
    site.publish(writes_closed=True)
    return noted(site, lambda notes: notes.released_to, "it is released")


def take(site: AgentSite, **changes: object) -> None:
    """Another site swaps the domain to itself."""
    blob = site.store.get(OWNER_KEY)
    found = parse_owner(blob.data, OWNER_KEY, site.identity.domain)
    theirs: dict[str, Any] = {
        "version": found.version + 1,
        "nonce": os.urandom(16),
        "site": "site-b",
        "instance": b"b" * 16,
        "epoch": found.epoch + 1,
        "state": OwnerState.CLAIMING,
        "previous": found.epoch,
        "released_to": None,
    }
    site.store.put_if(OWNER_KEY, build_owner(replace(found, **{**theirs, **changes})), blob.found.tag)


def test_a_release_waits_for_the_last_write_and_loses_nothing(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        wait_until(lambda: gate_of(site) is GateLevel.NO_WRITES, "the splitter is told", DEADLINE_SECONDS)
        facts = site.facts_once(
            lambda facts: "writes that are under way" in facts["release"]["waits_for"], "it waits"
        )
        assert facts["state"].startswith("releasing to site 'site-b'")
        site.write(0, 4096, b"was under way")
        notes = released(site)
        facts = site.facts()
        assert gate_of(site) is GateLevel.CLOSED
        assert not site.ask("flush")["ok"]
    owner = owner_of(site)
    assert (owner.state, owner.released_to) == (OwnerState.RELEASED, "site-b")
    assert notes.final is not None
    assert owner.protected == notes.final
    assert (notes.released_to, notes.releasing_to) == ("site-b", "")
    release = facts["release"]
    assert (release["state"], release["to"]) == ("released", "site-b")
    assert release["final"]["epoch"] == notes.final.epoch
    assert release["seconds"] >= 0
    assert site.restored("disk") == bytes(site.images[0])


def test_nothing_is_given_up_before_it_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note that fails at each step leaves the domain ours, and is tried again."""
    site = AgentSite(tmp_path)
    fails = True

    def save(directory: Path, notes: Notes) -> None:
        if fails and notes.final is not None:
            raise LocalDiskFull("noting", "no room")
        save_notes(directory, notes)

    monkeypatch.setattr("cdp_agent.streamer.local.save_notes", save)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        site.publish(writes_closed=True)
        site.facts_once(lambda facts: "notes" in facts["troubles"], "it cannot be noted")
        assert owner_of(site).state is OwnerState.ACTIVE
        fails = False
        released(site)
    assert owner_of(site).state is OwnerState.RELEASED


@pytest.mark.parametrize(
    ("to", "page", "why"),
    [
        ("site-a", {}, "is this site"),
        ("site-b", {"sync_failed": True}, "disk failed"),
        ("site-b", {"overflow": True}, "the journal is full"),
    ],
)
def test_a_refusal_changes_nothing(tmp_path: Path, to: str, page: dict[str, Any], why: str) -> None:
    site = AgentSite(tmp_path)
    with site.streaming() as running:
        running.may_fail = True
        site.write(0, 0, b"before")
        site.flush()
        if page.pop("overflow", False):
            page = {"overflow_at": site.page.tail, "overflow_ns": 1}
        site.publish(**page)
        answer = site.ask("release", site=to)
        while answer.get("again"):
            answer = site.ask("release", site=to)
        assert why in answer["error"]
        assert answer["hint"]
        assert not site.notes().releasing_to
        assert gate_of(site) is GateLevel.OPEN


def test_a_source_that_is_not_whole_refuses(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.publish(episode=5, compare_all=True, applied=NOWHERE)  # so that copying waits
    with site.streaming():
        answer = site.ask("release", site="site-b")
        while answer.get("again"):
            answer = site.ask("release", site="site-b")
        assert "not every volume is wholly in the container" in answer["error"]
        assert "wait until" in answer["hint"]
    assert site.notes().releasing_to == ""


@pytest.mark.parametrize("lacking", [(), (b"t" * 16,)])
def test_a_tree_that_is_not_whole_refuses_for_now(tmp_path: Path, lacking: tuple[bytes, ...]) -> None:
    """Else guests could not write for as long as a first copy takes."""
    saved: list[Notes] = []

    def save(notes: Notes) -> bool:
        saved.append(notes)
        return True

    noted = SimpleNamespace(notes=Notes(), save=save, publish_gate=lambda: None)
    machines = SimpleNamespace(
        run=SimpleNamespace(phase=Phase.ACTIVE),
        stream=SimpleNamespace(lacking=(), lacking_trees=lacking),
        not_whole=(),
        vms_run=False,
    )
    releasing = Releasing("site-a", noted, SystemClock(), machines)  # type: ignore[arg-type]  # what it asks
    told = releasing.begin("site-b", SplitterPage(generation=1, running=True))
    assert (told.again, bool(told.refused)) == (bool(lacking), bool(lacking))
    assert bool(saved) is not bool(lacking)


def test_a_vm_that_runs_refuses_for_now_and_holds_up_what_was_begun() -> None:
    """Nothing of ours can refuse what it writes after the final cut."""
    asked: list[str] = []
    machines = SimpleNamespace(
        run=SimpleNamespace(phase=Phase.ACTIVE),
        stream=SimpleNamespace(lacking=(), lacking_trees=()),
        not_whole=(),
        vms_run=True,
        ask=lambda *_, **__: asked.append("flush"),
    )
    noted = SimpleNamespace(notes=Notes(), save=lambda notes: True, publish_gate=lambda: None)
    releasing = Releasing("site-a", noted, SystemClock(), machines)  # type: ignore[arg-type]  # what it asks
    told = releasing.begin("site-b", SplitterPage(generation=1, running=True))
    assert told.again
    assert "a VM runs" in told.refused
    assert "stop it" in told.hint
    noted.notes = Notes(releasing_to="site-b")
    closed = SplitterPage(generation=1, running=True, writes_closed=True)
    releasing.poll(closed)
    assert (asked, releasing.waits_for) == (
        [],
        "VMs to be stopped again whose disks are captured from them",
    )
    machines.vms_run = False
    releasing.poll(closed)
    assert asked == ["flush"]


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_vm_that_goes_on_amid_the_final_flush_is_flushed_anew(is_answered: bool) -> None:
    """Stopped again it has written what is not in that cut: before the flush is answered, and after."""
    replies: list[Callable[[Answered], None]] = []
    told: list[object] = []
    machines = SimpleNamespace(
        run=SimpleNamespace(phase=Phase.ACTIVE, end=None),
        stream=SimpleNamespace(lacking=(), lacking_trees=()),
        not_whole=(),
        vms_run=False,
        ask=lambda *_, reply, **__: replies.append(reply),
        tell_owner=told.append,
    )
    saved: list[Notes] = []

    def save(notes: Notes) -> bool:
        saved.append(notes)
        return True

    noted = SimpleNamespace(notes=Notes(releasing_to="site-b"), save=save, publish_gate=lambda: None)
    releasing = Releasing("site-a", noted, SystemClock(), machines)  # type: ignore[arg-type]  # what it asks
    closed = SplitterPage(generation=1, running=True, writes_closed=True)
    releasing.poll(closed)
    if is_answered:
        replies[0](Answered(Place(1, 1, 1)))
    machines.vms_run = True
    releasing.poll(closed)
    assert "stopped again" in releasing.waits_for
    machines.vms_run = False
    releasing.poll(closed)
    assert len(replies) == 2
    if not is_answered:
        replies[0](Answered(Place(1, 1, 1)))
    releasing.poll(closed)
    assert told == [], "the first cut is not the final one"
    replies[1](Answered(Place(1, 2, 2)))
    releasing.poll(closed)
    assert told == [Release("site-b")]
    machines.run.phase, machines.vms_run = Phase.RELEASING, True
    releasing.poll(closed)  # too late: it may be given up already
    assert releasing.note_releasing("site-b")
    assert saved[-1].final == Place(1, 2, 2)


def test_another_release_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        begin(site)
        assert site.ask("release", site="site-b")["ok"]
        answer = site.ask("release", site="site-c")
        assert "--cancel" in answer["hint"]
        released(site)
        assert site.ask("release", site="site-b")["ok"]
        assert not site.ask("release", site="site-c")["ok"]


def test_an_old_word_of_the_splitter_is_no_answer_to_a_new_release(tmp_path: Path) -> None:
    """It may be about to let writes in again: what it said before the cancel must not end the wait."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        site.ask("cancel-release")
        site.publish(writes_closed=True)
        site.flush()
        answer = site.ask("release", site="site-b")
        assert (answer["ok"], answer["again"]) == (False, True)
        assert "not open again" in answer["error"]
        assert site.notes().releasing_to == ""
        site.publish(writes_closed=False)
        begin(site)


# --- crashes ---------------------------------------------------------------------------------------


def test_a_run_that_begins_amid_the_release_goes_on_with_it(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
    # What was published may be lost with the host.
    page = site.pages.streamer.read()
    assert page is not None
    site.pages.streamer.publish(replace(page, gate=GateLevel.OPEN))
    with site.streaming():
        wait_until(lambda: gate_of(site) is GateLevel.NO_WRITES, "the splitter is told", DEADLINE_SECONDS)
        assert site.notes().releasing_to == "site-b"
        site.write(0, 4096, b"under way")
        released(site)
    assert site.restored("disk") == bytes(site.images[0])


def landed(site: AgentSite) -> Notes:
    """The swap was done, and the run died before it could note that."""
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        notes = released(site)
    before = replace(notes, released_to="", releasing_to="site-b", release_ended_ns=0)
    save_notes(site.directory, before)
    return before


def test_a_landed_release_is_not_claimed_back(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    landed(site)
    given = owner_of(site)
    with site.streaming():
        noted(site, lambda notes: notes.released_to, "it is released")
        wait_until(lambda: gate_of(site) is GateLevel.CLOSED, "the splitter is told", DEADLINE_SECONDS)
    assert owner_of(site) == given


def test_a_release_that_was_taken_is_no_reason_to_be_fenced(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    landed(site)
    take(site)
    taken = owner_of(site)
    with site.streaming():
        noted(site, lambda notes: notes.released_to, "it is released")
        facts = site.facts()
    assert "site-b" in facts["release"]["taken_by"]
    assert (owner_of(site), site.notes().fenced) == (taken, "")


def test_a_domain_that_was_taken_before_the_final_cut_is_not_called_released(tmp_path: Path) -> None:
    """Guests' last writes may be in our journal alone."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
    take(site)
    with site.streaming():
        site.facts_once(lambda facts: "owned elsewhere" in facts["state"], "it is seen")
        assert (site.notes().releasing_to, site.notes().released_to) == ("site-b", "")
        assert gate_of(site) is GateLevel.NO_WRITES


# --- taking it back --------------------------------------------------------------------------------


def test_a_release_that_is_under_way_is_taken_back_at_once(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        assert site.ask("cancel-release")["ok"]
        assert (site.notes().releasing_to, gate_of(site)) == ("", GateLevel.OPEN)
        site.write(0, 4096, b"after")
        site.flush()
        answer = site.ask("cancel-release")
        assert answer["error"] == "nothing is released"
    assert owner_of(site).state is OwnerState.ACTIVE
    assert site.restored("disk") == bytes(site.images[0])


@pytest.mark.parametrize("restarts", [False, True])
def test_what_was_released_is_taken_back_and_writing_goes_on(tmp_path: Path, restarts: bool) -> None:
    site = AgentSite(tmp_path)

    def cancel() -> None:
        answer = site.ask("cancel-release")
        while answer.get("again"):
            answer = site.ask("cancel-release")
        assert answer["ok"], answer
        noted(site, lambda notes: not notes.released_to, "it is ours again")
        wait_until(lambda: gate_of(site) is GateLevel.OPEN, "the splitter is told", DEADLINE_SECONDS)
        site.publish(writes_closed=False)
        site.write(0, 8192, b"after")
        site.flush()

    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        final = released(site).final
        if not restarts:
            cancel()
    if restarts:
        with site.streaming():
            cancel()
    assert final is not None
    owner = owner_of(site)
    assert (owner.state, owner.site) == (OwnerState.ACTIVE, "site-a")
    assert owner.protected > final
    assert site.restored("disk") == bytes(site.images[0])


def test_a_cancel_says_who_took_the_domain(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        released(site)
        take(site)
        taken = owner_of(site)
        assert site.ask("cancel-release")["ok"]
        facts = site.facts_once(lambda facts: facts["release"]["cancel_refused"], "it is refused")
        assert "site 'site-b' has taken it" in facts["release"]["cancel_refused"]
        assert gate_of(site) is GateLevel.CLOSED
    assert owner_of(site) == taken
    assert site.notes().released_to == "site-b"


def test_a_domain_without_any_write_is_released_too(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        begin(site)
        notes = released(site)
    assert notes.final is not None
    assert notes.final > Place(0, 0, 0)
    assert site.restored("disk") == bytes(site.images[0])


@pytest.mark.parametrize("command", ["flush", "marker"])
def test_nothing_new_is_asked_of_a_site_that_gives_its_domain_up(tmp_path: Path, command: str) -> None:
    """While it is about to, and once it has; after a cancel it is as ever."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        begin(site)
        refused = site.ask(command, name="x")
        assert refused["released"]
        assert refused["error"] == "site 'site-a' is releasing the domain to site 'site-b'"
        assert "`--cancel` ends it" in refused["hint"]
        assert site.ask("cancel-release")["ok"]
        assert site.ask(command, name="x")["ok"]
        begin(site)
        released(site)
        refused = site.ask(command, name="x")
        assert refused["released"]
        assert refused["error"] == "site 'site-a' has released the domain to site 'site-b'"
        assert "`rehydrate failback` brings it back" in refused["hint"]
