"""Interval arithmetic against sets of bytes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.extents.intervals import Intervals, common, gaps, intervals, merged

SIZE = 40


@st.composite
def some_intervals(draw: st.DrawFn) -> Intervals:
    edges = sorted(draw(st.sets(st.integers(0, SIZE), max_size=12)))
    pairs = [pair for pair in pairwise(edges) if draw(st.booleans())]
    return intervals(pairs)


def as_bytes(a: Intervals) -> set[int]:
    return {byte for start, end in zip(a.starts, a.ends, strict=True) for byte in range(start, end)}


def is_sorted_disjoint(a: Intervals) -> bool:
    return bool(np.all(a.starts < a.ends) and np.all(a.ends[:-1] <= a.starts[1:]))


@given(some_intervals(), some_intervals())
def test_common_is_the_intersection_and_names_its_interval(a: Intervals, b: Intervals) -> None:
    of_a, pieces = common(a, b)
    assert as_bytes(pieces) == as_bytes(a) & as_bytes(b)
    assert is_sorted_disjoint(pieces)
    assert np.all(a.starts[of_a] <= pieces.starts)
    assert np.all(pieces.ends <= a.ends[of_a])


@given(some_intervals())
def test_gaps_are_the_complement(a: Intervals) -> None:
    left = gaps(a, 0, SIZE)
    assert as_bytes(left) == set(range(SIZE)) - as_bytes(a)
    assert is_sorted_disjoint(left)


@given(some_intervals())
def test_merged_has_the_same_bytes_and_no_touching(a: Intervals) -> None:
    one = merged(a)
    assert as_bytes(one) == as_bytes(a)
    assert np.all(one.ends[:-1] < one.starts[1:])
    assert one.total_bytes == a.total_bytes
