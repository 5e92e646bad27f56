"""What was fetched or written of one volume, each block at its place: NAME.raw and NAME.map.

A block is marked after its bytes were written, so whatever is killed when: a block that is said to be here
is. It is durable once a sync has ended that began after it was marked. Which blocks are fetched does not
belong here (image), nor who may write what when.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.errors import BackingUnreadable
from nbd_export.backend import Extent
from nbd_export.files import Buffer, Files
from nbd_export.holes import extents_of
from rehydrate.serve.map_file import BLOCK_BYTES, NO_BOOT, MapFile, MapHeader, create_map, open_map

RAW_SUFFIX: Final = ".raw"
MAP_SUFFIX: Final = ".map"


@dataclass(frozen=True, slots=True)
class Part:
    """Whole blocks of a volume (its last one may be shorter); `data` is None where they are zeros."""

    offset: int
    length: int
    data: Buffer | None

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.offset + self.length


class Overlay:
    """An open overlay. What moves bytes may run in any thread; all else is called from one.

    A sync that failed is never got over: Linux may have dropped what was not written, so reads, writes and
    syncs fail from then on (image), and the next start goes by what is durable.
    """

    def __init__(self, files: Files, fd: int, map_file: MapFile) -> None:
        self._files = files
        self._fd = fd
        self._map = map_file
        self.size_bytes = map_file.header.size_bytes
        self.bits = map_file.bits
        self.wrote = True
        """Whether NAME.raw was written since its last sync began; what an earlier process wrote counts."""
        self.failure: OSError | None = None

    # --- bytes, in any thread --------------------------------------------------------------------

    def read_cached(self, offset: int, into: bytearray | memoryview) -> bool:
        """Fill a buffer with bytes that are in memory; else False. Raises OSError."""
        return self._files.pread_cached(self._fd, into, offset)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes, wherever they are. Raises OSError."""
        return self._files.pread(self._fd, length, offset)

    def extents(self, start: int, end: int, count_max: int) -> Sequence[Extent]:
        """The first parts of a range that is here, at most so many: data and holes. Raises OSError."""
        return extents_of(self._files, self._fd, start, end - start, count_max)

    def write(self, offset: int, data: Buffer) -> None:
        """Write bytes; what is not marked after it is not here. Raises OSError."""
        self._files.pwritev(self._fd, (data,), offset)

    def zero(self, offset: int, length: int, may_trim: bool) -> None:
        """Likewise zeros: what is not here may hold anything."""
        self._files.zero(self._fd, offset, length, may_trim)

    # --- what is here ----------------------------------------------------------------------------

    def blocks_of(self, offset: int, length: int) -> tuple[int, int]:
        """The blocks that a range touches: the first, and the one beyond."""
        return offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)

    def has(self, offset: int, length: int) -> bool:
        """Whether all blocks that a range touches are here."""
        return self.bits.has_all(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        """What of these blocks is not here: ranges of bytes (start, end)."""
        low, high = self.blocks_of(offset, length)
        return [
            (first * BLOCK_BYTES, min(beyond * BLOCK_BYTES, self.size_bytes))
            for first, beyond in self.bits.missing(low, high)
        ]

    def mark(self, offset: int, length: int) -> None:
        """All blocks that a range touches are here, as their bytes were written. Raises OSError."""
        self.wrote = True
        low, high = self.blocks_of(offset, length)
        if not self.bits.has_all(low, high):
            self._map.mark(low, high)

    @property
    def here_bytes(self) -> int:
        """Of all blocks that are here."""
        return min(self.bits.here * BLOCK_BYTES, self.size_bytes)

    @property
    def is_whole(self) -> bool:
        """Whether every block is here."""
        return self.bits.here == self.bits.count

    # --- making it durable -----------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether there is something that no sync, begun or ended, was told of."""
        return self.wrote or self._map.is_dirty

    def refuse_failed(self) -> None:
        """Raises OSError where a sync failed before."""
        if self.failure is not None:
            raise OSError(errno.EIO, f"a sync of the overlay failed: {self.failure.strerror}")

    def begin_sync(self) -> Callable[[], None]:
        """What makes durable all that is marked now; for a thread. It raises OSError."""
        self.refuse_failed()
        pages, wrote, self.wrote = self._map.take(), self.wrote, False

        def sync() -> None:
            if wrote or pages:
                self._files.fdatasync(self._fd)
            if pages:
                self._map.write_durable(pages)

        return sync

    def failed(self, error: OSError) -> None:
        """A sync failed: see the class."""
        if self.failure is None:
            self.failure = error
            with contextlib.suppress(OSError):  # then it may count in this boot, and show what was lost
                self._map.distrust()

    def close(self) -> None:
        """Close the files; what is not synced stays so."""
        self._map.close()
        self._files.close(self._fd)


def create_overlay(files: Files, base: Path, size_bytes: int, space: bytes) -> None:
    """Both files, with nothing in them, durable but for their names. Raises OSError."""
    raw, found = _paths(base)
    fd = files.open(raw, create=True)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size_bytes)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    create_map(files, found, MapHeader(size_bytes, space, NO_BOOT))


def open_overlay(files: Files, base: Path, size_bytes: int, space: bytes, boot: bytes) -> Overlay:
    """An overlay that is there.

    Args:
        files: the edge to the kernel.
        base: the directory and NAME.
        size_bytes: of the volume.
        space: its id.
        boot: the id of this boot, 16 bytes.

    Raises:
        BackingUnreadable: a file is not there, not whole, or another volume's.
    """
    raw, found = _paths(base)
    what = f"open the overlay {base}"
    try:
        map_file = open_map(files, found, boot)
        try:
            header = map_file.header
            if (header.size_bytes, header.space) != (size_bytes, space):
                raise BackingUnreadable(what, f"{found} is of another volume, or of another size")
            fd = files.open(raw)
            try:
                if files.size_bytes(fd) < size_bytes:
                    raise BackingUnreadable(what, f"{raw} has {files.size_bytes(fd)} bytes of {size_bytes}")
                return Overlay(files, fd, map_file)
            except BaseException:
                files.close(fd)
                raise
        except BaseException:
            map_file.close()
            raise
    except OSError as error:
        raise BackingUnreadable(what, f"{error.filename or base}: {error.strerror}") from error


def fitting(parts: Sequence[Part], missing: Sequence[tuple[int, int]]) -> list[Part]:
    """What of parts lies in ranges, both in their order."""
    found = []
    for part in parts:
        for start, end in missing:
            low, high = max(part.offset, start), min(part.end, end)
            if low < high:
                data = part.data
                cut = None if data is None else memoryview(data)[low - part.offset : high - part.offset]
                found.append(Part(low, high - low, cut))
    return found


def _paths(base: Path) -> tuple[Path, Path]:
    return base.with_name(base.name + RAW_SUFFIX), base.with_name(base.name + MAP_SUFFIX)
