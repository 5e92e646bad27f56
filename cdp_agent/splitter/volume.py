"""A protected volume as an NBD export: journal, then backing store, then the reply.

A small write is two copies into the page cache, some 20 µs: it is done within the event loop,
where it needs no task, no thread and no lock, and a kernel that makes writers wait (dirty pages
beyond its limit) slows down exactly those who write. What may wait for a disk by its nature (cold
reads, large writes, zeroing) goes to a thread; its range is held meanwhile.

What does not belong here: what volumes share (`capture`).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence

from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.failures import JournalUnusable
from cdp_agent.splitter.intent import IntentMissing
from cdp_agent.splitter.settings import INLINE_BYTES_MAX, READ_AHEAD_BYTES_MAX, SUMMED_BY_THREAD_BYTES_MIN
from cdp_container.journal.position import Position
from cdp_container.journal.record import Kind, payload_crc
from nbd_export.backend import Extent
from nbd_export.holes import extents_of
from nbd_export.ranges import RangesInFlight


class Volume:
    """Implements `nbd_export.backend.Export`. `write_count` and `written_bytes` are for status.

    `losses_told`: how many of the capture's losses are not this volume's, or its guest was told of them.
    """

    read_only = False
    description = "protected volume"

    def __init__(self, backing: Backing, capture: Capture, losses_told: int = 0) -> None:
        self.name = backing.volume.name
        self.size_bytes = backing.volume.size_bytes
        self.write_count = 0
        self.written_bytes = 0
        self._backing = backing
        self._fd = backing.fd
        self.source = self._source = backing.volume.index
        self._capture = capture
        self._appending = capture.appending
        self._files = capture.files
        self._ranges = RangesInFlight()
        self._is_removed = False
        self._losses_told = losses_told

    def grow(self, size_bytes: int) -> None:
        """Whoever connects from now on sees this size."""
        self.size_bytes = size_bytes

    def remove(self) -> None:
        """Refuse every request from now on; those that began go on."""
        self._is_removed = True

    async def drained(self) -> None:
        """Return when no write of this volume is under way; of one that refuses requests."""
        await self._ranges.none()

    def readmit(self) -> None:
        """Take requests again."""
        self._is_removed = False

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        """See `Export.read`."""
        self._refuse_removed()
        if length <= INLINE_BYTES_MAX:
            data = bytearray(length)
            if self._files.pread_cached(self._fd, data, offset):
                return data
        return await self._capture.in_thread(lambda: self._files.pread(self._fd, length, offset))

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        """See `Export.read_now`."""
        if self._is_removed:
            return 0
        pread_cached, fd, done = self._files.pread_cached, self._fd, 0
        try:
            for offset, into in reads:
                if not pread_cached(fd, into, offset):
                    break
                done += 1
        except OSError:  # it comes again by `read`, and is told there
            return done
        return done

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        """See `Export.write`."""
        self.write_count += 1
        self.written_bytes += len(data)
        if not self._write_now(offset, data):
            self._refuse_writes()
            async with self._ranges.hold(offset, len(data)):
                crc = await self._sum(data)
                await self._admit(
                    lambda: self._appending.append_write(self._source, offset, data, crc),
                    lambda: self._files.pwritev(self._fd, (data,), offset),
                )
        if fua:
            await self.flush()

    def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """See `Export.write_now`: one call for the journal's part of all of them."""
        appending, ranges = self._appending, self._ranges
        if not appending.gate.is_open or self._is_removed:
            return 0
        eligible = 0
        for offset, data in writes:
            if len(data) > INLINE_BYTES_MAX or ranges.overlaps(offset, len(data)):
                break
            eligible += 1
        count = appending.append_writes(self._source, writes[:eligible])
        if not count:
            return 0
        self._backing.dirty = True
        pwritev, fd, done, done_bytes = self._files.pwritev, self._fd, 0, 0
        try:
            for offset, data in writes[:count]:
                pwritev(fd, (data,), offset)
                done += 1
                done_bytes += len(data)
        except OSError as error:
            # This one and the rest come again by `write`: a second record of the same is no harm.
            appending.write_failed(self.name, error)
        self.write_count += done
        self.written_bytes += done_bytes
        return done

    async def zero(self, offset: int, length: int, fua: bool, may_trim: bool) -> None:
        """See `Export.zero`."""
        await self._clear(Kind.ZERO, offset, length, may_trim)
        if fua:
            await self.flush()

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        """See `Export.trim`; what was trimmed reads as zeros, so that disk and container agree."""
        await self._clear(Kind.DISCARD, offset, length, may_trim=True)
        if fua:
            await self.flush()

    async def flush(self) -> None:
        """See `Export.flush`. What a disk lost for good is told once, even if later syncs go well."""
        try:
            if self._losses_told != self._appending.failures.losses:
                raise OSError(errno.EIO, "a sync failed, and what it lost was nowhere else")
            await self._capture.syncing.sync()
        except OSError:
            self._losses_told = self._appending.failures.losses
            raise

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """See `Export.extents`; asked of the backing store, which has every write that was answered."""
        return await self._capture.in_thread(
            lambda: extents_of(self._files, self._fd, offset, length, count_max)
        )

    async def cache(self, offset: int, length: int) -> None:
        """See `Export.cache`."""
        count = min(length, READ_AHEAD_BYTES_MAX)
        await self._capture.in_thread(lambda: self._files.will_need(self._fd, offset, count))

    async def _clear(self, kind: Kind, offset: int, length: int, may_trim: bool) -> None:
        self.write_count += 1
        self._refuse_writes()
        async with self._ranges.hold(offset, length):
            await self._admit(
                lambda: self._appending.append_range(kind, self._source, offset, length),
                lambda: self._files.zero(self._fd, offset, length, may_trim),
            )

    def _refuse_removed(self) -> None:
        if self._is_removed:
            raise OSError(errno.ESHUTDOWN, "the volume is not protected any more")

    def _refuse_writes(self) -> None:
        if self._appending.gate.refuses:
            raise OSError(errno.EPERM, "the domain is given to another site: nothing is written any more")

    def _write_now(self, offset: int, data: bytes | memoryview) -> bool:
        """Write at once if nothing is in the way; False if that cannot be and nothing was done."""
        appending = self._appending
        if len(data) > INLINE_BYTES_MAX or not appending.gate.is_open or self._is_removed:
            return False
        if self._ranges.overlaps(offset, len(data)):
            return False
        try:
            appending.append_write(self._source, offset, data)
        except (JournalUnusable, IntentMissing):
            return False
        self._backing.dirty = True
        try:
            self._files.pwritev(self._fd, (data,), offset)
        except OSError as error:
            appending.write_failed(self.name, error)
            raise
        return True

    async def _sum(self, data: bytes | memoryview) -> int | None:
        """The checksum of a large write, so that the event loop does not stand still for it."""
        if len(data) < SUMMED_BY_THREAD_BYTES_MIN:
            return None
        return await self._capture.in_thread(lambda: payload_crc(data))

    async def _admit(self, append: Callable[[], Position], apply: Callable[[], None]) -> None:
        """Append and apply. The range is held: what came earlier and overlaps has ended."""

        def append_if_there() -> Position:
            self._refuse_removed()  # it may have waited meanwhile
            self._refuse_writes()
            return append()

        ticket = await self._capture.admit(append_if_there)
        try:
            await self._capture.in_thread(apply)
        except OSError as error:
            self._appending.write_failed(self.name, error)
            raise
        except asyncio.CancelledError:  # the thread goes on: nobody knows when it will have written
            self._appending.write_failed(self.name, OSError(errno.ECANCELED, "given up at the end"))
            raise
        finally:
            self._backing.dirty = True
            self._capture.done(ticket)
