"""Checksums per block, and zeros found in content."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.format.rows import sum_count
from cdp_container.format.sums import block_sums

BLOCK = 4096
PIECES = st.lists(
    st.tuples(st.integers(1, 3 * BLOCK), st.sampled_from([b"\0", b"\0", b"x", b"\0\0\0\1"])), max_size=6
)


def test_no_piece_is_large_enough_for_hashlib_to_let_go_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does from 2,047 bytes on (HASHLIB_GIL_MINSIZE); packing threads would spend their time on that."""
    lengths: list[int] = []

    class Sha256:
        def __init__(self, data: memoryview) -> None:
            self.update(data)

        def update(self, data: memoryview) -> None:
            lengths.append(len(data))

        def digest(self) -> bytes:
            return bytes(32)

    monkeypatch.setattr(hashlib, "sha256", Sha256)
    assert block_sums(0, bytes(2 * BLOCK)) == bytes(32)
    assert sum(lengths) == 2 * BLOCK
    assert max(lengths) < 2047


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
