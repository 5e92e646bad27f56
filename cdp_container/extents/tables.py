"""The row types of resolution: rows of the format's tables as numpy sees them, and what they become. PURE.

Every table is a structured array: millions of rows cost their bytes and nothing more, and they may lie in a
mapped file. What the fields of the format's rows mean is in docs/container-format.md, section 3.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_container.extents.intervals import Ints
from cdp_container.format.layout import (
    EXTENT_ROW,
    FRAME_ROW,
    NONE_U32,
    ORDER_ROW,
    SUM_BYTES,
    ExtentKind,
    Layout,
)
from cdp_container.format.limits import SUM_BLOCK_BYTES

Table: TypeAlias = NDArray[Any]
"""A structured array of one of the types below."""


def _packed(layout: Layout) -> np.dtype[Any]:
    """The numpy type of one row, field by field, without padding of its own."""
    codes = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "i64": "<i8"}
    fields = [(f.name, codes.get(f.type, f"V{f.size_bytes}")) for f in layout.fields]
    return np.dtype(fields)


EXTENT_ROWS: Final = _packed(EXTENT_ROW)
FRAME_ROWS: Final = _packed(FRAME_ROW)
ORDER_ROWS: Final = _packed(ORDER_ROW)

EXTENTS: Final = np.dtype(
    [("offset", "<i8"), ("length", "<i8"), ("frame", "<u4"), ("position", "<u4"), ("kind", "<u8")]
)
"""An extent without its space and order, which its run knows: `offset`, `length` in bytes of the space."""

RUNS: Final = np.dtype(
    [("object", "<i8"), ("first", "<i8"), ("count", "<i8"), ("start", "<i8"), ("end", "<i8")]
)
"""Extents `first` to `first + count - 1` of a table: of one object, one space and one place in the order,
so sorted and disjoint. They lie within `[start, end)`. `object` is the caller's number for the object."""

PIECES: Final = np.dtype(
    [
        ("offset", "<i8"),
        ("length", "<i8"),
        ("object", "<i8"),
        ("frame", "<u4"),
        ("position", "<u4"),
        ("kind", "<u8"),
    ]
)
"""What stands in a space: `length` bytes at `offset` come from `position` on in a frame, or are zeros."""

SUMS: Final = np.dtype(f"V{SUM_BYTES}")
"""A content checksum."""

COVER: Final = -1
"""The `object` of a run that no object carries: the cover that a resize lays over older cuts."""

_EVERYTHING_BEYOND: Final = np.iinfo(np.int64).max


def extent_rows(part: bytes) -> Table:
    """The extent rows of an index's `extents` part, as they are."""
    return np.frombuffer(part, dtype=EXTENT_ROWS)


def frame_rows(part: bytes) -> Table:
    """The frame rows of an index's `frames` part, as they are."""
    return np.frombuffer(part, dtype=FRAME_ROWS)


def order_rows(part: bytes) -> Table:
    """The order rows of a pack's `order` part, as they are."""
    return np.frombuffer(part, dtype=ORDER_ROWS)


def extents_of(rows: Table) -> Table:
    """Extents (type EXTENTS) from extent rows of one space and one place in the order."""
    extents = np.zeros(len(rows), dtype=EXTENTS)
    for name in ("offset", "length", "frame", "position", "kind"):
        extents[name] = rows[name]
    return extents


def stretches(rows: Table) -> tuple[Ints, Ints]:
    """Where extent rows stay in one order row and one space: the first of each stretch, and its count."""
    if len(rows) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    changed = (rows["order"][1:] != rows["order"][:-1]) | (rows["space"][1:] != rows["space"][:-1])
    edges = np.zeros(np.count_nonzero(changed) + 2, dtype=np.int64)
    edges[1:-1] = np.flatnonzero(changed) + 1
    edges[-1] = len(rows)
    return edges[:-1], edges[1:] - edges[:-1]


def cover_beyond(size_bytes: int) -> Table:
    """The extent by which a resize covers everything at or beyond the new size."""
    cover = np.zeros(1, dtype=EXTENTS)
    cover["offset"] = size_bytes
    cover["length"] = _EVERYTHING_BEYOND - size_bytes
    cover["frame"] = NONE_U32
    cover["kind"] = ExtentKind.DISCARD
    return cover


def run_of(extents: Table, object_number: int, first: int) -> tuple[int, int, int, int, int]:
    """The row of RUNS for extents (not empty) that stand from `first` on in a table."""
    last = extents[-1]
    end = int(last["offset"]) + int(last["length"])
    return object_number, first, len(extents), int(extents[0]["offset"]), end


def sums_before(rows: Table) -> NDArray[np.int64]:
    """For each extent row of an object, how many sums those before it have."""
    offsets = rows["offset"].astype(np.int64)
    blocks = (offsets + rows["length"]) // SUM_BLOCK_BYTES + -offsets // SUM_BLOCK_BYTES
    counts = np.where(rows["kind"] == ExtentKind.DATA, np.maximum(blocks, 0), 0)
    before: NDArray[np.int64] = np.cumsum(counts) - counts
    return before
