"""Many spaces resolved at once give what each gives by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.extents.many import MANY_RUNS, resolve_many
from cdp_container.extents.resolve import resolve
from cdp_container.extents.tables import COVER, EXTENTS, RUNS, Table, cover_beyond, run_of
from cdp_container.format.layout import ExtentKind

RUN = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from(list(ExtentKind))), min_size=1, max_size=4
)
"""Gaps, lengths and kinds; as a run's extents are sorted and disjoint."""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.data())
def test_as_one_by_one(sizes: list[int], data: st.DataObject) -> None:
    extents = np.zeros(0, dtype=EXTENTS)
    runs: list[tuple[int, ...]] = []
    for number in range(data.draw(st.integers(0, 8))):
        space = data.draw(st.integers(0, len(sizes) - 1))
        if data.draw(st.integers(0, 5)):
            found, made_by = made(data.draw(RUN), number), number
        else:
            found, made_by = cover_beyond(data.draw(st.integers(0, 30))), COVER
        runs.append((space, *run_of(found, made_by, len(extents))))
        extents = np.concatenate((extents, found))
    pieces = resolve_many(extents, np.array(runs, dtype=MANY_RUNS), np.array(sizes, dtype=np.int64))
    for space, size_bytes in enumerate(sizes):
        mine = np.array([run[1:] for run in runs if run[0] == space], dtype=RUNS)
        alone = resolve(extents, mine, 0, size_bytes)
        assert bytes_of(pieces[pieces["space"] == space]) == bytes_of(alone)
    assert pieces.tolist() == sorted(pieces.tolist())


def made(rows: list[tuple[int, int, ExtentKind]], number: int) -> Table:
    found = np.zeros(len(rows), dtype=EXTENTS)
    at = 0
    for row, (gap, length, kind) in enumerate(rows):
        found[row] = (at + gap, length, number, 100 * row, kind)
        at += gap + length
    return found


def bytes_of(pieces: Table) -> dict[int, tuple[int, ...]]:
    """Where each byte of a space comes from: joined or not, that is the same."""
    found: dict[int, tuple[int, ...]] = {}
    for piece in pieces:
        for at in range(int(piece["length"])):
            position = int(piece["position"]) + at if piece["kind"] == ExtentKind.DATA else 0
            where = (int(piece["object"]), int(piece["frame"]), position, int(piece["kind"]))
            assert found.setdefault(int(piece["offset"]) + at, where) is where, "each byte once"
    return found
