"""A journal that was given up and cannot be read: the streamer must come to do without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.streamer.local import LocalDirectory
from cdp_container.clock import SystemClock
from cdp_container.domain.notes import Notes
from cdp_container.errors import JournalDamaged, LocalDiskFull
from cdp_container.journal.position import NOWHERE
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> AgentSite:
    """Of what is behind its newest cut, the first record cannot be read."""
    made = AgentSite(tmp_path)
    with made.streaming():
        made.write(0, 0, b"before")
        made.flush()
    assert made.writer is not None
    at = made.writer.tail
    made.write(0, 4096, b"D" * 8192)
    newest = max((made.directory / "journal").iterdir())
    with newest.open("r+b") as file:
        file.seek(4096 + at.offset + 4096)
        file.write(bytes(512))
    return made


def ends_damaged(site: AgentSite) -> None:
    with site.streaming() as running:
        running.may_fail = True
        wait_until(lambda: running.error, "it finds the damage", DEADLINE_SECONDS)
    assert isinstance(running.error, JournalDamaged)


def proven_at_overflow(site: AgentSite) -> bool:
    page = site.pages.streamer.read()
    return page is not None and page.proven == site.page.overflow_at


def test_everything_is_compared_once_the_journal_goes_on(site: AgentSite) -> None:
    site.publish(overflow_at=site.page.tail, overflow_ns=SystemClock().wall_ns())
    ends_damaged(site)
    assert site.notes().whole == frozenset(), "noted before the splitter is told"
    assert not proven_at_overflow(site)
    site.fill(0, 32768, b"past the journal")
    with site.streaming():
        wait_until(lambda: proven_at_overflow(site), "it needs nothing of it", DEADLINE_SECONDS)
    site.begin_generation()
    site.publish(overflow_at=NOWHERE, episode=site.page.generation)
    with site.streaming():
        site.flush()
    assert site.restored("disk") == site.images[0]


def test_what_cannot_be_noted_is_not_told(site: AgentSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next run would take for whole what lacks what the journal lost."""

    def full(self: LocalDirectory, notes: Notes) -> None:
        if not notes.whole:
            raise LocalDiskFull("noting what is whole", "for a test")
        save(self, notes)

    save = LocalDirectory.save_notes
    site.publish(overflow_at=site.page.tail, overflow_ns=SystemClock().wall_ns())
    monkeypatch.setattr(LocalDirectory, "save_notes", full)
    for _ in range(2):
        ends_damaged(site)
        assert not proven_at_overflow(site)


def test_while_the_journal_is_written_its_damage_is_an_error(site: AgentSite) -> None:
    for _ in range(2):
        ends_damaged(site)
    assert site.notes().whole
