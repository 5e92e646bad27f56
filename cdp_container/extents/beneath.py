"""Whether something older lies beneath a piece: what decides whether a visible void may be dropped. PURE.

Old data is taken in, in any order; of each stretch of bytes only the oldest place is kept. Memory follows the
pieces that are asked about, not the history.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cdp_container.extents.intervals import Flags, Ints

NEVER: Final = np.iinfo(np.int64).max
PAINT_CELLS_MAX: Final = 1 << 22
"""Cells that are painted at once."""


class OldestData:
    """The oldest data in each stretch of one space between the edges of the pieces that are asked about."""

    def __init__(self, starts: Ints, ends: Ints) -> None:
        """Pieces `[start, end)`; they may overlap each other."""
        self._edges = np.unique(np.concatenate((starts, ends)))
        self._first = np.searchsorted(self._edges, starts)
        self._beyond = np.searchsorted(self._edges, ends)
        self._oldest = np.full(len(self._edges), NEVER, dtype=np.int64)

    def take(self, starts: Ints, ends: Ints, places: Ints) -> None:
        """Take data in; `places` are numbers that ascend with the order of history."""
        if len(self._edges) == 0:
            return
        first = np.maximum(np.searchsorted(self._edges, starts, side="right") - 1, 0)
        beyond = np.minimum(np.searchsorted(self._edges, ends), len(self._edges) - 1)
        counts = np.maximum(beyond - first, 0)
        sums = np.cumsum(counts)
        at = 0
        while at < len(starts):
            before = int(sums[at - 1]) if at else 0
            upto = max(at + 1, int(np.searchsorted(sums, before + PAINT_CELLS_MAX, side="right")))
            part = slice(at, upto)
            begun = np.cumsum(counts[part]) - counts[part]
            cells = np.repeat(first[part] - begun, counts[part]) + np.arange(int(counts[part].sum()))
            np.minimum.at(self._oldest, cells, np.repeat(places[part], counts[part]))
            at = upto

    def is_over(self, places: Ints) -> Flags:
        """For each piece, whether data that is older than its place lies beneath any byte of it."""
        if len(self._first) == 0:
            return np.zeros(0, dtype=np.bool_)
        # Every second value: what lies between one piece's end and the next one's start is left out.
        bounds = np.stack((self._first, self._beyond), axis=1).ravel()
        oldest: Ints = np.minimum.reduceat(self._oldest, bounds)[::2]
        over: Flags = oldest < places
        return over
