"""Each interval's result, remembered: its runs, what of them was visible, how much that is of each object.

What is hidden at an interval's end is hidden for good: where intervals become one, only what was visible
counts. Which result serves which interval does not belong here (alive).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_agent.collector.cache import Cache, CacheDamaged, checksum
from cdp_agent.collector.lines import Spans
from cdp_container.extents.intervals import Ints
from cdp_container.extents.liveness import ROWS
from cdp_container.extents.tables import Table

PART_PIECES: Final = 16_384
"""Pieces that are kept together: those of one object are found without reading all."""

MEMBER: Final = np.dtype([("id", "<i8"), ("run", "<i8")])
"""A run of an interval, by its object's id; the newest first."""

SHOWN: Final = np.dtype([("id", "<i8"), ("rows", "<i8"), ("frame_bytes", "<f8")])
"""How much of an object is visible in an interval: extents, and stored bytes of their frames by share."""

_SPAN: Final = np.dtype("<i8")
_HEADER: Final = struct.Struct("<IIIQ")


@dataclass(frozen=True, slots=True)
class Result:
    """What is remembered of one interval but its pieces, which are `piece_count`."""

    id: int
    spans: Spans
    members: Table
    shown: Table
    piece_count: int


def read_results(cache: Cache) -> list[Result]:
    """All of them. Raises CacheDamaged."""
    found = []
    for number, data in cache.checked("SELECT id, data, crc FROM results ORDER BY id"):
        try:
            spans, members, shown, piece_count = _HEADER.unpack_from(data)
            at_members = _HEADER.size + spans
            at_shown = at_members + members
            numbers = np.frombuffer(data[_HEADER.size : at_members], dtype=_SPAN).reshape(-1, 3).tolist()
            result = Result(
                id=number,
                spans=tuple((epoch, first, last) for epoch, first, last in numbers),
                members=np.frombuffer(data[at_members:at_shown], dtype=MEMBER),
                shown=np.frombuffer(data[at_shown : at_shown + shown], dtype=SHOWN),
                piece_count=piece_count,
            )
        except (struct.error, ValueError) as error:
            raise CacheDamaged(f"a row is no result: {error}") from error
        found.append(result)
    return found


def keep_result(cache: Cache, spans: Spans, members: Table, portions: Iterable[Table]) -> Result:
    """Write a result down, portion by portion: ROWS, `run` an index into `members` (MEMBER).

    It is durable with the cache's next `keep`. Raises LocalDiskFull.
    """
    cache.begin()
    number = cache.run("INSERT INTO results (data, crc) VALUES (NULL, 0)")
    tally = Tally(members["id"])
    part = 0
    for pieces in portions:
        tally.take(pieces)
        for first in range(0, len(pieces), PART_PIECES):
            some = pieces[first : first + PART_PIECES]
            data = some.tobytes()
            runs = int(some["run"][0]), int(some["run"][-1])
            offsets = int(some["start"].min()), int(some["end"].max())
            statement = "INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            cache.run(statement, number, part, *runs, *offsets, data, checksum(data))
            part += 1
    shown = tally.shown()
    parts = np.array(spans, dtype=_SPAN).tobytes(), members.tobytes(), shown.tobytes()
    data = _HEADER.pack(*(len(each) for each in parts), tally.piece_count) + b"".join(parts)
    cache.run("UPDATE results SET data = ?, crc = ? WHERE id = ?", data, checksum(data), number)
    return Result(number, spans, members, shown, tally.piece_count)


def drop_result(cache: Cache, result: Result) -> None:
    """Forget a result that serves nobody any more."""
    cache.begin()
    cache.run("DELETE FROM pieces WHERE result = ?", result.id)
    cache.run("DELETE FROM results WHERE id = ?", result.id)


def pieces_of(cache: Cache, result: Result, first: int, last: int) -> Iterator[Table]:
    """The pieces (ROWS) of members `first` to `last`, portion by portion. Raises CacheDamaged."""
    statement = "SELECT data, crc FROM pieces WHERE result = ? AND last >= ? AND first <= ? ORDER BY part"
    for (data,) in cache.checked(statement, result.id, first, last):
        pieces = np.frombuffer(data, dtype=ROWS)
        yield pieces[(pieces["run"] >= first) & (pieces["run"] <= last)]


def pieces_within(cache: Cache, result: Result, start: int, end: int) -> Iterator[Table]:
    """All pieces (ROWS) that reach into `[start, end)` of any space, and others. Raises CacheDamaged."""
    statement = "SELECT data, crc FROM pieces WHERE result = ? AND high > ? AND low < ? ORDER BY part"
    for (data,) in cache.checked(statement, result.id, start, end):
        yield np.frombuffer(data, dtype=ROWS)


class Tally:
    """How much of each object some pieces show."""

    def __init__(self, ids: Ints) -> None:
        self._ids, self._places = np.unique(ids, return_inverse=True)
        self._rows = np.zeros(len(self._ids), dtype=np.int64)
        self._frame_bytes = np.zeros(len(self._ids))
        self.piece_count = 0

    def take(self, pieces: Table) -> None:
        """Count pieces; they are sorted by run and row."""
        if len(pieces) == 0:
            return
        of = self._places[pieces["run"]]
        fresh = np.concatenate((np.array([True]), (pieces["run"][1:] != pieces["run"][:-1])))
        fresh[1:] |= pieces["row"][1:] != pieces["row"][:-1]
        self._rows += np.bincount(of[fresh], minlength=len(self._ids))
        weights = (pieces["end"] - pieces["start"]) * pieces["share"].astype(np.float64)
        self._frame_bytes += np.bincount(of, weights=weights, minlength=len(self._ids))
        self.piece_count += len(pieces)

    def shown(self) -> Table:
        """Of type SHOWN, by id; objects of which nothing is visible are in it, too."""
        table = np.zeros(len(self._ids), dtype=SHOWN)
        table["id"], table["rows"], table["frame_bytes"] = self._ids, self._rows, self._frame_bytes
        return table
