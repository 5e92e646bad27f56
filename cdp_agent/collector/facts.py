"""Facts about objects that never change: what a head says that collection wants, as rows.

Where they are kept, and which objects count, does not belong here (remembered, alive).
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from cdp_container.domain.heads import Seen
from cdp_container.errors import DamagedObject, KeyMissing
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table, extent_rows, frame_rows, order_rows, stretches
from cdp_container.format.head import Head
from cdp_container.format.index import Record
from cdp_container.format.layout import ID_BYTES, ExtentKind, ObjectKind
from cdp_container.format.limits import SPACE_BYTES_MAX
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import Preamble
from cdp_container.format.records import record_value
from cdp_container.store.api import Found

FACT: Final = np.dtype(
    [
        ("kind", "<i8"),
        ("epoch", "<i8"),
        ("number", "<i8"),
        ("cut", "<i8"),
        ("complete", "<i8"),
        ("stored_bytes", "<i8"),
        ("stored_ns", "<i8"),
        ("frame_bytes", "<i8"),
        ("rows", "<i8"),
        ("cut_time_ns", "<i8"),
        ("base", "<i8", (3,)),
        ("end", "<i8", (3,)),
        ("journal", "<u8", (2,)),
        ("digest", "V32"),
        ("previous_digest", "V32"),
    ]
)
"""What of an object's facts has one length; places are epoch, cut, seq, all 0 where there is none."""

RUN: Final = np.dtype(
    [
        ("run", "<i8"),
        ("space", "<i8"),
        ("epoch", "<i8"),
        ("cut", "<i8"),
        ("seq", "<i8"),
        ("first", "<i8"),
        ("count", "<i8"),
        ("start", "<i8"),
        ("end", "<i8"),
        ("frame_bytes", "<f8"),
    ]
)
"""Extents `first` to `first + count - 1` of an object: of one space and one place, sorted and disjoint.

They lie within `[start, end)`. `run`: its number in the object; `space`: in the object's list;
`frame_bytes`: the stored bytes of frames by the shares that the extents have of them. A count of 0 is a
cover of `[start, end)`, below all extents of its cut, which record `first` of the object lays.
"""

EXTENT: Final = np.dtype([("start", "<i8"), ("length", "<u4"), ("frame", "<u4"), ("share", "<f4")])
"""An extent; `share`: the stored bytes of its frame per raw byte, 0 in a void."""

NAME: Final = np.dtype(
    [
        ("row", "<i4"),
        ("gone", "?"),
        ("epoch", "<i8"),
        ("cut", "<i8"),
        ("seq", "<i8"),
        ("high", "<u8"),
        ("low", "<u8"),
    ]
)
"""A record of a name, there or gone: its row in the object, its place, its key's digest. There are many."""

KEPT_ALWAYS: Final = frozenset({"space=", "space-", "tree-", "epoch"})
"""Records that are live whatever is newer: they cover, while they do, or are asked for by their key alone."""

_VALUED: Final = frozenset({"space+", "space=", "space-", "marker", "cut"})
"""Records whose values are remembered."""

_NAMES: Final = frozenset({"name+", "name-"})
_DIGEST: Final = struct.Struct("<QQ")
_COVERING_END: Final = np.iinfo(np.int64).max
_LENGTHS: Final = struct.Struct("<IIII")
LENGTHS_BYTES: Final = _LENGTHS.size
"""With which packed facts begin: what `lengths_of` wants of them."""


@dataclass(frozen=True, slots=True)
class RecordFact:
    """A record: its row in the object, its place, name and key; the value of some."""

    row: int
    place: Place
    name: str
    key: bytes
    value: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """Everything that is remembered of one object but its extents.

    Attributes:
        fact: one row of type FACT.
        runs: of type RUN.
        spaces: the ids that `runs` number.
        records: but those of names.
        names: of type NAME.
    """

    fact: Table
    runs: Table
    spaces: tuple[bytes, ...]
    records: tuple[RecordFact, ...] = ()
    not_whole: tuple[bytes, ...] = ()
    names: Table = field(default_factory=lambda: np.zeros(0, dtype=NAME))


