"""The splitter's threads: where what may wait for a disk waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cdp_agent.splitter.settings import IO_THREADS

T = TypeVar("T")


class Threads:
    """`journal` and `disks` are one thread each, in which work runs in order; a flush waits for both."""

    def __init__(self) -> None:
        self._io = ThreadPoolExecutor(IO_THREADS, "io")
        self.journal = ThreadPoolExecutor(1, "sync-journal")
        self.disks = ThreadPoolExecutor(1, "sync-disks")

    def submit(self, work: Callable[[], None]) -> None:
        """Run it some time; what comes of it is not looked at here."""
        self._io.submit(work)

    async def run(self, work: Callable[[], T]) -> T:
        """Run what may wait for a disk; raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._io, work)

    async def sync(self, sync: Callable[[], None], thread: ThreadPoolExecutor) -> OSError | None:
        """Run a sync in its turn; gives its error."""
        if sync is nothing:
            return None
        try:
            await asyncio.get_running_loop().run_in_executor(thread, sync)
        except OSError as error:
            return error
        return None

    def end(self) -> None:
        """Let the threads finish what they were handed, and end."""
        for threads in (self._io, self.journal, self.disks):
            threads.shutdown()


def nothing() -> None:
    """The sync of what needs none."""
