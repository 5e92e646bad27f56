"""Sorted, disjoint intervals as pairs of numpy arrays: the arithmetic under resolution and liveness. PURE.

An interval is half open, `[start, end)`, in bytes. A list of intervals is two `int64` arrays of one length,
sorted, and disjoint where a function says so. Nothing here knows of objects, frames or cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Sorted, disjoint, non-empty intervals. They may touch."""

    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def total_bytes(self) -> int:
        """The sum of all lengths."""
        return int((self.ends - self.starts).sum())


def intervals(pairs: list[tuple[int, int]]) -> Intervals:
    """Intervals from (start, end) pairs that are sorted and disjoint already."""
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Intervals(array[:, 0].copy(), array[:, 1].copy())


def common(a: Intervals, b: Intervals) -> tuple[Ints, Intervals]:
    """What `a` and `b` have in common, and for every piece the number of its interval in `a`.

    The pieces are sorted; every piece lies within one interval of `a` and one of `b`.
    """
    first = np.searchsorted(b.ends, a.starts, side="right")
    beyond = np.searchsorted(b.starts, a.ends, side="left")
    counts = np.maximum(beyond - first, 0)
    of_a = np.repeat(np.arange(len(a), dtype=np.int64), counts)
    before = np.cumsum(counts) - counts
    of_b = np.arange(len(of_a), dtype=np.int64) - before[of_a] + first[of_a]
    starts = np.maximum(a.starts[of_a], b.starts[of_b])
    ends = np.minimum(a.ends[of_a], b.ends[of_b])
    return of_a, Intervals(starts, ends)


def gaps(a: Intervals, start: int, end: int) -> Intervals:
    """What `a` leaves uncovered of `[start, end)`. Every interval of `a` must lie within it."""
    starts = np.concatenate((np.array([start], dtype=np.int64), a.ends))
    ends = np.concatenate((a.starts, np.array([end], dtype=np.int64)))
    wide = starts < ends
    return Intervals(starts[wide], ends[wide])


def merged(a: Intervals) -> Intervals:
    """The same bytes in as few intervals as possible: touching ones become one."""
    if len(a) == 0:
        return a
    begins = np.concatenate((np.array([True]), a.starts[1:] != a.ends[:-1]))
    last = np.concatenate((begins[1:], np.array([True])))
    return Intervals(a.starts[begins], a.ends[last])
