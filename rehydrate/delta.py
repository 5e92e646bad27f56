"""Which bytes of a disk may differ from a cut, and which do. PURE, numpy.

A disk that held some cut once may differ from another one only where either side wrote since: these are the
*candidates*. Each of their blocks is compared with the checksums of the index, so one too many costs a read,
and one too few would be silent corruption. Where the candidates of a disk are not known, all of it is one.

What a journal says does not belong here (diverged), nor reading and writing (inplace, failback).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from cdp_container.domain.blocks import SUM, ZEROS, Blocks
from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, on_branch, runs_of
from cdp_container.extents.intervals import Intervals, Ints, common, gaps, intervals
from cdp_container.extents.tables import Table
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.place import Place
from cdp_container.format.sums import block_sums

READ_BYTES: Final = 4 << 20
"""What is read of a disk at once."""

ROWS_AT_ONCE: Final = 1 << 20
"""Extents that are looked at together: bounds the memory of what a busy branch wrote."""

NONE: Final = intervals([])

Read = Callable[[int, int], bytes]
"""Gives so many bytes from an offset on; fewer at the end of the disk."""


def everything(size_bytes: int) -> Intervals:
    """All of a volume."""
    return intervals([(0, size_bytes)] if size_bytes else [])


def in_blocks(starts: Ints, ends: Ints, size_bytes: int) -> Intervals:
    """The blocks that ranges touch, in any order and overlapping, within a volume; joined and sorted."""
    block = SUM_BLOCK_BYTES
    starts = np.maximum(starts, 0) // block * block
    ends = np.minimum(-(-np.minimum(ends, size_bytes) // block) * block, size_bytes)
    kept = starts < ends
    starts, ends = starts[kept], ends[kept]
    if not len(starts):
        return NONE
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    begins = np.concatenate((np.array([True]), starts[1:] > reach[:-1]))
    return Intervals(starts[begins], reach[np.append(np.flatnonzero(begins)[1:], len(starts)) - 1])


def union(parts: Sequence[Intervals], size_bytes: int) -> Intervals:
    """The blocks of a volume that any of these touches."""
    starts = np.concatenate([NONE.starts, *(part.starts for part in parts)])
    ends = np.concatenate([NONE.ends, *(part.ends for part in parts)])
    return in_blocks(starts, ends, size_bytes)


class Gathered:
    """The blocks that ranges touch, however many there are: they are joined now and then."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._found = NONE
        self._offsets: list[int] = []
        self._lengths: list[int] = []

    def add(self, offset: int, length: int) -> None:
        """Add one range, in bytes."""
        self._offsets.append(offset)
        self._lengths.append(length)
        if len(self._offsets) >= ROWS_AT_ONCE:
            self._join()

    def blocks(self) -> Intervals:
        """All that was added."""
        self._join()
        return self._found

    def _join(self) -> None:
        starts = np.array(self._offsets, dtype=np.int64)
        ends = starts + np.array(self._lengths, dtype=np.int64)
        self._found = union([self._found, in_blocks(starts, ends, self._size_bytes)], self._size_bytes)
        self._offsets, self._lengths = [], []


def changed_since(
    contents: Contents, branch: Branch, space: bytes, since: Place, size_bytes: int
) -> Intervals | None:
    """What a branch wrote, zeroed, discarded or resized of a space after a cut; None: it may be anything.

    Args:
        contents: of at least the branch.
        branch: of the cut that is wanted.
        space: the volume's id.
        since: a complete cut on the branch.
        size_bytes: of the volume at the cut that is wanted.
    """
    if not since or not on_branch(since, branch):
        return None
    # A collector drops a discard together with what it covers: then nothing tells of it any more.
    if _was_collected_since(contents, branch, since):
        return None
    # A removal covers all that is older, also where nothing was written since.
    if any(
        record.name == "space-"
        and record.space == space
        and record.place > since
        and on_branch(record.place, branch)
        for record in contents.space_records
    ):
        return None
    runs = runs_of(contents, branch, space, (since.epoch, since.seq))
    found = NONE
    for rows in _rows_of(contents.extents(), runs):
        # The cover of a resize reaches to the largest number there is: its end would not fit.
        ends = rows["offset"] + np.minimum(rows["length"], np.iinfo(np.int64).max - rows["offset"])
        found = union([found, in_blocks(rows["offset"], ends, size_bytes)], size_bytes)
    return found


def _rows_of(extents: Table, runs: Table) -> Iterator[Table]:
    """The extents of all runs, about ROWS_AT_ONCE at a time."""
    held: list[Table] = []
    count = 0
    for first, length in runs[["first", "count"]].tolist():
        for at in range(first, first + length, ROWS_AT_ONCE):
            held.append(extents[at : min(at + ROWS_AT_ONCE, first + length)])
            count += len(held[-1])
            if count >= ROWS_AT_ONCE:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)


def _was_collected_since(contents: Contents, branch: Branch, since: Place) -> bool:
    ledger = contents.ledger
    if any(epoch > since.epoch and ledger.reaches_into(epoch) for epoch in branch):
        return True
    if not ledger.reaches_into(since.epoch):
        return False
    last = branch[since.epoch]
    return any(ledger.is_collected(since.epoch, seq) for seq in range(since.seq + 1, last + 1))


def differing(read: Read, wanted: Intervals, blocks: Blocks) -> Iterator[tuple[int, int]]:
    """The (start, end) of what a disk has otherwise than an image, in whole blocks, in order.

    Args:
        read: of the disk.
        wanted: what to compare: whole blocks, but for the end of the volume, within the window.
        blocks: the image's, for a window.
    """
    for start, end in zip(wanted.starts.tolist(), wanted.ends.tolist(), strict=True):
        for at in range(start, end, READ_BYTES):
            stop = min(at + READ_BYTES, end)
            yield from _differing_part(read(at, stop - at), at, stop, blocks)


def _differing_part(data: bytes, start: int, end: int, blocks: Blocks) -> Iterator[tuple[int, int]]:
    size = SUM_BLOCK_BYTES
    first, count = start // size, -(-(end - start) // size)
    part = slice(first - blocks.first, first - blocks.first + count)
    kinds = blocks.kinds[part]
    padded = data.ljust(count * size, b"\0")
    is_zero = ~np.frombuffer(padded, dtype="<u8").reshape(count, -1).any(axis=1)
    same = (kinds == ZEROS) & is_zero
    if (kinds == SUM).any():
        sums = np.frombuffer(block_sums(0, padded), dtype="<u8").reshape(count, 2)
        known = blocks.sums[part].view("<u8").reshape(count, 2)
        same |= (kinds == SUM) & (sums == known).all(axis=1)
    same[-(-len(data) // size) :] = False  # the disk ends before
    edges = np.flatnonzero(np.diff(~same, prepend=False, append=False)).tolist()
    for begin, stop in zip(edges[::2], edges[1::2], strict=True):
        yield start + begin * size, min(start + stop * size, end)


def without(whole: Intervals, parts: Intervals) -> Intervals:
    """What of `whole` no part covers. The parts lie within it."""
    if not len(whole):
        return whole
    holes = gaps(parts, int(whole.starts[0]), int(whole.ends[-1]))
    return common(holes, whole)[1]
