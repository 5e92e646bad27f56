"""A pack that holds all that a damaged object held, each row at its place in history. All of it, or none.

Sound frames are taken as they are, lost ones are made anew of what was found. Finding it, and putting the
pack in force, do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cdp_agent.collector.packing import copied_frame
from cdp_agent.healing.hole import Hole
from cdp_agent.healing.torn import Torn
from cdp_container.errors import DamagedObject
from cdp_container.format.assemble import SealedObject
from cdp_container.format.head import Head, check_object, open_head
from cdp_container.format.index import Order
from cdp_container.format.layout import ExtentKind, ObjectKind
from cdp_container.format.limits import FRAME_RAW_BYTES_MAX
from cdp_container.format.pack import CopiedFrame, PackContent, PackExtent, PackRecord
from cdp_container.format.seal import ReaderKeys


def holes_of(torn: Torn) -> dict[int, Hole]:
    """The extents whose content is lost, by their number in the index."""
    return {
        number: Hole(extent)
        for number, extent in enumerate(torn.head.index.iter_extents())
        if extent.kind is ExtentKind.DATA and extent.frame in torn.lost_frames
    }


def rebuilt(torn: Torn, holes: Mapping[int, Hole], remembered: Sequence[PackRecord]) -> PackContent:
    """What the pack holds; `holes` are all filled. `remembered`: what packs tell of the object besides."""
    assert all(hole.is_filled for hole in holes.values()), "a part of it would pass for the whole"
    orders = list(torn.head.index.iter_orders())
    frames: list[CopiedFrame | bytes] = []
    extents: list[PackExtent] = []
    kept: dict[int, int] = {}
    raw, raw_number = bytearray(), -1
    for number, extent in enumerate(torn.head.index.iter_extents()):
        order = order_of(torn.head, orders, extent.order)
        if number in holes:
            content = holes[number].content
            if raw_number < 0 or len(raw) + len(content) > FRAME_RAW_BYTES_MAX:
                raw, raw_number = bytearray(), len(frames)
                frames.append(b"")
            extents.append(
                PackExtent(order, replace(extent, frame=raw_number, position=len(raw), order=None))
            )
            raw += content
            frames[raw_number] = bytes(raw)
        elif extent.frame is None:
            extents.append(PackExtent(order, replace(extent, order=None)))
        else:
            if extent.frame not in kept:
                kept[extent.frame] = len(frames)
                frames.append(copied_frame(torn.head, extent.frame, torn.stored_frame(extent.frame)))
            extents.append(PackExtent(order, replace(extent, frame=kept[extent.frame], order=None)))
    records = [
        PackRecord(order_of(torn.head, orders, record.order), record)
        for record in torn.head.index.iter_records()
    ]
    return PackContent(frames, extents, [*records, *remembered])


def check_rebuilt(torn: Torn, built: SealedObject, domain: bytes, keys: ReaderKeys) -> None:
    """See that a pack says of extents what the damaged object said. Raises DamagedObject."""
    check_object(built.data, built.key, domain)
    head = open_head(built.data, built.key, domain, keys)
    if _said(head) != _said(torn.head):
        raise DamagedObject(built.key, f"it does not say what {torn.key} said")


def _said(head: Head) -> list[tuple[Order, bytes, int, int, ExtentKind, bytes]]:
    orders = list(head.index.iter_orders())
    return sorted(
        (
            order_of(head, orders, extent.order),
            extent.space,
            extent.offset,
            extent.length,
            extent.kind,
            extent.sums,
        )
        for extent in head.index.iter_extents()
    )


def order_of(head: Head, orders: Sequence[Order], row: int | None) -> Order:
    """Where in history a row of an object stands; `orders` are its order rows."""
    preamble = head.preamble
    if preamble.kind is not ObjectKind.PACK:
        return Order(preamble.epoch, preamble.seq, preamble.cut)
    assert row is not None, head.key
    return orders[row]
