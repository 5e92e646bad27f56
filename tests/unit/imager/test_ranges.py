"""Lists of ranges: whatever is done to them covers at least what they covered."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.imager.ranges import Range, bounded, joined, parts, split, total_bytes

SIZE = 4000


def _bits(ranges: list[Range]) -> set[int]:
    return {byte for start, end in ranges for byte in range(start, end)}


RANGES = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 300))).map(
    lambda found: sorted((start, min(SIZE, start + length)) for start, length in found)
)


@given(RANGES, RANGES)
def test_joined_is_what_is_in_any(one: list[Range], other: list[Range]) -> None:
    found = joined(one, other)
    assert _bits(found) == _bits(one) | _bits(other)
    assert all(end < start for (_, end), (start, _) in pairwise(found))


@given(RANGES, st.integers(1, 5))
def test_bounded_covers_all_in_few(ranges: list[Range], count: int) -> None:
    before = joined(ranges)
    found = bounded(before, 16, SIZE, count)
    assert len(found) <= max(count, 1)
    assert _bits(before) <= _bits(found)
    assert not found or found[-1][1] <= SIZE
    if len(before) <= count:
        assert found == before


@given(RANGES, st.integers(0, SIZE))
def test_split_loses_nothing(ranges: list[Range], count: int) -> None:
    before = joined(ranges)
    first, rest = split(before, count)
    assert _bits(first) | _bits(rest) == _bits(before)
    assert not _bits(first) & _bits(rest)
    assert total_bytes(first) == min(count, total_bytes(before))


@given(RANGES, st.integers(0, SIZE - 1), st.integers(1, SIZE))
def test_parts_tell_what_is_in_them(ranges: list[Range], start: int, length: int) -> None:
    known = joined(ranges)
    found = list(parts(start, start + length, known))
    assert [low for low, _, _ in found[1:]] == [high for _, high, _ in found[:-1]]
    assert (found[0][0], found[-1][1]) == (start, start + length)
    inside = _bits([(low, high) for low, high, is_in in found if is_in])
    assert inside == _bits(known) & {*range(start, start + length)}
