"""The splitter's page of `shared` as it stands: what changed is put there, what did not stays.

What the fields mean is in `cdp_container.journal.shared`, when they change in `appending`, `overflow` and
`opening`.
"""

from __future__ import annotations

from dataclasses import replace

from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SharedPages, SplitterPage, StreamerPage


class Published:
    """The page, and its one writer; what is changed in `page` is published with the next `write`."""

    def __init__(self, pages: SharedPages, page: SplitterPage) -> None:
        self._pages = pages
        self.page = page

    def write(self, tail: Position, applied: Position, failed: bool, durable: bool = False) -> None:
        """Publish the page with these values; with every write of a guest, so it is quick. Raises OSError."""
        page = self.page
        self.page = SplitterPage(  # replace() is too slow for every write
            page.generation, tail, page.synced, page.overflow_at, page.overflow_ns, page.compare_all,
            page.exports_open, failed, page.running, page.used_bytes, page.limit_bytes, page.boot,
            applied, page.redos, page.episode, page.sources, page.disks, page.writes_closed,
        )  # fmt: skip
        self._pages.splitter.publish(self.page, durable)

    def give_up_journal(self, tail: Position, wall_ns: int) -> SplitterPage:
        """Disks and journal are equal up to the tail, and no record follows. Gives the page before."""
        before = self.page
        since_ns = wall_ns if self.is_compared else before.overflow_ns
        self.page = replace(before, overflow_at=tail, overflow_ns=since_ns, synced=tail)
        return before

    def go_on(self, tail: Position, used_bytes: int, compare_all: bool) -> SplitterPage:
        """Records follow again; an episode says that some are missing. Gives the page before."""
        before = self.page
        self.page = replace(
            before, generation=tail.generation, synced=tail, overflow_at=NOWHERE, used_bytes=used_bytes,
            episode=tail.generation, compare_all=compare_all,
        )  # fmt: skip
        return before

    def streamer(self) -> StreamerPage:
        """What the streamer published."""
        return self._pages.streamer.read() or StreamerPage()

    @property
    def journal_is_given_up(self) -> bool:
        """Whether the streamer needs nothing any more of a journal that has overflowed."""
        return self.page.overflowed and self.streamer().proven == self.page.overflow_at

    @property
    def is_compared(self) -> bool:
        """Whether nothing is in doubt any more that an earlier episode left so."""
        return self.page.episode in (0, self.streamer().compared_episode)

    @property
    def unfinished_episode(self) -> int | None:
        """The episode whose dirty maps were not compared yet, 0 for none; None if they do not say it all."""
        if self.is_compared:
            return 0
        return None if self.page.compare_all else self.page.episode
