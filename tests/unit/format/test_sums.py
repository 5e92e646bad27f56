"""Checksums per block, and zeros found in content."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.format.rows import sum_count
from cdp_container.format.sums import block_sums, split_zeros

BLOCK = 4096
PIECES = st.lists(
    st.tuples(st.integers(1, 3 * BLOCK), st.sampled_from([b"\0", b"\0", b"x", b"\0\0\0\1"])), max_size=6
)


def content(pieces: list[tuple[int, bytes]]) -> bytes:
    return b"".join((pattern * length)[:length] for length, pattern in pieces)


@given(st.integers(0, 3 * BLOCK), PIECES)
def test_sums_are_those_of_whole_aligned_blocks(offset: int, pieces: list[tuple[int, bytes]]) -> None:
    data = content(pieces)
    expected = [
        hashlib.sha256(data[at - offset : at - offset + BLOCK]).digest()[:16]
        for at in range(0, offset + len(data), BLOCK)
        if at >= offset and at + BLOCK <= offset + len(data)
    ]
    assert block_sums(offset, data) == block_sums(offset, memoryview(data)) == b"".join(expected)
    assert sum_count(offset, len(data)) == len(expected)


@given(st.integers(0, 3 * BLOCK), PIECES)
def test_zeros_are_split_off_at_blocks(offset: int, pieces: list[tuple[int, bytes]]) -> None:
    data = content(pieces)
    found = list(split_zeros(offset, memoryview(data)))
    assert (
        b"".join(
            bytes(length) if zero else data[at - offset : at - offset + length] for at, length, zero in found
        )
        == data
    )
    assert [at for at, _, _ in found][1:] == [at + length for at, length, _ in found][:-1]
    for at, length, zero in found:
        blocks = range(-(-at // BLOCK) * BLOCK, at + length - BLOCK + 1, BLOCK)
        if zero:
            assert at % BLOCK == length % BLOCK == 0
        else:
            assert all(any(data[b - offset : b - offset + BLOCK]) for b in blocks)
    kinds = [zero for _, _, zero in found]
    assert all(kind != after for kind, after in itertools.pairwise(kinds))


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, BLOCK, [(0, BLOCK, True)]), (1, BLOCK, [(1, BLOCK, False)]), (5, 0, []), (0, 10, [(0, 10, False)])],
)
def test_edges(offset: int, length: int, expected: list[tuple[int, int, bool]]) -> None:
    assert list(split_zeros(offset, bytes(length))) == expected
