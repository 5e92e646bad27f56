"""The machine of a simulated streamer: notes and pages that outlast a crash, volumes to be copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdp_agent.streamer.copy import Doubt, Volume
from cdp_container.domain.notes import Notes
from cdp_container.errors import LocalDiskFull
from cdp_container.journal.shared import SplitterPage, StreamerPage
from tests.sim.journal import VOLUME_BYTES, SimJournal

PIECE_BYTES = 6 << 10
"""Copies are read in rounds of a few such pieces, so that much happens between them."""


class SimLocal:
    """See `engine_types.Local`. What is saved outlasts a crash."""

    def __init__(self, journal: SimJournal, volumes: Sequence[Volume], notes: Notes) -> None:
        self._journal = journal
        self._volumes = volumes
        self.notes = notes
        self.page = StreamerPage()
        self.splitter_page = SplitterPage()
        self.disk_full = False

    def load_notes(self) -> Notes:
        return self.notes

    def save_notes(self, notes: Notes) -> None:
        if self.disk_full:
            raise LocalDiskFull("write notes.json", "no space left on device")
        self.notes = notes

    def splitter(self) -> SplitterPage | None:
        page, journal = self.splitter_page, self._journal
        return replace(page, tail=journal.tail, applied=journal.applied) if page.generation else None

    def boot(self) -> bytes:
        return self.splitter_page.boot

    def streamer(self) -> StreamerPage:
        return self.page

    def publish(self, page: StreamerPage) -> None:
        self.page = page
        self._journal.trim(page.proven)

    def doubt(self, source: int, episode: int | None) -> Doubt:
        ranges = [(at, PIECE_BYTES) for at in range(0, VOLUME_BYTES, PIECE_BYTES)]
        if episode is not None:
            ranges = [(block * 4096, 4096) for block in sorted(self._journal.dirty[source])]
        return Doubt(self._volumes[source], ranges, read_bytes_max=3 * PIECE_BYTES)
