"""Copying volumes that are not whole, before their exports open: what to read, and the reading.

A copy is cut like everything else, in rounds of at most CUT_BYTES_MAX. Holes are not read. Zeros are left out
where the container holds nothing of the volume yet; over an older copy they are sent, as zeros cover older
data. Copying while guests write is not done here: a later release does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_agent.streamer.payloads import Chunk
from cdp_container.errors import BackingUnreadable, DeviceError
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import CUT_BYTES_MAX, EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX

READ_BYTES: Final = 1 << 20
"""One read of a volume; a multiple of an extent."""
RANGES_MAX: Final = 1 << 20
"""Stretches of data in all volumes: a volume in more pieces is read whole."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that is to be copied: its source's index, its backing store and size in bytes."""

    source: int
    backing: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start` to `end` of a volume; a hole reads as zeros."""

    volume: Volume
    start: int
    end: int
    hole: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What becomes one cut."""

    ranges: tuple[Range, ...]


def plan_copy(volumes: Sequence[Volume], bytes_max: int = CUT_BYTES_MAX) -> list[Round]:
    """The rounds, at least one; data ranges of one round have at most `bytes_max` bytes.

    Raises:
        BackingUnreadable: a volume cannot be opened.
        DeviceError: the kernel cannot say where its data lies.
    """
    rounds: list[Round] = []
    ranges: list[Range] = []
    room = bytes_max
    for volume in volumes:
        for found in _stretches(volume):
            start = found.start
            while start < found.end:
                end = found.end if found.hole else min(found.end, start + room)
                ranges.append(Range(volume, start, end, found.hole))
                room -= 0 if found.hole else end - start
                start = end
                if room == 0:
                    rounds.append(Round(tuple(ranges)))
                    ranges, room = [], bytes_max
    if ranges or not rounds:
        rounds.append(Round(tuple(ranges)))
    return rounds


def read_round(ranges: Iterable[Range], cover: bool) -> Iterator[Chunk]:
    """The content of a round, sorted as its ranges are; with `cover` zeros and holes come as void chunks.

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
    return not any(True for one in plan_copy([volume]) for _ in read_round(one.ranges, cover=False))


def _read(found: Range, cover: bool) -> Iterator[Chunk]:
    fd = _open(found.volume)
    try:
        at = zeros_from = found.start
        while at < found.end:
            # Ends at a multiple of READ_BYTES, so that extents lie as those of a running volume do.
            stop = min(found.end, at - at % READ_BYTES + READ_BYTES)
            data = _pread(fd, found.volume, at, stop - at)
            while at < stop:
                end = min(stop, at - at % EXTENT_DATA_BYTES_MAX + EXTENT_DATA_BYTES_MAX)
                part = data[: end - at]
                data = data[end - at :]
                if part.count(0) != len(part):
                    yield from _void(found, zeros_from, at, cover)
                    yield Chunk(found.volume.source, at, len(part), ExtentKind.DATA, part, 0, 0)
                    zeros_from = end
                at = end
        yield from _void(found, zeros_from, at, cover)
    finally:
        os.close(fd)


def _void(found: Range, start: int, end: int, cover: bool) -> Iterator[Chunk]:
    if not cover:
        return
    for at in range(start, end, EXTENT_VOID_BYTES_MAX):
        length = min(EXTENT_VOID_BYTES_MAX, end - at)
        yield Chunk(found.volume.source, at, length, ExtentKind.ZERO, None, 0, 0)


def _stretches(volume: Volume) -> Iterator[Range]:
    """Where a volume has data and where holes, without gaps between them."""
    fd = _open(volume)
    try:
        found: list[Range] = []
        at = 0
        while at < volume.size_bytes and len(found) < RANGES_MAX:
            data = min(_seek(fd, volume, at, os.SEEK_DATA), volume.size_bytes)
            if data > at:
                found.append(Range(volume, at, data, hole=True))
            if data < volume.size_bytes:
                end = min(_seek(fd, volume, data, os.SEEK_HOLE), volume.size_bytes)
                found.append(Range(volume, data, end, hole=False))
                data = end
            at = data
        if at < volume.size_bytes:
            found.append(Range(volume, at, volume.size_bytes, hole=False))
    finally:
        os.close(fd)
    yield from found


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
        return os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BackingUnreadable(f"cannot open {volume.backing}", error.strerror or "unreadable") from error


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
