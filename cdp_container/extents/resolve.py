"""Newest-first resolution: which object holds every byte of a window of a space. PURE, numpy.

Input are the extents of a whole branch, as runs from the newest to the oldest; output are pieces, each byte
of the window at most once, and what nothing covers not at all (it reads as zeros). Extents that are covered
altogether give no piece, so dead data is never fetched. Work per window follows the extents in it, and ends
early where newer extents cover all of it; memory follows WINDOW_EXTENTS_MAX, not the size of the space.

How the extents came to be in tables, and what a branch is, does not belong here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

import numpy as np

from cdp_container.extents.intervals import Ints
from cdp_container.extents.layers import Batch, Layer, flatten, nothing, under
from cdp_container.extents.tables import PIECES, Table
from cdp_container.format.layout import ExtentKind

WINDOW_EXTENTS_MAX: Final = 1 << 20
"""Extents that one window should hold: about 200 MiB of memory. Wide windows read a frame only once."""

SLOT_BYTES: Final = 64 << 20
"""The grain of windows: extents are counted per slot, 16,384 counters for a TiB."""

BATCH_EXTENTS_MIN: Final = 1 << 16
"""Extents that are laid under the covered part at once; fewer would cost more calls than work."""

SLOTS_MAX: Final = 1 << 20
"""A space of more slots (64 TiB) has wider ones, so that counters stay few."""


def resolve(extents: Table, runs: Table, start: int, end: int) -> Table:
    """What stands in `[start, end)` of a space.

    Args:
        extents: of type EXTENTS; may be a mapped file.
        runs: of type RUNS, the newest first; all of one space.
        start: first byte of the window.
        end: the byte after its last one; at most the space's size.

    Returns:
        PIECES, sorted by offset and disjoint, zero and discard pieces included.
    """
    touching = runs[(runs["start"] < end) & (runs["end"] > start)]
    counts = np.cumsum(touching["count"])
    covered = nothing()
    at = 0
    while at < len(touching) and covered.where.total_bytes < end - start:
        wanted = (counts[at - 1] if at else 0) + max(BATCH_EXTENTS_MIN, len(covered.rows))
        upto = min(int(np.searchsorted(counts, wanted)) + 1, len(touching))
        batch = flatten(_gather(extents, touching[at:upto], start, end), start, end)
        covered = under(covered, batch, start, end)
        at = upto
    return _pieces(extents, covered)


def windows(extents: Table, runs: Table, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Windows `[start, end)` that make up the space, each with about WINDOW_EXTENTS_MAX extents in it."""
    slot_bytes = max(SLOT_BYTES, -(-size_bytes // SLOTS_MAX))
    counts = np.zeros(-(-size_bytes // slot_bytes) if size_bytes else 0, dtype=np.int64)
    for batch in _batches(runs):
        slots = extents["offset"][rows_of(batch)] // slot_bytes
        counts += np.bincount(slots[slots < len(counts)], minlength=len(counts))
    start = held = 0
    for slot, count in enumerate(counts.tolist()):
        if held and held + count > WINDOW_EXTENTS_MAX:
            yield start, slot * slot_bytes
            start, held = slot * slot_bytes, 0
        held += count
    if start < size_bytes:
        yield start, size_bytes


def _batches(runs: Table) -> Iterator[Table]:
    counts = np.cumsum(runs["count"])
    at = 0
    while at < len(runs):
        wanted = (counts[at - 1] if at else 0) + WINDOW_EXTENTS_MAX
        upto = min(int(np.searchsorted(counts, wanted)) + 1, len(runs))
        yield runs[at:upto]
        at = upto


def rows_of(runs: Table) -> Ints:
    """The row numbers of all runs, run after run."""
    counts = runs["count"]
    before = np.cumsum(counts) - counts
    return np.repeat(runs["first"] - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)


def _gather(extents: Table, runs: Table, start: int, end: int) -> Batch:
    """The extents of the runs that touch the window."""
    within = runs.copy()
    for number in np.flatnonzero((runs["start"] < start) | (runs["end"] > end)).tolist():
        first, count = _touching(extents, int(runs["first"][number]), int(runs["count"][number]), start, end)
        within["first"][number], within["count"][number] = first, count
    rows = rows_of(within)
    found = extents[rows]
    starts = found["offset"]
    return Batch(
        starts=np.maximum(starts, start),
        ends=np.minimum(starts + found["length"], end),
        rows=rows,
        objects=np.repeat(within["object"], within["count"]),
        ages=np.repeat(np.arange(len(within), dtype=np.int64), within["count"]),
    )


def _touching(extents: Table, first: int, count: int, start: int, end: int) -> tuple[int, int]:
    """Which extents of one run touch the window; reads few rows of a table that may lie on disk."""
    offsets = extents["offset"]
    low = bisect_right(offsets, start, first, first + count)
    if low > first and int(offsets[low - 1]) + int(extents["length"][low - 1]) > start:
        low -= 1
    return low, bisect_left(offsets, end, low, first + count) - low


def _pieces(extents: Table, layer: Layer) -> Table:
    found = extents[layer.rows]
    pieces = np.zeros(len(layer.rows), dtype=PIECES)
    pieces["offset"] = layer.where.starts
    pieces["length"] = layer.where.ends - layer.where.starts
    pieces["object"] = layer.objects
    pieces["frame"] = found["frame"]
    is_data = found["kind"] == ExtentKind.DATA
    pieces["position"] = np.where(is_data, found["position"] + (layer.where.starts - found["offset"]), 0)
    pieces["kind"] = found["kind"]
    return _joined(pieces)


def _joined(pieces: Table) -> Table:
    """Neighbours that go on in the same frame (or are voids of one kind and object) as one piece."""
    if len(pieces) == 0:
        return pieces
    one, two = pieces[:-1], pieces[1:]
    same = one["offset"] + one["length"] == two["offset"]
    for name in ("object", "frame", "kind"):
        same &= one[name] == two[name]
    is_data = one["kind"] == ExtentKind.DATA
    same &= ~is_data | (one["position"].astype(np.int64) + one["length"] == two["position"])
    begins = np.flatnonzero(np.concatenate((np.array([True]), ~same)))
    joined = pieces[begins]
    joined["length"] = np.add.reduceat(pieces["length"], begins)
    return joined