def facts_of(found: Found, seen: Seen) -> tuple[ObjectFacts, Table]:
    """The facts of an object, and its extents (EXTENT).

    Raises DamagedObject where a record makes no sense, KeyMissing where the head is sealed to us.
    """
    head = seen.head
    if head is None:
        raise KeyMissing(f"read {found.key}", "it is sealed, and there is no index key")
    places = _places(head)
    records: list[RecordFact] = []
    names: list[tuple[int, ...]] = []
    for row, record in enumerate(head.index.iter_records()):
        place = places[record.order or 0]
        if record.name in _NAMES:
            names.append((row, record.name == "name-", *_numbers(place), *_digest(record.key)))
        else:
            records.append(_record_fact(head, row, record, place))
    extents, runs = _tables(head, places)
    spaces = list(head.index.spaces)
    covers = _covers(head, records, spaces, len(runs))
    facts = ObjectFacts(
        fact=_fact(found, seen, len(extents), int(frame_rows(head.index.frame_table)["stored_length"].sum())),
        runs=np.concatenate((runs, covers)),
        spaces=tuple(spaces),
        records=tuple(records),
        not_whole=seen.preamble.not_whole,
        names=np.array(names, dtype=NAME),
    )
    return facts, extents


def _fact(found: Found, seen: Seen, rows: int, frame_bytes: int) -> Table:
    preamble = seen.preamble
    fact = np.zeros(1, dtype=FACT)
    fact["kind"], fact["epoch"], fact["number"] = preamble.kind, preamble.epoch, preamble.seq
    fact["stored_bytes"], fact["stored_ns"] = found.size, found.modified_ns
    fact["frame_bytes"], fact["rows"] = frame_bytes, rows
    fact["digest"] = np.frombuffer(seen.digest, dtype="V32")
    if preamble.kind is ObjectKind.SEGMENT:
        fact["cut"], fact["complete"] = preamble.cut, preamble.complete
        fact["cut_time_ns"] = preamble.cut_time_ns
        fact["base"], fact["end"] = _numbers(preamble.base), _numbers(preamble.end)
        fact["journal"] = preamble.journal_generation, preamble.journal_offset
        fact["previous_digest"] = np.frombuffer(preamble.previous_digest, dtype="V32")
    return fact


def _numbers(place: Place | None) -> tuple[int, int, int]:
    place = place or NOWHERE
    return place.epoch, place.cut, place.seq


def _places(head: Head) -> list[Place]:
    """The place in history of each order row; a segment has one, its own."""
    preamble: Preamble = head.preamble
    if preamble.kind is not ObjectKind.PACK:
        return [preamble.place]
    rows = order_rows(head.index.order_table)
    return [Place(int(row["epoch"]), int(row["cut"]), int(row["seq"])) for row in rows]


def _tables(head: Head, places: list[Place]) -> tuple[Table, Table]:
    rows, frames = extent_rows(head.index.extent_table), frame_rows(head.index.frame_table)
    extents = np.zeros(len(rows), dtype=EXTENT)
    extents["start"], extents["length"], extents["frame"] = rows["offset"], rows["length"], rows["frame"]
    data = rows["kind"] == ExtentKind.DATA
    of_data = rows["frame"][data]
    extents["share"][data] = frames["stored_length"][of_data] / frames["raw_length"][of_data]
    weights = extents["length"] * extents["share"].astype(np.float64)
    firsts, counts = stretches(rows)
    runs = np.zeros(len(firsts), dtype=RUN)
    for number, (first, count) in enumerate(zip(firsts.tolist(), counts.tolist(), strict=True)):
        order, space = int(rows["order"][first]), int(rows["space"][first])
        place = places[order if order < len(places) else 0]
        last = extents[first + count - 1]
        runs[number] = (
            number, space, place.epoch, place.cut, place.seq, first, count, extents["start"][first],
            int(last["start"]) + int(last["length"]), weights[first : first + count].sum(),
        )  # fmt: skip
    return extents, runs


def _record_fact(head: Head, row: int, record: Record, place: Place) -> RecordFact:
    value = dict(record_value(record, head.key)) if record.name in _VALUED else None
    return RecordFact(row, place, record.name, record.key, value)


