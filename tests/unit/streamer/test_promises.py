"""Where the journal does not hold what guests wrote, nothing may be promised and no cut be called newer."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.streamer.lag import Lag
from cdp_agent.streamer.resume import Plan, plan_epoch
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Filling
from cdp_container.domain.owner_types import End
from cdp_container.errors import PositionUnknown
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import NOWHERE as NO_PLACE
from cdp_container.format.place import Place
from cdp_container.format.preamble import Preamble, parse_preamble
from cdp_container.journal.block_map import (
    DIRTY_BLOCK_BYTES,
    MapHeader,
    dirty_map_name,
    encode_map_header,
    set_bits,
)
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import StreamerPage
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SECOND_NS = 1_000_000_000


def overflow(site: AgentSite) -> int:
    """The journal is full from now on; gives the wall clock of that instant."""
    now_ns = SystemClock().wall_ns()
    site.publish(overflow_at=site.page.tail, overflow_ns=now_ns)
    return now_ns


@pytest.mark.parametrize(("command", "members"), [("flush", {}), ("marker", {"name": "before-upgrade"})])
def test_nothing_is_promised_past_an_overflow(tmp_path: Path, command: str, members: dict[str, str]) -> None:
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"before")
        site.flush()
        overflow(site)
        answer = site.ask(command, DEADLINE_SECONDS, **members)
    assert not answer["ok"]
    assert "the journal is full" in answer["error"]
    assert "wait until" in answer["hint"]
    assert site.recovery().markers() == {}


def test_a_marker_is_refused_while_not_everything_is_whole(tmp_path: Path) -> None:
    """It would name a point to which nothing can be recovered."""
    site = AgentSite(tmp_path)
    site.publish(episode=5, compare_all=True, sync_failed=True)  # so that copying waits
    with site.streaming():
        site.facts_once(lambda facts: facts.get("not_whole") == ["disk"], "it is in doubt")
        answer = site.ask("marker", name="now")
    assert not answer["ok"]
    assert "not every volume is wholly in the container" in answer["error"]


def test_a_gap_ends_the_run_and_the_next_one_compares(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with site.streaming() as running:
        running.may_fail = True
        site.write(0, 0, b"captured")
        site.flush()
        site.fill(0, 8192, b"past the journal")
        site.publish(episode=5, compare_all=True)
        wait_until(lambda: running.error, "the run ends", DEADLINE_SECONDS)
    assert isinstance(running.error, PositionUnknown)
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]
    assert (site.notes().episode, site.pages.streamer.read()) == (5, StreamerPage(site.page.tail, 5))


@pytest.mark.parametrize("map_of", ["this episode", "another episode", "another volume", "nothing"])
def test_only_what_the_dirty_map_says_is_compared(tmp_path: Path, map_of: str) -> None:
    """And everything where there is no map that counts."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, os.urandom(100_000))
        site.flush()
    site.fill(0, 10 * 4096, b"past the journal")
    space = site.identity.sources[0].space if map_of != "another volume" else bytes(16)
    episode = 5 if map_of != "another episode" else 6
    header = MapHeader(site.identity.domain, space, episode, site.size_bytes, DIRTY_BLOCK_BYTES)
    bits = bytearray(header.map_bytes)
    set_bits(bits, 10, 11)
    path = site.directory / dirty_map_name(0)
    path.parent.mkdir()
    path.write_bytes(encode_map_header(header) + bits if map_of != "nothing" else b"")
    site.begin_generation()
    site.publish(episode=5)
    with site.streaming():
        site.flush()
        compared = site.facts_once(lambda facts: not facts["not_whole"], "it is whole")["counters"]
    assert compared["copy_compared_bytes"] == (4096 if map_of == "this episode" else site.size_bytes)
    assert site.restored("disk") == site.images[0]


