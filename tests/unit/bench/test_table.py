"""The statistics behind the table of figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.table import Figure, percentile, ratios, rendered


def figure(*values: float, at_least: float | None = None, at_most: float | None = None) -> Figure:
    return Figure("capture", "writes", "ratio", values, at_least, at_most)


def test_median_of_the_ratios_and_not_ratio_of_the_medians() -> None:
    pairs = [(10.0, 10.0), (30.0, 20.0), (2.0, 1.0)]
    assert ratios(pairs) == (1.0, 1.5, 2.0)
    assert figure(*ratios(pairs)).value == 1.5


def test_quartiles_and_a_single_run() -> None:
    assert figure(1, 2, 3, 4, 5).quartiles == (2, 4)
    assert figure(7).quartiles == (7, 7)


@pytest.mark.parametrize(
    ("one", "missed"),
    [
        (figure(0.79, at_least=0.8), True),
        (figure(0.8, at_least=0.8), False),
        (figure(1.41, at_most=1.4), True),
        (figure(1.4, at_most=1.4), False),
        (figure(0.0), False),
        (figure(0.1, 0.9, 0.9, at_least=0.8), False),
    ],
)
def test_floor(one: Figure, missed: bool) -> None:
    assert one.is_missed is missed
    assert ("MISSED" in rendered([one], "a machine")) is missed


def test_document_has_the_members_that_are_promised() -> None:
    assert figure(1.0, 2.0, 3.0, at_least=1.5).document() == {
        "name": "writes",
        "group": "capture",
        "value": 2.0,
        "unit": "ratio",
        "runs": 3,
        "quartiles": [1.5, 2.5],
        "at_least": 1.5,
    }


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(AssertionError, match="needs a measurement"):
        figure()
    with pytest.raises(AssertionError, match="of nothing"):
        percentile([], 99)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_percentile_is_a_value_that_enough_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6