def _digest(key: bytes) -> tuple[int, int]:
    """Of a name's key; that two have one does not happen."""
    high, low = _DIGEST.unpack(hashlib.blake2b(key, digest_size=_DIGEST.size).digest())
    return high, low


def _covers(head: Head, records: Sequence[RecordFact], spaces: list[bytes], first: int) -> Table:
    """The covers that records lay; spaces that no extent names are added to the list."""
    covers: list[tuple[float, ...]] = []
    numbers = {space: number for number, space in enumerate(spaces)}
    for record in records:
        if record.name == "space=":
            start = (record.value or {}).get("size_bytes")
            if type(start) is not int or not 0 <= start <= SPACE_BYTES_MAX:
                why = f"space {record.key.hex()} is resized to what is no size"
                raise DamagedObject(head.key, why)
        elif record.name == "space-":
            start = 0
        else:
            continue
        if start < _COVERING_END:
            if record.key not in numbers:
                numbers[record.key] = len(spaces)
                spaces.append(record.key)
            number, space, place = first + len(covers), numbers[record.key], record.place
            covers.append(
                (number, space, place.epoch, place.cut, place.seq, record.row, 0, start, _COVERING_END, 0.0)
            )
    return np.array(covers, dtype=RUN)


def packed(facts: ObjectFacts) -> bytes:
    """As bytes, for `unpacked`."""
    rest: dict[str, object] = {}
    if facts.records:
        rest["records"] = [
            [record.row, *_numbers(record.place), record.name, record.key.hex(), record.value]
            for record in facts.records
        ]
    if facts.not_whole:
        rest["not_whole"] = [space.hex() for space in facts.not_whole]
    spaces, runs = b"".join(facts.spaces), facts.runs.tobytes()
    more = json.dumps(rest).encode() if rest else b""
    names = facts.names.tobytes()
    lengths = _LENGTHS.pack(len(runs), len(spaces), len(names), len(more))
    return b"".join((lengths, facts.fact.tobytes(), runs, spaces, names, more))


def lengths_of(beginnings: Sequence[tuple[bytes, int]]) -> tuple[Ints, Ints, Ints]:
    """How many runs, spaces and names some packed facts have.

    Of each the first LENGTHS_BYTES are given, and how many there are. Raises ValueError, TypeError.
    """
    lengths = np.frombuffer(b"".join(begun for begun, _ in beginnings), dtype="<u4").astype(np.int64)
    lengths = lengths.reshape(-1, LENGTHS_BYTES // 4)
    wholes = np.array([whole for _, whole in beginnings], dtype=np.int64)
    if np.any(lengths.sum(axis=1) + LENGTHS_BYTES + FACT.itemsize != wholes):
        raise ValueError("facts are not as long as they say")
    return lengths[:, 0] // RUN.itemsize, lengths[:, 1] // ID_BYTES, lengths[:, 2] // NAME.itemsize


def split(data: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The parts of packed facts: the FACT row, the RUN rows, the spaces' ids, the NAME rows, and the rest."""
    runs, spaces, names, _ = _LENGTHS.unpack_from(data)
    at_runs = _LENGTHS.size + FACT.itemsize
    at_spaces = at_runs + runs
    at_names = at_spaces + spaces
    at_rest = at_names + names
    return (
        data[_LENGTHS.size : at_runs],
        data[at_runs:at_spaces],
        data[at_spaces:at_names],
        data[at_names:at_rest],
        data[at_rest:],
    )


def unpacked_rest(data: bytes) -> tuple[tuple[RecordFact, ...], tuple[bytes, ...]]:
    """Records and sources that are not whole, of the last part that `split` gives."""
    if not data:
        return (), ()
    rest = json.loads(data)
    places: dict[Place, Place] = {}  # of removed files there may be many: they share what is the same
    records = []
    for row, epoch, cut, seq, name, key, value in rest.get("records", ()):
        place = Place(epoch, cut, seq)
        place = places.setdefault(place, place)
        records.append(RecordFact(row, place, sys.intern(name), bytes.fromhex(key), value))
    return tuple(records), tuple(bytes.fromhex(space) for space in rest.get("not_whole", ()))
