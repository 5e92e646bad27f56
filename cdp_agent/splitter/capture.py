"""What all volumes of a domain share: the journal's tail, the syncs, and what happens when a disk fails.

Everything here runs in the event loop, but for what is handed to a thread. The state of it:

- *open*: writes are admitted. The gate is shut while something needs the journal and the backing
  stores to stand still (an overflow, a mending); begun writes are then waited for.
- *failed*: a sync or a backing write failed. Sticky: every flush fails until all records since the
  synced point were applied and synced again, for Linux may have dropped the dirty pages, and a
  later sync that succeeds proves nothing.
- *overflowed*: the journal no longer holds what guests write, until the streamer needs nothing more of it:
  then it goes on in a new generation, and an episode says that what was written meanwhile must be compared.

What does not belong here: ranges and requests (`volume`), files of the journal (`journal_writer`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from cdp_agent.splitter.backing import Backing, forget_cached, sync_of
from cdp_agent.splitter.dirty_blocks import DirtyBlocks
from cdp_agent.splitter.failures import Failure, Failures, JournalUnusable
from cdp_agent.splitter.files import Files
from cdp_agent.splitter.gate import Gate
from cdp_agent.splitter.intent import IntentMissing, Intents, WriteIntent
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.published import Published
from cdp_agent.splitter.redo import redo_all
from cdp_agent.splitter.settings import OnJournalFull, SplitterSettings
from cdp_agent.splitter.shared_sync import SharedSync
from cdp_agent.splitter.threads import Threads, nothing
from cdp_container.clock import Clock
from cdp_container.errors import CdpError, JournalFull
from cdp_container.journal.position import Position
from cdp_container.journal.record import Kind, Note
from cdp_container.journal.shared import SplitterPage

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Capture:
    """The journal and the backing stores of a domain while guests write.

    Args:
        files: the edge to the kernel.
        backings: all of them.
        writer: the journal's tail, in its own generation; None if the journal has overflowed.
        published: the splitter's page.
        journal: the directory of the journal files, and the domain's id.
        begin_again: makes a writer that has begun a new generation behind a position.
        dirty: what is written while there is no journal.
        intent: where guests may write.
        settings: what is given up when the journal is full, and how much may be written before a sync is due.
        clock: tells when an overflow was.
    """

    def __init__(
        self,
        files: Files,
        backings: Sequence[Backing],
        writer: JournalWriter | None,
        published: Published,
        journal: tuple[Path, bytes],
        begin_again: Callable[[Position], JournalWriter],
        dirty: DirtyBlocks,
        intent: WriteIntent,
        settings: SplitterSettings,
        clock: Clock,
    ) -> None:
        self.files = files
        self.sync_is_due = asyncio.Event()
        self.last_error = ""
        self.losses = 0  # failed syncs of what no journal has, which guests must be told of
        self.removed = set(settings.removed)
        self._backings = backings
        self._writer = writer
        self._published = published
        self._journal = journal
        self._begin_again = begin_again
        self.dirty = dirty
        self.intent = intent
        self._settings = settings
        self._clock = clock
        self._tail = published.page.tail
        self._unsynced_bytes = 0
        self._gate = Gate()
        self._room = asyncio.Event()
        self._failures = Failures()
        self._syncs = SharedSync(self._sync_once)
        self._threads = Threads()
        self._intents = Intents(intent, self.in_thread)

    @property
    def page(self) -> SplitterPage:
        """What is published."""
        return self._published.page

    @property
    def failure(self) -> Failure | None:
        """What failed and was not mended yet."""
        return self._failures.first

    @property
    def is_open(self) -> bool:
        """Whether a write may be admitted right now."""
        return self._gate.is_open

    # --- the journal -------------------------------------------------------------------------

    def append_write(
        self, source: int, offset: int, data: bytes | memoryview, crc: int | None = None
    ) -> Position:
        """Put a write into the journal and publish it; returns its position.

        Raises:
            JournalUnusable, IntentMissing: it is not in the journal.
        """
        self._intend(source, offset, len(data))
        if self._writer is None:
            self.dirty.mark(source, offset, len(data))
            return self._tail
        try:
            at = self._writer.append_write(source, offset, data, crc)
            self._appended(len(data))
        except (JournalFull, OSError) as error:
            raise JournalUnusable(error) from error
        return at

    def append_writes(self, source: int, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """Put a first part of these writes into the journal and publish it; returns how many.

        Where the disk fails or the file is full it is fewer: `append_write` then finds out why.
        """
        writes = self.intent.touched(source, writes)
        if self._writer is None:
            for offset, data in writes:
                self.dirty.mark(source, offset, len(data))
            return len(writes)
        try:
            count = self._writer.append_writes(source, writes)
            if count:
                self._appended(sum(len(data) for _, data in writes[:count]))
        except OSError:
            return 0
        return count

    def append_range(self, kind: Kind, source: int, offset: int, length: int) -> Position:
        """Put a zeroing or discard into the journal; otherwise like `append_write`."""
        self._intend(source, offset, length)
        if self._writer is None:
            self.dirty.mark(source, offset, length)
            return self._tail
        try:
            at = self._writer.append_range(kind, source, offset, length)
            self._appended(0)
        except (JournalFull, OSError) as error:
            raise JournalUnusable(error) from error
        return at

    def _intend(self, source: int, offset: int, length: int) -> None:
        if not self.intent.touch(source, offset, length):
            raise IntentMissing(source, offset, length)

    def _appended(self, count: int) -> None:
        assert self._writer is not None, "appended"
        before, self._tail = self._tail, self._writer.tail
        self._unsynced_bytes += count
        if self._unsynced_bytes >= self._settings.sync_bytes:
            self.sync_is_due.set()
        make_ready = self._writer.begin_next()
        if make_ready is not None:
            self._threads.submit(make_ready)
        self._publish(before)  # what was appended is not on the disk yet

    def _publish(self, applied: Position | None = None, durable: bool = False) -> None:
        """`applied`: up to which all that is not in flight is on the disk; the tail if it is not given."""
        applied = self._gate.first(self._tail if applied is None else applied)
        if self._failures.backing is not None:
            applied = self._published.page.applied  # the disk lacks what follows, or may
        self._published.write(self._tail, applied, self._failures.first is not None, durable)

    def publish(self, page: SplitterPage, durable: bool = False) -> None:
        """Publish what is changed in `page`; the tail and applied-up-to are as they are. Raises OSError."""
        self._published.page = page
        self._publish(durable=durable)

    async def note(self, note: Note) -> None:
        """Put a note into the journal, durably, if there is one. Raises JournalFull, OSError."""
        writer = self._writer
        if writer is None:
            return
        writer.append_note(note)
        self._tail = writer.tail
        await self._sync_journal(writer)
        self._publish()

    async def _sync_journal(self, writer: JournalWriter) -> None:
        error = await self._threads.sync(writer.begin_sync(), self._threads.journal)
        if error is not None:
            if writer is self._writer:
                self._journal_failed("syncing the journal", error)
            raise error

    # --- writes that take their time ---------------------------------------------------------

    async def admit(self, append: Callable[[], Position]) -> object:
        """Append once that is possible; returns the ticket for `done`.

        Raises:
            OSError: it will not become possible.
        """
        while True:
            await self._gate.wait_until_open()
            try:
                return self._gate.enter(append())
            except JournalUnusable as error:
                await self._find_room(error.reason)
            except IntentMissing as missing:
                try:
                    await self._intents.mark(missing)
                except OSError as error:
                    await self._find_room(error)

    def standstill(self) -> AbstractAsyncContextManager[None]:
        """A time in which no write is under way; those that come wait."""
        return self._gate.quiet()

    def done(self, ticket: object) -> None:
        """The backing write of this ticket returned."""
        self._gate.leave(ticket)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run what may wait for a disk."""
        return await self._threads.run(work)

    def _backing_failed(self, what: str, error: OSError) -> None:
        """Make every flush fail until a redo has brought back what may be lost."""
        self._failures.backing = self._failures.backing or Failure(what, error)
        self._failed(what, error)

    def _journal_failed(self, what: str, error: OSError) -> None:  # until the journal is given up
        self._failures.journal = self._failures.journal or Failure(what, error)
        self._failed(what, error)

    def _failed(self, what: str, error: OSError) -> None:
        _log.error("%s: %s", what, error)
        self._failures.count += 1
        self.last_error = f"{what}: {error.strerror or error}"
        with suppress(OSError):  # what is told already counts; the next write publishes again, or fails
            self._publish()

    def write_failed(self, volume: str, error: OSError) -> None:
        """A backing write failed, and the guest is told.

        While the journal holds what the disk does not, no sync may pass it; without a journal it is
        what any disk does.
        """
        if self._writer is None:
            self.last_error = f"writing volume {volume}: {error.strerror or error}"
        else:
            self._backing_failed(f"writing volume {volume}", error)

    # --- a journal that is full or fails -----------------------------------------------------

    async def _find_room(self, reason: JournalFull | OSError) -> None:
        if isinstance(reason, JournalFull) and self.trim():
            return
        if self._settings.on_journal_full is OnJournalFull.DEGRADE:
            await self._overflow(str(reason))
        elif isinstance(reason, OSError):
            raise reason
        else:
            self.last_error = str(reason)
            self._room.clear()
            await self._room.wait()

    async def _overflow(self, why: str) -> None:
        """Go on without the journal: sync the backing stores, say so durably, and append no more."""
        async with self._gate.quiet():
            if self._writer is None:
                self._forget_journal_failure()  # that of a sync which began before the journal was given up
                return
            self._failures.refuse_backing()  # what they lack would be lost without the journal
            _log.error("the journal holds no further writes, what is written now is compared later: %s", why)
            self.last_error = f"overflow: {why}"
            for backing in self._backings:
                backing.dirty = True
            await self._sync_backings()
            self._failures.refuse_backing()  # maybe told to a sync that ran meanwhile
            unfinished = self._published.unfinished_episode
            await self.in_thread(lambda: self.dirty.begin(unfinished))
            before = self._published.give_up_journal(self._tail, self._clock.wall_ns())
            try:
                self._publish(durable=True)  # or else a later start would redo old data over new
            except OSError:
                self._published.page = before
                self._publish()
                raise
            self.intent.lapse()
            writer, self._writer = self._writer, None
            # Behind the syncs that still hold its descriptors.
            await self._threads.sync(writer.close, self._threads.journal)
            self._forget_journal_failure()

    def _forget_journal_failure(self) -> None:
        """Nothing rests on the journal any more."""
        if self._failures.journal is not None:
            self._failures.journal = None
            self._publish()

    async def go_on(self) -> bool:
        """Go on with a journal that was given up, once the streamer needs nothing of it; whether it does.

        The guests' writes since then are on their disks alone: a new episode says that they must be compared.

        Raises:
            CdpError, OSError: not now.
        """
        if not self._published.journal_is_given_up:
            return False
        end = self.page.overflow_at
        writer = await self.in_thread(lambda: self._begin_again(end))
        try:
            await self.in_thread(lambda: self.dirty.save(writer.tail.generation))
            await self.sync()  # so that the quiet time is short
            async with self._gate.quiet():
                await self._go_on_in(writer)
        except (CdpError, OSError):
            self.intent.lapse()
            writer.close()
            raise
        _log.warning("the journal goes on; what was written without it is compared with the container")
        return True

    async def _go_on_in(self, writer: JournalWriter) -> None:
        await self.sync()  # what fails from here on is in the journal
        await self._intents.renew(writer.tail.generation)
        writer.append_note(Note.DISKS_TAKEN)  # guests wrote since the last record
        await self._sync_journal(writer)
        is_complete = await self.in_thread(self.dirty.finish)
        before = self._published.go_on(writer.tail, writer.used_bytes, compare_all=not is_complete)
        self._writer, self._tail = writer, writer.tail
        try:
            self._publish(durable=True)  # first: no record is behind a tail that a power loss takes back
        except OSError:
            self._writer, self._tail, self._published.page = None, before.tail, before
            with suppress(OSError):
                self._publish(durable=True)  # the other one may have come to the disk
            raise

    def trim(self) -> bool:
        """Let go of what is both synced and proven; returns whether there is room for more."""
        if self._writer is None:
            return False
        has_room = self._writer.trim((self._published.streamer().proven, self.page.synced))
        self._published.page = replace(self.page, used_bytes=self._writer.used_bytes)
        self._publish()
        if has_room:
            self._room.set()
        return has_room

    # --- syncs -------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Return when everything written before is durable, in the journal and in the backing stores.

        Flushes that come while a sync runs share the next one.

        Raises:
            OSError: it may not be; all further ones fail until it is mended.
        """
        if not self._syncs.is_running:  # else the one that runs may be giving up the journal, and all is well
            self._failures.refuse()
        if self._is_dirty():
            await self._syncs.wait_for_next()
        else:
            await self._syncs.wait_for_running()  # it began after all that was answered before this call

    def _is_dirty(self) -> bool:
        return any(backing.dirty for backing in self._backings) or (
            self._writer is not None and self._writer.is_dirty
        )

    async def _sync_once(self) -> None:
        self._failures.refuse()
        synced = self._gate.first(self._tail)
        writer = self._writer
        self._unsynced_bytes = 0
        self.intent.begin_sync(self._clock.boottime_ns())
        self.sync_is_due.clear()
        work = writer.begin_sync() if writer is not None and writer.is_dirty else nothing
        journal = self._threads.sync(work, self._threads.journal)
        await self._sync_backings()
        journal_error = await journal
        if journal_error is not None:  # first, and whatever comes of the overflow
            self._journal_failed("syncing the journal", journal_error)
            await self._give_up_journal()
        self._failures.refuse()
        self.intent.synced()
        self._advance(synced)

    async def _sync_backings(self) -> None:
        """Sync what was written; a failure is noted at once, as an overflow must see it."""
        error = await self._threads.sync(sync_of(self.files, self._backings), self._threads.disks)
        if error is not None:
            self.losses += self._writer is None
            self._backing_failed("syncing the backing store", error)

    async def _give_up_journal(self) -> None:
        """Go on without a journal of which a sync failed, if that was chosen."""
        if self._writer is None:  # it was given up since, and a quiet time that is may wait for this sync
            self._forget_journal_failure()
        elif self._settings.on_journal_full is OnJournalFull.DEGRADE and self._failures.journal is not None:
            await self._overflow(f"{self._failures.journal.what}: {self._failures.journal.error}")

    def _advance(self, synced: Position) -> None:
        """Publish a later synced point; none of a generation that was given up since the sync began."""
        before = self.page.synced
        is_later = synced.generation != before.generation or synced.offset > before.offset
        if is_later and synced.generation == self._tail.generation:
            self._published.page = replace(self.page, synced=synced)
            self._publish()

    # --- mending, ending ---------------------------------------------------------------------

    async def mend(self) -> bool:
        """Bring back what a failure may have lost; returns whether all is well.

        For the backing stores that is a redo of everything since the synced point; a journal is given up.
        What a disk lost without a journal stays lost, and the guests are told: see `losses`.
        """
        if self._failures.first is None:
            return True
        # A sync under way could be told of an error of the redo. While anything is failed no other begins.
        await self._syncs.wait_until_idle()
        try:
            if self._failures.backing is not None:
                await self._redo()
            await self._give_up_journal()
        except (OSError, CdpError) as error:
            self.last_error = f"mending: {error}"
        return self._failures.first is None

    async def _redo(self) -> None:
        """Apply everything since the synced point again, if there is a journal, and sync it."""
        async with self._gate.quiet():
            writer, tail, count = self._writer, self._tail, self._failures.count
            for backing in self._backings:  # all: what failed may not have been written since
                backing.dirty = True
            if writer is not None:
                await self._apply_again(writer, tail)
            await self._sync_backings()
            if self._failures.count != count:
                raise OSError(errno.EIO, self.last_error)
            if writer is None:  # what is compared later must be what the disks have
                await self.in_thread(lambda: forget_cached(self.files, self._backings))
            elif self._failures.journal is None:
                writer.append_note(Note.REDO_PROGRESS)  # a change of the disk that is ours
                self._advance(tail)
            self._failures.backing = None
            self._publish()
            _log.warning("what failed is mended: everything was synced again")

    async def _apply_again(self, writer: JournalWriter, tail: Position) -> None:
        if self._failures.journal is None:
            await self._sync_journal(writer)
        self._published.page = replace(self.page, redos=self.page.redos + 1)
        self._publish()  # first: whoever copies a disk meanwhile must know
        between = self.page.synced, tail
        await self.in_thread(
            lambda: redo_all(self.files, self._journal, self._backings, between, self.removed)
        )

    async def keep_intents(self) -> None:
        """Take back what nobody writes any more, so that a power loss brings little to compare."""
        is_synced = self._failures.first is None and not self._is_dirty() and not self._syncs.is_running
        try:
            await self._intents.tidy(is_synced, self._clock.boottime_ns())
        except OSError as error:
            self.last_error = f"writing the intent map: {error}"  # it says too much, and is tried again

    async def end(self) -> None:
        """Let everything that was begun end."""
        await self._syncs.wait_until_idle()
        await self._intents.end()
        self.end_threads()

    def end_threads(self) -> None:
        """Let the threads finish what they were handed, and end."""
        self._threads.end()
