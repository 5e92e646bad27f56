"""Partition tables as a guest may have written them, the worst ones first."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.rehearsal.partitions import PARTITIONS_MAX, Partition, Read, partitions_of

SIZE = 4 << 20
ROW_BYTES_MAX = 4096
"""Of what a row takes here: one that claims gigabytes need not have them."""


def reader(disk: bytes) -> Read:
    return lambda offset, length: disk[offset : offset + length]


def mbr(*entries: tuple[int, int, int, int]) -> bytes:
    rows = b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries)
    return bytes(446) + rows.ljust(64, b"\0") + b"\x55\xaa"


def gpt(rows: list[tuple[int, int]], count: int = 128, entry_bytes: int = 128, table: int = 2) -> bytes:
    header = struct.pack("<8s4xI16xQ32xQII", b"EFI PART", 92, 1, table, count, entry_bytes).ljust(512, b"\0")
    entries = b"".join(
        struct.pack("<16s16sQQ", b"t" * 16, b"u" * 16, *row).ljust(min(entry_bytes, ROW_BYTES_MAX), b"\0")
        for row in rows
    )
    return mbr((0, 0xEE, 1, 0xFFFF)) + header + entries


def found(disk: bytes, size_bytes: int = SIZE) -> list[Partition]:
    return partitions_of(reader(disk.ljust(size_bytes, b"\0")), size_bytes)


def test_no_table() -> None:
    assert found(b"") == []
    assert found(b"", 100) == []
    assert found(b"\x55\xaa" * 256) == []  # flags that no table has: the boot code of a file system


def test_an_mbr() -> None:
    assert found(mbr((0x80, 0x83, 8, 16), (0, 0, 1, 1), (0, 0x05, 100, 50))) == [
        Partition(1, 8 * 512, 16 * 512),
        Partition(3, 100 * 512, 50 * 512, is_extended=True),
    ]


def test_a_gpt() -> None:
    assert found(gpt([(40, 47), (0, 0), (100, 199)])) == [
        Partition(1, 40 * 512, 8 * 512),
        Partition(3, 100 * 512, 100 * 512),
    ]


@pytest.mark.parametrize(
    "disk",
    [
        mbr((0, 0x83, 1, 0xFFFFFFFF)),
        mbr((0, 0x83, 0, 5)),
        gpt([(40, 2**63)]),
        gpt([(47, 40)]),
        gpt([(40, 47)], entry_bytes=0),
        gpt([(40, 47)], entry_bytes=1 << 31),
        gpt([(40, 47)], table=0),
        gpt([(40, 47)], table=2**60),
        mbr((0, 0xEE, 1, 100)),
    ],
)
def test_what_leads_out_of_the_disk_is_none(disk: bytes) -> None:
    assert found(disk) == []


def test_rows_that_claim_to_be_huge_are_not_even_asked_for() -> None:
    disk, asked = gpt([(40, 47)], entry_bytes=1 << 31).ljust(SIZE, b"\0"), list[int]()

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return disk[offset : offset + length]

    assert partitions_of(read, SIZE) == []
    assert asked
    assert max(asked) <= 512


def test_a_table_that_claims_too_many_is_read_to_the_limit() -> None:
    rows = [(40 + number, 40 + number) for number in range(PARTITIONS_MAX + 5)]
    assert len(found(gpt(rows, count=1 << 31))) == PARTITIONS_MAX


@given(st.binary(max_size=2048), st.booleans())
def test_whatever_stands_there_partitions_lie_in_the_disk(data: bytes, is_gpt: bool) -> None:
    disk = (gpt([])[:1024] + data if is_gpt else data).ljust(4096, b"\0")
    for one in partitions_of(reader(disk), len(disk)):
        assert 0 < one.start <= one.start + one.length <= len(disk)
