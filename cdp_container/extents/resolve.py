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
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_container.extents.intervals import Intervals, Ints, common, gaps
from cdp_container.extents.tables import PIECES, Table
from cdp_container.format.layout import ExtentKind

WINDOW_EXTENTS_MAX: Final = 1 << 20
"""Extents that one window should hold: about 200 MiB of memory. Wide windows read a frame only once."""

SLOT_BYTES: Final = 64 << 20
"""The grain of windows: extents are counted per slot, 16,384 counters for a TiB."""

BATCH_EXTENTS_MIN: Final = 1 << 16
"""Extents that are laid under the covered part at once; fewer would cost more calls than work."""

CELLS_MAX: Final = 1 << 22
"""Cells that are painted at once: bounds the memory where wide extents lie over many small ones."""

SLOTS_MAX: Final = 1 << 20
"""A space of more slots (64 TiB) has wider ones, so that counters stay few."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Sorted disjoint pieces of extents: where, the extent's row in the table, and the object's number."""

    where: Intervals
    rows: Ints
    objects: Ints


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
    covered = _nothing()
    at = 0
    while at < len(touching) and covered.where.total_bytes < end - start:
        wanted = (counts[at - 1] if at else 0) + max(BATCH_EXTENTS_MIN, len(covered.rows))
        upto = min(int(np.searchsorted(counts, wanted)) + 1, len(touching))
        batch = _flatten(_gather(extents, touching[at:upto], start, end), start, end)
        covered = _under(covered, batch, start, end)
        at = upto
    return _pieces(extents, covered)


def windows(extents: Table, runs: Table, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Windows `[start, end)` that make up the space, each with about WINDOW_EXTENTS_MAX extents in it."""
    slot_bytes = max(SLOT_BYTES, -(-size_bytes // SLOTS_MAX))
    counts = np.zeros(-(-size_bytes // slot_bytes) if size_bytes else 0, dtype=np.int64)
    for batch in _batches(runs):
        slots = extents["offset"][_rows_of(batch)] // slot_bytes
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


def _nothing() -> _Layer:
    none = np.zeros(0, dtype=np.int64)
    return _Layer(Intervals(none, none), none, none)


def _rows_of(runs: Table) -> Ints:
    """The row numbers of all runs, run after run."""
    counts = runs["count"]
    before = np.cumsum(counts) - counts
    return np.repeat(runs["first"] - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Extents of several runs, the newest run first, clipped to the window: one entry per extent."""

    starts: Ints
    ends: Ints
    rows: Ints
    objects: Ints
    ages: Ints


def _gather(extents: Table, runs: Table, start: int, end: int) -> _Batch:
    """The extents of the runs that touch the window."""
    within = runs.copy()
    for number in np.flatnonzero((runs["start"] < start) | (runs["end"] > end)).tolist():
        first, count = _touching(extents, int(runs["first"][number]), int(runs["count"][number]), start, end)
        within["first"][number], within["count"][number] = first, count
    rows = _rows_of(within)
    found = extents[rows]
    starts = found["offset"]
    return _Batch(
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


def _flatten(batch: _Batch, start: int, end: int) -> _Layer:
    """One layer of several runs: at every byte the newest one that has it."""
    if len(batch.rows) == 0:
        return _nothing()
    if batch.ages[0] == batch.ages[-1]:
        return _Layer(Intervals(batch.starts, batch.ends), batch.rows, batch.objects)
    edges = np.unique(np.concatenate((batch.starts, batch.ends)))
    first_cells = np.searchsorted(edges, batch.starts)
    cell_counts = np.searchsorted(edges, batch.ends) - first_cells
    if int(cell_counts.sum()) > CELLS_MAX:
        newer, older = _halves(batch)
        return _under(_flatten(newer, start, end), _flatten(older, start, end), start, end)
    return _paint(batch, edges, first_cells, cell_counts)


def _halves(batch: _Batch) -> tuple[_Batch, _Batch]:
    """The newer and the older half of a batch's runs; the ages are sorted."""
    at = int(np.searchsorted(batch.ages, (batch.ages[0] + batch.ages[-1]) // 2, side="right"))
    newer, older = (
        _Batch(batch.starts[part], batch.ends[part], batch.rows[part], batch.objects[part], batch.ages[part])
        for part in (slice(None, at), slice(at, None))
    )
    return newer, older


def _paint(batch: _Batch, edges: Ints, first_cells: Ints, cell_counts: Ints) -> _Layer:
    """Paint the cells between neighbouring edges, the oldest extent first, so that the newest remains."""
    oldest_first = np.arange(len(batch.rows) - 1, -1, -1, dtype=np.int64)
    counts = cell_counts[oldest_first]
    before = np.cumsum(counts) - counts
    cells = np.repeat(first_cells[oldest_first] - before, counts) + np.arange(
        int(counts.sum()), dtype=np.int64
    )
    winners = np.full(len(edges) - 1, -1, dtype=np.int64)
    # Where an index repeats, numpy leaves the last value: the newest extent's.
    winners[cells] = np.repeat(oldest_first, counts)
    begins = np.flatnonzero(np.concatenate((np.array([True]), winners[1:] != winners[:-1])))
    winner = winners[begins]
    ends = edges[np.concatenate((begins[1:], np.array([len(winners)])))]
    kept = winner >= 0
    winner = winner[kept]
    where = Intervals(edges[begins[kept]], ends[kept])
    return _Layer(where, batch.rows[winner], batch.objects[winner])


def _under(newer: _Layer, older: _Layer, start: int, end: int) -> _Layer:
    """Both layers as one: of the older one only what the newer one leaves uncovered."""
    of_older, visible = common(older.where, gaps(newer.where, start, end))
    starts = np.concatenate((newer.where.starts, visible.starts))
    order = np.argsort(starts, kind="stable")
    return _Layer(
        where=Intervals(starts[order], np.concatenate((newer.where.ends, visible.ends))[order]),
        rows=np.concatenate((newer.rows, older.rows[of_older]))[order],
        objects=np.concatenate((newer.objects, older.objects[of_older]))[order],
    )


def _pieces(extents: Table, layer: _Layer) -> Table:
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
