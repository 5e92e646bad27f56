"""A map of a volume's blocks as a file: made whole, then bits replaced, durable when synced.

The bits are held in memory too (32 MiB for a TiB of 4 KiB blocks, untouched pages cost nothing), and
written with pwrite, not through a mapping: a disk that fails must give an error and not a signal. What does
not belong here: which bits to set and when (`dirty_blocks`, `intent`), the bytes (`block_map`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from cdp_container.errors import JournalDamaged
from cdp_container.journal.block_map import (
    MAP_HEADER_BYTES,
    MapHeader,
    decode_map_header,
    encode_map_header,
)
from nbd_export.files import Files


class MapFile:
    """An open map. Not for several threads at once, but for `sync`, which may run beside everything else."""

    def __init__(self, files: Files, path: Path, fd: int, header: MapHeader, bits: bytearray) -> None:
        self._files = files
        self._fd = fd
        self.path = path
        self.header = header
        self.bits = bits

    def _write(self, start: int, stop: int) -> None:
        self._files.pwritev(self._fd, (bytes(self.bits[start:stop]),), MAP_HEADER_BYTES + start)

    def begin_again(self, header: MapHeader, bits: bytes | bytearray) -> None:
        """Replace everything, for another episode or generation of the same volume. Raises OSError.

        Needs no room on the disk. Torn by a power loss it has either header with any of the bits: whoever
        calls this must bear that.
        """
        self.bits[:] = bits
        self._files.pwritev(self._fd, (encode_map_header(header), bits), 0)
        self.header = header
        self.sync()

    def put(self, start: int, data: bytes | bytearray) -> None:
        """Replace bytes of bits, the first of them at `start`; not durable. Raises OSError."""
        self.bits[start : start + len(data)] = data
        self._write(start, start + len(data))

    def sync(self) -> None:
        """Return when all bits that were put before are durable.

        Raises:
            OSError: they may not be. Linux may have dropped the pages, so a later sync proves nothing.
        """
        self._files.fdatasync(self._fd)

    def rewrite(self) -> None:
        """Write every bit and sync. Raises OSError."""
        self._write(0, len(self.bits))
        self.sync()

    def close(self) -> None:
        """Close the file; what is not synced stays so."""
        self._files.close(self._fd)


def create_map(files: Files, path: Path, header: MapHeader, bits: bytes | bytearray = b"") -> MapFile:
    """A new map with these bits, or none, durable with its name, in place of what had that name.

    Raises:
        OSError: the disk is full or failed; nothing is left under this name but what was there.
    """
    temporary = path.with_suffix(".new")
    fd = files.open(temporary, create=True)
    try:
        _fill(files, fd, header, bits)
        files.rename(temporary, path)
        files.sync_directory(path.parent)
    except BaseException:
        files.close(fd)
        with contextlib.suppress(OSError):  # the error that led here counts
            files.unlink(temporary)
        raise
    return MapFile(files, path, fd, header, bytearray(bits) or bytearray(header.map_bytes))


def _fill(files: Files, fd: int, header: MapHeader, bits: bytes | bytearray) -> None:
    # Zeroed, not only allocated: a temporary file of a start that was killed may lie under this name.
    length = MAP_HEADER_BYTES + header.map_bytes
    files.allocate(fd, length)
    files.zero(fd, 0, length, may_trim=False)
    files.pwritev(fd, (encode_map_header(header), bits), 0)
    files.fdatasync(fd)


def open_map(files: Files, path: Path) -> MapFile:
    """A map that is there.

    Raises:
        JournalDamaged: it is none, or too short.
        OSError: it is not there or cannot be read.
    """
    fd = files.open(path)
    try:
        size = files.size_bytes(fd)
        header = decode_map_header(files.pread(fd, min(size, MAP_HEADER_BYTES), 0), str(path))
        if size < MAP_HEADER_BYTES + header.map_bytes:
            raise JournalDamaged(f"reading {path}", f"it has {size} bytes, too few for its bits")
        bits = bytearray(files.pread(fd, header.map_bytes, MAP_HEADER_BYTES))
    except BaseException:
        files.close(fd)
        raise
    return MapFile(files, path, fd, header, bits)
