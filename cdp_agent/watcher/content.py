"""Reading one file: what of its content the container does not have yet.

Chunk by chunk, each compared block by block with the sums of the index; holes are not read. What is found
goes into a sink, the new sums into the index: so a file that takes several batches is gone through once.
Whether the file changed meanwhile, and what is done then, is decided by the caller.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from cdp_agent.watcher.index import BLOCKS, CHUNK_BYTES, UNKNOWN, ZERO
from cdp_container.format.layout import SUM_BYTES, ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX, SUM_BLOCK_BYTES
from cdp_container.format.segment import NewExtent
from cdp_container.format.sums import block_sums

_ZERO_SUM: Final = block_sums(0, bytes(SUM_BLOCK_BYTES))
_ZERO_BLOCK: Final = bytes(SUM_BLOCK_BYTES)
_FEW_BLOCKS: Final = 16
_SAME: Final = 0
_NOW_ZERO: Final = 1
_NOW_DATA: Final = 2
HOLES_MIN_BYTES: Final = 64 << 10
"""In a smaller file no hole is looked for: it is read sooner."""


class Sums(Protocol):
    """What `Index` says of a file's chunks."""

    def sums(self, file: int, chunk: int) -> bytes: ...  # noqa: D102

    def put_sums(self, file: int, chunk: int, sums: bytes) -> None: ...  # noqa: D102

    def chunks(self, file: int, first: int, beyond: int) -> Iterator[int]: ...  # noqa: D102


@dataclass(slots=True)
class Reading:
    """How far one pass through a file is.

    Attributes:
        fd: open for reading.
        file: its row in the index.
        space: its id.
        size: bytes, as it was when the pass began.
        chunk: the next one to be looked at; beyond the last one when the pass is done.
        is_new: the container has nothing of it.
    """

    fd: int
    file: int
    space: bytes
    size: int
    chunk: int = 0
    is_new: bool = False

    @property
    def is_done(self) -> bool:
        """Whether all of it was looked at."""
        return self.chunk * CHUNK_BYTES >= self.size


def read_on(
    reading: Reading,
    sums: Sums,
    sink: Callable[[NewExtent], None],
    unknown: Sequence[tuple[int, int]],
    goes_on: Callable[[], bool],
) -> bool:
    """Go on with a pass until it is done, or `goes_on` says no after a chunk.

    Args:
        reading: is moved on.
        sums: of the index; brought up to date.
        sink: takes what differs, in order.
        unknown: ranges of chunks (first, beyond) of which the sums do not count.
        goes_on: asked after every chunk with something in it.

    Returns:
        False where the file ended early: it was cut while it was read. Raises OSError.
    """
    beyond = -(-reading.size // CHUNK_BYTES)
    holes = _Holes(reading, sums) if reading.size > HOLES_MIN_BYTES else None
    while reading.chunk < beyond:
        if holes is not None:
            reading.chunk = min(holes.next_chunk(reading.chunk, unknown), beyond)
            if reading.chunk == beyond:
                break
        offset = reading.chunk * CHUNK_BYTES
        wanted = min(CHUNK_BYTES, reading.size - offset)
        data = _read(reading.fd, offset, wanted)
        if len(data) < wanted:
            return False
        is_unknown = any(first <= reading.chunk < last for first, last in unknown)
        old = b"" if reading.is_new else sums.sums(reading.file, reading.chunk)
        if is_unknown:
            old = UNKNOWN * BLOCKS
        new = _sums_of(data)
        if new != old and (new.strip(b"\0") or old):
            for extent in different(reading.space, offset, data, old, new):
                sink(extent)
            sums.put_sums(reading.file, reading.chunk, new)
        reading.chunk += 1
        if not goes_on():
            break
    return True


class _Holes:
    """Skips chunks that are holes in the file, and zeros in the container."""

    def __init__(self, reading: Reading, sums: Sums) -> None:
        self._reading = reading
        self._sums = sums
        self._data_at = -1
        """Where data begins at or after the last hole that was asked for."""

    def next_chunk(self, chunk: int, unknown: Sequence[tuple[int, int]]) -> int:
        offset = chunk * CHUNK_BYTES
        if self._data_at < offset:
            try:
                self._data_at = os.lseek(self._reading.fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return chunk  # this file system tells no holes
                self._data_at = self._reading.size
        first_data = max(self._data_at // CHUNK_BYTES, chunk)
        if first_data == chunk:
            return chunk
        known = next(self._sums.chunks(self._reading.file, chunk, first_data), first_data)
        return min([known, *(max(first, chunk) for first, beyond in unknown if beyond > chunk)])


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _sums_of(data: bytes) -> bytes:
    """A sum for each block, that of the part of a block at the end too; ZERO for zeros."""
    whole = block_sums(0, data)
    if _ZERO_SUM in whole:
        parts = (whole[at : at + SUM_BYTES] for at in range(0, len(whole), SUM_BYTES))
        whole = b"".join(ZERO if part == _ZERO_SUM else part for part in parts)
    rest = len(data) % SUM_BLOCK_BYTES
    if not rest:
        return whole
    tail = data[len(data) - rest :]
    return whole + (ZERO if tail == _ZERO_BLOCK[:rest] else tail_sum(tail))


def tail_sum(tail: bytes) -> bytes:
    """The sum of the part of a block at a file's end; only a part of the same length can have the same."""
    return hashlib.sha256(tail).digest()[:SUM_BYTES]


def different(space: bytes, offset: int, data: bytes, old: bytes, new: bytes) -> Iterator[NewExtent]:
    """The blocks of a chunk whose sums differ, as extents: neighbours of one kind joined."""
    count = len(new) // SUM_BYTES
    kinds = _few_kinds(old, new, count) if count <= _FEW_BLOCKS else _kinds(old, new)
    first = 0
    for beyond in range(1, count + 1):
        if beyond < count and kinds[beyond] == kinds[first]:
            continue
        kind, low, high = kinds[first], first * SUM_BLOCK_BYTES, min(beyond * SUM_BLOCK_BYTES, len(data))
        first = beyond
        if kind == _NOW_ZERO:
            yield NewExtent(space, offset + low, high - low, ExtentKind.ZERO)
        elif kind == _NOW_DATA:
            for at in range(low, high, EXTENT_DATA_BYTES_MAX):
                piece = data[at : min(at + EXTENT_DATA_BYTES_MAX, high)]
                yield NewExtent(space, offset + at, len(piece), ExtentKind.DATA, piece)


def _few_kinds(old: bytes, new: bytes, count: int) -> list[int]:
    """What became of each block: most files have few, for which numpy takes longer."""
    kinds = []
    for at in range(0, count * SUM_BYTES, SUM_BYTES):
        after, before = new[at : at + SUM_BYTES], old[at : at + SUM_BYTES] or ZERO
        kinds.append(_SAME if after == before else _NOW_ZERO if after == ZERO else _NOW_DATA)
    return kinds


def _kinds(old: bytes, new: bytes) -> list[int]:
    before = np.frombuffer(old.ljust(len(new), b"\0")[: len(new)], dtype="<u8").reshape(-1, 2)
    after = np.frombuffer(new, dtype="<u8").reshape(-1, 2)
    became = np.where(after.any(axis=1), _NOW_DATA, _NOW_ZERO)
    kinds: list[int] = np.where((before != after).any(axis=1), became, _SAME).tolist()
    return kinds