def test_a_journal_that_overflowed_amid_a_copy_is_given_up(tmp_path: Path) -> None:
    """What it lacks is compared once it goes on; nothing of it is needed for that."""
    site = AgentSite(tmp_path, whole=False)
    site.fill(0, 0, b"content")
    overflow(site)
    with site.streaming():
        site.facts_once(lambda facts: facts["state"].startswith("waiting for the journal"), "it waits")
        streamer = site.pages.streamer.read()
        assert streamer is not None
        assert streamer.proven == site.page.overflow_at
        site.begin_generation()
        site.publish(overflow_at=NOWHERE, episode=site.page.generation)
        site.write(0, 4096, b"captured again")
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_a_journal_full_before_the_first_cut_is_no_loss_of_cuts(tmp_path: Path) -> None:
    """What lets the splitter go on must not look like proof of cuts that are gone."""
    site = AgentSite(tmp_path)
    site.write(0, 0, b"before")
    site.publish(episode=5)  # a power loss: only what the dirty map says is in doubt
    overflow(site)
    site.fill(0, 4096, b"past the journal")
    with site.streaming():
        wait_until(
            lambda: (page := site.pages.streamer.read()) and page.proven == site.page.overflow_at,
            "the splitter may go on",
            DEADLINE_SECONDS,
        )
    site.begin_generation()
    site.publish(overflow_at=NOWHERE, episode=site.page.generation)
    with site.streaming():
        site.write(0, 8192, b"captured again")
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_no_cut_is_newer_than_the_overflow(tmp_path: Path) -> None:
    """The backlog of an outage is drained after the journal was full: its newest cut is of that instant."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 0, b"first")
        site.flush()
        hidden = tmp_path / "hidden"
        (tmp_path / "container").rename(hidden)
        site.write(0, 4096, b"in the outage")
        overflow_ns = overflow(site)
        site.facts_once(lambda facts: facts["overflowed"], "the overflow is seen")
        hidden.rename(tmp_path / "container")
        site.facts_once(
            lambda _: (page := site.pages.streamer.read()) and page.proven == site.page.tail,
            "the backlog is protected",
        )
    last = site.recovery().cuts[-1]
    key = segment_key(last.epoch, last.seq)
    newest = parse_preamble(site.store.get(key).data, key)
    assert Position(newest.journal_generation, newest.journal_offset) == site.page.tail
    assert newest.cut_time_ns <= overflow_ns
    assert site.restored("disk") == site.images[0]


def test_the_lag_counts_from_the_overflow(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.write(0, 0, b"all of it is protected")
    overflow_ns = overflow(site)
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        protected = StreamerPage(proven=site.page.tail)
        lag = Lag(journal).measure(site.page, protected, overflow_ns + 7 * SECOND_NS)
        assert lag == {"lag_seconds": 7.0, "lag_bytes": None}
        behind = Lag(journal).measure(site.page, StreamerPage(), overflow_ns + 7 * SECOND_NS)
    assert behind["lag_seconds"] >= 7.0
    assert behind["lag_bytes"] is None


def preamble_at(position: Position, not_whole: tuple[bytes, ...] = ()) -> Preamble:
    return Preamble(
        ObjectKind.SEGMENT,
        bytes(16),
        bytes(16),
        epoch=1,
        seq=5,
        not_whole=not_whole,
        journal_generation=position.generation,
        journal_offset=position.offset,
        cut_time_ns=44,
    )


# --- where the first cut begins ------------------------------------------------------------------


def lose_the_oldest_file(site: AgentSite) -> None:
    for number in range(4):
        site.write(0, number * 150_000, os.urandom(150_000))
    oldest = min((site.directory / "journal").iterdir())
    with oldest.open("r+b") as file:
        file.write(bytes(64))


def test_without_the_journals_beginning_a_first_cut_is_a_copy(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    lose_the_oldest_file(site)
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_without_the_generations_before_a_first_cut_is_a_copy(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.write(0, 0, b"of the first generation")
    site.begin_generation()
    site.write(0, 4096, b"of the second")
    min((site.directory / "journal").iterdir()).unlink()
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_a_first_cut_of_several_generations_holds_them_all(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.write(0, 0, b"of the first generation")
    site.begin_generation()
    site.write(0, 4096, b"of the second")
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (End(Place(1, 3, 5), bytes(32)), "collected"),
        (End(Place(1, 3, 5), bytes(32), preamble_at(Position(99, 5))), "not in this journal"),
    ],
)
def test_where_the_newest_cuts_position_is_not_known_everything_is_compared(
    tmp_path: Path, end: End, why: str
) -> None:
    site = AgentSite(tmp_path)
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        plan = plan_epoch(end, site.page, 5, site.notes(), site.identity.active, journal, NOWHERE)
    assert (plan.position, plan.taken_ns, plan.lacking) == (site.page.tail, 5, (0,))
    assert why in plan.why


def test_after_a_power_loss_it_goes_on_where_the_journal_ends(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    before = site.page.tail
    site.write(0, 0, b"kept")
    kept = site.page.tail
    site.begin_generation()
    began = Position(site.page.generation, 0)
    site.write(0, 0, b"of the next boot")
    site.publish(episode=began.generation, compare_all=False)

    def plan(base: Position, **changes: object) -> Plan:
        site.publish(**changes)
        end = End(Place(1, 3, 5), bytes(32), preamble_at(base))
        with JournalReader(site.directory / "journal", site.identity.domain) as journal:
            return plan_epoch(end, site.page, 5, site.notes(), site.identity.active, journal, NOWHERE)

    lost = Position(kept.generation, kept.offset + 640)
    assert plan(before) == Plan(before, 44, (0,), (0,), NOWHERE, began)
    assert plan(kept) == Plan(kept, 44, (0,), (0,), NOWHERE, began)
    assert plan(lost) == Plan(kept, 44, (0,), (0,), kept, began)
    assert plan(site.page.tail) == Plan(site.page.tail, 44, (0,), (0,))
    assert plan(Position(99, 5)).why
    everything = plan(lost, compare_all=True)
    assert (everything.position, everything.mapped, everything.copy_from) == (site.page.tail, (), NOWHERE)


def test_a_container_that_lost_its_cuts_is_refused(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    with (
        JournalReader(site.directory / "journal", site.identity.domain) as journal,
        pytest.raises(PositionUnknown, match="lost the cuts"),
    ):
        plan_epoch(
            End(NO_PLACE, bytes(32)),
            site.page,
            5,
            site.notes(),
            site.identity.active,
            journal,
            site.page.tail,
        )


def test_what_the_newest_cut_calls_not_whole_is_copied_whatever_the_notes_say(tmp_path: Path) -> None:
    site = AgentSite(tmp_path, volumes=("disk", "other"))
    sources = site.identity.active
    end = End(Place(1, 3, 5), bytes(32), preamble_at(site.page.tail, (sources[1].space,)))
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        plan = plan_epoch(end, site.page, 5, site.notes(), sources, journal, NOWHERE)
    assert (plan.position, plan.taken_ns, plan.lacking) == (site.page.tail, 44, (1,))


def test_what_is_filled_from_outside_is_not_copied_where_our_newest_cut_lists_it(tmp_path: Path) -> None:
    """It has every write of it. Of another's cut nobody knows why that lists it, nor where no note is."""
    site = AgentSite(tmp_path, volumes=("disk", "other"))
    sources = site.identity.active
    filled = replace(site.notes(), filling=(Filling(sources[1].space, "shop", 1),))
    found = []
    for position, notes in (
        (site.page.tail, filled),
        (site.page.tail, replace(filled, filling=())),
        (site.page.tail, replace(filled, whole=frozenset({sources[0].whole_id}))),
        (Position(99, 5), filled),
    ):
        end = End(Place(1, 3, 5), bytes(32), preamble_at(position, (sources[1].space,)))
        with JournalReader(site.directory / "journal", site.identity.domain) as journal:
            found.append(plan_epoch(end, site.page, 5, notes, sources, journal, NOWHERE).lacking)
    assert found == [(), (1,), (1,), (0, 1)]


@pytest.mark.parametrize("name", [None, "before-upgrade"])
def test_a_flush_or_marker_answers_when_the_container_says_so_too(tmp_path: Path, name: str | None) -> None:
    """Else a reader whose store lost the promised segments would take an older cut for the newest."""
    site = AgentSite(tmp_path)
    with site.streaming():
        site.flush()  # a marker is refused before the first connection
        site.write(0, 0, b"promised")
        answer = site.ask("flush") if name is None else site.ask("marker", name=name)
        data = (tmp_path / "container" / OWNER_KEY).read_bytes()
        promised = answer["place"]
    recorded = parse_owner(data, OWNER_KEY, None).protected
    assert (recorded.epoch, recorded.cut) >= (promised["epoch"], promised["cut"])
