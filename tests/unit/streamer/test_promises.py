"""Where the journal does not hold what guests wrote, nothing may be promised and no cut be called newer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_agent.streamer.facts import Lag
from cdp_agent.streamer.resume import resume_position
from cdp_container.clock import SystemClock
from cdp_container.domain.owner_types import End
from cdp_container.errors import PositionUnknown
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.format.place import Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import StreamerPage
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite

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
    assert "the journal was full" in answer["error"]
    assert "--full-copy" in answer["hint"]
    assert site.recovery().markers() == {}


def test_a_journal_that_may_lack_writes_promises_nothing(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.publish(unclean_boot=True)
    with site.streaming():
        site.facts_once(lambda facts: facts["state"].startswith("refused"), "the streamer refuses")
        answer = site.ask("flush")
    assert not answer["ok"]
    assert "went down hard" in answer["error"]


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


# --- where the first cut begins ------------------------------------------------------------------


def lose_the_oldest_file(site: AgentSite) -> None:
    for number in range(4):
        site.write(0, number * 150_000, os.urandom(150_000))
    oldest = min((site.directory / "journal").iterdir())
    with oldest.open("r+b") as file:
        file.write(bytes(64))


def test_a_first_cut_needs_the_journal_from_its_beginning(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    lose_the_oldest_file(site)
    with site.streaming():
        facts = site.facts_once(lambda facts: facts["state"].startswith("refused"), "the streamer refuses")
    assert "oldest file" in facts["state"]
    assert facts["lag_seconds"] is None
    assert site.recovery().cuts == []


def test_a_first_cut_needs_the_generations_before(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.write(0, 0, b"of the first generation")
    site.begin_generation()
    site.write(0, 0, b"of the second")
    min((site.directory / "journal").iterdir()).unlink()
    with site.streaming():
        facts = site.facts_once(lambda facts: facts["state"].startswith("refused"), "the streamer refuses")
    assert "oldest file" in facts["state"]
    assert site.recovery().cuts == []


def test_a_first_cut_of_several_generations_holds_them_all(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.write(0, 0, b"of the first generation")
    site.begin_generation()
    site.write(0, 4096, b"of the second")
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_a_first_cut_needs_a_journal_at_all(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    site.write(0, 0, b"gone")
    for path in (site.directory / "journal").iterdir():
        path.unlink()
    with site.streaming():
        site.facts_once(lambda facts: facts["state"].startswith("refused"), "the streamer refuses")
    assert site.recovery().cuts == []


def test_a_base_that_was_collected_is_refused(tmp_path: Path) -> None:
    """It is no container without cuts, though nobody knows its position any more."""
    site = AgentSite(tmp_path)
    collected = End(Place(1, 3, 5), bytes(32))
    with (
        JournalReader(site.directory / "journal", site.identity.domain) as journal,
        pytest.raises(PositionUnknown, match="collected"),
    ):
        resume_position(collected, site.page, journal, NOWHERE, everything=False)


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
