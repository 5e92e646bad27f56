"""Where the partitions of a disk lie, as its own table says: GPT, or the four of an MBR. PURE.

Only what is within the disk counts: the bytes come from a guest. What is in a partition does not belong here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SECTOR_BYTES: Final = 512
PARTITIONS_MAX: Final = 128
"""A table may claim more; what is beyond is left unread."""
_GPT_MAGIC: Final = b"EFI PART"
_GPT_HEADER: Final = struct.Struct("<8s4xI16xQ32xQII")
_GPT_HEADER_AT: Final = SECTOR_BYTES
_ENTRY_BYTES_MIN, _ENTRY_BYTES_MAX = 128, 4096
_MBR_ENTRY: Final = struct.Struct("<B3sB3sII")
_MBR_TABLE_AT, _MBR_MAGIC_AT = 446, 510
_PROTECTIVE: Final = 0xEE
_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})

Read = Callable[[int, int], bytes]
"""Gives so many bytes from an offset on; fewer at the end of the disk."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One of them, in bytes. `is_extended`: it holds others, which are not looked for."""

    number: int
    start: int
    length: int
    is_extended: bool = False


def partitions_of(read: Read, size_bytes: int) -> list[Partition]:
    """Those of a disk, by number; none where it has no table."""
    sector = read(0, SECTOR_BYTES)
    if len(sector) < SECTOR_BYTES or sector[_MBR_MAGIC_AT:] != b"\x55\xaa":
        return []
    entries = [_MBR_ENTRY.unpack_from(sector, _MBR_TABLE_AT + 16 * number) for number in range(4)]
    if any(kind == _PROTECTIVE for _, _, kind, _, _, _ in entries):
        return _gpt(read, size_bytes)
    if any(flag not in (0, 0x80) for flag, *_ in entries):
        return []  # a boot sector of a file system, which has code there
    found = [
        Partition(number, first * SECTOR_BYTES, count * SECTOR_BYTES, kind in _EXTENDED)
        for number, (_, _, kind, _, first, count) in enumerate(entries, 1)
        if kind and count
    ]
    return [one for one in found if _fits(one, size_bytes)]


def _gpt(read: Read, size_bytes: int) -> list[Partition]:
    header = read(_GPT_HEADER_AT, SECTOR_BYTES)
    if len(header) < SECTOR_BYTES:
        return []
    magic, _, _, table, count, entry_bytes = _GPT_HEADER.unpack_from(header)
    if magic != _GPT_MAGIC or not _ENTRY_BYTES_MIN <= entry_bytes <= _ENTRY_BYTES_MAX:
        return []
    if not 1 < table <= size_bytes // SECTOR_BYTES:
        return []
    count = min(count, PARTITIONS_MAX)
    rows = read(table * SECTOR_BYTES, count * entry_bytes)
    found = []
    for number in range(len(rows) // entry_bytes):
        row = rows[number * entry_bytes : (number + 1) * entry_bytes]
        first, last = struct.unpack_from("<QQ", row, 32)
        if any(row[:16]) and first <= last:
            found.append(Partition(number + 1, first * SECTOR_BYTES, (last - first + 1) * SECTOR_BYTES))
    return [one for one in found if _fits(one, size_bytes)]


def _fits(partition: Partition, size_bytes: int) -> bool:
    return partition.start > 0 and partition.start + partition.length <= size_bytes
