"""An NBD server in a thread of the test, and exports to put behind it.

What does not belong here: the agent's own export, which journals; its tests start the agent.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nbd_export.backend import Exports, Extent, FixedExports, State
from nbd_export.files import OsFiles
from nbd_export.holes import extents_of
from nbd_export.limits import ServerLimits
from nbd_export.server import NbdServer, serve

T = TypeVar("T")

START_SECONDS = 20.0


class MemoryExport:
    """A block device in memory; its methods never suspend."""

    def __init__(self, size_bytes: int, name: str = "disk", read_only: bool = False) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.description = f"{size_bytes} bytes of memory"
        self.content = bytearray(size_bytes)
        self.cached: list[tuple[int, int]] = []

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        return 0

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        return 0

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        self.content[offset : offset + len(data)] = data

    async def zero(self, offset: int, length: int, fua: bool, may_trim: bool) -> None:
        self.content[offset : offset + length] = bytes(length)

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        self.content[offset : offset + length] = bytes(length)

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """Alternating every 4096 bytes: where they are all zeros a hole."""
        parts: list[Extent] = []
        at, end = offset, offset + length
        while at < end and len(parts) < count_max:
            until = min(at // 4096 * 4096 + 4096, end)
            parts.append(Extent(until - at, State.DATA if any(self.content[at:until]) else State.HOLE))
            at = until
        return parts

    async def cache(self, offset: int, length: int) -> None:
        self.cached.append((offset, length))

    async def flush(self) -> None:
        return


class FileExport:
    """A block device in a file; writes run in the loop, syncs in a thread."""

    def __init__(self, path: Path, name: str = "disk", read_only: bool = False) -> None:
        self.name = name
        self.read_only = read_only
        self.description = "a file of the tests"
        self._fd = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        self.size_bytes = os.fstat(self._fd).st_size

    async def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        return 0

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        return 0

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        assert os.pwrite(self._fd, data, offset) == len(data), "regular files take it all"
        if fua:
            await self.flush()

    async def zero(self, offset: int, length: int, fua: bool, may_trim: bool) -> None:
        zeros = bytes(min(length, 1 << 20))
        for at in range(offset, offset + length, len(zeros)):
            os.pwrite(self._fd, zeros[: offset + length - at], at)
        if fua:
            await self.flush()

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        await self.zero(offset, length, fua, may_trim=True)

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        return await asyncio.to_thread(extents_of, OsFiles(), self._fd, offset, length, count_max)

    async def cache(self, offset: int, length: int) -> None:
        return

    async def flush(self) -> None:
        await asyncio.to_thread(os.fdatasync, self._fd)

    def close(self) -> None:
        os.close(self._fd)


class ServerThread:
    """A handle on the server that `serving` runs in its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: NbdServer) -> None:
        self.loop = loop
        self.server = server
        self.bugs: list[BaseException] = []  # what the loop's exception handler was told

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` in the server's loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(START_SECONDS)

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` in the server's loop, and return its result."""

        async def calling() -> T:
            return function()

        return self.run(calling())

    def note_bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        self.bugs.append(context.get("exception") or RuntimeError(context["message"]))


@contextmanager
def serving(
    exports: Exports | MemoryExport | FileExport,
    socket_path: Path,
    *,
    limits: ServerLimits | None = None,
    expect_bugs: bool = False,
) -> Iterator[ServerThread]:
    """Serve in a thread until the block ends; at its end no bug may have come to light unless expected."""
    found = FixedExports([exports]) if isinstance(exports, MemoryExport | FileExport) else exports
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="nbd-server")
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(serve(found, socket_path, limits), loop).result(
            START_SECONDS
        )
        handle = ServerThread(loop, server)
        loop.set_exception_handler(handle.note_bug)
        try:
            yield handle
        finally:
            handle.run(server.close(drain_seconds=0.0))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert expect_bugs or not handle.bugs, handle.bugs
