"""Layers of extents: the newest of many at every byte, and one layer under another. PURE, numpy.

The arithmetic that resolution and liveness have in common; which extents those are is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_container.extents.intervals import Intervals, Ints, common, gaps

CELLS_MAX: Final = 1 << 22
"""Cells that are painted at once: bounds the memory where wide extents lie over many small ones."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Sorted disjoint pieces of extents: where, the extent's row in the table, and the object's number."""

    where: Intervals
    rows: Ints
    objects: Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Extents of several runs, the newest run first, clipped to the window: one entry per extent."""

    starts: Ints
    ends: Ints
    rows: Ints
    objects: Ints
    ages: Ints


def nothing() -> Layer:
    """A layer without a piece."""
    none = np.zeros(0, dtype=np.int64)
    return Layer(Intervals(none, none), none, none)


def flatten(batch: Batch, start: int, end: int) -> Layer:
    """One layer of several runs: at every byte the newest one that has it."""
    if len(batch.rows) == 0:
        return nothing()
    if batch.ages[0] == batch.ages[-1]:
        return Layer(Intervals(batch.starts, batch.ends), batch.rows, batch.objects)
    edges = np.sort(np.concatenate((batch.starts, batch.ends)))
    edges = edges[np.concatenate((np.array([True]), edges[1:] != edges[:-1]))]
    first_cells, cell_counts = _cells(batch, edges)
    if int(cell_counts.sum()) > CELLS_MAX:
        newer, older = _halves(batch)
        return under(flatten(newer, start, end), flatten(older, start, end), start, end)
    return _paint(batch, edges, first_cells, cell_counts)


def _cells(batch: Batch, edges: Ints) -> tuple[Ints, Ints]:
    """For each extent its first cell and how many it has; asked for in order, which is kinder to caches."""
    order = np.argsort(batch.starts)
    firsts = np.searchsorted(edges, batch.starts[order])
    beyond = np.searchsorted(edges, batch.ends[order])
    first_cells, cell_counts = np.empty_like(firsts), np.empty_like(firsts)
    first_cells[order] = firsts
    cell_counts[order] = beyond - firsts
    return first_cells, cell_counts


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """The newer and the older half of a batch's runs; the ages are sorted."""
    at = int(np.searchsorted(batch.ages, (batch.ages[0] + batch.ages[-1]) // 2, side="right"))
    newer, older = (
        Batch(batch.starts[part], batch.ends[part], batch.rows[part], batch.objects[part], batch.ages[part])
        for part in (slice(None, at), slice(at, None))
    )
    return newer, older


def _paint(batch: Batch, edges: Ints, first_cells: Ints, cell_counts: Ints) -> Layer:
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
    return Layer(where, batch.rows[winner], batch.objects[winner])


def under(newer: Layer, older: Layer, start: int, end: int) -> Layer:
    """Both layers as one: of the older one only what the newer one leaves uncovered."""
    of_older, visible = common(older.where, gaps(newer.where, start, end))
    starts = np.concatenate((newer.where.starts, visible.starts))
    order = np.argsort(starts, kind="stable")
    return Layer(
        where=Intervals(starts[order], np.concatenate((newer.where.ends, visible.ends))[order]),
        rows=np.concatenate((newer.rows, older.rows[of_older]))[order],
        objects=np.concatenate((newer.objects, older.objects[of_older]))[order],
    )
