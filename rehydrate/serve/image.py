"""One volume as an NBD export: what is here at once, else as soon as it was fetched; writes stay here.

All that decides runs in the event loop, between two suspensions: which blocks are here is looked at and
marked there. Fetching runs in threads, and so does what may wait for a disk; its range is held meanwhile.

What does not belong here: where bytes are (overlay), what of them is damaged (origin), fetching what nobody
asked for (filling).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from cdp_container.errors import CdpError
from nbd_export.backend import Extent
from nbd_export.errors import BackendError, NbdErrno
from nbd_export.ranges import RangesInFlight
from nbd_export.shared_sync import SharedSync
from rehydrate.serve.allocation import Ranges, allocation
from rehydrate.serve.map_file import BLOCK_BYTES
from rehydrate.serve.origin import FETCH_BYTES_MAX, Damage, Fetched, Source
from rehydrate.serve.overlay import Overlay, Part, fitting

INLINE_BYTES_MAX: Final = 64 << 10
"""What is not longer goes to the page cache within the event loop: less than the way to a thread and back."""

IO_THREADS: Final = 8
"""Threads for what may wait for a disk."""

FETCH_THREADS: Final = 64
"""Requests of guests and of the filling that wait for the store at the same time; more wait for them."""

PAUSE_SECONDS_MIN: Final = 0.1
PAUSE_SECONDS_MAX: Final = 2.0
"""Between two tries while the store is away: first the one, twice as much each time, up to the other."""

TOUCH_BYTES: Final = 1 << 20
"""The surroundings of what was touched, which are filled first."""

TOUCHED_MAX: Final = 1 << 16
"""So many surroundings are remembered, 64 GiB of them."""

EXTENTS_BYTES_MAX: Final = 256 << 20
"""So far it is looked for holes when a client asks: it asks again from there on."""

DAMAGES_MAX: Final = 1000
"""Damaged ranges that are remembered by name."""

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""There is no room."""

T = TypeVar("T")


@dataclass(slots=True)
class Threads:
    """Where what waits waits; all images share them."""

    io: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(IO_THREADS, "overlay"))
    fetching: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(FETCH_THREADS, "fetch"))
    syncing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "sync"))

    def end(self) -> None:
        """Let them finish what they were handed, and end."""
        for pool in (self.fetching, self.io, self.syncing):
            pool.shutdown(cancel_futures=True)


