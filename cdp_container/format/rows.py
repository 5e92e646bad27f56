"""Checks of an index's tables, one function for each; a row that they pass needs no second look.

They raise for the first fault. Building rows, and what they mean together, does not belong here.
"""

from __future__ import annotations

from typing import Final

from cdp_container.errors import DamagedObject, LimitExceeded, NewerFormat
from cdp_container.format import layout, limits
from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX
from cdp_container.format.layout import NONE_U32, Codec, ExtentKind, ObjectKind, RunKind
from cdp_container.format.place import Place, is_place

NO_ORDERS: Final = -1
"""In place of a count of order rows, for a segment: rows must name none."""

_BLOCK: Final = limits.SUM_BLOCK_BYTES
_IDS: Final = ("space+", "space=", "space-", "tree+", "tree-", "vm")
_KEY_BYTES: Final = {**dict.fromkeys(_IDS, 16), "cut": 16, "skew": 16, "epoch": 8}
_TREE_ID_BYTES: Final = 16
_ENTRY_KINDS: Final = (ObjectKind.SEGMENT, ObjectKind.PACK, ObjectKind.LEDGER, ObjectKind.EPOCH_RECORD)


def sum_count(offset: int, length: int) -> int:
    """How many sums a data extent has: whole aligned blocks within it."""
    return max(0, (offset + length) // _BLOCK - -(-offset // _BLOCK))


def name_of(padded: bytes) -> str:
    """A name without its padding; what is no name becomes something that no version ever calls anything."""
    name = padded.rstrip(b"\0")
    return name.decode("ascii") if name.isascii() and b"\0" not in name else repr(padded)


def check_spaces(table: bytes, what: str) -> tuple[bytes, ...]:
    """The ids, each once."""
    spaces = tuple(table[at : at + layout.ID_BYTES] for at in range(0, len(table), layout.ID_BYTES))
    if len(set(spaces)) != len(spaces):
        raise DamagedObject(what, "a space stands in its index twice")
    return spaces


def check_orders(table: bytes, what: str) -> int:
    """How many order rows there are."""
    before = (0, 0)
    for epoch, seq, cut in layout.ORDER_ROW.struct.iter_unpack(table):
        if not (epoch and is_place(Place(epoch, cut, seq))) or (epoch, seq) <= before:
            raise DamagedObject(what, f"the order row ({epoch}, {seq}, {cut}) is not in its place")
        before = (epoch, seq)
    return len(table) // layout.ORDER_ROW.size_bytes


def check_seals(table: bytes, keys: int, sealed: bool, what: str) -> int:
    """How many seal rows there are; in a `sealed` object each must have a key."""
    count = 0
    for _, _, key in layout.SEAL_ROW.struct.iter_unpack(table):
        if key == NONE_U32 and sealed:
            raise DamagedObject(what, f"its frames are sealed, and the seal {count} has no key")
        if key != NONE_U32 and key >= keys:
            raise DamagedObject(what, f"a seal names key {key} of {keys}")
        count += 1
    return count


def check_frames(table: bytes, seals: int, frames_stored: int, what: str) -> list[int]:
    """The raw length of every frame."""
    raw_lengths: list[int] = []
    at = 0
    for offset, stored, raw, _, seal, codec, reserved in layout.FRAME_ROW.struct.iter_unpack(table):
        if stored > limits.FRAME_STORED_BYTES_MAX or raw > limits.FRAME_RAW_BYTES_MAX:
            raise LimitExceeded(what, f"a frame of {stored} bytes, {raw} raw (FRAME_..._BYTES_MAX)")
        if codec not in (Codec.NONE, Codec.ZSTD):
            raise NewerFormat(what, f"a frame has the unknown codec {codec}")
        if offset != at or not stored or not raw or any(reserved):
            raise DamagedObject(what, f"frame {len(raw_lengths)} is not a frame, or not in its place")
        if seal != NONE_U32 and seal >= seals:
            raise DamagedObject(what, f"frame {len(raw_lengths)} names seal {seal} of {seals}")
        raw_lengths.append(raw)
        at += stored
    if at != frames_stored:
        raise DamagedObject(what, f"its frames add up to {at} bytes instead of {frames_stored}")
    return raw_lengths


def check_extents(table: bytes, spaces: int, raw_lengths: list[int], orders: int, what: str) -> int:
    """How many sums the extents have. One pass, as an index may have tens of thousands of rows."""
    frames = len(raw_lengths)
    sums = 0
    before_order, before_space, before_end = -1, -1, 0
    for offset, length, space, frame, position, order, kind, reserved in layout.EXTENT_ROW.struct.iter_unpack(
        table
    ):
        end = offset + length
        if kind == 1:  # ExtentKind.DATA: an enum's member costs a lookup for every row
            if length > limits.EXTENT_DATA_BYTES_MAX:
                raise LimitExceeded(what, f"a data extent of {length} bytes (EXTENT_DATA_BYTES_MAX)")
            if frame >= frames or position + length > raw_lengths[frame]:
                raise DamagedObject(what, f"the extent at {offset} does not lie within a frame")
            blocks = end // _BLOCK - -(-offset // _BLOCK)
            if blocks > 0:
                sums += blocks
        elif kind in (ExtentKind.ZERO, ExtentKind.DISCARD):
            if length > limits.EXTENT_VOID_BYTES_MAX:
                raise LimitExceeded(what, f"a void extent of {length} bytes (EXTENT_VOID_BYTES_MAX)")
            if frame != NONE_U32 or position:
                raise DamagedObject(what, f"the void extent at {offset} names a frame")
        else:
            raise NewerFormat(what, f"an extent has the unknown kind {kind}")
        if not length or space >= spaces or end > limits.SPACE_BYTES_MAX or reserved != b"\0\0\0":
            raise DamagedObject(what, f"the extent at {offset} is not an extent of a space")
        if order != before_order:
            _check_order(order, orders, what)
            if order < before_order:
                raise DamagedObject(what, f"the extent at {offset} is not in its place")
            before_order, before_space, before_end = order, space, end
            continue
        if space < before_space or (space == before_space and offset < before_end):
            raise DamagedObject(what, f"the extent at {offset} is not in its place, or overlaps another")
        before_space, before_end = space, end
    return sums


def check_records(table: bytes, blob: bytes, orders: int, what: str) -> None:
    """Every record's name, order and bytes; keys and values follow each other in the blob, up to its end."""
    at = 0
    before_order = 0
    for (
        padded,
        flags,
        order,
        key_at,
        key_length,
        value_at,
        value_length,
    ) in layout.RECORD_ROW.struct.iter_unpack(table):
        name = name_of(padded)
        if key_length > limits.RECORD_KEY_BYTES_MAX or value_length > limits.RECORD_VALUE_BYTES_MAX:
            raise LimitExceeded(what, f"a record {name!r} of {key_length} + {value_length} bytes")
        if key_at != at or value_at != at + key_length or value_at + value_length > len(blob):
            raise DamagedObject(what, f"the bytes of a record {name!r} are not in their place")
        at = value_at + value_length
        _check_order(order, orders, what)
        if order < before_order:
            raise DamagedObject(what, f"a record {name!r} is not in its place")
        before_order = order
        critical = bool(flags & layout.CRITICAL_BIT)
        if name not in layout.RECORD_KINDS:
            if critical:
                raise NewerFormat(what, f"the record {name!r} is critical and unknown")
        elif critical != layout.RECORD_KINDS[name]:
            raise DamagedObject(what, f"a record {name!r} has another critical bit than all of its kind")
        elif not _key_fits(name, key_length):
            raise DamagedObject(what, f"a record {name!r} has a key of {key_length} bytes")
    if at != len(blob):
        raise DamagedObject(what, f"{len(blob) - at} bytes of its blob belong to no record")


def check_entries(table: bytes, heads_bytes: int, what: str) -> None:
    """Entries are sorted and unique, and their heads follow each other."""
    at = 0
    before = (0, 0, 0)
    for kind, reserved, length, offset, _, epoch, seq, _ in layout.ENTRY_ROW.struct.iter_unpack(table):
        if kind not in _ENTRY_KINDS:
            raise NewerFormat(what, f"an entry has the unknown kind {kind}")
        if (epoch, seq, kind) <= before or any(reserved):
            raise DamagedObject(what, f"the entry ({epoch}, {seq}) is not in its place")
        if not 0 < epoch <= EPOCH_MAX or seq > NUMBER_MAX or (seq == 0) != (kind == ObjectKind.EPOCH_RECORD):
            raise DamagedObject(what, f"the entry ({epoch}, {seq}) names nothing")
        if offset != at or at + length > heads_bytes:
            raise DamagedObject(what, f"the head of the entry ({epoch}, {seq}) is not in its place")
        before = (epoch, seq, kind)
        at += length
    if at != heads_bytes:
        raise DamagedObject(what, f"{heads_bytes - at} bytes of its heads belong to no entry")


def check_runs(table: bytes, what: str) -> None:
    """Runs are sorted and do not overlap."""
    before = (0, 0, 0)
    for kind, reserved, epoch, first, last, digest in layout.RUN_ROW.struct.iter_unpack(table):
        if kind not in tuple(RunKind):
            raise NewerFormat(what, f"a run has the unknown kind {kind}")
        in_range = 0 < epoch <= EPOCH_MAX and 0 < first <= last <= NUMBER_MAX
        if (kind, epoch, first) <= before or not in_range or any(reserved):
            raise DamagedObject(what, f"the run {first} to {last} of epoch {epoch} is not in its place")
        if kind == RunKind.PACK_IN_FORCE and first != last:
            raise DamagedObject(what, f"the packs {first} to {last} of epoch {epoch} stand in one row")
        if kind == RunKind.CUTS_RETIRED and any(digest):
            raise DamagedObject(what, f"the retired cuts {first} to {last} of epoch {epoch} have a digest")
        before = (kind, epoch, last)


def _check_order(order: int, orders: int, what: str) -> None:
    if orders == NO_ORDERS:
        if order != NONE_U32:
            raise DamagedObject(what, "a segment's row names an order row")
    elif order >= orders:
        raise DamagedObject(what, f"a row names order row {order} of {orders}")


def _key_fits(name: str, key_length: int) -> bool:
    if name in ("name+", "name-"):
        return key_length >= _TREE_ID_BYTES
    if name == "marker":
        return key_length > 0
    return key_length == _KEY_BYTES[name]
