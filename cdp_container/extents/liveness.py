"""Liveness of one interval: which parts of which extents are visible at its end. PURE, numpy.

An interval is what lies behind one retained cut and up to the next (docs/collection.md, "What is live"). Its
extents come as rows, the newest run first; what is visible comes out, window by window. Covers are rows of
their own: they hide, and are not told. Where extents come from does not belong here, nor what an interval is.

Memory follows the windows: what is visible in one, and a batch. Rows that newer ones hide altogether are
dropped before anything is sorted, so overwritten history costs little more than being read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from cdp_container.extents.intervals import Flags, Intervals, common, gaps, merged
from cdp_container.extents.layers import Batch, flatten
from cdp_container.extents.tables import Table

ROWS: Final = np.dtype(
    [
        ("start", "<i8"),
        ("end", "<i8"),
        ("run", "<i4"),
        ("row", "<u4"),
        ("frame", "<u4"),
        ("share", "<f4"),
    ]
)
"""An extent, or a visible piece of one: bytes `[start, end)`.

`run` is its age, ascending from the newest, and the caller's number for what it belongs to: the rows of one
run do not overlap. `row` is the extent's in its object, `frame` its frame, `share` the stored bytes of that
frame per raw byte; in a void it is 0.
"""

COVER_ROW: Final = 0xFFFFFFFF
"""The `row` of a cover, which hides and is no extent."""

WINDOW_ROWS: Final = 1 << 19
"""Rows that one window should hold."""

BATCH_ROWS_MIN: Final = 1 << 16
"""Rows that are laid under the covered part at once; fewer would cost more calls than work."""

BATCH_ROWS_MAX: Final = 1 << 18
"""Bounds the memory of sorting them."""

SLOTS: Final = 1 << 14
"""The grain of windows: rows are counted per slot."""


def visible(newest_first: Iterable[Table], start: int, end: int) -> Table:
    """What is visible of some rows within `[start, end)`.

    Args:
        newest_first: of type ROWS, in any portions; `run` never descends, and the rows of a run are sorted.
        start: first byte of the window; rows may reach beyond it.
        end: the byte after its last one.

    Returns:
        ROWS, clipped to the window, sorted by (run, start); no byte of the window twice, no covers.
    """
    covered = Intervals(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    found: list[Table] = []
    for batch in _batches(newest_first, start, end):
        rows = batch[~_is_hidden(batch, covered)]
        if len(rows) == 0:
            continue
        layer = flatten(_as_batch(rows), start, end)
        of_layer, seen = common(layer.where, gaps(covered, start, end))
        if len(seen) == 0:
            continue
        pieces = rows[layer.rows[of_layer]]
        pieces["start"], pieces["end"] = seen.starts, seen.ends
        found.append(_joined(pieces[pieces["row"] != COVER_ROW]))
        covered = _union(covered, seen)
        if covered.total_bytes == end - start:
            break
    return np.concatenate(found) if found else np.zeros(0, dtype=ROWS)


def _joined(pieces: Table) -> Table:
    """Disjoint pieces, sorted by start, sorted by run and row; those of one extent that touch are one."""
    # The rows of a run ascend with their starts, within a batch and from one to the next.
    ages = pieces["run"].astype(np.int64) << 32 | pieces["row"]
    pieces = pieces[np.argsort(ages, kind="stable")]
    if len(pieces) == 0:
        return pieces
    one, two = pieces[:-1], pieces[1:]
    same = (one["run"] == two["run"]) & (one["row"] == two["row"]) & (one["end"] == two["start"])
    begins = np.flatnonzero(np.concatenate((np.array([True]), ~same)))
    whole = pieces[begins]
    whole["end"] = pieces["end"][np.concatenate((begins[1:], np.array([len(pieces)]))) - 1]
    return whole


class Slots:
    """How many rows begin in each part of `[0, span_bytes)`: what windows are chosen by."""

    def __init__(self, span_bytes: int) -> None:
        self._span_bytes = span_bytes
        self._slot_bytes = max(1, -(-span_bytes // SLOTS))
        self._counts = np.zeros(SLOTS, dtype=np.int64)

    def count(self, rows: Table) -> None:
        """Take rows in, none of which begins beyond the span."""
        self._counts += np.bincount(rows["start"] // self._slot_bytes, minlength=SLOTS)

    def windows(self) -> Iterator[tuple[int, int]]:
        """Windows `[start, end)` that make up the span, each with about WINDOW_ROWS rows."""
        start = held = 0
        for slot, count in enumerate(self._counts.tolist()):
            if held and held + count > WINDOW_ROWS:
                yield start, slot * self._slot_bytes
                start, held = slot * self._slot_bytes, 0
            held += count
        if start < self._span_bytes:
            yield start, self._span_bytes


def _batches(newest_first: Iterable[Table], start: int, end: int) -> Iterator[Table]:
    """The same rows, clipped to the window, without those outside, in portions worth sorting."""
    waiting: list[Table] = []
    count = 0
    for portion in newest_first:
        for first in range(0, len(portion), BATCH_ROWS_MAX):
            rows = _clipped(portion[first : first + BATCH_ROWS_MAX], start, end)
            if waiting and count + len(rows) > BATCH_ROWS_MAX:
                yield np.concatenate(waiting)
                waiting, count = [], 0
            waiting.append(rows)
            count += len(rows)
            if count >= BATCH_ROWS_MIN:
                yield np.concatenate(waiting)
                waiting, count = [], 0
    if count:
        yield np.concatenate(waiting)


def _clipped(rows: Table, start: int, end: int) -> Table:
    rows = rows[(rows["start"] < end) & (rows["end"] > start)]
    np.maximum(rows["start"], start, out=rows["start"])
    np.minimum(rows["end"], end, out=rows["end"])
    return rows


def _is_hidden(rows: Table, covered: Intervals) -> Flags:
    """Which rows one covered stretch hides altogether; touching stretches are one."""
    if len(covered) == 0:
        return np.zeros(len(rows), dtype=np.bool_)
    at = np.minimum(np.searchsorted(covered.ends, rows["end"], side="left"), len(covered) - 1)
    hidden: Flags = (covered.starts[at] <= rows["start"]) & (covered.ends[at] >= rows["end"])
    return hidden


def _as_batch(rows: Table) -> Batch:
    numbers = np.arange(len(rows), dtype=np.int64)
    return Batch(
        starts=np.ascontiguousarray(rows["start"]),
        ends=np.ascontiguousarray(rows["end"]),
        rows=numbers,
        objects=numbers,
        ages=np.ascontiguousarray(rows["run"], dtype=np.int64),
    )


def _union(one: Intervals, other: Intervals) -> Intervals:
    """Both, which have nothing in common, as one."""
    starts = np.concatenate((one.starts, other.starts))
    order = np.argsort(starts, kind="stable")
    return merged(Intervals(starts[order], np.concatenate((one.ends, other.ends))[order]))
