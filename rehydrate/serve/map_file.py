"""NAME.map of an overlay: which blocks are in NAME.raw, in two bitmaps, and which of them counts.

The bytes, all numbers little-endian:

    0     8   magic `CDPSERVE`
    8     4   version, 1
    12    4   bytes of a block, 4096
    16    8   bytes of the volume
    24    16  id of the volume
    40    16  boot id in which the live map is right; zeros: in none
    56    4   CRC-32 of the 56 bytes before
    4096      the live map, filled up to a whole page
              the durable map, likewise

Bits are written with pwrite(2), not through a mapping: both are in the page cache when the process is killed,
and a disk that fails gives an error and not a signal. When which bits are set does not belong here (overlay).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_container.errors import BackingUnreadable
from nbd_export.files import Files
from rehydrate.serve.bits import Bits, bytes_of, pages_that_differ

BLOCK_BYTES: Final = 4096
"""The unit in which it is known what is here: that of guests' file systems and page caches."""

PAGE_BYTES: Final = 4096
"""The unit in which the durable map is written."""

MAGIC: Final = b"CDPSERVE"
VERSION: Final = 1
NO_BOOT: Final = bytes(16)
_HEADER: Final = struct.Struct("<8sIIQ16s16s")
_SUM: Final = struct.Struct("<I")

Pages = list[tuple[int, bytes]]
"""Pages of a map by their numbers."""


@dataclass(frozen=True, slots=True)
class MapHeader:
    """Whose map it is, and in which boot its live bits count."""

    size_bytes: int
    space: bytes
    boot: bytes

    @property
    def blocks(self) -> int:
        """Of the volume; the last one may be shorter."""
        return -(-self.size_bytes // BLOCK_BYTES)

    @property
    def padded_bytes(self) -> int:
        """Of one map."""
        return -(-bytes_of(self.blocks) // PAGE_BYTES) * PAGE_BYTES


class MapFile:
    """An open map; one thread at a time, but for `write_durable`, which may run beside everything else."""

    def __init__(self, files: Files, fd: int, header: MapHeader, bits: Bits, unsynced: set[int]) -> None:
        self._files = files
        self._fd = fd
        self.header = header
        self.bits = bits
        self._unsynced = unsynced

    @property
    def is_dirty(self) -> bool:
        """Whether something is live and was not taken to be made durable."""
        return bool(self._unsynced)

    def mark(self, low: int, high: int) -> None:
        """Blocks are here, live: the process may be killed from now on. Raises OSError: they are not."""
        first, changed = self.bits.with_set(low, high)
        self._files.pwritev(self._fd, (changed,), PAGE_BYTES + first)
        self.bits.put(first, changed)
        self._unsynced.update(range(first // PAGE_BYTES, (first + len(changed) - 1) // PAGE_BYTES + 1))

    def take(self) -> Pages:
        """What is live and was not taken before, as it is now."""
        pages = [
            (page, bytes(self.bits.data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]))
            for page in sorted(self._unsynced)
        ]
        self._unsynced.clear()
        return pages

    def write_durable(self, pages: Pages) -> None:
        """Bits of which all data is durable; they are, too, when this returns. Raises OSError."""
        start = PAGE_BYTES + self.header.padded_bytes
        for page, data in pages:
            self._files.pwritev(self._fd, (data,), start + page * PAGE_BYTES)
        self._files.fdatasync(self._fd)

    def distrust(self) -> None:
        """The live map counts no more, whatever boot it is. Raises OSError."""
        self.header = replace(self.header, boot=NO_BOOT)
        self._files.pwritev(self._fd, (encode_header(self.header),), 0)

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._fd)


def encode_header(header: MapHeader) -> bytes:
    """A page."""
    fields = _HEADER.pack(MAGIC, VERSION, BLOCK_BYTES, header.size_bytes, header.space, header.boot)
    return (fields + _SUM.pack(zlib.crc32(fields))).ljust(PAGE_BYTES, b"\0")


def decode_header(data: bytes, path: Path) -> MapHeader:
    """Raises BackingUnreadable: it is none, or damaged."""
    what = f"read {path}"
    fields = data[: _HEADER.size]
    if len(data) < PAGE_BYTES or data[_HEADER.size :][: _SUM.size] != _SUM.pack(zlib.crc32(fields)):
        raise BackingUnreadable(what, "it is damaged, or no map", _LOST)
    magic, version, block_bytes, size_bytes, space, boot = _HEADER.unpack(fields)
    if (magic, version, block_bytes) != (MAGIC, VERSION, BLOCK_BYTES):
        raise BackingUnreadable(what, f"version {version} of {magic!r} is not known here", _LOST)
    return MapHeader(size_bytes, space, boot)


def create_map(files: Files, path: Path, header: MapHeader) -> None:
    """A map in which nothing is here, durable but for its name. Raises OSError."""
    fd = files.open(path, create=True)
    try:
        # Allocated: what a full disk refuses are writes of data, never that they are noted.
        files.allocate(fd, PAGE_BYTES + 2 * header.padded_bytes)
        files.zero(fd, 0, PAGE_BYTES + 2 * header.padded_bytes, may_trim=False)
        files.pwritev(fd, (encode_header(header),), 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)


def open_map(files: Files, path: Path, boot: bytes) -> MapFile:
    """A map that is there; in another boot than its live map's that is made what is durable.

    Raises:
        BackingUnreadable: it is no map, or damaged.
        OSError: it cannot be read.
    """
    fd = files.open(path)
    try:
        size = files.size_bytes(fd)
        header = decode_header(files.pread(fd, min(size, PAGE_BYTES), 0), path)
        padded = header.padded_bytes
        if size < PAGE_BYTES + 2 * padded:
            raise BackingUnreadable(f"read {path}", f"it has {size} bytes, too few for its bits", _LOST)
        length = bytes_of(header.blocks)
        live = files.pread(fd, length, PAGE_BYTES)
        durable = files.pread(fd, length, PAGE_BYTES + padded)
        differ = pages_that_differ(live, durable, PAGE_BYTES)
        if header.boot == boot:
            return MapFile(files, fd, header, Bits(header.blocks, bytearray(live)), set(differ))
        for page in differ:
            at = page * PAGE_BYTES
            files.pwritev(fd, (durable[at : at + PAGE_BYTES],), PAGE_BYTES + at)
        header = replace(header, boot=boot)
        files.pwritev(fd, (encode_header(header),), 0)  # last: killed before it, the durable map counts
        return MapFile(files, fd, header, Bits(header.blocks, bytearray(durable)), set())
    except BaseException:
        files.close(fd)
        raise


_LOST: Final = "what was written here cannot be told from what was not: begin anew in an empty directory"
