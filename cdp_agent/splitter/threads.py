"""The splitter's threads: where what may wait for a disk waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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

    def run(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run what may wait for a disk; raises what it raises."""
        return _run(work, self._io)

    def sync(self, sync: Callable[[], None], thread: ThreadPoolExecutor) -> Awaitable[OSError | None]:
        """Run a sync in its turn; gives its error."""

        def run() -> OSError | None:
            try:
                sync()
            except OSError as error:
                return error
            return None

        if sync is nothing:
            ended: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
            ended.set_result(None)
            return ended
        return _run(run, thread)

    def end(self) -> None:
        """Let the threads finish what they were handed, and end."""
        for threads in (self._io, self.journal, self.disks):
            threads.shutdown()


def _run(work: Callable[[], T], threads: ThreadPoolExecutor) -> asyncio.Future[T]:
    """`loop.run_in_executor` for a third of its price, of which a flush pays two and a large write one.

    Work that was handed over runs, even if nobody waits for it any more.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            loop.call_soon_threadsafe(_fail, ended, error)
        else:
            loop.call_soon_threadsafe(_succeed, ended, result)

    threads.submit(run)
    return ended


def _succeed(ended: asyncio.Future[T], result: T) -> None:
    if not ended.done():  # else whoever waited was cancelled
        ended.set_result(result)


def _fail(ended: asyncio.Future[T], error: BaseException) -> None:
    if not ended.done():
        ended.set_exception(error)


def nothing() -> None:
    """The sync of what needs none."""
