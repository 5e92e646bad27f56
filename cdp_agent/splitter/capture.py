"""What all volumes of a domain share: the journal and the backing stores while guests write.

Everything here runs in the event loop, but for what is handed to a thread. The state of it:

- *open*: writes are admitted. The gate is shut while something needs the journal and the backing
  stores to stand still (an overflow, a mending); begun writes are then waited for.
- *failed*: a sync or a backing write failed. Sticky: every flush fails until all records since the
  synced point were applied and synced again (`mending`).
- *overflowed*: the journal no longer holds what guests write, until the streamer needs nothing more
  of it (`overflow`).

Here the parts are put together, and a write that cannot be appended at once waits for what it lacks.
What does not belong here: ranges and requests (`volume`), appending (`appending`), syncs (`syncing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cdp_agent.splitter.appending import Appending
from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.dirty_blocks import DirtyBlocks
from cdp_agent.splitter.failures import Failures, JournalUnusable
from cdp_agent.splitter.intent import IntentMissing, Intents, WriteIntent
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.mending import Mending
from cdp_agent.splitter.overflow import Overflow
from cdp_agent.splitter.published import Published
from cdp_agent.splitter.settings import OnJournalFull, SplitterSettings
from cdp_agent.splitter.syncing import Syncing
from cdp_container.clock import Clock
from cdp_container.errors import CdpError, JournalFull
from cdp_container.journal.position import Position
from cdp_container.journal.record import Note
from cdp_container.journal.shared import SplitterPage
from nbd_export.files import Files

T = TypeVar("T")


class Capture:
    """The journal and the backing stores of a domain while guests write.

    `appending` and `syncing` are what volumes use with every write and flush.

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
        self.dirty = dirty
        self.intent = intent
        self.appending = Appending(writer, published, dirty, intent, settings.sync_bytes)
        self.syncing = Syncing(files, backings, self.appending, clock, self._give_up_failed)
        self._may_degrade = settings.on_journal_full is OnJournalFull.DEGRADE
        self._clock = clock
        self._room = asyncio.Event()
        self.why_writes_wait = ""
        self._intents = Intents(intent, self.in_thread)
        self._overflow = Overflow(self.appending, self.syncing, self._intents, begin_again, clock)
        self._mending = Mending(files, backings, journal, self.appending, self.syncing, settings.removed)

    @property
    def page(self) -> SplitterPage:
        """What is published."""
        return self.appending.page

    @property
    def failures(self) -> Failures:
        """What failed and was not mended yet, and what guests and `status` are told."""
        return self.appending.failures

    # --- writes that take their time ---------------------------------------------------------

    async def admit(self, append: Callable[[], Position]) -> object:
        """Append once that is possible; returns the ticket for `done`.

        Raises:
            OSError: it will not become possible.
        """
        gate = self.appending.gate
        while True:
            await gate.wait_until_open()
            try:
                return gate.enter(append())
            except JournalUnusable as error:
                await self._find_room(error.reason)
            except IntentMissing as missing:
                try:
                    await self._intents.mark(missing)
                except OSError as error:
                    await self._find_room(error)

    def done(self, ticket: object) -> None:
        """The backing write of this ticket returned."""
        self.appending.gate.leave(ticket)

    def refuse_writes(self) -> None:
        """Whatever has no record yet is refused from now on; what has goes on."""
        self.appending.gate.refuses = True
        self._room.set()  # what waits for room is refused, too

    def allow_writes(self) -> None:
        """Take writes again."""
        self.appending.gate.refuses = False

    def standstill(self) -> AbstractAsyncContextManager[None]:
        """A time in which no write is under way; those that come wait."""
        return self.appending.gate.quiet()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run what may wait for a disk."""
        return await self.appending.threads.run(work)

    # --- room in the journal -----------------------------------------------------------------

    async def _find_room(self, reason: JournalFull | OSError) -> None:
        if isinstance(reason, JournalFull) and self.trim():
            return
        if self._may_degrade:
            await self._overflow.give_up(str(reason))
        elif isinstance(reason, OSError):
            raise reason
        else:
            self.failures.last_error = self.why_writes_wait = str(reason)
            self._room.clear()
            await self._room.wait()

    def trim(self) -> bool:
        """Let go of what is both synced and proven; returns whether there is room for more."""
        appending = self.appending
        writer, page = appending.writer, appending.page
        if writer is None:
            return False
        has_room = writer.run.trim((appending.published.streamer().proven, page.synced))
        appending.publish_page(replace(page, used_bytes=writer.run.used_bytes))
        if has_room:
            self.why_writes_wait = ""
            self._room.set()
        return has_room

    async def _give_up_failed(self) -> None:
        await self._overflow.give_up_failed(self._may_degrade)

    async def go_on(self) -> bool:
        """See `Overflow.go_on`."""
        return await self._overflow.go_on()

    # --- what the process asks for -----------------------------------------------------------

    async def sync(self) -> None:
        """See `Syncing.sync`."""
        await self.syncing.sync()

    async def note(self, note: Note) -> None:
        """See `Appending.note`."""
        await self.appending.note(note)

    def publish(self, page: SplitterPage, durable: bool = False) -> None:
        """See `Appending.publish_page`."""
        self.appending.publish_page(page, durable)

    def remove(self, removed: Collection[int]) -> None:
        """In a time without writes: records of these sources, indexes, are never applied again."""
        self._mending.removed = set(removed)

    async def mend(self) -> bool:
        """Bring back what a failure may have lost; returns whether all is well."""
        failures = self.failures
        if failures.first is None:
            return True
        # A sync under way could be told of an error of the redo. While anything is failed no other begins.
        await self.syncing.wait_until_idle()
        try:
            if failures.backing is not None:
                await self._mending.redo()
            await self._give_up_failed()
        except (OSError, CdpError) as error:
            failures.last_error = f"mending: {error}"
        return failures.first is None

    async def keep_intents(self) -> None:
        """Take back what nobody writes any more, so that a power loss brings little to compare."""
        is_synced = self.failures.first is None and self.syncing.is_needless
        try:
            await self._intents.tidy(is_synced, self._clock.boottime_ns())
        except OSError as error:
            # It says too much, and is tried again.
            self.failures.last_error = f"writing the intent map: {error}"

    async def end(self) -> None:
        """Let everything that was begun end."""
        await self.syncing.wait_until_idle()
        await self._intents.end()
        self.end_threads()

    def end_threads(self) -> None:
        """Let the threads finish what they were handed, and end."""
        self.appending.threads.end()
