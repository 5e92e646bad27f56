"""A streamer on disks that another put there: it goes on from their cut, or compares, and reverts nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.streamer.resume import Plan, plan_epoch
from cdp_container.domain.notes import save_notes
from cdp_container.domain.owner_types import End
from cdp_container.errors import PositionUnknown
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import NOWHERE as NO_PLACE
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import StreamerPage
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.unit.streamer.test_promises import lose_the_oldest_file, preamble_at
from tests.waiting import wait_until

CUT = Place(4, 9, 12)
NEWER = Place(5, 2, 3)
ELSEWHERE = Position(99, 5)


def carried_site(tmp_path: Path, carried: Place = CUT, volumes: tuple[str, ...] = ("disk",)) -> AgentSite:
    """A site whose disks hold a cut, with a journal of its own."""
    site = AgentSite(tmp_path, volumes)
    save_notes(site.directory, replace(site.notes(), carried=carried))
    return site


def plan_of(site: AgentSite, place: Place, position: Position, proven: Position = NOWHERE) -> Plan:
    end = End(place, bytes(32), preamble_at(position))
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        return plan_epoch(end, site.page, 5, site.notes(), site.identity.active, journal, proven)


# --- the plan ------------------------------------------------------------------------------------


def test_the_disks_hold_the_newest_cut_and_nothing_lacks(tmp_path: Path) -> None:
    site = carried_site(tmp_path)
    start = site.page.tail
    site.write(0, 0, b"since")
    assert plan_of(site, CUT, ELSEWHERE) == Plan(start, 44, ())


def test_a_second_run_before_the_first_cut_goes_on_at_the_beginning_too(tmp_path: Path) -> None:
    site = carried_site(tmp_path)
    start = site.page.tail
    site.write(0, 0, b"of the run that was killed")
    site.begin_generation()
    assert plan_of(site, CUT, ELSEWHERE, start) == Plan(start, 44, ())


def test_a_volume_that_was_touched_is_compared_beside_the_others(tmp_path: Path) -> None:
    site = carried_site(tmp_path, volumes=("disk", "touched"))
    touched = site.identity.active[1].whole_id
    save_notes(site.directory, replace(site.notes(), whole=site.notes().whole - {touched}))
    start = site.page.tail
    assert plan_of(site, CUT, ELSEWHERE) == Plan(start, 44, (1,))


def test_a_journal_that_is_not_complete_has_everything_compared(tmp_path: Path) -> None:
    site = carried_site(tmp_path)
    lose_the_oldest_file(site)
    plan = plan_of(site, CUT, ELSEWHERE)
    assert (plan.position, plan.lacking) == (site.page.tail, (0,))
    assert "oldest file" in plan.why


def test_a_power_loss_before_the_first_cut_has_only_what_was_marked_copied(tmp_path: Path) -> None:
    site = carried_site(tmp_path)
    start = site.page.tail
    site.write(0, 0, b"kept")
    site.begin_generation()
    began = Position(site.page.generation, 0)
    site.publish(episode=began.generation, compare_all=False)
    assert plan_of(site, CUT, ELSEWHERE) == Plan(start, 44, (0,), (0,), NOWHERE, began)
    site.publish(compare_all=True)
    everything = plan_of(site, CUT, ELSEWHERE)
    assert (everything.position, everything.lacking, everything.mapped) == (site.page.tail, (0,), ())


def test_a_cut_of_our_own_goes_on_at_its_position(tmp_path: Path) -> None:
    """The note was not dropped yet: the run was killed right after its first cut."""
    site = carried_site(tmp_path)
    site.write(0, 0, b"in the cut")
    ours = site.page.tail
    site.write(0, 0, b"behind it")
    assert plan_of(site, NEWER, ours) == Plan(ours, 44, ())


def test_a_cut_of_our_own_whose_position_a_power_loss_took_is_ours(tmp_path: Path) -> None:
    site = carried_site(tmp_path)
    site.write(0, 0, b"kept")
    lost = Position(site.page.generation, site.page.tail.offset + 640)
    site.begin_generation()
    site.publish(episode=site.page.generation, compare_all=False)
    assert plan_of(site, NEWER, lost).lacking == (0,)


@pytest.mark.parametrize("newest", [NEWER, Place(4, 8, 11)])
@pytest.mark.parametrize("whole", [True, False])
def test_what_another_site_wrote_since_is_never_reverted(tmp_path: Path, newest: Place, whole: bool) -> None:
    site = carried_site(tmp_path)
    if not whole:
        save_notes(site.directory, replace(site.notes(), whole=frozenset()))
    with pytest.raises(PositionUnknown, match=r"made from cut 4\.9, and the newest is"):
        plan_of(site, newest, ELSEWHERE)
    save_notes(site.directory, replace(site.notes(), whole=frozenset(), carried=NO_PLACE))  # --full-copy
    assert plan_of(site, newest, ELSEWHERE).lacking == (0,)


def test_a_container_without_its_cuts_is_refused(tmp_path: Path) -> None:
    site = carried_site(tmp_path)
    with pytest.raises(PositionUnknown, match="none of this agent"):
        plan_of(site, NO_PLACE, ELSEWHERE)


# --- the whole streamer --------------------------------------------------------------------------


def protected_of(site: AgentSite) -> Place:
    return parse_owner(site.store.get(OWNER_KEY).data, OWNER_KEY, site.identity.domain).protected


def moved_site(tmp_path: Path) -> AgentSite:
    """Its disk holds a cut of the container, and its journal begins there."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, os.urandom(200_000))
        site.flush()
    site.lose_journal()
    site.pages.streamer.publish(StreamerPage())
    save_notes(site.directory, replace(site.notes(), carried=protected_of(site)))
    return site


