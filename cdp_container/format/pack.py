"""Building a pack: the still-live extents and records of several segments, each with its place in history.

Frames come as they are in older objects (copied, still sealed under their keys) or raw (sealed under the
pack's own). What is live, and what is worth copying, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdp_container.format import layout
from cdp_container.format.assemble import SealedObject, assemble
from cdp_container.format.codec import Compressor
from cdp_container.format.frames import StoredFrame, store_frame
from cdp_container.format.index import Extent, Order, Record, build_index
from cdp_container.format.keys import pack_key
from cdp_container.format.layout import NONE_U32, ObjectKind
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import Preamble
from cdp_container.format.records import RecordTable
from cdp_container.format.seal import FrameCipher, WriterKeys


@dataclass(frozen=True, slots=True)
class PackFacts:
    """The pack's place (the writer's epoch, number), what its preamble repeats, and who writes it."""

    epoch: int
    number: int
    base: Place = NOWHERE
    end: Place = NOWHERE
    first_write_ns: int = 0
    last_write_ns: int = 0
    site: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class CopiedFrame:
    """A frame exactly as it was first stored; `wrapped_key` is None where it is not sealed."""

    frame: StoredFrame
    object_id: bytes
    number: int
    wrapped_key: bytes | None


@dataclass(frozen=True, slots=True)
class PackExtent:
    """An extent, whose `frame` counts the pack's frames, with its place in history."""

    order: Order
    extent: Extent


@dataclass(frozen=True, slots=True)
class PackRecord:
    """A record with its place in history."""

    order: Order
    record: Record


@dataclass(frozen=True, slots=True)
class PackContent:
    """What a pack holds; the `order` row that extents and records may have from an older pack is ignored.

    Records of one order row keep the sequence in which they are given.
    """

    frames: Sequence[CopiedFrame | bytes]
    extents: Iterable[PackExtent]
    records: Iterable[PackRecord]


def build_pack(
    facts: PackFacts, content: PackContent, keys: WriterKeys, object_id: bytes, compressor: Compressor
) -> SealedObject:
    """A pack of this content, whose extents may come in any order.

    Raises:
        LimitExceeded: it is too large; pack less.
    """
    extents, records = list(content.extents), list(content.records)
    orders = sorted({item.order for item in extents} | {item.order for item in records})
    order_rows = {order: row for row, order in enumerate(orders)}
    frames, frame_parts = _frames(content.frames, keys, object_id, compressor)
    parts = {
        "order": b"".join(layout.ORDER_ROW.struct.pack(o.epoch, o.seq, o.cut) for o in orders),
        **_extent_parts(extents, order_rows),
        **frame_parts,
        **_record_parts(records, order_rows),
    }
    preamble = Preamble(
        kind=ObjectKind.PACK,
        domain=keys.domain,
        object_id=object_id,
        epoch=facts.epoch,
        seq=facts.number,
        base=facts.base,
        end=facts.end,
        first_write_ns=facts.first_write_ns,
        last_write_ns=facts.last_write_ns,
    )
    header = {"site": facts.site, "software": facts.software}
    key = pack_key(facts.epoch, facts.number)
    return assemble(key, preamble, header, build_index(parts), frames, keys, compressor)


def _extent_parts(items: list[PackExtent], order_rows: dict[Order, int]) -> dict[str, bytes]:
    space_rows: dict[bytes, int] = {}
    for item in items:
        space_rows.setdefault(item.extent.space, len(space_rows))
    items.sort(key=lambda i: (order_rows[i.order], space_rows[i.extent.space], i.extent.offset))
    table = bytearray()
    for item in items:
        extent = item.extent
        table += layout.EXTENT_ROW.struct.pack(
            extent.offset,
            extent.length,
            space_rows[extent.space],
            NONE_U32 if extent.frame is None else extent.frame,
            extent.position,
            order_rows[item.order],
            extent.kind,
            bytes(3),
        )
    return {
        "spaces": b"".join(space_rows),
        "extents": bytes(table),
        "sums": b"".join(item.extent.sums for item in items),
    }


def _frames(
    frames: Sequence[CopiedFrame | bytes], keys: WriterKeys, object_id: bytes, compressor: Compressor
) -> tuple[list[bytes], dict[str, bytes]]:
    """The stored frames, and the parts `frames`, `seals` and `keys`."""
    cipher = None if keys.content_key is None else FrameCipher(keys.content_key, object_id)
    stored: list[bytes] = []
    at = 0
    table, seals = bytearray(), bytearray()
    key_rows: dict[bytes, int] = {}
    for number, frame in enumerate(frames):
        if isinstance(frame, bytes):
            row = store_frame(number, frame, compressor, cipher)
            seal = NONE_U32
        else:
            row = frame.frame
            seal = len(seals) // layout.SEAL_ROW.size_bytes
            key = NONE_U32
            if frame.wrapped_key is not None:
                key = key_rows.setdefault(frame.wrapped_key, len(key_rows))
            seals += layout.SEAL_ROW.struct.pack(frame.object_id, frame.number, key)
        table += row.row(at, seal)
        stored.append(row.stored)
        at += len(row.stored)
    return stored, {"frames": bytes(table), "seals": bytes(seals), "keys": b"".join(key_rows)}


def _record_parts(items: list[PackRecord], order_rows: dict[Order, int]) -> dict[str, bytes]:
    table = RecordTable()
    for item in sorted(items, key=lambda i: order_rows[i.order]):
        table.add(item.record, order_rows[item.order])
    return table.parts
