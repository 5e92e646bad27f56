"""The writes of a test's cut, and how they become the extents of segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cdp_container.format.layout import ExtentKind
from cdp_container.format.segment import NewExtent


@dataclass(frozen=True)
class Write:
    """One change of a volume; `data` None for zeros and discards."""

    space: bytes
    offset: int
    length: int
    kind: ExtentKind
    data: bytes | None = None


def write(space: bytes, offset: int, data: bytes) -> Write:
    return Write(space, offset, len(data), ExtentKind.DATA, data)


def zero(space: bytes, offset: int, length: int) -> Write:
    return Write(space, offset, length, ExtentKind.ZERO)


def discard(space: bytes, offset: int, length: int) -> Write:
    return Write(space, offset, length, ExtentKind.DISCARD)


def coalesced(writes: Sequence[Write]) -> Iterable[NewExtent]:
    """The writes of one cut as segments take them: sorted, without overlap, each byte from its last write."""
    spaces = list(dict.fromkeys(change.space for change in writes))
    for space in spaces:
        end = max(change.offset + change.length for change in writes if change.space == space)
        winners = np.full(end, -1, dtype=np.int64)
        for number, change in enumerate(writes):
            if change.space == space:
                winners[change.offset : change.offset + change.length] = number
        edges = [0, *(np.flatnonzero(np.diff(winners)) + 1).tolist(), end]
        for start, stop in pairwise(edges):
            if winners[start] >= 0:
                yield _extent(writes[int(winners[start])], start, stop)


def _extent(change: Write, start: int, stop: int) -> NewExtent:
    data = None if change.data is None else change.data[start - change.offset : stop - change.offset]
    return NewExtent(change.space, start, stop - start, change.kind, data)
