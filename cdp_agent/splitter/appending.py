"""What guests write goes into the journal, and the splitter's page says so.

All of this runs in the event loop with every write, so it is flat: no call more than it needs. A write that
is appended is published, with the lowest position whose backing write has not returned. While a backing
write has failed, that position stands still.

What does not belong here: waiting for anything (`capture`), when the journal is given up (`overflow`), the
files of the journal (`journal_writer`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from cdp_agent.splitter.dirty_blocks import DirtyBlocks
from cdp_agent.splitter.failures import Failure, Failures, JournalUnusable
from cdp_agent.splitter.gate import Gate
from cdp_agent.splitter.intent import IntentMissing, WriteIntent
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.published import Published
from cdp_agent.splitter.threads import Threads
from cdp_container.errors import JournalFull
from cdp_container.journal.position import Position
from cdp_container.journal.record import Kind, Note
from cdp_container.journal.shared import SplitterPage

_log: Final = logging.getLogger(__name__)


class Appending:
    """The journal's tail while guests write, and what is published of it.

    Args:
        writer: of the journal, in its own generation; None where it has overflowed.
        published: the splitter's page.
        dirty: what is written while there is no journal.
        intent: where guests may write.
        sync_bytes: so much may be written before a sync is due.
    """

    def __init__(
        self,
        writer: JournalWriter | None,
        published: Published,
        dirty: DirtyBlocks,
        intent: WriteIntent,
        sync_bytes: int,
    ) -> None:
        self.writer = writer
        self.published = published
        self.dirty = dirty
        self.intent = intent
        self.tail = published.page.tail
        self.gate = Gate()
        self.failures = Failures()
        self.threads = Threads()
        self.sync_is_due = asyncio.Event()
        self.unsynced_bytes = 0
        self._sync_bytes = sync_bytes

    # --- writes of guests --------------------------------------------------------------------

    def append_write(
        self, source: int, offset: int, data: bytes | memoryview, crc: int | None = None
    ) -> Position:
        """Put a write into the journal and publish it; returns its position.

        Raises:
            JournalUnusable, IntentMissing: it is not in the journal.
        """
        self._intend(source, offset, len(data))
        if self.writer is None:
            self.dirty.mark(source, offset, len(data))
            return self.tail
        try:
            at = self.writer.append_write(source, offset, data, crc)
            self._appended(len(data))
        except (JournalFull, OSError) as error:
            raise JournalUnusable(error) from error
        return at

    def append_writes(self, source: int, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """Put a first part of these writes into the journal and publish it; returns how many.

        Where the disk fails or the file is full it is fewer: `append_write` then finds out why.
        """
        writes = self.intent.touched(source, writes)
        if self.writer is None:
            for offset, data in writes:
                self.dirty.mark(source, offset, len(data))
            return len(writes)
        try:
            count = self.writer.append_writes(source, writes)
            if count:
                self._appended(sum(len(data) for _, data in writes[:count]))
        except OSError:
            return 0
        return count

    def append_range(self, kind: Kind, source: int, offset: int, length: int) -> Position:
        """Put a zeroing or discard into the journal; otherwise like `append_write`."""
        self._intend(source, offset, length)
        if self.writer is None:
            self.dirty.mark(source, offset, length)
            return self.tail
        try:
            at = self.writer.append_range(kind, source, offset, length)
            self._appended(0)
        except (JournalFull, OSError) as error:
            raise JournalUnusable(error) from error
        return at

    def _intend(self, source: int, offset: int, length: int) -> None:
        if not self.intent.touch(source, offset, length):
            raise IntentMissing(source, offset, length)

    def _appended(self, count: int) -> None:
        assert self.writer is not None, "appended"
        before, self.tail = self.tail, self.writer.tail
        self.unsynced_bytes += count
        if self.unsynced_bytes >= self._sync_bytes:
            self.sync_is_due.set()
        make_ready = self.writer.run.begin_next()
        if make_ready is not None:
            self.threads.submit(make_ready)
        self.publish(before)  # what was appended is not on the disk yet

    # --- the page ----------------------------------------------------------------------------

    @property
    def page(self) -> SplitterPage:
        """What is published."""
        return self.published.page

    def publish(self, applied: Position | None = None, durable: bool = False) -> None:
        """Publish the page with the tail as it is. Raises OSError.

        `applied`: up to which all that is not in flight is on the disk; the tail if it is not given.
        """
        applied = self.gate.first(self.tail if applied is None else applied)
        if self.failures.backing is not None:
            applied = self.published.page.applied  # the disk lacks what follows, or may
        self.published.write(self.tail, applied, self.failures.first is not None, durable)

    def publish_page(self, page: SplitterPage, durable: bool = False) -> None:
        """Publish what is changed in `page`; the tail and applied-up-to are as they are. Raises OSError."""
        self.published.page = page
        self.publish(durable=durable)

    def advance(self, synced: Position) -> None:
        """Publish a later synced point; none of a generation that was given up since the sync began."""
        before = self.page.synced
        is_later = synced.generation != before.generation or synced.offset > before.offset
        if is_later and synced.generation == self.tail.generation:
            self.published.page = replace(self.page, synced=synced)
            self.publish()

    # --- notes -------------------------------------------------------------------------------

    async def note(self, note: Note) -> None:
        """Put a note into the journal, durably, if there is one. Raises JournalFull, OSError."""
        writer = self.writer
        if writer is None:
            return
        writer.append_note(note)
        self.tail = writer.tail
        await self.sync_journal(writer)
        self.publish()

    async def sync_journal(self, writer: JournalWriter) -> None:
        """Make all durable that a writer appended; of ours a failure counts. Raises OSError."""
        error = await self.threads.sync(writer.begin_sync(), self.threads.journal)
        if error is not None:
            if writer is self.writer:
                self.journal_failed("syncing the journal", error)
            raise error

    # --- failures ----------------------------------------------------------------------------

    def backing_failed(self, what: str, error: OSError) -> None:
        """Make every flush fail until a redo has brought back what may be lost."""
        self.failures.backing = self.failures.backing or Failure(what, error)
        self._failed(what, error)

    def journal_failed(self, what: str, error: OSError) -> None:
        """Make every flush fail until the journal is given up."""
        self.failures.journal = self.failures.journal or Failure(what, error)
        self._failed(what, error)

    def _failed(self, what: str, error: OSError) -> None:
        _log.error("%s: %s", what, error)
        self.failures.count += 1
        self.failures.last_error = f"{what}: {error.strerror or error}"
        with suppress(OSError):  # what is told already counts; the next write publishes again, or fails
            self.publish()

    def forget_journal_failure(self) -> None:
        """Nothing rests on the journal any more."""
        if self.failures.journal is not None:
            self.failures.journal = None
            self.publish()

    def write_failed(self, volume: str, error: OSError) -> None:
        """A backing write failed, and the guest is told.

        While the journal holds what the disk does not, no sync may pass it; without a journal it is
        what any disk does.
        """
        if self.writer is None:
            self.failures.last_error = f"writing volume {volume}: {error.strerror or error}"
        else:
            self.backing_failed(f"writing volume {volume}", error)
