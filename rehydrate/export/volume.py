"""A volume of a point as a read-only NBD export that tells its holes, on a unix socket of this process alone.

    with exported(bytes, directory) as address: ...

Who reads it does not belong here (convert), nor where its bytes come from (content).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from cdp_container.errors import CdpError
from nbd_export.backend import Extent, FixedExports, State
from nbd_export.errors import BackendError, NbdErrno
from nbd_export.server import serve
from rehydrate.export.content import Bytes
from rehydrate.localio import os_errors

NAME: Final = "volume"
READS_AT_ONCE: Final = 16
"""As many as qemu-img's coroutines ask for at once."""

BLOCK_BYTES: Final = 4096
"""Holes are whole blocks: qemu-img counts in sectors, and takes one that is a hole in part for all a hole."""

EXTENTS_BYTES_MAX: Final = 1 << 30
"""So far it is looked for holes when a client asks: it asks again from there on."""

T = TypeVar("T")


class VolumeExport:
    """See `nbd_export.backend.Export`. Nothing that changes it is ever called."""

    name = NAME
    read_only = True
    description = ""

    def __init__(self, source: Bytes, pool: ThreadPoolExecutor) -> None:
        self._source = source
        self._pool = pool

    @property
    def size_bytes(self) -> int:
        """See `Export.size_bytes`."""
        return self._source.size_bytes

    async def read(self, offset: int, length: int) -> bytes:
        """See `Export.read`; why it failed stands in `Bytes.failure`."""
        return await self._in_pool(lambda: self._source.read(offset, length))

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """See `Export.extents`."""
        return await self._in_pool(lambda: self._extents(offset, length, count_max))

    async def cache(self, offset: int, length: int) -> None:
        """See `Export.cache`: who reads on is read ahead for anyway."""

    async def flush(self) -> None:
        """See `Export.flush`: nothing was written."""

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        """See `Export.write`."""
        raise BackendError(NbdErrno.EPERM, "read only")

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        """See `Export.read_now`: each may have to be fetched."""
        return 0

    def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """See `Export.write_now`."""
        return 0

    async def zero(self, offset: int, length: int, fua: bool, may_trim: bool) -> None:
        """See `Export.zero`."""
        raise BackendError(NbdErrno.EPERM, "read only")

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        """See `Export.trim`."""
        raise BackendError(NbdErrno.EPERM, "read only")

    def _extents(self, offset: int, length: int, count_max: int) -> list[Extent]:
        end = min(offset + length, offset + EXTENTS_BYTES_MAX)
        low = offset // BLOCK_BYTES * BLOCK_BYTES
        high = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self.size_bytes)
        return extents_of(self._source.stretches(low, high), offset, end, count_max)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except CdpError as error:
            raise BackendError(NbdErrno.EIO, f"{error.what}: {error.why}") from error


def extents_of(stretches: Iterator[tuple[int, int]], start: int, end: int, count_max: int) -> list[Extent]:
    """Data and holes of a range in turns, at most so many, from its beginning on.

    `stretches`: of data, in their order; a block of which a part is data is data.
    """
    found: list[Extent] = []
    at = start
    for low, high in _in_blocks(stretches, start, end):
        if at < low:
            found.append(Extent(low - at, State.HOLE))
        found.append(Extent(high - low, State.DATA))
        at = high
        if len(found) >= count_max:
            return found[:count_max]
    if at < end:
        found.append(Extent(end - at, State.HOLE))
    return found


def _in_blocks(stretches: Iterator[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The blocks of a range that stretches touch, those that meet together."""
    low = high = start
    for first, beyond in stretches:
        block = first // BLOCK_BYTES * BLOCK_BYTES
        if block > high:
            if low < high:
                yield low, high
            low = block
        high = max(high, min(-(-beyond // BLOCK_BYTES) * BLOCK_BYTES, end))
    if low < high:
        yield low, high


@contextmanager
def exported(source: Bytes, directory: Path) -> Iterator[str]:
    """Serve a volume for the time of the block; gives its address for NBD clients.

    `directory` is one that nobody else uses, with a short name, for a socket. Raises as `os_errors`.
    """
    path = directory / "nbd.sock"
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="export") as pool:
        export = VolumeExport(source, pool)

        async def run() -> None:
            try:
                server = await serve(FixedExports([export]), path)
            except Exception as error:  # noqa: BLE001 (whoever waits for it gets it)
                ready.set_exception(error)
                return
            stop = asyncio.Event()
            ready.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()
            await server.close(0.0)

        thread = threading.Thread(target=lambda: asyncio.run(run()), name="nbd")
        thread.start()
        try:
            with os_errors("serve the volume to those who read it"):
                loop, stop = ready.result()
            try:
                yield f"nbd+unix:///{NAME}?socket={quote(str(path))}"
            finally:
                source.end()
                loop.call_soon_threadsafe(stop.set)
        finally:
            thread.join()
