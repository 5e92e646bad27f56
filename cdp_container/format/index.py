"""The index of an object: a directory of parts, and their rows (docs/container-format.md, section 3).

`parse_index` validates everything once, so that whoever holds an `Index` may trust every row of it. Big
tables stay packed bytes, for numpy to view; the iterators are for those who look at few rows. Sealing does
not belong here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cdp_container.errors import DamagedObject, LimitExceeded, NewerFormat
from cdp_container.format import layout, limits, rows
from cdp_container.format.layout import NONE_U32, Codec, ExtentKind, ObjectKind, RunKind

_PARTS: Final = {part.name: part for part in layout.PARTS}


@dataclass(frozen=True, slots=True)
class Extent:
    """One extent as an index gives it; `frame` and `order` are None where there is none.

    `sums` holds 16 bytes for every block that the extent covers wholly (see `sums.block_sums`).
    """

    space: bytes
    offset: int
    length: int
    kind: ExtentKind
    frame: int | None = None
    position: int = 0
    order: int | None = None
    sums: bytes = b""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame lies (from the start of the frames), and how it is stored."""

    offset: int
    stored_length: int
    raw_length: int
    crc32: int
    codec: Codec
    seal: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One record: whole, keyed; the newest of one (name, key) wins. `value` is JSON, see `records`."""

    name: str
    key: bytes
    value: bytes
    critical: bool
    order: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Order:
    """The segment that first carried an extent or record of a pack."""

    epoch: int
    seq: int
    cut: int


@dataclass(frozen=True, slots=True)
class Seal:
    """Under which object id, frame number and content key a frame is sealed; `key` None: it is not."""

    object_id: bytes
    frame: int
    key: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One object (or epoch record) that a catalog bundles: its head byte for byte, its length and digest."""

    kind: ObjectKind
    epoch: int
    seq: int
    object_length: int
    digest: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Collected objects or a pack in force, `first` to `last`, and the digest of the last."""

    kind: RunKind
    epoch: int
    first: int
    last: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Index:
    """The parts of a valid index; tables are the rows of `layout`, packed."""

    kind: ObjectKind
    spaces: tuple[bytes, ...]
    order_table: bytes
    extent_table: bytes
    sums: bytes
    frame_table: bytes
    seal_table: bytes
    key_table: bytes
    record_table: bytes
    entry_table: bytes
    run_table: bytes
    blob: bytes
    heads: bytes

    @property
    def extent_count(self) -> int:
        """How many extents there are."""
        return len(self.extent_table) // layout.EXTENT_ROW.size_bytes

    @property
    def frame_count(self) -> int:
        """How many frames there are."""
        return len(self.frame_table) // layout.FRAME_ROW.size_bytes

    def iter_extents(self) -> Iterator[Extent]:
        """All extents in order, each with its sums."""
        at = 0
        for offset, length, space, frame, position, order, kind, _ in layout.EXTENT_ROW.struct.iter_unpack(
            self.extent_table
        ):
            end = at
            if kind == ExtentKind.DATA:
                end += rows.sum_count(offset, length) * layout.SUM_BYTES
            yield Extent(
                self.spaces[space], offset, length, ExtentKind(kind), _row(frame), position, _row(order),
                self.sums[at:end],
            )  # fmt: skip
            at = end

    def frame(self, number: int) -> Frame:
        """Row `number` of the frames; IndexError where there is none."""
        if not 0 <= number < self.frame_count:
            raise IndexError(number)
        row = layout.FRAME_ROW.struct.unpack_from(self.frame_table, number * layout.FRAME_ROW.size_bytes)
        offset, stored_length, raw_length, crc32, seal, codec, _ = row
        return Frame(offset, stored_length, raw_length, crc32, Codec(codec), _row(seal))

    def iter_frames(self) -> Iterator[Frame]:
        """All frames in order."""
        return (self.frame(number) for number in range(self.frame_count))

    def iter_orders(self) -> Iterator[Order]:
        """All order rows of a pack."""
        return (Order(*row) for row in layout.ORDER_ROW.struct.iter_unpack(self.order_table))

    def seal(self, number: int) -> Seal:
        """Row `number` of the seals of a pack."""
        row = layout.SEAL_ROW.struct.unpack_from(self.seal_table, number * layout.SEAL_ROW.size_bytes)
        object_id, frame, key = row
        return Seal(object_id, frame, _row(key))

    def wrapped_key(self, number: int) -> bytes:
        """Row `number` of the wrapped content keys of a pack."""
        at = number * layout.WRAPPED_KEY_BYTES
        return self.key_table[at : at + layout.WRAPPED_KEY_BYTES]

    def iter_records(self, leave_out: frozenset[str] = frozenset()) -> Iterator[Record]:
        """All records that this version knows, but for some kinds, in the order in which they apply."""
        left_out = {name.encode().ljust(8, b"\0") for name in leave_out}
        for (
            name,
            flags,
            order,
            key_at,
            key_length,
            value_at,
            value_length,
        ) in layout.RECORD_ROW.struct.iter_unpack(self.record_table):
            if name in left_out:
                continue
            text = rows.name_of(name)
            if text in layout.RECORD_KINDS:
                yield Record(
                    name=text,
                    key=self.blob[key_at : key_at + key_length],
                    value=self.blob[value_at : value_at + value_length],
                    critical=bool(flags & layout.CRITICAL_BIT),
                    order=_row(order),
                )

    def iter_entries(self) -> Iterator[Entry]:
        """All objects that a catalog bundles."""
        for kind, _, length, at, object_length, epoch, seq, digest in layout.ENTRY_ROW.struct.iter_unpack(
            self.entry_table
        ):
            yield Entry(ObjectKind(kind), epoch, seq, object_length, digest, self.heads[at : at + length])

    def iter_runs(self) -> Iterator[Run]:
        """All runs of a ledger."""
        for kind, _, epoch, first, last, digest in layout.RUN_ROW.struct.iter_unpack(self.run_table):
            yield Run(RunKind(kind), epoch, first, last, digest)


def build_index(parts: Mapping[str, bytes | bytearray]) -> bytes:
    """The raw index of these parts, by name; empty ones are left out."""
    present = [(part, parts[part.name]) for part in layout.PARTS if parts.get(part.name)]
    assert set(parts) <= set(_PARTS), set(parts) - set(_PARTS)
    at = layout.INDEX_HEADER.size_bytes + len(present) * layout.PART_ROW.size_bytes
    directory = [layout.INDEX_HEADER.struct.pack(layout.INDEX_MAGIC, len(present))]
    for part, content in present:
        count = len(content) // part.row_bytes
        row = (part.name.encode(), layout.CRITICAL_BIT, count, at, len(content))
        directory.append(layout.PART_ROW.struct.pack(*row))
        at += len(content)
    return b"".join((*directory, *(content for _, content in present)))


def parse_index(
    raw: bytes, kind: ObjectKind, frames_stored: int, what: str, *, sealed: bool = False
) -> Index:
    """The index of an object of this kind whose frames have `frames_stored` bytes, every row checked.

    `sealed`: whether the object's cipher is not 0.

    Raises:
        DamagedObject: it contradicts itself or the document.
        NewerFormat: a critical part or record, an extent's kind or a codec that is not known here.
        LimitExceeded: a row is beyond a limit of the format.
    """
    found = _parts(raw, what)
    for name, content in found.items():
        if content and kind not in _PARTS[name].kinds:
            raise DamagedObject(what, f"a {kind.name.lower()} cannot have the part {name!r}")
    tables = {name: found.get(name, b"") for name in _PARTS}
    index = Index(
        kind=kind,
        spaces=rows.check_spaces(tables["spaces"], what),
        order_table=tables["order"],
        extent_table=tables["extents"],
        sums=tables["sums"],
        frame_table=tables["frames"],
        seal_table=tables["seals"],
        key_table=tables["keys"],
        record_table=tables["records"],
        entry_table=tables["entries"],
        run_table=tables["runs"],
        blob=tables["blob"],
        heads=tables["heads"],
    )
    _check_rows(index, frames_stored, sealed, what)
    return index


def _check_rows(index: Index, frames_stored: int, sealed: bool, what: str) -> None:
    orders = rows.check_orders(index.order_table, what)
    if index.kind is ObjectKind.SEGMENT:
        orders = rows.NO_ORDERS
    keys = len(index.key_table) // layout.WRAPPED_KEY_BYTES
    seals = rows.check_seals(index.seal_table, keys, sealed, what)
    raw_lengths = rows.check_frames(index.frame_table, seals, frames_stored, what)
    sums = rows.check_extents(index.extent_table, len(index.spaces), raw_lengths, orders, what)
    if sums * layout.SUM_BYTES != len(index.sums):
        raise DamagedObject(what, f"{len(index.sums)} bytes of sums stand where {sums} sums belong")
    rows.check_records(index.record_table, index.blob, orders, what)
    rows.check_entries(index.entry_table, len(index.heads), what)
    rows.check_runs(index.run_table, what)


def _parts(raw: bytes, what: str) -> dict[str, bytes]:
    """The known parts by name; they follow the directory in its order, without gaps, up to the end."""
    header = layout.INDEX_HEADER
    if len(raw) < header.size_bytes:
        raise DamagedObject(what, "its index is shorter than an index header")
    magic, count = header.struct.unpack_from(raw)
    if magic != layout.INDEX_MAGIC:
        raise DamagedObject(what, "its index does not begin as one")
    if count > limits.PARTS_MAX:
        raise LimitExceeded(what, f"an index of {count} parts (PARTS_MAX)")
    at = header.size_bytes + count * layout.PART_ROW.size_bytes
    if at > len(raw):
        raise DamagedObject(what, "the directory of its index is cut short")
    found: dict[str, bytes] = {}
    seen: set[bytes] = set()
    directory = raw[header.size_bytes : at]
    for name, flags, row_count, offset, length in layout.PART_ROW.struct.iter_unpack(directory):
        if offset != at or at + length > len(raw):
            raise DamagedObject(what, f"the part {name!r} of its index does not follow the one before it")
        if name in seen:
            raise DamagedObject(what, f"the part {name!r} of its index stands there twice")
        seen.add(name)
        at += length
        part = _PARTS.get(rows.name_of(name))
        if part is not None:
            if row_count * part.row_bytes != length:
                raise DamagedObject(what, f"{row_count} rows of {part.name!r} cannot have {length} bytes")
            found[part.name] = raw[offset : offset + length]
        elif flags & layout.CRITICAL_BIT:
            raise NewerFormat(what, f"the part {name!r} of its index is critical and unknown")
    if at != len(raw):
        raise DamagedObject(what, f"{len(raw) - at} bytes follow the last part of its index")
    return found


def _row(value: int) -> int | None:
    return None if value == NONE_U32 else value
