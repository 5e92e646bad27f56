"""What lives in victims, put into packs: frames as they are, or split where they can be read and that pays.

Every pack is checked before anybody names it. What lives is told by `alive`, which objects are packed is
chosen elsewhere (choose), and nothing is fetched or stored here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from cdp_agent.collector.alive_types import Alive
from cdp_agent.collector.warmth import Grouping, alike
from cdp_container.errors import DamagedObject
from cdp_container.extents.tables import Table, extent_rows, sums_before
from cdp_container.format.assemble import SealedObject
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import EpochRecord
from cdp_container.format.frames import FrameReader, StoredFrame
from cdp_container.format.head import Head, check_object, object_digest, open_head
from cdp_container.format.index import Extent, Order, Record
from cdp_container.format.layout import (
    SUM_BYTES,
    Cipher,
    ExtentKind,
    ObjectKind,
)
from cdp_container.format.limits import (
    FRAME_RAW_BYTES_MAX,
    OBJECT_BYTES_TARGET,
    SUM_BLOCK_BYTES,
)
from cdp_container.format.pack import (
    CopiedFrame,
    PackContent,
    PackExtent,
    PackFacts,
    PackRecord,
    build_pack,
)
from cdp_container.format.packed import packed_epoch
from cdp_container.format.place import Place
from cdp_container.format.records import make_record, record_bytes
from cdp_container.format.seal import ReaderKeys, WriterKeys
from cdp_container.format.sums import block_sums, sum_count

SPLIT_SHARE: Final = 0.9
"""A frame of which less is live is split, where it can be read: what splitting costs must be worth it."""
ROW_BYTES: Final = 80
"""What an extent takes of a pack's index, about, with its share of frames, seals and order rows."""
RECORDS_GROUP: Final = 0
"""Where records and voids go: they are hardly ever overwritten."""
_CUT_KEY: Final = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class CutFacts:
    """What the `cut` record of a collected cut says: what its last segment's preamble said."""

    place: Place
    not_whole: tuple[bytes, ...]
    cut_time_ns: int
    stored_ns: int


def cut_record(cut: CutFacts) -> PackRecord:
    """The `cut` record, at the place of the cut."""
    place = cut.place
    value = {
        "epoch": place.epoch,
        "cut": place.cut,
        "seq": place.seq,
        "complete": True,
        "not_whole": [source.hex() for source in cut.not_whole],
        "cut_time_ns": cut.cut_time_ns,
        "stored_ns": cut.stored_ns,
    }
    record = make_record("cut", _CUT_KEY.pack(place.epoch, place.cut), value)
    return PackRecord(Order(place.epoch, place.seq, place.cut), record)


def epoch_record(record: EpochRecord, first_cut: int) -> PackRecord:
    """The `epoch` record, at the place of the first segment of that epoch."""
    return PackRecord(Order(record.epoch, 1, first_cut), packed_epoch(record))


@dataclass(frozen=True, slots=True)
class PackWriter:
    """What packs are written with.

    Attributes:
        domain: its id.
        next_facts: the place of the next pack.
        new_keys: fresh keys for the next pack.
        entropy: random bytes.
        compressor: for frames that are split.
        keys: what victims are read with; frames are split only where it opens them.
    """

    domain: bytes
    next_facts: Callable[[], PackFacts]
    new_keys: Callable[[], WriterKeys]
    entropy: Callable[[int], bytes]
    compressor: Compressor
    keys: ReaderKeys


@dataclass(slots=True)
class Counted:
    """What packing did. `kept_dead_bytes`: dead bytes that were copied, because frames could not be read."""

    packs: int = 0
    packed_bytes: int = 0
    copied_frames: int = 0
    split_frames: int = 0
    kept_dead_bytes: int = 0


