"""What is said to be live is just what some retained cut shows, whatever was written, retired, collected."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdp_agent.collector import alive as living
from cdp_agent.collector import intervals as computing
from cdp_agent.collector import remembered, results, showing
from cdp_agent.collector.cache import CacheDamaged
from cdp_agent.collector.lines import Lines, lines_of
from cdp_container.extents import beneath, layers, liveness
from cdp_container.extents.liveness import COVER_ROW
from cdp_container.extents.tables import Table
from cdp_container.format.place import Place
from tests.liveness_story import Story

WHERE = ((1, 0), (512, 3), ((1 << 25) + 1, (1 << 40) + 7))
"""How wide the model's cells are, and where the first one begins: not aligned, and beyond a TiB."""


def told(seed: int, scale: int = 1, shift: int = 0, drops_voids: bool = True) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Story(random.Random(seed), Path(directory), scale, shift, drops_voids).play(steps=6)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from(WHERE), st.booleans())
@example(1344, (1, 0), True)
def test_what_is_live_is_what_a_retained_cut_shows(
    seed: int, where: tuple[int, int], drops_voids: bool
) -> None:
    told(seed, *where, drops_voids)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32), st.sampled_from(WHERE))
def test_neither_windows_nor_batches_change_it(
    monkeypatch: pytest.MonkeyPatch, seed: int, where: tuple[int, int]
) -> None:
    for module, name, value in (
        (showing, "WINDOW_ROWS", 4), (showing, "LOAD_ROWS", 3), (showing, "FILES_MAX", 2),
        (showing, "ADDRESSES_MAX", 10),
        (liveness, "WINDOW_ROWS", 4), (liveness, "BATCH_ROWS_MIN", 2), (liveness, "BATCH_ROWS_MAX", 3),
        (liveness, "SLOTS", 7), (layers, "CELLS_MAX", 5), (results, "PART_PIECES", 2),
        (remembered, "PART_ROWS", 2), (living, "LOAD_RUNS", 2), (beneath, "PAINT_CELLS_MAX", 3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    told(seed, *where)


def told_often() -> None:
    for seed in range(60):
        told(seed, *WHERE[seed % 3])


def without_voids(patch: pytest.MonkeyPatch) -> None:
    """Liveness without discards: they are not carried on."""
    whole = living.AliveObjects.pieces
    patch.setattr(
        living.AliveObjects, "pieces", lambda self, key: (found := whole(self, key))[~found["is_void"]]
    )


def voids_that_do_not_hide(patch: pytest.MonkeyPatch) -> None:
    """Liveness without discards: what they hide counts as live."""
    whole = liveness.visible

    def visible(rows: Iterable[Table], start: int, end: int) -> Table:
        return whole((some[(some["share"] > 0) | (some["row"] == COVER_ROW)] for some in rows), start, end)

    patch.setattr(showing, "visible", visible)


def without_covers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(showing, "_covers", lambda members, group: np.zeros(0, dtype=liveness.ROWS))


def discards_dropped_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        living.AliveObjects, "over_data", lambda self, pieces: np.zeros(len(pieces), dtype=np.bool_)
    )


def merged_across_a_retained_cut(patch: pytest.MonkeyPatch) -> None:
    whole = lines_of

    def fewer(bases: Mapping[int, Place], newest: Place, retained: Iterable[Place]) -> Lines:
        return whole(bases, newest, [place for place in retained if place.seq % 3])

    patch.setattr(living, "lines_of", fewer)


def only_visible_of_another_line(patch: pytest.MonkeyPatch) -> None:
    """A result serves an interval that it does not lie within."""
    patch.setattr(computing, "_older", lambda state, results: {n: list(results) for n in range(1000)})


@pytest.mark.parametrize(
    "broken",
    [
        without_voids,
        voids_that_do_not_hide,
        without_covers,
        discards_dropped_early,
        merged_across_a_retained_cut,
        only_visible_of_another_line,
    ],
)
def test_control(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises((AssertionError, CacheDamaged)):
        told_often()
