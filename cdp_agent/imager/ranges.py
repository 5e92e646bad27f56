"""Ranges of bytes that are not in the container for sure: kept, joined and given back. PURE.

A range is (start, end); a list of them is sorted, and none touches another. Whatever is done to make a list
shorter makes it cover more, never less.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias

Range: TypeAlias = tuple[int, int]

RANGES_MAX: Final = 65_536
"""Of one list: some MiB of memory. Where there would be more, neighbours become one, by coarser blocks."""
COARSER: Final = 4
"""How much larger the blocks get at each attempt."""


def joined(*lists: Iterable[Range]) -> list[Range]:
    """What is in any of these, each sorted by starts."""
    found: list[Range] = []
    for start, end in heapq.merge(*lists):
        if found and start <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = found[-1][0], end
        elif end > start:
            found.append((start, end))
    return found


def bounded(
    ranges: Sequence[Range], block_bytes: int, size_bytes: int, count: int = RANGES_MAX
) -> list[Range]:
    """The same or more, in `count` ranges at most: whole blocks, as small as that allows."""
    kept = list(ranges)
    while len(kept) > count:
        block_bytes *= COARSER
        kept = _coarser(kept, block_bytes, size_bytes)
    return kept


def gathered(
    ranges: Iterable[Range], block_bytes: int, size_bytes: int, count: int = RANGES_MAX
) -> list[Range]:
    """`bounded`, of ranges that come in order, however many: twice `count` are kept at most meanwhile."""
    kept: list[Range] = []
    for start, end in ranges:
        if kept and start <= kept[-1][1]:
            kept[-1] = kept[-1][0], max(end, kept[-1][1])
            continue
        kept.append((start, end))
        while len(kept) >= 2 * count:
            block_bytes *= COARSER
            kept = _coarser(kept, block_bytes, size_bytes)
    return bounded(kept, block_bytes, size_bytes, count)


def _coarser(ranges: Iterable[Range], block_bytes: int, size_bytes: int) -> list[Range]:
    return joined(
        (start - start % block_bytes, min(size_bytes, -(-end // block_bytes) * block_bytes))
        for start, end in ranges
    )


def total_bytes(ranges: Iterable[Range]) -> int:
    """How many bytes they are of."""
    return sum(end - start for start, end in ranges)


def split(ranges: Iterable[Range], count: int) -> tuple[list[Range], list[Range]]:
    """The first `count` bytes of them, and the others."""
    first: list[Range] = []
    rest: list[Range] = []
    for start, end in ranges:
        middle = min(end, start + count)
        if middle > start:
            first.append((start, middle))
        if end > middle:
            rest.append((middle, end))
        count -= middle - start
    return first, rest


def parts(start: int, end: int, ranges: Sequence[Range]) -> Iterator[tuple[int, int, bool]]:
    """`[start, end)` in pieces (start, end, whether it is in `ranges`), in order."""
    first = bisect_left(ranges, start, key=lambda one: one[1])
    for low, high in islice(ranges, first, None):
        if high <= start:
            continue
        if low >= end:
            break
        if low > start:
            yield start, low, False
        stop = min(high, end)
        yield max(low, start), stop, True
        start = stop
    if start < end:
        yield start, end, False