def test_it_copies_nothing_and_sends_what_is_written(tmp_path: Path) -> None:
    site = moved_site(tmp_path)
    site.write(0, 4096, b"at the other site")
    with site.streaming():
        site.flush()
        facts = site.facts()
        wait_until(lambda: not site.notes().carried, "the note is dropped", DEADLINE_SECONDS)
    assert facts["counters"]["copy_compared_bytes"] == 0
    assert facts["counters"]["stored_bytes"] < 20_000
    assert site.restored("disk") == site.images[0]


def test_killed_before_its_first_cut_it_loses_nothing(tmp_path: Path) -> None:
    site = moved_site(tmp_path)
    site.write(0, 4096, b"captured, and not sent")
    site.begin_generation()
    site.write(0, 8192, b"captured by the next run")
    with site.streaming():
        site.flush()
        assert site.facts()["counters"]["copy_compared_bytes"] == 0
    with site.streaming():
        site.write(0, 0, b"and by one more")
        site.flush()
        assert site.facts()["counters"]["copy_compared_bytes"] == 0
    assert site.restored("disk") == site.images[0]


def test_an_overflow_before_its_first_cut_is_compared(tmp_path: Path) -> None:
    site = moved_site(tmp_path)
    site.write(0, 4096, b"journaled")
    site.publish(overflow_at=site.page.tail, overflow_ns=1, episode=7)
    with site.streaming():
        site.facts_once(lambda facts: "journal" in facts["state"], "it waits for the journal")
    site.fill(0, 4096, b"past the journal")
    lose_the_oldest_file(site)
    site.begin_generation()
    site.publish(overflow_at=NOWHERE, overflow_ns=0, episode=site.page.generation, compare_all=True)
    with site.streaming():
        site.facts_once(lambda facts: facts.get("not_whole") == [], "it is whole")
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_what_was_touched_before_the_journal_began_is_found_by_comparison(tmp_path: Path) -> None:
    site = moved_site(tmp_path)
    site.fill(0, 100_000, b"touched by somebody")
    save_notes(site.directory, replace(site.notes(), whole=frozenset()))
    with site.streaming():
        site.facts_once(lambda facts: facts.get("not_whole") == [], "it is whole")
        counters = site.facts()["counters"]
    assert counters["copy_compared_bytes"] > 0
    assert counters["copy_different_bytes"] < 100_000
    assert site.restored("disk") == site.images[0]