@dataclass(slots=True)
class _Open:
    """A pack that is being filled; `raw` is its last frame, of split ones, which is not closed yet."""

    frames: list[CopiedFrame | bytes] = field(default_factory=list)
    extents: list[PackExtent] = field(default_factory=list)
    records: list[PackRecord] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    raw_frame: int = -1
    bytes: int = 0
    first_write_ns: int = 0
    last_write_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Victim:
    """A victim's head, and its extents as rows: for each the number of its first sum."""

    head: Head
    rows: Table
    first_sums: Table

    def extent(self, piece: Table, frame: int | None, position: int) -> PackExtent:
        """A visible piece (a row of LIVE) as an extent of a pack."""
        row = self.rows[int(piece["row"])]
        start, end = int(piece["start"]), int(piece["end"])
        kind = ExtentKind(int(row["kind"]))
        sums = self._sums(piece, int(row["offset"])) if kind is ExtentKind.DATA else b""
        order = Order(int(piece["epoch"]), int(piece["seq"]), int(piece["cut"]))
        space = piece["space"].tobytes()
        return PackExtent(order, Extent(space, start, end - start, kind, frame, position, None, sums))

    def position(self, piece: Table) -> int:
        """Of its first byte in the raw frame."""
        row = self.rows[int(piece["row"])]
        return int(row["position"]) + int(piece["start"]) - int(row["offset"])

    def _sums(self, piece: Table, offset: int) -> bytes:
        """Those of the whole aligned blocks within the piece."""
        start, end = int(piece["start"]), int(piece["end"])
        count = sum_count(start, end - start)
        skipped = -(-start // SUM_BLOCK_BYTES) - -(-offset // SUM_BLOCK_BYTES)
        first = int(self.first_sums[int(piece["row"])]) + skipped
        return self.head.index.sums[first * SUM_BYTES : (first + count) * SUM_BYTES] if count else b""


class Packing:
    """Takes in victims, one after another, and gives packs as they fill up, each of one group."""

    def __init__(
        self,
        writer: PackWriter,
        alive: Alive,
        bytes_target: int = OBJECT_BYTES_TARGET,
        groups: Grouping = alike,
    ) -> None:
        self._writer = writer
        self._alive = alive
        self._groups = groups
        self._bytes_target = bytes_target
        self._open: dict[int, _Open] = {}
        self.counted = Counted()

    def take(
        self, key: str, data: bytes, digest: bytes, remembered: Sequence[PackRecord] = ()
    ) -> Iterator[SealedObject]:
        """What lives in one victim; `remembered`: what packs are to tell of it besides.

        Raises:
            DamagedObject: it is not the object of that digest; ForeignObject and their kin as `open_head`.
        """
        check_object(data, key, self._writer.domain)
        if object_digest(data) != digest:
            raise DamagedObject(key, "it is not the object that was looked at")
        head = open_head(data, key, self._writer.domain, self._writer.keys)
        rows = extent_rows(head.index.extent_table)
        victim = _Victim(head, rows, sums_before(rows))
        yield from self._take_records(head, remembered)
        pieces = self._alive.pieces(key)
        voids = pieces[pieces["is_void"]]
        if len(voids):
            for piece in voids[self._alive.over_data(voids)]:
                _add(self._of(RECORDS_GROUP), victim.extent(piece, None, 0), head)
                yield from self._close_if_full(RECORDS_GROUP)
        yield from self._take_data(victim, data, pieces[~pieces["is_void"]])

    def close(self) -> Iterator[SealedObject]:
        """The last packs, for whatever is left."""
        for group in sorted(self._open):
            yield self._build(group)

    # --- what is taken in ----------------------------------------------------------------------

    def _take_records(self, head: Head, remembered: Sequence[PackRecord]) -> Iterator[SealedObject]:
        """All of one object stay together: their sequence counts."""
        wanted = set(self._alive.records(head.key))
        orders = list(head.index.iter_orders())
        for number, record in enumerate(head.index.iter_records()):
            if number in wanted:
                self._add_record(PackRecord(_order_of(head, orders, record), record))
        for extra in remembered:
            self._add_record(extra)
        yield from self._close_if_full(RECORDS_GROUP)

    def _add_record(self, record: PackRecord) -> None:
        made = self._of(RECORDS_GROUP)
        made.records.append(record)
        made.bytes += record_bytes(record.record) + ROW_BYTES

    def _of(self, group: int) -> _Open:
        """The pack that is being filled of a group."""
        return self._open.setdefault(group, _Open())

    def _take_data(self, victim: _Victim, data: bytes, pieces: Table) -> Iterator[SealedObject]:
        head, keys = victim.head, self._writer.keys
        reader = FrameReader(head, keys)
        order = np.argsort(pieces["frame"], kind="stable")
        by_frame, groups = pieces[order], self._groups(pieces)[order].tolist()
        frames, firsts = np.unique(by_frame["frame"], return_index=True)
        ends = np.append(firsts, len(by_frame))[1:].tolist()
        for number, first, last in zip(frames.tolist(), firsts.tolist(), ends, strict=True):
            frame, parted = by_frame[first:last], groups[first:last]
            start, end = head.frame_range(number)
            raw_length = head.index.frame(number).raw_length
            live_bytes = int((frame["end"] - frame["start"]).sum())
            if live_bytes < SPLIT_SHARE * raw_length and _is_readable(head, number, keys):
                yield from self._split(victim, reader.open(number, data[start:end]), frame, parted)
            else:
                self.counted.kept_dead_bytes += (end - start) * (raw_length - live_bytes) // raw_length
                group = parted[len(parted) // 2]
                self._copy(victim, number, data[start:end], frame, self._of(group))
                yield from self._close_if_full(group)

    def _copy(self, victim: _Victim, number: int, stored: bytes, pieces: Table, made: _Open) -> None:
        """One frame as it is."""
        self.counted.copied_frames += 1
        at = len(made.frames)
        made.frames.append(copied_frame(victim.head, number, stored))
        made.bytes += len(stored)
        for piece in pieces:
            _add(made, victim.extent(piece, at, victim.position(piece)), victim.head)

    def _split(
        self, victim: _Victim, raw: bytes, pieces: Table, groups: Sequence[int]
    ) -> Iterator[SealedObject]:
        """What lives of one frame, into frames of our own."""
        self.counted.split_frames += 1
        for piece, group in zip(pieces, groups, strict=True):
            first = victim.position(piece)
            content = raw[first : first + int(piece["end"] - piece["start"])]
            if len(self._of(group).raw) + len(content) > FRAME_RAW_BYTES_MAX:
                _close_raw(self._of(group))
                yield from self._close_if_full(group)
            made = self._of(group)
            if made.raw_frame < 0:
                made.raw_frame = len(made.frames)
                made.frames.append(b"")
            _add(made, victim.extent(piece, made.raw_frame, len(made.raw)), victim.head)
            made.raw += content
            made.bytes += len(content)
        for group in sorted(set(groups)):
            yield from self._close_if_full(group)

    # --- packs ---------------------------------------------------------------------------------

    def _close_if_full(self, group: int) -> Iterator[SealedObject]:
        if group in self._open and self._open[group].bytes >= self._bytes_target:
            yield self._build(group)

    def _build(self, group: int) -> SealedObject:
        made = self._open.pop(group)
        _close_raw(made)
        writer = self._writer
        content = PackContent(made.frames, made.extents, made.records)
        facts = replace(
            writer.next_facts(), first_write_ns=made.first_write_ns, last_write_ns=made.last_write_ns
        )
        built = build_pack(facts, content, writer.new_keys(), writer.entropy(16), writer.compressor)
        check_pack(built, made.extents, made.records, writer)
        self.counted.packs += 1
        self.counted.packed_bytes += len(built.data)
        return built


def _add(made: _Open, extent: PackExtent, head: Head) -> None:
    preamble = head.preamble
    made.extents.append(extent)
    made.bytes += ROW_BYTES + len(extent.extent.sums)
    if preamble.first_write_ns:
        made.first_write_ns = min(made.first_write_ns or preamble.first_write_ns, preamble.first_write_ns)
    made.last_write_ns = max(made.last_write_ns, preamble.last_write_ns)


def _close_raw(made: _Open) -> None:
    if made.raw_frame >= 0:
        made.frames[made.raw_frame] = bytes(made.raw)
        made.raw, made.raw_frame = bytearray(), -1


def check_pack(
    built: SealedObject, extents: Sequence[PackExtent], records: Sequence[PackRecord], writer: PackWriter
) -> None:
    """What a reader would get of a pack is what was put in, by its checksums. Raises DamagedObject."""
    check_object(built.data, built.key, writer.domain)
    head = open_head(built.data, built.key, writer.domain, writer.keys)
    orders = list(head.index.iter_orders())
    found = [
        PackExtent(orders[extent.order or 0], replace(extent, order=None))
        for extent in head.index.iter_extents()
    ]
    if sorted(found, key=_sequence) != sorted(extents, key=_sequence):
        raise DamagedObject(built.key, "it has not the extents that were packed")
    if len(list(head.index.iter_records())) != len(records):
        raise DamagedObject(built.key, "it has not the records that were packed")
    reader = FrameReader(head, writer.keys)
    raw, opened = b"", -1
    for extent in sorted((one.extent for one in found), key=lambda one: one.frame or 0):
        if extent.frame is None or not _is_readable(head, extent.frame, writer.keys):
            continue
        if extent.frame != opened:
            start, end = head.frame_range(extent.frame)
            raw, opened = reader.open(extent.frame, built.data[start:end]), extent.frame
        content = raw[extent.position : extent.position + extent.length]
        if len(content) != extent.length or block_sums(extent.offset, content) != extent.sums:
            raise DamagedObject(built.key, f"the extent at {extent.offset} is not what was packed")


def _sequence(item: PackExtent) -> tuple[Order, bytes, int]:
    return item.order, item.extent.space, item.extent.offset


def _is_readable(head: Head, number: int, keys: ReaderKeys) -> bool:
    if keys.private_key is not None or head.preamble.cipher is Cipher.NONE:
        return True
    frame = head.index.frame(number)
    return frame.seal is not None and head.index.seal(frame.seal).key is None


def _order_of(head: Head, orders: Sequence[Order], row: Record) -> Order:
    if head.preamble.kind is ObjectKind.PACK:
        assert row.order is not None, head.key
        return orders[row.order]
    place = head.preamble.place
    return Order(place.epoch, place.seq, place.cut)


def copied_frame(head: Head, number: int, stored: bytes) -> CopiedFrame:
    """A frame as it is, under the seal of the object that first carried it."""
    frame = head.index.frame(number)
    kept = StoredFrame(stored, frame.raw_length, frame.crc32, frame.codec)
    if frame.seal is not None:
        origin = head.index.seal(frame.seal)
        wrapped = None if origin.key is None else head.index.wrapped_key(origin.key)
        return CopiedFrame(kept, origin.object_id, origin.frame, wrapped)
    preamble = head.preamble
    wrapped = None if preamble.cipher is Cipher.NONE else preamble.wrapped_content_key
    return CopiedFrame(kept, preamble.object_id, number, wrapped)
