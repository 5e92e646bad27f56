"""What a container's objects say, taken together: cuts, spaces, and where the extents of every space are.

`gathering.py` reads the objects; `image.py` then looks at them from one cut. Which epochs count, and up to
where, is decided in `history.py`. Extents go to a spool on disk.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from cdp_container.domain.heads import Broken, Seen
from cdp_container.domain.ledgers import NO_LEDGER, Ledger
from cdp_container.domain.name_spool import NameSpool
from cdp_container.domain.retention import CutMarker, marker_of
from cdp_container.domain.spool import Spool
from cdp_container.errors import DamagedObject
from cdp_container.extents.tables import (
    COVER,
    EXTENTS,
    SUMS,
    Table,
    cover_beyond,
    extent_rows,
    extents_of,
    order_rows,
    run_of,
    stretches,
    sums_before,
)
from cdp_container.format.domain import EpochRecord
from cdp_container.format.head import Head
from cdp_container.format.index import Record
from cdp_container.format.layout import ID_BYTES, ObjectKind
from cdp_container.format.limits import SPACE_BYTES_MAX
from cdp_container.format.members import Members
from cdp_container.format.names import Skew, TreeRules, parse_rules, parse_skew, parse_tree
from cdp_container.format.packed import parse_packed_epoch
from cdp_container.format.place import Place, is_place
from cdp_container.format.records import record_value

PLACED_RUNS: Final = np.dtype(
    [
        ("space", "<i8"),
        ("epoch", "<i8"),
        ("cut", "<i8"),
        ("seq", "<i8"),
        ("object", "<i8"),
        ("first", "<i8"),
        ("count", "<i8"),
        ("start", "<i8"),
        ("end", "<i8"),
    ]
)
"""A row of `extents.tables.RUNS` with the space and the place in history that it belongs to."""

OBJECT_TOLD_BYTES_MAX: Final = 1 << 40
"""No object stands for more; a figure beyond is made up."""
_CUT_KEY: Final = struct.Struct("<QQ")
_SPACE_RECORDS: Final = frozenset({"space+", "space=", "space-"})
_TREE_RECORDS: Final = frozenset({"tree+", "tree-"})
_NAME_RECORDS: Final = frozenset({"name+", "name-"})


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment's preamble says, or what a pack remembers of a collected one (then without digests).

    Times are nanoseconds since 1970, `object_bytes` those of the whole stored object. `journal` is a position
    in its writer's journal: generation and offset in bytes. `raw_bytes` and `incompressible_bytes` of
    guests' data are as the header tells, which nothing may depend on; 0 where it cannot be read.
    """

    epoch: int
    seq: int
    cut: int
    complete: bool
    not_whole: tuple[bytes, ...]
    cut_time_ns: int
    stored_ns: int
    object_bytes: int
    base: Place | None
    end: Place | None
    previous_digest: bytes
    digest: bytes
    journal: tuple[int, int] = (0, 0)
    raw_bytes: int = 0
    incompressible_bytes: int = 0

    @property
    def place(self) -> Place:
        """The cut, up to this segment."""
        return Place(self.epoch, self.cut, self.seq)


@dataclass(frozen=True, slots=True)
class SpaceRecord:
    """A `space+`, `space=` or `space-` record and the place in history that it belongs to."""

    place: Place
    name: str
    space: bytes
    value: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TreeRecord:
    """A `tree+` or `tree-` record and its place in history; `title` is the tree's name, empty in `tree-`.

    `rules`: which paths are protected, None where that is not said.
    """

    place: Place
    name: str
    tree: bytes
    title: str
    rules: TreeRules | None = None


@dataclass(frozen=True, slots=True)
class VmRecord:
    """A `vm` record and its place in history; what its value says is read where it is asked for."""

    place: Place
    vm: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Marker:
    """The name of a cut, and how long that keeps it."""

    place: Place
    name: str
    note: str
    term: CutMarker


