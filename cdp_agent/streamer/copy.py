"""Copying what the container may lack of volumes, while guests write: rounds of reading, each becomes a cut.

Which blocks are in doubt is given; what of them is data is seen when they are read. Zeros are left out where
the container holds nothing of the volume yet; over an older copy they are sent, as zeros cover older data.
When a round may be read, and when a volume is whole after it, does not belong here (`steps`, `engine`).
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_agent.streamer.payloads import Chunk, is_zero
from cdp_container.errors import BackingUnreadable, DeviceError, VolumesChanged
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX
from cdp_container.journal.served import DiskId, disk_of

READ_BYTES: Final = 1 << 20
"""One read of a volume; a multiple of an extent."""
ROUND_SENT_BYTES_MAX: Final = 32 << 20
"""What a round sends at most, and a read more: guests' writes wait so long for their cut."""
ROUND_READ_BYTES_MAX: Final = 128 << 20
"""What it reads at most: the same, where little of it differs."""
HOLE_BYTES_AS_ONE: Final = 1024
"""So many bytes of a hole count as one that is read: they are compared, not read."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume: its source's index, backing store and size in bytes; which disk that must be, if known."""

    source: int
    backing: Path
    size_bytes: int
    disk: DiskId | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start` to `end` of a volume; a hole reads as zeros."""

    volume: Volume
    start: int
    end: int
    hole: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """What of a volume the container may lack.

    Attributes:
        volume: the volume.
        ranges: (offset, length) in order; None: all of it.
        read_bytes_max: what a round reads at most, and a read more.
        sent_bytes_max: what it sends at most, likewise.
    """

    volume: Volume
    ranges: Iterable[tuple[int, int]] | None = None
    read_bytes_max: int = ROUND_READ_BYTES_MAX
    sent_bytes_max: int = ROUND_SENT_BYTES_MAX


def joined(*ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is in any of these ranges (offset, length), each in order; in order, and none touches another."""
    start = end = 0
    for offset, length in heapq.merge(*ranges):
        if offset > end:
            if end > start:
                yield start, end - start
            start, end = offset, offset + length
        end = max(end, offset + length)
    if end > start:
        yield start, end - start


def whole_of(volume: Volume) -> Iterator[Range]:
    """Where a volume has data, in pieces of at most READ_BYTES, and where holes, without gaps between them.

    Raises:
        BackingUnreadable: it cannot be opened.
        DeviceError: the kernel cannot say where its data lies.
    """
    return ranges_of(Doubt(volume))


def ranges_of(doubt: Doubt) -> Iterator[Range]:
    """The same of what is in doubt. Where data lies is asked for piece by piece, right before it is read."""
    volume = doubt.volume
    fd = _open(volume)
    try:
        for offset, length in ((0, volume.size_bytes),) if doubt.ranges is None else doubt.ranges:
            yield from _pieces(fd, volume, offset, min(offset + length, volume.size_bytes))
    finally:
        os.close(fd)


def _pieces(fd: int, volume: Volume, start: int, end: int) -> Iterator[Range]:
    at, data_to = start, start
    while at < end:
        if at >= data_to:
            data = min(_seek(fd, volume, at, os.SEEK_DATA), end)
            if data > at:
                yield Range(volume, at, data, hole=True)
                at = data
                continue
            data_to = min(_seek(fd, volume, at, os.SEEK_HOLE), end)
        # Ends at a multiple of READ_BYTES, so that extents lie as those of a running volume do.
        stop = min(data_to, at - at % READ_BYTES + READ_BYTES)
        yield Range(volume, at, stop, hole=False)
        at = stop


def read_ranges(ranges: Iterable[Range], cover: bool) -> Iterator[Chunk]:
    """The content of ranges, in their order; with `cover` zeros and holes come as void chunks.

    Raises:
        BackingUnreadable, DeviceError: a volume cannot be read.
    """
    for found in ranges:
        yield from _void(found, found.start, found.end, cover) if found.hole else _read(found, cover)


def is_empty(volume: Volume) -> bool:
    """Whether a volume holds nothing but holes and zeros; stops reading at the first byte that is neither.

    Raises:
        BackingUnreadable, DeviceError: it cannot be read.
    """
    return not any(True for _ in read_ranges(whole_of(volume), cover=False))


class Reading:
    """The rounds of one volume. A round is a lazy iterator, to be taken to its end before the next one."""

    def __init__(self, doubt: Doubt, cover: bool) -> None:
        self.source = doubt.volume.source
        self.is_done = False
        self.read_bytes = 0
        self._doubt = doubt
        self._cover = cover
        self._ranges = ranges_of(doubt)
        self._sent_bytes = 0

    def round(self) -> Iterator[Chunk]:
        """Read until there is enough for a cut, or all is read. `sent` says what of it was sent.

        Raises:
            BackingUnreadable, DeviceError: the volume cannot be read.
        """
        self._sent_bytes = 0
        return read_ranges(self._until_enough(), self._cover)

    def take_read_bytes(self) -> int:
        """What was read since this was asked last."""
        count, self.read_bytes = self.read_bytes, 0
        return count

    def sent(self, count: int) -> None:
        """So many bytes of the round go into the cut."""
        self._sent_bytes += count

    def _until_enough(self) -> Iterator[Range]:
        counted = 0
        doubt = self._doubt
        while counted < doubt.read_bytes_max and self._sent_bytes < doubt.sent_bytes_max:
            found = next(self._ranges, None)
            if found is None:
                self.is_done = True
                return
            length = found.end - found.start
            counted += length // HOLE_BYTES_AS_ONE + 1 if found.hole else length
            self.read_bytes += 0 if found.hole else length
            yield found


def _read(found: Range, cover: bool) -> Iterator[Chunk]:
    fd = _open(found.volume)
    try:
        data = _pread(fd, found.volume, found.start, found.end - found.start)
    finally:
        os.close(fd)
    at = zeros_from = found.start
    while at < found.end:
        end = min(found.end, at - at % EXTENT_DATA_BYTES_MAX + EXTENT_DATA_BYTES_MAX)
        part = data[at - found.start : end - found.start]
        if not is_zero(part):
            yield from _void(found, zeros_from, at, cover)
            yield Chunk(found.volume.source, at, len(part), ExtentKind.DATA, part, 0, 0)
            zeros_from = end
        at = end
    yield from _void(found, zeros_from, found.end, cover)


def _void(found: Range, start: int, end: int, cover: bool) -> Iterator[Chunk]:
    if not cover:
        return
    for at in range(start, end, EXTENT_VOID_BYTES_MAX):
        length = min(EXTENT_VOID_BYTES_MAX, end - at)
        yield Chunk(found.volume.source, at, length, ExtentKind.ZERO, None, 0, 0)


def _seek(fd: int, volume: Volume, at: int, whence: int) -> int:
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from here on
            return volume.size_bytes
        if error.errno == errno.EINVAL:  # nobody can say: all of it may be data
            return at if whence == os.SEEK_DATA else volume.size_bytes
        raise DeviceError(f"read {volume.backing}", error.strerror or "input/output error") from error


def _open(volume: Volume) -> int:
    try:
        fd = os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BackingUnreadable(f"cannot open {volume.backing}", error.strerror or "unreadable") from error
    if volume.disk not in (None, disk_of(os.fstat(fd))):
        os.close(fd)
        raise VolumesChanged(
            f"cannot copy {volume.backing}", "it is another file than the one that is served"
        )
    return fd


def _pread(fd: int, volume: Volume, at: int, length: int) -> bytes:
    parts = []
    while length:
        try:
            part = os.pread(fd, length, at)
        except OSError as error:
            raise DeviceError(f"read {volume.backing}", error.strerror or "input/output error") from error
        if not part:
            raise DeviceError(f"read {volume.backing}", f"it ends at {at}, before its size")
        parts.append(part)
        at += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
