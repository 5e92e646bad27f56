"""Maps of blocks: what is no map is refused; setting and listing agree with a set of numbers."""

from __future__ import annotations

import dataclasses
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.errors import JournalDamaged
from cdp_container.journal.block_map import (
    MAP_HEADER_BYTES,
    MapHeader,
    decode_map_header,
    dirty_ranges,
    encode_map_header,
    set_bits,
    touched_blocks,
)

HEADER = MapHeader(bytes(16), bytes(range(16)), 7, (100 << 12) + 512, 4096)


def test_a_header_comes_back() -> None:
    data = encode_map_header(HEADER)
    assert len(data) == MAP_HEADER_BYTES
    assert decode_map_header(data, "map") == HEADER
    assert HEADER.blocks == 101
    assert HEADER.map_bytes == 13


@pytest.mark.parametrize("at", range(72))
def test_every_flip_in_a_header_is_found(at: int) -> None:
    data = bytearray(encode_map_header(HEADER))
    data[at] ^= 4
    with pytest.raises(JournalDamaged):
        decode_map_header(bytes(data), "map")


@pytest.mark.parametrize(
    "header",
    [
        dataclasses.replace(HEADER, block_bytes=4095),
        dataclasses.replace(HEADER, block_bytes=256),
        dataclasses.replace(HEADER, block_bytes=2 << 30),
        dataclasses.replace(HEADER, size_bytes=1 << 60),
    ],
)
def test_what_cannot_be_is_refused(header: MapHeader) -> None:
    with pytest.raises(JournalDamaged):
        decode_map_header(encode_map_header(header), "map")


@pytest.mark.parametrize("length", [0, 71])
def test_a_torn_header_is_refused(length: int) -> None:
    with pytest.raises(JournalDamaged):
        decode_map_header(encode_map_header(HEADER)[:length], "map")


def test_a_newer_format_is_refused_by_name() -> None:
    data = bytearray(encode_map_header(HEADER))
    data[8] = 2
    data[12:16] = bytes(4)
    data[12:16] = crc32(bytes(data[:72])).to_bytes(4, "little")
    with pytest.raises(JournalDamaged, match="format is 2"):
        decode_map_header(bytes(data), "map")


RANGES = st.lists(st.tuples(st.integers(0, HEADER.size_bytes - 1), st.integers(1, 200_000)), max_size=12)


@given(RANGES)
def test_bits_are_the_touched_blocks(ranges: list[tuple[int, int]]) -> None:
    bits, expected = bytearray(HEADER.map_bytes), set[int]()
    for offset, wished in ranges:
        length = min(wished, HEADER.size_bytes - offset)
        first, end = touched_blocks(HEADER, offset, length)
        blocks = set(range(offset // 4096, (offset + length - 1) // 4096 + 1))
        assert blocks == set(range(first, end))
        changed = set_bits(bits, first, end)
        assert (changed is None) == (blocks <= expected)
        if changed:
            assert changed[0] <= first // 8
            assert changed[1] > (end - 1) // 8
        expected |= blocks
    listed = set[int]()
    previous_end = -1
    for offset, length in dirty_ranges(HEADER, bits):
        assert offset > previous_end, "runs are apart and in order"
        assert offset + length <= HEADER.size_bytes
        previous_end = offset + length
        listed |= set(range(offset // 4096, -(-(offset + length) // 4096)))
    assert listed == expected


def test_runs_go_on_over_pieces() -> None:
    """A TiB is unpacked in pieces of a MiB of bits; a run over their edge is one."""
    header = dataclasses.replace(HEADER, size_bytes=1 << 40)
    bits = bytearray(header.map_bytes)
    edge = (1 << 20) * 8
    set_bits(bits, edge - 3, 3 * edge + 5)
    set_bits(bits, header.blocks - 1, header.blocks)
    assert list(dirty_ranges(header, bits)) == [
        ((edge - 3) * 4096, (2 * edge + 8) * 4096),
        ((1 << 40) - 4096, 4096),
    ]