@dataclass(slots=True)
class Contents:
    """Everything that was read. Objects are numbered in the order in which they were read.

    Attributes:
        domain: its id.
        segments: by (epoch, seq).
        ledger: what was collected, and which packs are in force.
        packs: keys of the packs in force that were taken in.
        space_records: in no order.
        markers: in no order.
        epochs: what packs remember of epochs whose beginning was collected, by epoch.
        objects: for each object that carries data, its head without the big tables.
        broken: by key, objects that are listed but not what they should be.
        notes: what a reader should be told, though it does no harm.
        sealed: whether there were heads that could not be opened for want of a key.
        keeps_sums: the content checksums are kept too, for `extent_sums`; on disk, as extents are.
        keeps_names: the names of trees are kept too; on disk.
        tree_records: in no order.
        vm_records: in no order; equal values are kept once.
        skews: by cut (epoch and number), which files changed while it was taken.
        names: what was kept of the names of trees.
    """

    domain: bytes
    segments: dict[tuple[int, int], Segment] = field(default_factory=dict)
    ledger: Ledger = NO_LEDGER
    packs: set[str] = field(default_factory=set)
    space_records: list[SpaceRecord] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    objects: list[Head] = field(default_factory=list)
    broken: dict[str, Broken] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sealed: bool = False
    keeps_sums: bool = False
    keeps_names: bool = False
    tree_records: list[TreeRecord] = field(default_factory=list)
    vm_records: list[VmRecord] = field(default_factory=list)
    skews: dict[tuple[int, int], Skew] = field(default_factory=dict)
    names: NameSpool = field(default_factory=NameSpool)
    _spaces: dict[bytes, int] = field(default_factory=dict)
    _vm_values: dict[bytes, bytes] = field(default_factory=dict)
    _runs: Spool = field(default_factory=lambda: Spool(PLACED_RUNS))
    _key_blocks: dict[bytes, bytes] = field(default_factory=dict)
    _spool: Spool = field(default_factory=lambda: Spool(EXTENTS))
    _first_sums: Spool = field(default_factory=lambda: Spool(np.dtype("<i8")))
    _sums: Spool = field(default_factory=lambda: Spool(SUMS))

    def extents(self) -> Table:
        """All extents, of type EXTENTS."""
        return self._spool.table()

    def extent_sums(self) -> tuple[Table, Table]:
        """For each row of `extents` the number of its first sum, and all sums (SUMS), where they are kept."""
        assert self.keeps_sums, "sums are kept only where they were asked for"
        return self._first_sums.table(), self._sums.table()

    def spaces(self) -> list[bytes]:
        """The ids of all spaces that have runs, named by a record or not."""
        return list(self._spaces)

    def runs(self, space: bytes) -> Table:
        """The runs of one space, of type PLACED_RUNS, in no order."""
        placed = self._runs.table()
        found: Table = placed[placed["space"] == self.space_number(space)]
        return found

    def all_runs(self) -> Table:
        """The runs of all spaces, of type PLACED_RUNS, in no order."""
        return self._runs.table()

    def space_number(self, space: bytes) -> int:
        """What a space is called in PLACED_RUNS; -1 where it has no runs."""
        return self._spaces.get(space, -1)

    def add(self, seen: Seen) -> None:
        """Take in one object, unless the ledger says that it does not count.

        Raises DamagedObject where a record's value makes no sense, or a pack is not the one that is in force.
        """
        preamble = seen.preamble
        if preamble.kind is ObjectKind.SEGMENT:
            if self.ledger.is_collected(preamble.epoch, preamble.seq):
                return
            self.segments[preamble.epoch, preamble.seq] = Segment(
                epoch=preamble.epoch,
                seq=preamble.seq,
                cut=preamble.cut,
                complete=preamble.complete,
                not_whole=preamble.not_whole,
                cut_time_ns=preamble.cut_time_ns,
                stored_ns=0,
                object_bytes=preamble.object_length,
                base=preamble.base,
                end=preamble.end,
                previous_digest=preamble.previous_digest,
                digest=seen.digest,
                journal=(preamble.journal_generation, preamble.journal_offset),
                raw_bytes=0 if seen.head is None else _told_bytes(seen.head, "raw_bytes"),
                incompressible_bytes=0
                if seen.head is None
                else _told_bytes(seen.head, "incompressible_bytes"),
            )
        elif seen.key not in self.ledger.packs:
            return
        elif seen.digest != self.ledger.packs[seen.key]:
            raise DamagedObject(seen.key, "it is not the pack that the ledger in force names")
        else:
            self.packs.add(seen.key)
        if seen.head is None:
            self.sealed = True
        else:
            places = _places(seen.head)
            self._add_records(seen.head, places)
            self._add_extents(seen.head, places)

    def _add_records(self, head: Head, places: list[Place]) -> None:
        if self.keeps_names:
            self.names.add(head.index, places, [self._counts(head, place) for place in places])
        for record in head.index.iter_records(leave_out=_NAME_RECORDS):
            place = places[record.order or 0]
            if record.name == "epoch":
                found = parse_packed_epoch(record, self.domain, head.key)
                self.epochs[found.epoch] = found
            if not self._counts(head, place):
                continue
            if record.name in _SPACE_RECORDS:
                value = record_value(record, head.key)
                self.space_records.append(SpaceRecord(place, record.name, record.key, value))
                if record.name == "space=":
                    self._add_cover(head, place, record.key, value.get("size_bytes"))
            elif record.name == "marker":
                value, name = record_value(record, head.key), record.key.decode("utf-8", "replace")
                term = marker_of(name, value)
                self.markers.append(Marker(place, name, str(value.get("note", "")), term))
            elif record.name in _TREE_RECORDS:
                title, rules = "", None
                if record.name == "tree+":
                    title, rules = parse_tree(record.value, head.key), parse_rules(record.value, head.key)
                self.tree_records.append(TreeRecord(place, record.name, record.key, title, rules))
            elif record.name == "vm":
                self._add_vm(head, place, record)
            elif record.name == "skew":
                self._add_skew(head, place, record)
            elif record.name == "cut":
                self._add_collected_cut(head, record)

    def _add_vm(self, head: Head, place: Place, record: Record) -> None:
        """Every epoch repeats all of them, mostly as they were."""
        if len(record.key) != ID_BYTES:
            raise DamagedObject(head.key, "a VM has an id that is none")
        value = self._vm_values.setdefault(record.value, record.value)
        self.vm_records.append(VmRecord(place, record.key, value))

    def _add_skew(self, head: Head, place: Place, record: Record) -> None:
        cut, skew = parse_skew(record, head.key)
        if cut != (place.epoch, place.cut):
            raise DamagedObject(head.key, f"it tells of skewed files of cut {cut[0]}.{cut[1]}")
        self.skews[cut] = skew

    def _add_cover(self, head: Head, place: Place, space: bytes, size_bytes: object) -> None:
        """A resize covers everything at or beyond the new size in older cuts."""
        if type(size_bytes) is not int or not 0 <= size_bytes <= SPACE_BYTES_MAX:
            raise DamagedObject(head.key, f"space {space.hex()} is resized to what is no size")
        if size_bytes < SPACE_BYTES_MAX:
            cover = cover_beyond(size_bytes)
            number = self._spaces.setdefault(space, len(self._spaces))
            run = run_of(cover, COVER, self._append(cover))
            row = (number, place.epoch, place.cut, place.seq, *run)
            self._runs.append(np.array([row], dtype=PLACED_RUNS))

    def _add_collected_cut(self, head: Head, record: Record) -> None:
        value = Members(record_value(record, head.key), head.key)
        try:
            epoch, cut = _CUT_KEY.unpack(record.key)
            segment = Segment(
                epoch=epoch,
                seq=value.number("seq"),
                cut=cut,
                complete=value.flag("complete"),
                not_whole=tuple(bytes.fromhex(space) for space in value.texts("not_whole")),
                cut_time_ns=value.time_ns("cut_time_ns"),
                stored_ns=value.time_ns("stored_ns"),
                object_bytes=0,
                base=None,
                end=None,
                previous_digest=b"",
                digest=b"",
            )
        except (struct.error, ValueError) as error:
            raise DamagedObject(head.key, f"a cut record makes no sense: {error}") from error
        if (epoch, cut) != (value.number("epoch"), value.number("cut")):
            raise DamagedObject(head.key, f"the record of cut {epoch}.{cut} tells of another one")
        if not is_place(segment.place):
            raise DamagedObject(head.key, f"the record of cut {epoch}.{cut} names no cut")
        if self.ledger.is_collected(epoch, segment.seq):
            self.segments.setdefault((epoch, segment.seq), segment)

    def _counts(self, head: Head, place: Place) -> bool:
        """Whether a row of this place counts: of packs only those that stand for collected segments."""
        is_pack = head.preamble.kind is ObjectKind.PACK
        return not is_pack or self.ledger.is_collected(place.epoch, place.seq)

    def _add_extents(self, head: Head, places: list[Place]) -> None:
        """All extents of an object at once: a segment may hold those of thousands of files."""
        rows = extent_rows(head.index.extent_table)
        if not len(rows):
            return
        number = len(self.objects)
        self.objects.append(self._slim(head))
        first_sums = self._keep_sums(rows, head.index.sums)
        order = np.where(rows["order"] < len(places), rows["order"], 0)
        counts = np.array([self._counts(head, place) for place in places], dtype=np.bool_)
        if not counts.all():
            kept = counts[order]
            rows, order = rows[kept], order[kept]
            first_sums = first_sums[kept] if self.keeps_sums else first_sums
        if len(rows):
            first = self._append(extents_of(rows), first_sums)
            self._add_runs(head, rows, places, number, first)

    def _add_runs(self, head: Head, rows: Table, places: list[Place], number: int, first: int) -> None:
        """The runs of an object's extents, which stand from `first` on among all."""
        firsts, counts = stretches(rows)
        lasts = rows[firsts + counts - 1]
        order = np.where(rows["order"][firsts] < len(places), rows["order"][firsts], 0)
        at = np.array([(place.epoch, place.cut, place.seq) for place in places], dtype=np.int64)
        spaces = rows["space"][firsts]
        numbers = np.zeros(len(head.index.spaces), dtype=np.int64)
        for used in np.flatnonzero(np.bincount(spaces)).tolist():
            numbers[used] = self._spaces.setdefault(head.index.spaces[used], len(self._spaces))
        runs = np.zeros(len(firsts), dtype=PLACED_RUNS)
        runs["space"] = numbers[spaces]
        runs["epoch"], runs["cut"], runs["seq"] = at[order, 0], at[order, 1], at[order, 2]
        runs["object"], runs["first"], runs["count"] = number, first + firsts, counts
        runs["start"] = rows["offset"][firsts]
        runs["end"] = lasts["offset"] + lasts["length"]
        self._runs.append(runs)

    def _keep_sums(self, rows: Table, sums: bytes) -> Table:
        """For each row of an object the number of its first sum."""
        if not self.keeps_sums:
            return np.zeros(0, dtype=np.int64)
        return sums_before(rows) + self._sums.append(np.frombuffer(sums, dtype=SUMS))

    def _append(self, extents: Table, first_sums: Table | None = None) -> int:
        if self.keeps_sums:
            self._first_sums.append(np.zeros(len(extents), "<i8") if first_sums is None else first_sums)
        return self._spool.append(extents)

    def _slim(self, head: Head) -> Head:
        """The head without what the spool holds: enough to fetch and open frames."""
        index = replace(
            head.index, spaces=(), order_table=b"", extent_table=b"", sums=b"", record_table=b"", blob=b""
        )
        # Thousands of objects carry the same key block: it is kept once.
        preamble = head.preamble
        block = self._key_blocks.setdefault(preamble.key_block, preamble.key_block)
        if block is not preamble.key_block:
            preamble = replace(preamble, key_block=block)
        return Head(head.key, preamble, {}, index)

    def close(self) -> None:
        """Give the spool's disk space back."""
        for spool in (self._spool, self._first_sums, self._sums, self._runs, self.names):
            spool.close()


def _told_bytes(head: Head, name: str) -> int:
    """The sum over all spaces of a figure that a header has for people, as far as it makes sense."""
    spaces = head.header.get("spaces")
    told = (
        [space.get(name) for space in spaces if isinstance(space, dict)] if isinstance(spaces, list) else []
    )
    return sum(count for count in told if type(count) is int and 0 <= count <= OBJECT_TOLD_BYTES_MAX)


def _places(head: Head) -> list[Place]:
    """The place in history of each order row; a segment has one, its own."""
    if head.preamble.kind is not ObjectKind.PACK:
        return [head.preamble.place]
    rows = order_rows(head.index.order_table)
    return [Place(int(row["epoch"]), int(row["cut"]), int(row["seq"])) for row in rows]
