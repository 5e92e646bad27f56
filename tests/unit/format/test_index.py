"""The index parser: every rule of the document broken by one row, the unknown, and the merely optional."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, NewerFormat
from cdp_container.format import layout, limits
from cdp_container.format.index import Index, build_index, parse_index
from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX
from cdp_container.format.layout import NONE_U32, Layout, ObjectKind

SPACE, KEY = bytes(range(16)), bytes(80)
Rows = dict[str, Any]


def pack(table: Layout, values: Rows) -> bytes:
    """One row from its fields by name; reserved bytes are zeros where none are given."""
    empty = {field.name: bytes(field.size_bytes) if field.type == "bytes" else 0 for field in table.fields}
    return table.struct.pack(*(empty | values).values())


def extent(**fields: Any) -> bytes:  # noqa: ANN401
    given = {"offset": 0, "length": 512, "order": NONE_U32, "kind": 1}
    return pack(layout.EXTENT_ROW, given | fields)


def void(**fields: Any) -> bytes:  # noqa: ANN401
    return extent(**{"kind": 2, "frame": NONE_U32} | fields)


def frame(**fields: Any) -> bytes:  # noqa: ANN401
    given = {"stored_length": 100, "raw_length": 8192, "seal": NONE_U32, "codec": 1}
    return pack(layout.FRAME_ROW, given | fields)


def record(name: bytes = b"space+", key: int = 16, value: int = 2, at: int = 0, **fields: Any) -> bytes:  # noqa: ANN401
    lengths = {"key_offset": at, "key_length": key, "value_offset": at + key, "value_length": value}
    given = {"name": name, "flags": 1, "order": NONE_U32, **lengths}
    return pack(layout.RECORD_ROW, given | fields)


def order(epoch: int = 1, seq: int = 1, cut: int = 1) -> bytes:
    return layout.ORDER_ROW.struct.pack(epoch, seq, cut)


def entry(**fields: Any) -> bytes:  # noqa: ANN401
    return pack(layout.ENTRY_ROW, {"kind": 1, "head_length": 3, "epoch": 1, "seq": 1} | fields)


def run(**fields: Any) -> bytes:  # noqa: ANN401
    return pack(layout.RUN_ROW, {"kind": 1, "epoch": 1, "first": 1, "last": 1} | fields)


def parse(kind: ObjectKind = ObjectKind.SEGMENT, frames_stored: int | None = None, **parts: bytes) -> Index:
    if parts.get("extents"):
        parts = {"spaces": SPACE} | parts
    stored = sum(row[1] for row in layout.FRAME_ROW.struct.iter_unpack(parts.get("frames", b"")))
    return parse_index(build_index(parts), kind, stored if frames_stored is None else frames_stored, "k")


def test_a_sound_index() -> None:
    index = parse(
        extents=extent() + extent(offset=4096, length=4096, position=512) + void(offset=1 << 20),
        frames=frame(),
        sums=bytes(16),
        records=record(),
        blob=SPACE + b"{}",
    )
    assert [(e.offset, e.kind, len(e.sums)) for e in index.iter_extents()] == [
        (0, 1, 0),
        (4096, 1, 16),
        (1 << 20, 2, 0),
    ]
    assert [one.key for one in index.iter_records()] == [SPACE]
    assert parse().extent_count == 0


SEGMENT_FAULTS: dict[str, Rows] = {
    "extents overlap": {"extents": void() + void(offset=511)},
    "extents are not sorted": {"extents": void(offset=512) + void()},
    "an extent is there twice": {"extents": void() + void()},
    "an empty extent": {"extents": void(length=0)},
    "an extent of no space": {"extents": void(space=1)},
    "an extent beyond every space": {"extents": void(offset=limits.SPACE_BYTES_MAX - 511)},
    "an extent far beyond": {"extents": void(offset=2**64 - 512)},
    "reserved bytes of an extent": {"extents": void(reserved=b"\0\0\1")},
    "a void with a frame": {"extents": void(frame=0), "frames": frame()},
    "a void with a position": {"extents": void(position=1)},
    "a segment's extent with an order": {"extents": void(order=0)},
    "data without a frame": {"extents": extent(frame=0)},
    "data with no frame at all": {"extents": extent(frame=NONE_U32), "frames": frame()},
    "data beyond its frame": {"extents": extent(position=8192 - 511), "frames": frame()},
    "data far beyond its frame": {"extents": extent(position=2**32 - 1), "frames": frame()},
    "sums that are missing": {"extents": extent(length=4096), "frames": frame()},
    "sums too many": {"extents": extent(), "frames": frame(), "sums": bytes(16)},
    "a space twice": {"extents": void(), "spaces": SPACE * 2},
    "a frame with a gap before": {"frames": frame(offset=1)},
    "frames that overlap": {"frames": frame() + frame(offset=99)},
    "a frame of nothing": {"frames": frame(raw_length=0)},
    "a frame that is not stored": {"frames": frame(stored_length=0)},
    "a frame with a seal": {"frames": frame(seal=0)},
    "reserved bytes of a frame": {"frames": frame(reserved=b"\1\0\0")},
    "frames shorter than stored": {"frames": frame(), "frames_stored": 101},
    "a record's key beyond the blob": {"records": record(key=17, name=b"later", flags=0), "blob": bytes(16)},
    "a record's value beyond the blob": {"records": record(), "blob": bytes(17)},
    "a record's value before its key": {"records": record(value_offset=0), "blob": bytes(18)},
    "records that share bytes": {"records": record() + record(), "blob": bytes(18)},
    "bytes of no record": {"blob": b"x"},
    "a record with an order": {"records": record(order=0), "blob": bytes(18)},
    "a space's record with another key": {"records": record(key=15), "blob": bytes(17)},
    "a tree's record with another key": {"records": record(b"tree+", key=17), "blob": bytes(19)},
    "a known record without its critical bit": {"records": record(flags=0), "blob": bytes(18)},
    "an optional record with a critical bit": {"records": record(b"vm"), "blob": bytes(18)},
    "a name without a tree": {"records": record(b"name+", key=15), "blob": bytes(17)},
    "skewed files of no cut": {"records": record(b"skew", key=8, flags=0), "blob": bytes(10)},
    "a marker without a name": {"records": record(b"marker", key=0), "blob": bytes(2)},
    "a part of packs": {"order": order()},
    "another part of packs": {"keys": KEY},
    "a part of catalogs": {"entries": entry(head_length=0)},
    "a part of ledgers": {"runs": run()},
}
PACK_FAULTS: dict[str, Rows] = {
    "an order that is missing": {"extents": void(order=1), "order": order()},
    "no order": {"extents": void(), "order": order()},
    "orders not sorted": {"order": order(1, 2) + order(1, 1)},
    "an order twice": {"order": order() + order(1, 1, 2)},
    "an order of nothing": {"order": order(0, 1, 1)},
    "an order without a cut": {"order": order(1, 1, 0)},
    "an order of an epoch beyond all keys": {"order": order(EPOCH_MAX + 1, 1, 1)},
    "an order of a segment beyond all keys": {"order": order(1, NUMBER_MAX + 1, 1)},
    "an order of a cut beyond an i64": {"order": order(1, 1, 2**63)},
    "extents not sorted by order": {
        "extents": void(order=1) + void(order=0, offset=512),
        "order": order() + order(2),
    },
    "overlap in one order": {"extents": void(order=0) + void(order=0), "order": order()},
    "records not sorted by order": {
        "records": record(order=1) + record(order=0, at=18),
        "blob": bytes(36),
        "order": order() + order(2),
    },
    "a seal that is missing": {"frames": frame(seal=0)},
    "a seal without its key": {"seals": bytes(16) + struct.pack("<II", 0, 1), "keys": KEY},
}
CATALOG_FAULTS: dict[str, Rows] = {
    "entries not sorted": {"entries": entry(seq=2) + entry(head_offset=3), "heads": b"abcdef"},
    "an entry twice": {"entries": entry() + entry(head_offset=3), "heads": b"abcdef"},
    "a head with a gap": {"entries": entry(head_offset=1), "heads": b"abcd"},
    "heads that overlap": {"entries": entry() + entry(seq=2, head_offset=2), "heads": b"abcdef"},
    "a head beyond the heads": {"entries": entry(), "heads": b"ab"},
    "bytes of no head": {"entries": entry(), "heads": b"abcd"},
    "an entry of epoch 0": {"entries": entry(epoch=0), "heads": b"abc"},
    "an entry of an epoch beyond all keys": {"entries": entry(epoch=EPOCH_MAX + 1), "heads": b"abc"},
    "a segment beyond all keys": {"entries": entry(seq=NUMBER_MAX + 1), "heads": b"abc"},
    "a segment without a number": {"entries": entry(seq=0), "heads": b"abc"},
    "an epoch record with a number": {"entries": entry(kind=16), "heads": b"abc"},
    "reserved bytes": {"entries": entry(reserved=b"\0\1"), "heads": b"abc"},
    "data in a catalog": {"extents": void()},
}
LEDGER_FAULTS: dict[str, Rows] = {
    "runs that overlap": {"runs": run(last=5) + run(first=5, last=6)},
    "runs not sorted": {"runs": run(first=5, last=6) + run()},
    "a run backwards": {"runs": run(first=2)},
    "a run from 0": {"runs": run(first=0)},
    "a run of epoch 0": {"runs": run(epoch=0)},
    "a run of an epoch beyond all keys": {"runs": run(epoch=EPOCH_MAX + 1)},
    "a run beyond all keys": {"runs": run(last=NUMBER_MAX + 1)},
    "reserved bytes": {"runs": run(reserved=bytes(5) + b"\1")},
    "two packs in one row": {"runs": run(kind=3, last=2)},
    "a pack in force twice": {"runs": run(kind=3) + run(kind=3)},
}
FAULTS = [
    pytest.param(kind, parts, id=f"{kind.name.lower()}: {name}")
    for kind, faults in (
        (ObjectKind.SEGMENT, SEGMENT_FAULTS),
        (ObjectKind.PACK, PACK_FAULTS),
        (ObjectKind.CATALOG, CATALOG_FAULTS),
        (ObjectKind.LEDGER, LEDGER_FAULTS),
    )
    for name, parts in faults.items()
]


@pytest.mark.parametrize(("kind", "parts"), FAULTS)
def test_an_index_that_breaks_a_rule(kind: ObjectKind, parts: Rows) -> None:
    with pytest.raises(DamagedObject):
        parse(kind, **parts)


def test_pack_catalog_and_ledger_without_faults() -> None:
    two = order() + order(2)
    parse(ObjectKind.PACK, extents=void(order=0) + void(order=1), order=two)
    parse(ObjectKind.CATALOG, entries=entry() + entry(seq=2, head_offset=3), heads=b"abcdef")
    parse(ObjectKind.LEDGER, runs=run(last=5) + run(first=6, last=6) + run(kind=2, last=2) + run(kind=3))


def test_where_objects_are_sealed_every_seal_has_a_key() -> None:
    seals = layout.SEAL_ROW.struct.pack(bytes(16), 0, 0) + layout.SEAL_ROW.struct.pack(bytes(16), 1, NONE_U32)
    frames = frame(seal=0) + frame(seal=1, offset=100)
    raw = build_index({"seals": seals, "keys": KEY, "frames": frames})
    assert parse_index(raw, ObjectKind.PACK, 200, "k").frame_count == 2
    with pytest.raises(DamagedObject, match="seal 1 has no key"):
        parse_index(raw, ObjectKind.PACK, 200, "k", sealed=True)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"extents": void(length=limits.EXTENT_VOID_BYTES_MAX + 1)}, "EXTENT_VOID_BYTES_MAX"),
        ({"extents": extent(length=limits.EXTENT_DATA_BYTES_MAX + 1)}, "EXTENT_DATA_BYTES_MAX"),
        ({"frames": frame(raw_length=limits.FRAME_RAW_BYTES_MAX + 1)}, "FRAME"),
        ({"frames": frame(stored_length=limits.FRAME_STORED_BYTES_MAX + 1)}, "FRAME"),
        ({"records": record(key=limits.RECORD_KEY_BYTES_MAX + 1)}, "record"),
        ({"records": record(value=limits.RECORD_VALUE_BYTES_MAX + 1)}, "record"),
    ],
)
def test_beyond_a_limit(parts: Rows, name: str) -> None:
    with pytest.raises(LimitExceeded, match=name):
        parse(**parts)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_unknown_kinds_are_refused(kind: int) -> None:
    with pytest.raises(NewerFormat, match=f"kind {kind}"):
        parse(extents=void(kind=kind))
    with pytest.raises(NewerFormat, match=f"kind {kind + 32}"):
        parse(ObjectKind.CATALOG, entries=entry(kind=kind + 32), heads=b"abc")
    with pytest.raises(NewerFormat, match=f"kind {kind + 32}"):
        parse(ObjectKind.LEDGER, runs=run(kind=kind + 32))


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(NewerFormat, match="codec 2"):
        parse(frames=frame(codec=2))


def test_unknown_records() -> None:
    known = record(at=8) + record(b"vm", at=26, flags=0)
    blob = bytes(26) + bytes(18)
    index = parse(records=record(b"future", key=4, value=4, flags=0) + known, blob=blob)
    assert [one.name for one in index.iter_records()] == ["space+", "vm"]
    with pytest.raises(NewerFormat, match="future"):
        parse(records=record(b"future", key=4, value=4, flags=3) + known, blob=blob)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\0b", b"", b"SPACE+", b"space+ "])
def test_names_that_are_none(name: bytes) -> None:
    with pytest.raises(NewerFormat):
        parse(records=record(name), blob=bytes(18))


def directory(*parts: tuple[bytes, int, int, bytes], offset: int = 0, tail: bytes = b"") -> bytes:
    """An index of (name, flags, rows, content)."""
    at = layout.INDEX_HEADER.size_bytes + len(parts) * layout.PART_ROW.size_bytes
    raw = layout.INDEX_HEADER.struct.pack(layout.INDEX_MAGIC, len(parts))
    for name, flags, count, content in parts:
        raw += layout.PART_ROW.struct.pack(name, flags, count, at + offset, len(content))
        at += len(content)
    return raw + b"".join(content for *_, content in parts) + tail


def parsed(raw: bytes) -> Index:
    return parse_index(raw, ObjectKind.SEGMENT, 0, "k")


def test_unknown_parts() -> None:
    spaces = (b"spaces", 1, 1, SPACE)
    assert parsed(directory((b"future", 2, 9, b"???"), spaces)).spaces == (SPACE,)
    with pytest.raises(NewerFormat, match="future"):
        parsed(directory((b"future", 1, 9, b"???"), spaces))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"CDPI\0\0\0",
        b"CDPJ\0\0\0\0",
        b"CDPI\1\0\0\0",
        directory(tail=b"x"),
        directory((b"spaces", 1, 2, SPACE)),
        directory((b"spaces", 1, 0, SPACE)),
        directory((b"spaces", 1, 1, SPACE), offset=1),
        directory((b"spaces", 1, 1, SPACE), (b"spaces", 1, 1, SPACE)),
        directory((b"future", 0, 1, b"x"), (b"future", 0, 1, b"x")),
        directory((b"spaces", 1, 1, SPACE))[:-1],
    ],
)
def test_directories_that_are_none(raw: bytes) -> None:
    with pytest.raises(DamagedObject):
        parsed(raw)


def test_too_many_parts() -> None:
    parts = [(b"p%d" % n, 0, 0, b"") for n in range(limits.PARTS_MAX + 1)]
    parsed(directory(*parts[1:]))
    with pytest.raises(LimitExceeded, match="PARTS_MAX"):
        parsed(directory(*parts))
    with pytest.raises(LimitExceeded):
        parsed(b"CDPI\xff\xff\xff\xff")


def test_errors_name_the_object() -> None:
    with pytest.raises(CdpError) as raised:
        parse_index(b"", ObjectKind.SEGMENT, 0, "log/0000000001/000000000001")
    assert raised.value.what == "log/0000000001/000000000001"
