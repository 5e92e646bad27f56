"""What all volumes of a domain share: the journal's tail, the syncs, and what happens when a disk fails.

Everything here runs in the event loop, but for what is handed to a thread. The state of it:

- *open*: writes are admitted. The gate is shut while something needs the journal and the backing
  stores to stand still (an overflow, a mending); begun writes are then waited for.
- *failed*: a sync or a backing write failed. Sticky: every flush fails until all records since the
  synced point were applied and synced again, for Linux may have dropped the dirty pages, and a
  later sync that succeeds proves nothing.
- *overflowed*: the journal no longer holds what guests write. Sticky until the volumes are copied anew.

What does not belong here: ranges and requests (`volume`), files of the journal (`journal_writer`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.failures import Failure, Failures
from cdp_agent.splitter.files import Files
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.redo import redo
from cdp_agent.splitter.settings import IO_THREADS, OnJournalFull
from cdp_agent.splitter.shared_sync import SharedSync
from cdp_container.clock import Clock
from cdp_container.errors import CdpError, JournalFull
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind, Note
from cdp_container.journal.shared import SharedPages, SplitterPage

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class JournalUnusable(Exception):
    """An append failed; `reason` is a JournalFull or an OSError. Never leaves the splitter."""

    def __init__(self, reason: JournalFull | OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Capture:
    """The journal and the backing stores of a domain while guests write.

    Args:
        files: the edge to the kernel.
        backings: all of them.
        writer: the journal's tail, in its own generation; None if the journal has overflowed.
        pages: where tail and synced point are published.
        page: what is published already.
        journal: the directory of the journal files, and the domain's id.
        on_journal_full: what is given up then.
        sync_bytes: so much may be written before `sync_is_due` is set.
        clock: tells when an overflow was.
    """

    def __init__(
        self,
        files: Files,
        backings: Sequence[Backing],
        writer: JournalWriter | None,
        pages: SharedPages,
        page: SplitterPage,
        journal: tuple[Path, bytes],
        on_journal_full: OnJournalFull,
        sync_bytes: int,
        clock: Clock,
    ) -> None:
        self.files = files
        self.sync_is_due = asyncio.Event()
        self.last_error = ""
        self._backings = backings
        self._writer = writer
        self._pages = pages
        self._page = page
        self._journal = journal
        self._on_journal_full = on_journal_full
        self._sync_bytes = sync_bytes
        self._clock = clock
        self._tail = page.tail
        self._unsynced_bytes = 0
        self._in_flight: dict[object, Position] = {}  # backing writes that have not returned
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        self._gate = asyncio.Event()
        self._gate.set()
        self._quiet_lock = asyncio.Lock()
        self._room = asyncio.Event()
        self._failures = Failures()
        self._syncs = SharedSync(self._sync_once)
        self._io = ThreadPoolExecutor(IO_THREADS, "io")
        # One thread each: what is handed to it runs in order. Two: a flush waits for both.
        self._journal_thread = ThreadPoolExecutor(1, "sync-journal")
        self._disk_thread = ThreadPoolExecutor(1, "sync-disks")

    @property
    def page(self) -> SplitterPage:
        """What is published."""
        return self._page

    @property
    def failure(self) -> Failure | None:
        """What failed and was not mended yet."""
        return self._failures.first

    @property
    def is_open(self) -> bool:
        """Whether a write may be admitted right now."""
        return self._gate.is_set()

    # --- the journal -------------------------------------------------------------------------

    def append_write(self, source: int, offset: int, data: bytes | memoryview) -> Position:
        """Put a write into the journal and publish it; returns its position.

        Raises:
            JournalUnusable: it is not in the journal.
        """
        if self._writer is None:
            return self._tail
        try:
            at = self._writer.append_write(source, offset, data)
            self._appended(len(data))
        except (JournalFull, OSError) as error:
            raise JournalUnusable(error) from error
        return at

    def append_writes(self, source: int, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """Put a first part of these writes into the journal and publish it; returns how many.

        Where the disk fails or the file is full it is fewer: `append_write` then finds out why.
        """
        if self._writer is None:
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
        if self._writer is None:
            return self._tail
        try:
            at = self._writer.append_range(kind, source, offset, length)
            self._appended(0)
        except (JournalFull, OSError) as error:
            raise JournalUnusable(error) from error
        return at

    def _appended(self, count: int) -> None:
        assert self._writer is not None, "appended"
        self._tail = self._writer.tail
        self._unsynced_bytes += count
        if self._unsynced_bytes >= self._sync_bytes:
            self.sync_is_due.set()
        make_ready = self._writer.begin_next()
        if make_ready is not None:
            self._io.submit(make_ready)
        self._publish()

    def _publish(self, durable: bool = False) -> None:
        page = self._page
        self._page = SplitterPage(  # replace() is too slow for every write
            page.generation, self._tail, page.synced, page.overflow_at, page.overflow_ns, page.unclean_boot,
            page.exports_open, self._failures.first is not None, page.running, page.used_bytes,
            page.limit_bytes, page.boot,
        )  # fmt: skip
        self._pages.splitter.publish(self._page, durable)

    def publish_exports_open(self, is_open: bool) -> None:
        """Say whether guests may be writing."""
        self._page = replace(self._page, exports_open=is_open)
        self._publish()

    # --- writes that take their time ---------------------------------------------------------

    async def admit(self, append: Callable[[], Position]) -> object:
        """Append once that is possible; returns the ticket for `done`.

        Raises:
            OSError: it will not become possible.
        """
        while True:
            while not self._gate.is_set():  # it may be shut again before this runs
                await self._gate.wait()
            ticket = object()
            try:
                self._in_flight[ticket] = append()
            except JournalUnusable as error:
                await self._find_room(error.reason)
            else:
                self._none_in_flight.clear()
                return ticket

    def done(self, ticket: object) -> None:
        """The backing write of this ticket returned."""
        del self._in_flight[ticket]
        if not self._in_flight:
            self._none_in_flight.set()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run what may wait for a disk."""
        return await asyncio.get_running_loop().run_in_executor(self._io, work)

    def _backing_failed(self, what: str, error: OSError) -> None:
        """Make every flush fail until a redo has brought back what may be lost."""
        self._failures.backing = self._failures.backing or Failure(what, error)
        self._failed(what, error)

    def _journal_failed(self, what: str, error: OSError) -> None:
        """Make every flush fail until the journal is given up."""
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

    @asynccontextmanager
    async def _quiet(self) -> AsyncIterator[None]:
        """A time in which no write is under way."""
        async with self._quiet_lock:
            self._gate.clear()
            try:
                await self._none_in_flight.wait()
                yield
            finally:
                self._gate.set()

    # --- a journal that is full or fails -----------------------------------------------------

    async def _find_room(self, reason: JournalFull | OSError) -> None:
        if isinstance(reason, JournalFull) and self.trim():
            return
        if self._on_journal_full is OnJournalFull.DEGRADE:
            await self._overflow(str(reason))
        elif isinstance(reason, OSError):
            raise reason
        else:
            self.last_error = str(reason)
            self._room.clear()
            await self._room.wait()

    async def _overflow(self, why: str) -> None:
        """Go on without the journal: sync the backing stores, say so durably, and append no more."""
        async with self._quiet():
            if self._writer is None:
                self._forget_journal_failure()  # that of a sync which began before the journal was given up
                return
            if self._failures.backing is not None:  # what they lack would be lost without the journal
                self._failures.refuse()
            _log.error("the journal holds no further writes, the volumes must be copied again: %s", why)
            self.last_error = f"overflow: {why}"
            for backing in self._backings:
                backing.dirty = True
            error = await self._run_sync(self._sync_of_backings(), self._disk_thread)
            if error is not None:
                self._backing_failed("syncing the backing store", error)
            if self._failures.backing is not None:  # maybe told to a sync that ran meanwhile
                self._failures.refuse()
            before = self._page
            self._page = replace(
                before, overflow_at=self._tail, overflow_ns=self._clock.wall_ns(), synced=self._tail
            )
            try:
                self._publish(durable=True)  # or else a later start would redo old data over new
            except OSError:
                self._page = before
                self._publish()
                raise
            writer, self._writer = self._writer, None
            # Behind the syncs that still hold its descriptors.
            await self._run_sync(writer.close, self._journal_thread)
            self._forget_journal_failure()

    def _forget_journal_failure(self) -> None:
        """Nothing rests on the journal any more."""
        if self._failures.journal is not None:
            self._failures.journal = None
            self._publish()

    def trim(self) -> bool:
        """Let go of what is both synced and proven; returns whether there is room for more."""
        if self._writer is None:
            return False
        streamer = self._pages.streamer.read()
        proven = streamer.proven if streamer else NOWHERE
        has_room = self._writer.trim((proven, self._page.synced))
        self._page = replace(self._page, used_bytes=self._writer.used_bytes)
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
        synced = min(self._in_flight.values(), key=lambda at: at.offset, default=self._tail)
        writer = self._writer
        self._unsynced_bytes = 0
        self.sync_is_due.clear()
        journal = writer.begin_sync() if writer is not None and writer.is_dirty else _nothing
        backings = self._sync_of_backings()
        journal_error, backing_error = await asyncio.gather(
            self._run_sync(journal, self._journal_thread), self._run_sync(backings, self._disk_thread)
        )
        if journal_error is not None:  # first, and whatever comes of the overflow
            self._journal_failed("syncing the journal", journal_error)
        if backing_error is not None:
            self._backing_failed("syncing the backing store", backing_error)
        elif journal_error is not None:
            await self._give_up_journal()
        self._failures.refuse()
        self._advance(synced)

    async def _give_up_journal(self) -> None:
        """Go on without a journal of which a sync failed, if that was chosen."""
        if self._on_journal_full is OnJournalFull.DEGRADE and self._failures.journal is not None:
            await self._overflow(f"{self._failures.journal.what}: {self._failures.journal.error}")

    def _sync_of_backings(self) -> Callable[[], None]:
        dirty = [backing for backing in self._backings if backing.dirty]
        for backing in dirty:
            backing.dirty = False
        fds = [backing.fd for backing in dirty]

        def sync() -> None:
            for fd in fds:
                self.files.fdatasync(fd)

        return sync

    async def _run_sync(self, sync: Callable[[], None], thread: ThreadPoolExecutor) -> OSError | None:
        if sync is _nothing:
            return None
        try:
            await asyncio.get_running_loop().run_in_executor(thread, sync)
        except OSError as error:
            return error
        return None

    def _advance(self, synced: Position) -> None:
        """Publish a later synced point."""
        if synced.generation != self._page.synced.generation or synced.offset > self._page.synced.offset:
            self._page = replace(self._page, synced=synced)
            self._publish()

    # --- mending, ending ---------------------------------------------------------------------

    async def mend(self) -> bool:
        """Bring back what a failure may have lost; returns whether all is well.

        For the backing stores that is a redo of everything since the synced point; a journal is given up.
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
        """Apply everything since the synced point again and sync it."""
        async with self._quiet():
            writer, tail, count = self._writer, self._tail, self._failures.count
            if writer is None:
                raise OSError(errno.EIO, "there is no journal to redo from")
            if self._failures.journal is None:
                error = await self._run_sync(writer.begin_sync(), self._journal_thread)
                if error is not None:
                    self._journal_failed("syncing the journal", error)
                    raise error
            await self.in_thread(lambda: self._redo_since_synced(tail))
            error = await self._run_sync(self._sync_of_backings(), self._disk_thread)
            if error is not None:
                raise error
            if self._failures.count != count:
                raise OSError(errno.EIO, self.last_error)
            if self._failures.journal is None:
                writer.append_note(Note.REDO_PROGRESS)  # a change of the disk that is ours
                self._advance(tail)
            self._failures.backing = None
            self._publish()
            _log.warning("what failed is mended: the journal was applied again and synced")

    def _redo_since_synced(self, tail: Position) -> None:
        directory, domain = self._journal
        by_index = {backing.volume.index: backing for backing in self._backings}
        with JournalReader(directory, domain) as reader:
            redo(self.files, reader, by_index, self._page.synced, tail, lambda: None)
        for backing in self._backings:  # all: what failed may not have been written since
            backing.dirty = True

    async def stop(self) -> bool:
        """Sync, and say in the journal that nothing follows; returns whether the stop is clean."""
        try:
            clean = await self._end_cleanly()
        finally:
            await self._syncs.wait_until_idle()
            self.end_threads()
        self._page = replace(self._page, running=False, exports_open=False)
        try:
            self._publish(durable=clean)
        except OSError as error:
            return self._stop_failed(error)
        return clean

    def end_threads(self) -> None:
        """Let the threads finish what they were handed, and end."""
        for threads in (self._io, self._journal_thread, self._disk_thread):
            threads.shutdown()

    async def _end_cleanly(self) -> bool:
        try:
            await self.sync()
            if self._writer is not None:
                self._writer.append_note(Note.CLEAN_STOP)
                self._tail = self._writer.tail
                error = await self._run_sync(self._writer.begin_sync(), self._journal_thread)
                if error is not None:
                    raise error
                self._advance(self._tail)
        except (OSError, JournalFull) as error:
            return self._stop_failed(error)
        return True

    def _stop_failed(self, error: OSError | JournalFull) -> bool:
        self.last_error = f"stopping: {error}"
        _log.error("the stop is not clean: %s", error)
        return False


def _nothing() -> None:
    """The sync of a journal that needs none."""
