"""Newest-first resolution of many small spaces at once: what `resolve` says of one. PURE, numpy.

Spaces are laid side by side into one window, so that one flattening serves all of them: a file costs its rows
and no calls of its own. Whoever has a space of more extents than a window should hold resolves it by itself.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cdp_container.extents.intervals import Intervals, Ints
from cdp_container.extents.layers import Batch, Layer, flatten
from cdp_container.extents.resolve import rows_of
from cdp_container.extents.tables import PIECES, RUNS, Table
from cdp_container.format.layout import ExtentKind

TOGETHER_EXTENTS_MAX: Final = 1 << 18
"""Extents of the spaces that are resolved together: about 60 MiB of memory."""

TOGETHER_BYTES_MAX: Final = 1 << 62
"""Sizes of the spaces that are resolved together: side by side they must fit into an i64."""

PLACED_PIECES: Final = np.dtype([("space", "<i8"), *((name, PIECES[name]) for name in PIECES.names or ())])
"""A row of PIECES with the number of its space."""

MANY_RUNS: Final = np.dtype([("space", "<i8"), *((name, RUNS[name]) for name in RUNS.names or ())])
"""A row of RUNS with the number of its space."""


def resolve_many(extents: Table, runs: Table, sizes: Ints) -> Table:
    """What stands in each of several spaces.

    Args:
        extents: of type EXTENTS; may be a mapped file.
        runs: of type MANY_RUNS, the newest first; `space` is a row of `sizes`.
        sizes: of each space, in bytes; together TOGETHER_BYTES_MAX at most.

    Returns:
        PLACED_PIECES, sorted by (space, offset) and disjoint, zero and discard pieces included.
    """
    bases = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    assert total <= TOGETHER_BYTES_MAX, total
    layer = flatten(_side_by_side(extents, runs, sizes, bases), 0, total)
    return _pieces(extents, layer, bases)


def _side_by_side(extents: Table, runs: Table, sizes: Ints, bases: Ints) -> Batch:
    """All extents of the runs as far as they lie within their spaces, where their space was laid."""
    rows = rows_of(runs)
    found = extents[rows]
    spaces = np.repeat(runs["space"], runs["count"])
    starts = found["offset"]
    ends = np.minimum(starts + found["length"], sizes[spaces])
    within = starts < ends
    base = bases[spaces[within]]
    return Batch(
        starts=starts[within] + base,
        ends=ends[within] + base,
        rows=rows[within],
        objects=np.repeat(runs["object"], runs["count"])[within],
        ages=np.repeat(np.arange(len(runs), dtype=np.int64), runs["count"])[within],
    )


def _pieces(extents: Table, layer: Layer, bases: Ints) -> Table:
    found = extents[layer.rows]
    # A space of no bytes has the base of the one after it, which is the one that has pieces.
    spaces = np.searchsorted(bases, layer.where.starts, side="right") - 1
    where = Intervals(layer.where.starts - bases[spaces], layer.where.ends - bases[spaces])
    pieces = np.zeros(len(layer.rows), dtype=PLACED_PIECES)
    pieces["space"] = spaces
    pieces["offset"] = where.starts
    pieces["length"] = where.ends - where.starts
    pieces["object"] = layer.objects
    pieces["frame"] = found["frame"]
    is_data = found["kind"] == ExtentKind.DATA
    pieces["position"] = np.where(is_data, found["position"] + (where.starts - found["offset"]), 0)
    pieces["kind"] = found["kind"]
    return pieces
