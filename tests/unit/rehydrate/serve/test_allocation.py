"""Data and holes of what is partly here: never a hole where there is data, whole, within the count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from nbd_export.backend import Extent, State
from rehydrate.serve.allocation import allocation
from rehydrate.serve.map_file import BLOCK_BYTES

BLOCKS = 12
UNIT = 512
UNITS = BLOCKS * BLOCK_BYTES // UNIT


def runs_of(flags: Sequence[bool], unit: int) -> list[tuple[int, int]]:
    """Where flags are true, in bytes."""
    found: list[tuple[int, int]] = []
    for number, flag in enumerate(flags):
        if flag and found and found[-1][1] == number * unit:
            found[-1] = (found[-1][0], (number + 1) * unit)
        elif flag:
            found.append((number * unit, (number + 1) * unit))
    return found


@settings(deadline=None)
@given(
    is_here=st.lists(st.booleans(), min_size=BLOCKS, max_size=BLOCKS),
    in_file=st.lists(st.booleans(), min_size=BLOCKS, max_size=BLOCKS),
    in_point=st.lists(st.booleans(), min_size=UNITS, max_size=UNITS),
    is_known=st.booleans(),
    edges=st.tuples(st.integers(0, UNITS - 1), st.integers(1, UNITS)),
    count_max=st.integers(1, 9),
)
def test_a_hole_is_told_only_where_nothing_is(
    is_here: list[bool], in_file: list[bool], in_point: list[bool], is_known: bool, edges: tuple[int, int],
    count_max: int,
) -> None:  # fmt: skip
    start, end = edges[0] * UNIT, max(edges[0] + 1, edges[1]) * UNIT

    def here(low: int, high: int, count: int) -> list[Extent]:
        parts: list[Extent] = []
        while low < high and len(parts) < count:
            until = min((low // BLOCK_BYTES + 1) * BLOCK_BYTES, high)
            assert is_here[low // BLOCK_BYTES], "only what is here is asked of the file"
            parts.append(Extent(until - low, State.DATA if in_file[low // BLOCK_BYTES] else State.HOLE))
            low = until
        return parts

    def data(low: int, high: int) -> list[tuple[int, int]] | None:
        if not is_known:
            return None
        cut = ((max(a, low), min(b, high)) for a, b in runs_of(in_point, UNIT))
        return [(a, b) for a, b in cut if a < b]

    missing = runs_of([not one for one in is_here], BLOCK_BYTES)
    parts = allocation((start, end), missing, here, data, count_max)
    assert 1 <= len(parts) <= count_max
    at = start
    for part in parts:
        assert part.length > 0
        for unit in range(at // UNIT, (at + part.length) // UNIT):
            block = unit * UNIT // BLOCK_BYTES
            around = in_point[block * BLOCK_BYTES // UNIT : (block + 1) * BLOCK_BYTES // UNIT]
            if is_here[block]:
                assert (part.state is State.HOLE) is not in_file[block]
            elif part.state is State.HOLE:
                assert is_known
                assert not in_point[unit]
            else:
                assert not is_known or any(around)
        at += part.length
    assert at <= end
    assert all(one.state is not other.state for one, other in pairwise(parts))
