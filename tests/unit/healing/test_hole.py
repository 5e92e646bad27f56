"""A block counts if its checksum is the index's; bytes without one only from their own records."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.healing.hole import Hole
from cdp_container.format.index import Extent
from cdp_container.format.layout import ExtentKind
from cdp_container.format.sums import block_sums

BLOCK = 4096
SPACE = bytes(16)


def hole_of(offset: int, data: bytes) -> Hole:
    return Hole(Extent(SPACE, offset, len(data), ExtentKind.DATA, 0, 0, None, block_sums(offset, data)))


def test_other_bytes_of_the_same_length_are_never_taken() -> None:
    data = random.Random(1).randbytes(2 * BLOCK)
    for at in range(0, 2 * BLOCK, 97):
        hole = hole_of(BLOCK, data)
        hole.offer(BLOCK, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert hole.lost_blocks == {BLOCK + at - at % BLOCK}
        assert not hole.is_filled
    assert not hole_of(BLOCK, data).accept(data[1:] + b"x")
    assert not hole_of(BLOCK, data).accept(data[:-1])


def test_a_block_that_stood_elsewhere_is_another_one() -> None:
    data = random.Random(2).randbytes(2 * BLOCK)
    hole = hole_of(0, data)
    hole.offer(0, data[BLOCK:] + data[:BLOCK])
    assert hole.lost_blocks == {0, BLOCK}


def test_edges_are_found_in_no_volume() -> None:
    data = random.Random(3).randbytes(BLOCK + 1000)
    hole = hole_of(BLOCK - 500, data)
    hole.offer(BLOCK - 500, data)
    assert (hole.lost_blocks, hole.lacks_edges, hole.is_filled) == (set(), True, False)
    assert hole.found_bytes == BLOCK
    assert hole.accept(data)
    assert hole.is_filled
    assert bytes(hole.content) == data


@given(
    st.integers(0, 3 * BLOCK), st.integers(1, 5 * BLOCK), st.integers(-2 * BLOCK, 2 * BLOCK), st.integers()
)
def test_whatever_is_offered_is_taken_where_it_is_right(
    offset: int, length: int, shift: int, seed: int
) -> None:
    """Of an offer that overlaps, exactly the blocks that lie wholly within both."""
    rng = random.Random(seed)
    data = rng.randbytes(length)
    hole = hole_of(offset, data)
    before = set(hole.lost_blocks)
    start = max(0, offset + shift)
    disk = rng.randbytes(offset) + data + rng.randbytes(4 * BLOCK)
    hole.offer(start, disk[start : start + length])
    found = before - hole.lost_blocks
    assert found == {block for block in before if start <= block and block + BLOCK <= start + length}
    for block in found:
        at = block - offset
        assert hole.content[at : at + BLOCK] == data[at : at + BLOCK]
