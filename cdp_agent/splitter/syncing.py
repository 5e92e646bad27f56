"""Journal and backing stores are made durable together, and then the synced point moves.

A sync that fails is sticky: Linux may have dropped the dirty pages, so a later one that succeeds proves
nothing. What does not belong here: how flushes share a sync (`shared_sync`), what mends a failure
(`mending`), how a journal is given up (`overflow`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cdp_agent.splitter.appending import Appending
from cdp_agent.splitter.backing import Backing, sync_of
from cdp_agent.splitter.threads import nothing
from cdp_container.clock import Clock
from nbd_export.files import Files
from nbd_export.shared_sync import SharedSync


class Syncing:
    """The syncs of a domain's journal and backing stores.

    Args:
        files: the edge to the kernel.
        backings: all of them.
        appending: the journal's tail.
        clock: tells the write-intent map how old its marks are.
        journal_failed: called when a sync of the journal failed; what it raises, all see who wait for it.
    """

    def __init__(
        self,
        files: Files,
        backings: Sequence[Backing],
        appending: Appending,
        clock: Clock,
        journal_failed: Callable[[], Awaitable[None]],
    ) -> None:
        self._files = files
        self._backings = backings
        self._appending = appending
        self._clock = clock
        self._journal_failed = journal_failed
        self._shared = SharedSync(self._sync_once)

    async def sync(self) -> None:
        """Return when everything written before is durable, in the journal and in the backing stores.

        Flushes that come while a sync runs share the next one.

        Raises:
            OSError: it may not be; all further ones fail until it is mended.
        """
        if (
            not self._shared.is_running
        ):  # else the one that runs may be giving up the journal, and all is well
            self._appending.failures.refuse()
        if self._is_dirty():
            await self._shared.wait_for_next()
        else:
            await self._shared.wait_for_running()  # it began after all that was answered before this call

    def _is_dirty(self) -> bool:
        writer = self._appending.writer
        return any(backing.dirty for backing in self._backings) or (writer is not None and writer.is_dirty)

    @property
    def is_needless(self) -> bool:
        """Whether everything is durable, and no sync runs."""
        return not self._is_dirty() and not self._shared.is_running

    async def wait_until_idle(self) -> None:
        """Return when no sync runs or is wanted, however it ended."""
        await self._shared.wait_until_idle()

    async def _sync_once(self) -> None:
        appending = self._appending
        appending.failures.refuse()
        synced = appending.gate.first(appending.tail)
        writer = appending.writer
        appending.unsynced_bytes = 0
        appending.intent.begin_sync(self._clock.boottime_ns())
        appending.sync_is_due.clear()
        work = writer.begin_sync() if writer is not None and writer.is_dirty else nothing
        journal = appending.threads.sync(work, appending.threads.journal)
        await self._sync_dirty()
        journal_error = await journal
        if journal_error is not None:  # first, and whatever comes of the overflow
            appending.journal_failed("syncing the journal", journal_error)
            await self._journal_failed()
        appending.failures.refuse()
        appending.intent.synced()
        appending.advance(synced)

    async def sync_all_backings(self) -> None:
        """Sync the backing stores: all, for what failed may not have been written since.

        A failure is noted, and not raised.
        """
        for backing in self._backings:
            backing.dirty = True
        await self._sync_dirty()

    async def _sync_dirty(self) -> None:
        """Sync what was written; a failure is noted at once, as an overflow must see it."""
        appending = self._appending
        error = await appending.threads.sync(sync_of(self._files, self._backings), appending.threads.disks)
        if error is not None:
            appending.failures.losses += appending.writer is None
            appending.backing_failed("syncing the backing store", error)