class Image:
    """Implements `nbd_export.backend.Export`.

    Args:
        name: of the export.
        overlay: what is here.
        threads: see `Threads`.
        source: where the rest is; None where all is here.
        told: given lines for people.
        read_only: whether guests may write.
    """

    description = "a volume at a point, served while it is fetched"

    def __init__(
        self,
        name: str,
        overlay: Overlay,
        threads: Threads,
        source: Source | None,
        told: Callable[[str], None],
        read_only: bool = False,
    ) -> None:
        self.name = name
        self.size_bytes = overlay.size_bytes
        self.read_only = read_only
        self.overlay = overlay
        self._threads = threads
        self._source = source
        self._told = told
        self._ranges = RangesInFlight()
        self._shared = SharedSync(self._sync_once)
        self._ended = asyncio.Event()
        self.waiting = 0
        """Requests of guests that wait for the store now."""
        self.is_away = False
        """Whether the store did not answer the last time."""
        self.is_full = False
        """Whether there was no room for something that was fetched."""
        self._touched: set[int] = set()
        self.touched_order: list[int] = []
        """The surroundings of what guests asked for and was not here, in this order."""
        self.damages: dict[int, Damage] = {}

    # --- Export ----------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        """See `Export.read`. A failed sync ends reads too: of what was written older bytes may be left."""
        self.overlay.refuse_failed()
        data = await self._read(offset, length)
        self.overlay.refuse_failed()  # it may have failed while this waited
        return data

    async def _read(self, offset: int, length: int) -> bytes | bytearray:
        overlay = self.overlay
        if not overlay.has(offset, length):
            try:
                await self._bring(offset, length)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return await self._unkept(offset, length, error)
        if length <= INLINE_BYTES_MAX:
            data = bytearray(length)
            if overlay.read_cached(offset, data):
                return data
        # Not `_in_io`: whoever is cancelled leaves nothing behind that must be waited for.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads.io, overlay.read, offset, length)

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        """See `Export.read_now`."""
        if self.overlay.failure is not None:
            return 0
        has, read_cached, done = self.overlay.has, self.overlay.read_cached, 0
        try:
            for offset, into in reads:
                if not has(offset, len(into)) or not read_cached(offset, into):
                    break
                done += 1
        except OSError:  # it comes again by `read`, and is told there
            return done
        return done

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        """See `Export.write`."""
        overlay = self.overlay
        overlay.refuse_failed()
        if not self._write_now(offset, data):
            start, end = self._blocks_around(offset, len(data))
            async with self._ranges.hold(start, end - start):
                await self._bring_edges(offset, len(data))
                await self._in_io(lambda: overlay.write(offset, data))
                overlay.mark(offset, len(data))
        if fua:
            await self.flush()

    def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """See `Export.write_now`."""
        if self.overlay.failure is not None:
            return 0
        done = 0
        try:
            for offset, data in writes:
                if not self._write_now(offset, data):
                    break
                done += 1
        except OSError:  # it comes again by `write`, and is told there
            return done
        return done

    async def zero(self, offset: int, length: int, fua: bool, may_trim: bool) -> None:
        """See `Export.zero`."""
        overlay = self.overlay
        overlay.refuse_failed()
        start, end = self._blocks_around(offset, length)
        async with self._ranges.hold(start, end - start):
            await self._bring_edges(offset, length)
            await self._in_io(lambda: overlay.zero(offset, length, may_trim))
            overlay.mark(offset, length)
        if fua:
            await self.flush()

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        """See `Export.trim`; what was trimmed reads as zeros."""
        await self.zero(offset, length, fua, may_trim=True)

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """See `Export.extents`. What was dropped would be called a hole, and clients take that for zeros."""
        self.overlay.refuse_failed()
        end = min(offset + length, offset + EXTENTS_BYTES_MAX)
        missing = self.overlay.missing(offset, end - offset)
        source = self._source

        def data(low: int, high: int) -> Ranges | None:
            return None if source is None else source.data(low, high)

        here = self.overlay.extents
        parts = await self._in_io(lambda: allocation((offset, end), missing, here, data, count_max))
        self.overlay.refuse_failed()
        return parts

    async def cache(self, offset: int, length: int) -> None:
        """See `Export.cache`."""

    async def flush(self) -> None:
        """See `Export.flush`; what is marked is durable then, too."""
        self.overlay.refuse_failed()
        if self.overlay.is_dirty:
            await self._shared.wait_for_next()
        else:
            await self._shared.wait_for_running()  # it began after all that was answered before this call

    # --- what else is done with it ---------------------------------------------------------------

    def end(self) -> None:
        """Whoever waits for the store waits no longer, and gets an error: the process ends."""
        self._ended.set()

    def let_go(self) -> None:
        """Of the container: all is here."""
        assert self.overlay.is_whole, "what is not here comes from there"
        self._source = None

    async def fill(self, start: int, end: int) -> int:
        """Have a range of whole blocks here that nobody asked for; gives what of it was fetched, in bytes.

        Raises BackendError, OSError: of something in it that is damaged, or of the overlay.
        """
        self.overlay.refuse_failed()
        missing = self.overlay.missing(start, end - start)
        failure: BackendError | None = None
        fetched_bytes = 0
        for low, high in missing:
            try:
                fetched_bytes += await self._bring_run(low, high)
            except BackendError as error:  # what is damaged is noted; the other runs may be had
                failure = error
        if failure is not None:
            raise failure
        return fetched_bytes

    # --- inside ----------------------------------------------------------------------------------

    def _blocks_around(self, offset: int, length: int) -> tuple[int, int]:
        start = offset // BLOCK_BYTES * BLOCK_BYTES
        return start, min(-(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES, self.size_bytes)

    def _edges(self, offset: int, length: int) -> list[tuple[int, int]]:
        """The blocks of which a range covers but a part, and that are not here."""
        start, end = self._blocks_around(offset, length)
        edges = []
        if offset > start:
            edges.append((start, min(start + BLOCK_BYTES, end)))
        if offset + length < end:
            edges.append(((end - 1) // BLOCK_BYTES * BLOCK_BYTES, end))
        return [one for one in dict.fromkeys(edges) if not self.overlay.has(one[0], one[1] - one[0])]

    def _write_now(self, offset: int, data: bytes | memoryview) -> bool:
        """Write at once if nothing is in the way; False if that cannot be, and nothing was done."""
        length = len(data)
        if length > INLINE_BYTES_MAX:
            return False
        start, end = self._blocks_around(offset, length)
        if self._ranges.overlaps(start, end - start) or self._edges(offset, length):
            return False
        self.overlay.write(offset, data)
        self.overlay.mark(offset, length)
        return True

    async def _bring(self, offset: int, length: int) -> None:
        """Have all blocks of a range here, for a guest."""
        for number in range(offset // TOUCH_BYTES, (offset + length - 1) // TOUCH_BYTES + 1):
            if number not in self._touched and len(self._touched) < TOUCHED_MAX:
                self._touched.add(number)
                self.touched_order.append(number)
        self.waiting += 1
        try:
            for start, end in self.overlay.missing(offset, length):
                await self._bring_run(start, end)
        finally:
            self.waiting -= 1

    async def _bring_edges(self, offset: int, length: int) -> None:
        """The same for a write whose range is held: what it does not cover of its blocks must be here."""
        self.waiting += 1
        try:
            for start, end in self._edges(offset, length):
                fetched = await self._fetched(start, end)
                for part in fetched.wanted:
                    await self._in_io(partial(self._put, part))
                    self.overlay.mark(part.offset, part.length)
                self._keep_others(fetched.others)
                _refuse_damaged(fetched)
        finally:
            self.waiting -= 1

    async def _bring_run(self, start: int, end: int) -> int:
        """Have what is missing of a range here; gives the bytes that were fetched and are not zeros."""
        fetched_bytes = 0
        for low in range(start, end, FETCH_BYTES_MAX):
            high = min(low + FETCH_BYTES_MAX, end)
            fetched = await self._fetched(low, high)
            for part in fetched.wanted:
                await self._keep(part)
            self._keep_others(fetched.others)
            _refuse_damaged(fetched)
            fetched_bytes += sum(part.length for part in fetched.wanted if part.data is not None)
        return fetched_bytes

    async def _unkept(self, offset: int, length: int, error: OSError) -> bytes:
        """The same where there is no room to keep it: it is fetched again whenever it is read."""
        if not self.is_full:
            self.is_full = True
            self._told(f"{self.name}: {error.strerror}: what is fetched is not kept, and writes may fail")
        start, end = self._blocks_around(offset, length)
        data = bytearray(end - start)
        for low, high in self.overlay.missing(offset, length):
            for at in range(low, high, FETCH_BYTES_MAX):
                fetched = await self._fetched(at, min(at + FETCH_BYTES_MAX, high))
                _refuse_damaged(fetched)
                for part in fetched.wanted:
                    if part.data is not None:
                        data[part.offset - start : part.end - start] = part.data
        at = start  # what is here by now counts: it may have been written meanwhile
        for low, high in [*self.overlay.missing(offset, length), (end, end)]:
            if at < low:
                data[at - start : low - start] = await self._in_io(partial(self.overlay.read, at, low - at))
            at = high
        return bytes(data[offset - start : offset - start + length])

    async def _keep(self, part: Part) -> None:
        """Put what is not here meanwhile; what guests write waits for it, and it for what they began."""
        if self._keep_now(part):
            return
        async with self._ranges.hold(part.offset, part.length):
            for one in fitting([part], self.overlay.missing(part.offset, part.length)):
                await self._in_io(partial(self._put, one))
                self.overlay.mark(one.offset, one.length)

    def _keep_others(self, parts: Sequence[Part]) -> None:
        """What came with it, where nothing is in the way: it would be fetched again else."""
        for part in parts:
            for start in range(part.offset, part.end, INLINE_BYTES_MAX):
                self._keep_now(*fitting([part], [(start, min(start + INLINE_BYTES_MAX, part.end))]))

    def _keep_now(self, part: Part) -> bool:
        if part.length > INLINE_BYTES_MAX or self._ranges.overlaps(part.offset, part.length):
            return False
        for one in fitting([part], self.overlay.missing(part.offset, part.length)):
            self._put(one)
            self.overlay.mark(one.offset, one.length)
        return True

    def _put(self, part: Part) -> None:
        if part.data is None:
            self.overlay.zero(part.offset, part.length, may_trim=True)
        else:
            self.overlay.write(part.offset, part.data)

    async def _fetched(self, start: int, end: int) -> Fetched:
        """What the source gives, however long that takes. Raises BackendError: it is ended."""
        pause_seconds = PAUSE_SECONDS_MIN
        while not self._ended.is_set():
            source = self._source
            if source is None:  # all came while this waited for its turn
                return Fetched(())
            try:
                found = await self._in_fetching(partial(source.fetch, start, end))
            except CdpError as error:
                if not self.is_away and not self._ended.is_set():
                    self._told(f"{self.name}: reads of what is not here wait: {error}")
                self.is_away = True
            else:
                self.is_away = False
                self._note_damages(start, end, found.damages)
                return found
            await self._pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
        raise BackendError(NbdErrno.ESHUTDOWN, "it is ended")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return

    def _note_damages(self, start: int, end: int, damages: Sequence[Damage]) -> None:
        """What is damaged of a range now: it may have been healed since the last time."""
        for at in [at for at in self.damages if start <= at < end]:
            if at not in (one.offset for one in damages):
                del self.damages[at]
        for one in damages:
            if one.offset not in self.damages and len(self.damages) < DAMAGES_MAX:
                self.damages[one.offset] = one
                self._told(f"damaged: {self.name} from {one.offset} to {one.end}: {one.why}")

    async def _sync_once(self) -> None:
        sync = self.overlay.begin_sync()
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads.syncing, sync)
        except OSError as error:
            self.overlay.failed(error)
            self._told(
                f"{self.name}: {error.strerror}: its overlay cannot be made durable; nothing more is read or "
                "written: end its guests, start this again, and start them anew, as after a power loss"
            )
            raise

    async def _in_io(self, work: Callable[[], T]) -> T:
        return await _to_its_end(self._threads.io, work)

    async def _in_fetching(self, work: Callable[[], Fetched]) -> Fetched:
        return await asyncio.get_running_loop().run_in_executor(self._threads.fetching, work)


def _refuse_damaged(fetched: Fetched) -> None:
    if fetched.damages:
        raise BackendError(NbdErrno.EIO, fetched.damages[0].why)


async def _to_its_end(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """What a thread gives; a cancelled caller waits for it too, for its range is held until it has ended."""
    running = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
