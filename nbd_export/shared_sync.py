"""One sync for many flushes: who wants one while one runs shares the next.

What does not belong here: what is synced, and what a failure means (the export).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SharedSync:
    """Runs `sync`, never two at once.

    Args:
        sync: makes durable what was written before it was called; what it raises, all see who wait for it.
    """

    def __init__(self, sync: Callable[[], Awaitable[None]]) -> None:
        self._sync = sync
        self._next: asyncio.Future[None] | None = None
        self._running: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a sync has begun and not ended."""
        return self._running is not None

    async def wait_for_running(self) -> None:
        """Return when the sync that runs has ended, if one does."""
        if self._running is not None:
            await asyncio.shield(self._running)

    async def wait_for_next(self) -> None:
        """Return when a sync has ended that began after this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        awaited = self._next
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sync_while_wanted())
        await asyncio.shield(awaited)

    async def wait_until_idle(self) -> None:
        """Return when no sync runs or is wanted, however it ended."""
        while self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))

    async def _sync_while_wanted(self) -> None:
        while self._next is not None:
            self._running, self._next = self._next, None
            try:
                await self._sync()
            except BaseException as error:
                self._running.set_exception(error)
                self._running.exception()  # a flush whose client left retrieves it no more
                if not isinstance(error, Exception):
                    raise
            else:
                self._running.set_result(None)
            finally:
                self._running = None
