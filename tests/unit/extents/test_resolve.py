"""Newest-first resolution against a naive model that writes byte by byte, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.extents import layers
from cdp_container.extents import resolve as resolving
from cdp_container.extents.resolve import resolve, windows
from cdp_container.extents.tables import (
    COVER,
    EXTENT_ROWS,
    EXTENTS,
    RUNS,
    Table,
    cover_beyond,
    extent_rows,
    extents_of,
    run_of,
    stretches,
)
from cdp_container.format.layout import EXTENT_ROW, NONE_U32, ExtentKind

SIZE = 96
VOID = (0, 0, 0)


@dataclass(frozen=True)
class Resize:
    size: int


@dataclass(frozen=True)
class Removal:
    pass


Layer = list[tuple[int, int, ExtentKind]] | Resize | Removal


@st.composite
def a_layer(draw: st.DrawFn) -> Layer:
    match draw(st.integers(0, 11)):
        case 0:
            return Resize(draw(st.integers(0, SIZE)))
        case 1:
            return Removal()
    edges = sorted(draw(st.sets(st.integers(0, SIZE), max_size=10)))
    kinds = st.sampled_from((ExtentKind.DATA, ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.DISCARD))
    pairs = pairwise(edges)
    return [(start, end, draw(kinds)) for start, end in pairs if draw(st.booleans())]


def built(history: list[Layer]) -> tuple[Table, Table]:
    """Tables of a history given oldest first; data at offset o stands in frame o % 7 at position o."""
    table = [np.zeros(0, dtype=EXTENTS)]
    runs = []
    rows = 0
    for number, layer in reversed(list(enumerate(history))):
        if isinstance(layer, Removal):
            break
        if isinstance(layer, Resize):
            extents, owner = cover_beyond(layer.size), COVER
        else:
            extents, owner = np.zeros(len(layer), dtype=EXTENTS), number
            for row, (start, end, kind) in zip(extents, layer, strict=True):
                row["offset"], row["length"], row["kind"] = start, end - start, kind
                row["frame"] = start % 7 if kind is ExtentKind.DATA else NONE_U32
                row["position"] = start if kind is ExtentKind.DATA else 0
        if len(extents):
            runs.append(run_of(extents, owner, rows))
            table.append(extents)
            rows += len(extents)
    return np.concatenate(table), np.array(runs, dtype=RUNS)


def model(history: list[Layer]) -> list[tuple[int, int, int]]:
    """For every byte (layer, frame, position), or VOID."""
    image = [VOID] * SIZE
    for number, layer in enumerate(history):
        if isinstance(layer, Removal):
            image = [VOID] * SIZE
        elif isinstance(layer, Resize):
            image[layer.size :] = [VOID] * (SIZE - layer.size)
        else:
            for start, end, kind in layer:
                for byte in range(start, end):
                    image[byte] = (number, start % 7, byte) if kind is ExtentKind.DATA else VOID
    return image


def shown(pieces: Table, image: list[tuple[int, int, int]]) -> None:
    """Write pieces into an image, asserting that no byte is written twice."""
    names = ("offset", "length", "kind", "object", "frame", "position")
    for offset, length, kind, number, frame, position in pieces[list(names)].tolist():
        for step in range(length):
            assert image[offset + step] == VOID
            if kind == ExtentKind.DATA:
                image[offset + step] = (number, frame, position + step)


@settings(max_examples=300)
@given(
    st.lists(a_layer(), max_size=8), st.lists(st.integers(0, SIZE), max_size=3), st.sampled_from((3, 10**6))
)
def test_resolution_is_the_model(history: list[Layer], edges: list[int], cells: int) -> None:
    extents, runs = built(history)
    image = [VOID] * SIZE
    bounds = sorted({0, SIZE, *edges})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "CELLS_MAX", cells)
        patch.setattr(resolving, "BATCH_EXTENTS_MIN", 4)
        for start, end in pairwise(bounds):
            pieces = resolve(extents, runs, start, end)
            assert np.all(pieces["offset"] >= start)
            assert np.all(pieces["offset"] + pieces["length"] <= end)
            assert np.all(pieces["offset"][1:] >= (pieces["offset"] + pieces["length"])[:-1])
            shown(pieces, image)
    assert image == model(history)


def test_old_extents_are_not_looked_at_where_newer_ones_cover_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolving, "BATCH_EXTENTS_MIN", 1)
    extents, runs = built([[(0, SIZE, ExtentKind.DATA)]] * 2)
    runs[1]["first"] = 10**9  # a row that does not exist: reading it would fail
    pieces = resolve(extents, runs, 0, SIZE)
    assert pieces["object"].tolist() == [1]


def test_neighbours_in_one_frame_become_one_piece() -> None:
    extents, runs = built([[(0, 8, ExtentKind.DATA), (8, 24, ExtentKind.DATA), (24, 30, ExtentKind.DATA)]])
    extents["frame"] = 3
    extents["position"][2] = 99
    pieces = resolve(extents, runs, 0, SIZE)
    assert pieces["length"].tolist() == [24, 6]


@given(st.lists(a_layer(), max_size=6), st.integers(1, 5), st.integers(1, SIZE))
def test_windows_are_the_whole_space_once(history: list[Layer], rows_max: int, slot: int) -> None:
    extents, runs = built(history)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolving, "WINDOW_EXTENTS_MAX", rows_max)
        patch.setattr(resolving, "SLOT_BYTES", slot)
        found = list(windows(extents, runs, SIZE))
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == SIZE


def test_a_space_without_bytes_has_no_window() -> None:
    extents, runs = built([])
    assert list(windows(extents, runs, 0)) == []
    assert len(resolve(extents, runs, 0, 0)) == 0


def test_rows_of_the_format_are_read_as_they_are() -> None:
    packed = b"".join(
        EXTENT_ROW.struct.pack(offset, length, space, frame, 5, order, kind, bytes(3))
        for offset, length, space, frame, order, kind in (
            (0, 10, 0, 1, 0, 1),
            (10, 10, 0, 1, 0, 2),
            (0, 4, 1, 1, 0, 1),
            (0, 4, 1, 1, 1, 1),
        )
    )
    rows = extent_rows(packed)
    assert rows.dtype == EXTENT_ROWS
    assert rows.dtype.itemsize == EXTENT_ROW.size_bytes
    assert [column.tolist() for column in stretches(rows)] == [[0, 2, 3], [2, 1, 1]]
    assert [column.tolist() for column in stretches(rows[:0])] == [[], []]
    extents = extents_of(rows[:2])
    assert extents.tolist() == [(0, 10, 1, 5, 1), (10, 10, 1, 5, 2)]
    assert run_of(extents, 7, 100) == (7, 100, 2, 0, 20)
