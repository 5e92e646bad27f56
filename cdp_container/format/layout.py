"""The tables of docs/container-format.md as data: fields, offsets, sizes, codes and names of each.

One table, one `Layout`; tests/unit/format/test_spec.py compares every row with the document. What a value
means, and whether it may stand there, is decided by the modules that parse.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

FORMAT_VERSION: Final = 1
OBJECT_MAGIC: Final = b"CDPOBJ\r\n"
INDEX_MAGIC: Final = b"CDPI"
DIGEST_BYTES: Final = 32
SUM_BYTES: Final = 16
ID_BYTES: Final = 16
WRAPPED_KEY_BYTES: Final = 80
NONE_U32: Final = 0xFFFFFFFF
CRITICAL_BIT: Final = 1

_CODES: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a table: the field's name, its type there, and its size in bytes."""

    name: str
    type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One table: its heading in the document, its fields in order, and the struct that packs them."""

    heading: str
    fields: tuple[Field, ...]
    struct: struct.Struct

    @property
    def size_bytes(self) -> int:
        """Bytes of one row."""
        return self.struct.size


def _layout(heading: str, rows: str) -> Layout:
    """A layout from words of the form `name:type`, where `bytes` carries its size: `name:bytes16`."""
    fields = []
    code = "<"
    for row in rows.split():
        name, kind = row.split(":")
        if kind.startswith("bytes"):
            field = Field(name, "bytes", int(kind.removeprefix("bytes")))
            code += f"{field.size_bytes}s"
        else:
            field = Field(name, kind, struct.calcsize("<" + _CODES[kind]))
            code += _CODES[kind]
        fields.append(field)
    return Layout(heading, tuple(fields), struct.Struct(code))


PREAMBLE: Final = _layout(
    "Preamble",
    "magic:bytes8 format:u16 kind:u16 preamble_length:u32 domain:bytes16 object_id:bytes16 epoch:u64 seq:u64 "
    "base_epoch:u64 base_cut:u64 base_seq:u64 end_epoch:u64 end_cut:u64 end_seq:u64 cut:u64 flags:u32 "
    "not_whole_count:u32 journal_generation:u64 journal_offset:u64 cut_time_ns:i64 first_write_ns:i64 "
    "last_write_ns:i64 previous_digest:bytes32 header_stored:u32 header_raw:u32 index_stored:u32 "
    "index_raw:u32 frames_stored:u64 section_codec:u16 cipher:u16 key_block_length:u32 "
    "wrapped_content_key:bytes80",
)
INDEX_HEADER: Final = _layout("Index header", "magic:bytes4 parts:u32")
PART_ROW: Final = _layout("Part row", "name:bytes8 flags:u32 rows:u32 offset:u32 length:u32")
EXTENT_ROW: Final = _layout(
    "Extent row", "offset:u64 length:u32 space:u32 frame:u32 position:u32 order:u32 kind:u8 reserved:bytes3"
)
FRAME_ROW: Final = _layout(
    "Frame row", "offset:u32 stored_length:u32 raw_length:u32 crc32:u32 seal:u32 codec:u8 reserved:bytes3"
)
RECORD_ROW: Final = _layout(
    "Record row",
    "name:bytes8 flags:u32 order:u32 key_offset:u32 key_length:u32 value_offset:u32 value_length:u32",
)
ORDER_ROW: Final = _layout("Order row", "epoch:u64 seq:u64 cut:u64")
SEAL_ROW: Final = _layout("Seal row", "object_id:bytes16 frame:u32 key:u32")
ENTRY_ROW: Final = _layout(
    "Entry row",
    "kind:u16 reserved:bytes2 head_length:u32 head_offset:u32 object_length:u32 "
    "epoch:u64 seq:u64 digest:bytes32",
)
RUN_ROW: Final = _layout("Run row", "kind:u16 reserved:bytes6 epoch:u64 first:u64 last:u64 digest:bytes32")
LAYOUTS: Final = (
    PREAMBLE, INDEX_HEADER, PART_ROW, EXTENT_ROW, FRAME_ROW,
    RECORD_ROW, ORDER_ROW, SEAL_ROW, ENTRY_ROW, RUN_ROW,
)  # fmt: skip


class ObjectKind(enum.IntEnum):
    """What an object is, as its preamble says; and `EPOCH_RECORD`, which only entries of catalogs name."""

    SEGMENT = 1
    PACK = 2
    CATALOG = 3
    LEDGER = 4
    EPOCH_RECORD = 16


class RunKind(enum.IntEnum):
    """What a ledger says of the objects of a run."""

    SEGMENT_COLLECTED = 1
    PACK_COLLECTED = 2
    PACK_IN_FORCE = 3
    CUTS_RETIRED = 4


class ExtentKind(enum.IntEnum):
    """Where the bytes of an extent are."""

    DATA = 1
    ZERO = 2
    DISCARD = 3


class Codec(enum.IntEnum):
    """How a section or frame is compressed."""

    NONE = 0
    ZSTD = 1


class Cipher(enum.IntEnum):
    """How header, index and an object's own frames are sealed."""

    NONE = 0
    AES_256_GCM = 1


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an index: its name, the bytes of one row, and the kinds of object that have it."""

    name: str
    row_bytes: int
    kinds: frozenset[ObjectKind]


_DATA_KINDS = frozenset({ObjectKind.SEGMENT, ObjectKind.PACK})
_PACK_ONLY = frozenset({ObjectKind.PACK})
_CATALOG_ONLY = frozenset({ObjectKind.CATALOG})

PARTS: Final = (
    Part("spaces", ID_BYTES, _DATA_KINDS),
    Part("order", ORDER_ROW.size_bytes, _PACK_ONLY),
    Part("extents", EXTENT_ROW.size_bytes, _DATA_KINDS),
    Part("sums", SUM_BYTES, _DATA_KINDS),
    Part("frames", FRAME_ROW.size_bytes, _DATA_KINDS),
    Part("seals", SEAL_ROW.size_bytes, _PACK_ONLY),
    Part("keys", WRAPPED_KEY_BYTES, _PACK_ONLY),
    Part("records", RECORD_ROW.size_bytes, _DATA_KINDS),
    Part("entries", ENTRY_ROW.size_bytes, _CATALOG_ONLY),
    Part("runs", RUN_ROW.size_bytes, frozenset({ObjectKind.LEDGER})),
    Part("blob", 1, _DATA_KINDS),
    Part("heads", 1, _CATALOG_ONLY),
)

RECORD_KINDS: Final = {
    "space+": True,
    "space=": True,
    "space-": True,
    "name+": True,
    "name-": True,
    "tree+": True,
    "tree-": True,
    "vm": False,
    "marker": False,
    "skew": False,
    "cut": False,
    "epoch": False,
}
"""Every known kind of record, and whether it is written with the critical bit."""
