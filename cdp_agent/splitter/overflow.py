"""A journal that no longer holds what guests write, until it goes on.

It is given up when it is full or fails: the backing stores are synced, that is said durably, and nothing is
appended any more. Once the streamer needs nothing of it, it goes on in a new generation, and an episode says
that what was written meanwhile must be compared. Both happen in times without writes.

What does not belong here: whether a full journal is given up or waited for (`capture`), which blocks were
written meanwhile (`dirty_blocks`), what the page says (`published`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cdp_agent.splitter.appending import Appending
from cdp_agent.splitter.intent import Intents
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.syncing import Syncing
from cdp_container.clock import Clock
from cdp_container.errors import CdpError
from cdp_container.journal.position import Position
from cdp_container.journal.record import Note

_log: Final = logging.getLogger(__name__)


class Overflow:
    """Gives the journal up and lets it go on.

    Args:
        appending: the journal's tail.
        syncing: of journal and backing stores.
        intents: where guests may write.
        begin_again: makes a writer that has begun a new generation behind a position.
        clock: tells when an overflow was.
    """

    def __init__(
        self,
        appending: Appending,
        syncing: Syncing,
        intents: Intents,
        begin_again: Callable[[Position], JournalWriter],
        clock: Clock,
    ) -> None:
        self._appending = appending
        self._syncing = syncing
        self._intents = intents
        self._begin_again = begin_again
        self._clock = clock

    async def give_up(self, why: str) -> None:
        """Go on without the journal: sync the backing stores, say so durably, and append no more.

        Raises:
            OSError: the journal is not given up; what the backing stores lack is in it alone.
        """
        appending = self._appending
        async with appending.gate.quiet():
            if appending.writer is None:
                # That of a sync which began before the journal was given up.
                appending.forget_journal_failure()
                return
            appending.failures.refuse_backing()  # what they lack would be lost without the journal
            _log.error("the journal holds no further writes, what is written now is compared later: %s", why)
            appending.failures.last_error = f"overflow: {why}"
            await self._syncing.sync_all_backings()
            appending.failures.refuse_backing()  # maybe told to a sync that ran meanwhile
            unfinished = appending.published.unfinished_episode
            await appending.threads.run(lambda: appending.dirty.begin(unfinished))
            self._say_so()
            appending.intent.lapse()
            writer, appending.writer = appending.writer, None
            # Behind the syncs that still hold its descriptors.
            await appending.threads.sync(writer.close, appending.threads.journal)
            appending.forget_journal_failure()

    def _say_so(self) -> None:
        """Durably, or else a later start would redo old data over new."""
        appending = self._appending
        before = appending.published.give_up_journal(appending.tail, self._clock.wall_ns())
        try:
            appending.publish(durable=True)
        except OSError:
            appending.publish_page(before)
            raise

    async def give_up_failed(self, is_chosen: bool) -> None:
        """Go on without a journal of which a sync failed, if that was chosen. Raises like `give_up`."""
        appending = self._appending
        failure = appending.failures.journal
        if appending.writer is None:  # it was given up since, and a quiet time that is may wait for this sync
            appending.forget_journal_failure()
        elif is_chosen and failure is not None:
            await self.give_up(f"{failure.what}: {failure.error}")

    async def go_on(self) -> bool:
        """Go on with a journal that was given up, once the streamer needs nothing of it; whether it does.

        The guests' writes since then are on their disks alone: a new episode says that they must be compared.

        Raises:
            CdpError, OSError: not now.
        """
        appending = self._appending
        if not appending.published.journal_is_given_up:
            return False
        end = appending.page.overflow_at
        writer = await appending.threads.run(lambda: self._begin_again(end))
        try:
            await appending.threads.run(lambda: appending.dirty.save(writer.tail.generation))
            await self._syncing.sync()  # so that the quiet time is short
            async with appending.gate.quiet():
                await self._go_on_in(writer)
        except (CdpError, OSError):
            appending.intent.lapse()
            writer.close()
            raise
        _log.warning("the journal goes on; what was written without it is compared with the container")
        return True

    async def _go_on_in(self, writer: JournalWriter) -> None:
        appending = self._appending
        await self._syncing.sync()  # what fails from here on is in the journal
        await self._intents.renew(writer.tail.generation)
        writer.append_note(Note.DISKS_TAKEN)  # guests wrote since the last record
        await appending.sync_journal(writer)
        is_complete = await appending.threads.run(appending.dirty.finish)
        before = appending.published.go_on(writer.tail, writer.run.used_bytes, compare_all=not is_complete)
        appending.writer, appending.tail = writer, writer.tail
        try:
            # First: no record is behind a tail that a power loss takes back.
            appending.publish(durable=True)
        except OSError:
            appending.writer, appending.tail, appending.published.page = None, before.tail, before
            with suppress(OSError):
                appending.publish(durable=True)  # the other one may have come to the disk
            raise
