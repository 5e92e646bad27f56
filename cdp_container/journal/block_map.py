"""The bytes of a map of a volume's blocks, docs/journal-format.md: a header, then a bit for each block. PURE.

What does not belong here: files (`cdp_agent.splitter.map_file`), when a bit is set, what it means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from isal.isal_zlib import crc32

from cdp_container.errors import JournalDamaged

MAP_FORMAT: Final = 1
MAP_MAGIC: Final = b"CDPMAP\r\n"
MAP_HEADER_BYTES: Final = 4096
"""The header has a page of its own: setting a bit never rewrites it."""
BLOCK_BYTES_MIN: Final = 512
BLOCK_BYTES_MAX: Final = 1 << 30
DIRTY_BLOCK_BYTES: Final = 4096
"""What the container's checksums compare, so what a resync can tell apart."""
MAP_BYTES_MAX: Final = 1 << 30
"""Bits of one map: 32 TiB in blocks of 4 KiB. What is larger is damage."""

MAP_HEADER_FIELDS: Final = (
    ("magic", "8s"),
    ("format", "I"),
    ("header_crc", "I"),
    ("domain", "16s"),
    ("space", "16s"),
    ("episode", "Q"),
    ("size_bytes", "Q"),
    ("block_bytes", "Q"),
)
_HEADER: Final = struct.Struct("<" + "".join(code for _, code in MAP_HEADER_FIELDS))
_CRC_AT: Final = 12


@dataclass(frozen=True, slots=True)
class MapHeader:
    """What a map is of.

    Attributes:
        domain: the domain's id, 16 bytes.
        space: the volume's space id, 16 bytes.
        episode: names the event that began it; of a write-intent map the generation that it speaks of.
        size_bytes: of the volume.
        block_bytes: of a block, a power of two.
    """

    domain: bytes
    space: bytes
    episode: int
    size_bytes: int
    block_bytes: int

    @property
    def blocks(self) -> int:
        """How many blocks there are; the last one may be a part."""
        return -(-self.size_bytes // self.block_bytes)

    @property
    def map_bytes(self) -> int:
        """Bytes of the bits."""
        return -(-self.blocks // 8)


def dirty_map_name(source: int) -> str:
    """The name of a source's dirty map in the journal directory."""
    return f"dirty/{source}.map"


def intent_map_name(source: int) -> str:
    """The name of a source's write-intent map in the journal directory."""
    return f"intent/{source}.map"


def encode_map_header(header: MapHeader) -> bytes:
    """The first MAP_HEADER_BYTES of a map's file."""
    packed = bytearray(
        _HEADER.pack(
            MAP_MAGIC, MAP_FORMAT, 0, header.domain, header.space, header.episode, header.size_bytes,
            header.block_bytes,
        )
    )  # fmt: skip
    packed[_CRC_AT : _CRC_AT + 4] = crc32(packed).to_bytes(4, "little")
    return bytes(packed).ljust(MAP_HEADER_BYTES, b"\0")


def decode_map_header(data: bytes, name: str) -> MapHeader:
    """The header of the map in the file `name`.

    Raises:
        JournalDamaged: it is none, or says what cannot be.
    """
    if len(data) < _HEADER.size:
        raise JournalDamaged(f"reading {name}", f"it has {len(data)} bytes, a header has {_HEADER.size}")
    magic, version, crc, domain, space, episode, size_bytes, block_bytes = _HEADER.unpack_from(data)
    zeroed = data[:_CRC_AT] + bytes(4) + data[_CRC_AT + 4 : _HEADER.size]
    if magic != MAP_MAGIC or crc != crc32(zeroed):
        raise JournalDamaged(f"reading {name}", "it does not begin with the header of a map")
    if version != MAP_FORMAT:
        raise JournalDamaged(f"reading {name}", f"its format is {version}, known is {MAP_FORMAT}")
    if not BLOCK_BYTES_MIN <= block_bytes <= BLOCK_BYTES_MAX or block_bytes & (block_bytes - 1):
        raise JournalDamaged(f"reading {name}", f"its blocks have {block_bytes} bytes")
    header = MapHeader(domain, space, episode, size_bytes, block_bytes)
    if header.map_bytes > MAP_BYTES_MAX:
        raise JournalDamaged(f"reading {name}", f"a map of {header.map_bytes} bytes is too large")
    return header


def touched_blocks(header: MapHeader, offset: int, length: int) -> tuple[int, int]:
    """First block that a range of bytes touches, and the block behind the last one."""
    return offset // header.block_bytes, -(-(offset + length) // header.block_bytes)


def set_bits(bits: bytearray, first: int, end: int) -> tuple[int, int] | None:
    """Set the bits [first, end); gives the bytes [start, stop) that changed, None where all were set."""
    if first >= end:
        return None
    start, stop = first // 8, (end - 1) // 8 + 1
    head, tail = 0xFF << (first % 8) & 0xFF, 0xFF >> (-end % 8)
    if stop - start == 1:
        changed = bits[start] | (head & tail)
        if changed == bits[start]:
            return None
        bits[start] = changed
        return start, stop
    before = bytes(bits[start:stop])
    bits[start] |= head
    bits[start + 1 : stop - 1] = b"\xff" * (stop - start - 2)
    bits[stop - 1] |= tail
    return None if bits[start:stop] == before else (start, stop)


def dirty_ranges(header: MapHeader, bits: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of every run of set blocks, in order; the last one ends with the volume."""
    packed = np.frombuffer(bits, dtype=np.uint8, count=header.map_bytes)
    for first, end in _runs(packed, header.blocks):
        offset = first * header.block_bytes
        yield offset, min(end * header.block_bytes, header.size_bytes) - offset


_CHUNK_BYTES: Final = 1 << 20
"""Bits are unpacked in pieces: eight times as much memory for a moment, and not eight times 32 MiB."""


def _runs(packed: np.ndarray[tuple[int], np.dtype[np.uint8]], blocks: int) -> Iterator[tuple[int, int]]:
    open_at = -1  # where a run began that reached the end of the chunk before
    for start in range(0, len(packed), _CHUNK_BYTES):
        chunk = packed[start : start + _CHUNK_BYTES]
        base = start * 8
        if not chunk.any():
            if open_at >= 0:
                yield open_at, base
                open_at = -1
            continue
        flat = np.unpackbits(chunk, bitorder="little", count=min(len(chunk) * 8, blocks - base))
        edges = np.flatnonzero(np.diff(flat, prepend=np.uint8(open_at >= 0))) + base
        for edge in edges.tolist():
            if open_at < 0:
                open_at = edge
            else:
                yield open_at, edge
                open_at = -1
    if open_at >= 0:
        yield open_at, blocks
