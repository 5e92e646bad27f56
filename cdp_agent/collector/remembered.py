"""The facts of all objects, as they are remembered: in memory as tables, their extents on local disk.

Which objects there are, and which of them count, does not belong here (reading, alive).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from cdp_agent.collector.cache import Cache, CacheDamaged, checksum
from cdp_agent.collector.facts import (
    EXTENT,
    FACT,
    LENGTHS_BYTES,
    NAME,
    RUN,
    ObjectFacts,
    RecordFact,
    lengths_of,
    packed,
    split,
    unpacked_rest,
)
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table

PART_ROWS: Final = 4096
"""Extents of one object that are kept together: of a big pack only those that are wanted are read."""

KEEP_OBJECTS: Final = 4096
"""New objects after which all so far are made durable: what a pass that is killed need not read again."""

_PARTS_MAX: Final = 1 << 32
"""More than any object has."""

LOAD_OBJECTS: Final = 2
"""Facts of so many objects are read at once; those of a pack of small files are some 4 MiB."""

LOAD_BYTES: Final = 1 << 20
"""Of facts that go into the tables at once."""

LOAD_ROWS: Final = 1 << 17
"""Runs that get the numbers of their spaces at once."""

_NARROW: Final = frozenset({"run", "space", "first", "count"})
"""What fits into 32 bits, of a RUN in memory: of files there are millions."""

RUNS: Final = np.dtype(
    [*((name, "<i4" if name in _NARROW else RUN[name]) for name in RUN.names or ()), ("object", "<i8")]
)
"""A RUN with the object's row in the tables, and the space's number among all."""

NAMES: Final = np.dtype([*((name, NAME[name]) for name in NAME.names or ()), ("object", "<i4")])
"""A NAME with the object's row in the tables."""

_BEGINNINGS: Final = "SELECT substr(data, 1, ?), length(data) FROM objects ORDER BY id"

SPACE: Final = np.dtype("V16")
"""The id of a space."""


@dataclass(slots=True)
class Tables:
    """All objects that are remembered, one row each.

    Attributes:
        ids: unique for ever, ascending.
        keys: in the container.
        facts: of type FACT.
        runs: of type RUNS, by object and then in their order.
        spaces: the ids (SPACE) that `runs` number.
        records: by row, of those that have any; but those of names.
        not_whole: by row, of those that have any.
    """

    ids: Ints
    keys: list[str]
    facts: Table
    runs: Table
    spaces: Table
    records: dict[int, tuple[RecordFact, ...]] = field(default_factory=dict)
    not_whole: dict[int, tuple[bytes, ...]] = field(default_factory=dict)


class Remembered:
    """Facts in a cache; a cache that turns out to be damaged is thrown away, and CacheDamaged raised."""

    def __init__(self, directory: Path, domain: bytes) -> None:
        """Raises LocalDiskFull, CdpError."""
        self.cache = Cache(directory, domain)
        self._tables: Tables | None = None
        self._fresh = 0

    def close(self) -> None:
        """Keep what was learnt, and let go of the file."""
        self.cache.keep()
        self.cache.close()

    def tables(self) -> Tables:
        """Everything, as of now. Raises CacheDamaged."""
        if self._tables is None:
            self._tables = _loaded(self.cache)
        return self._tables

    def names(self) -> Table:
        """All names (NAMES), by object and then in their order. Raises CacheDamaged.

        They are read anew each time: of files there are millions, and hardly anybody wants to know.
        """
        return _names(self.cache)

    def add(self, key: str, facts: ObjectFacts, extents: Table) -> None:
        """Remember an object, in the place of what was known under its key. Raises LocalDiskFull."""
        self.cache.begin()
        self._forget(key)
        data = packed(facts)
        number = self.cache.run(
            "INSERT INTO objects (key, data, crc) VALUES (?, ?, ?)", key, data, checksum(data)
        )
        for part, first in enumerate(range(0, len(extents), PART_ROWS)):
            rows = extents[first : first + PART_ROWS].tobytes()
            self.cache.run("INSERT INTO extents VALUES (?, ?, ?, ?)", number, part, rows, checksum(rows))
        self._tables = None
        self._fresh += 1
        if self._fresh % KEEP_OBJECTS == 0:
            self.cache.keep()

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the facts of objects that are known to be gone."""
        self.cache.begin()
        for key in keys:
            self._forget(key)
        self._tables = None
        self.cache.keep()

    def _forget(self, key: str) -> None:
        for (number,) in self.cache.rows("SELECT id FROM objects WHERE key = ?", key):
            self.cache.run("DELETE FROM extents WHERE object = ?", number)
            self.cache.run("DELETE FROM objects WHERE id = ?", number)

    def extents_of(self, runs: Table) -> Table:
        """The extents (EXTENT) of some runs of RUNS, one after another. Raises CacheDamaged.

        What was kept together is read but once, whatever order the runs have: files have one extent each.
        """
        counts = runs["count"]
        before = np.cumsum(counts) - counts
        count = int(counts.sum())
        objects = np.repeat(runs["object"], counts)
        numbers = np.repeat(runs["first"] - before, counts) + np.arange(count)
        order = np.lexsort((numbers, objects))
        parts = objects[order] * _PARTS_MAX + numbers[order] // PART_ROWS
        begins = np.flatnonzero(np.diff(parts, prepend=-1)).tolist()
        rows = np.zeros(count, dtype=EXTENT)
        for low, high in zip(begins, [*begins[1:], count], strict=False):
            row, part = divmod(int(parts[low]), _PARTS_MAX)
            where = order[low:high]
            within = numbers[where] - part * PART_ROWS
            found = self._part(int(self.tables().ids[row]), part)
            if within[-1] >= len(found):
                raise CacheDamaged("an object has not as many extents as its runs")
            rows[where] = found[within]
        return rows

    def _part(self, number: int, part: int) -> Table:
        statement = "SELECT data, crc FROM extents WHERE object = ? AND part = ?"
        found = [data for (data,) in self.cache.checked(statement, number, part)]
        return np.frombuffer(b"".join(found), dtype=EXTENT)


def _loaded(cache: Cache) -> Tables:
    """Everything that is kept. Twice as much of it is never held: tables are made as long as they get."""
    try:
        loading = _Loading(cache.rows(_BEGINNINGS, LENGTHS_BYTES))
        for number, key, data in cache.checked(
            "SELECT id, key, data, crc FROM objects ORDER BY id", at_once=LOAD_OBJECTS
        ):
            loading.take(number, key, data)
        loading.end()
    except (ValueError, TypeError, KeyError, IndexError, struct.error) as error:
        raise CacheDamaged(f"a row is no object: {error}") from error
    tables = loading.tables
    firsts = np.cumsum(loading.space_counts) - loading.space_counts
    tables.spaces, numbers = numbered(loading.spaces)
    for at in range(0, len(tables.runs), LOAD_ROWS):
        some = tables.runs[at : at + LOAD_ROWS]
        some["space"] = numbers[firsts[some["object"]] + some["space"]]
    return tables


class _Filled:
    """A table that is filled from the parts of object after object, many at once: most of them are small."""

    def __init__(self, table: Table, kind: np.dtype[Any]) -> None:
        self._table, self._kind = table, kind
        self._waiting: list[bytes] = []
        self._bytes = self._count = 0

    def take(self, part: bytes) -> None:
        """The rows of the next object."""
        self._waiting.append(part)
        self._bytes += len(part)
        if self._bytes >= LOAD_BYTES:
            self._fill()

    def end(self) -> None:
        """There are no more of them. Raises CacheDamaged."""
        self._fill()
        if self._count != len(self._table):
            raise CacheDamaged("objects are not as long as they were")

    def _fill(self) -> None:
        rows = np.frombuffer(b"".join(self._waiting), dtype=self._kind)
        first, self._count = self._count, self._count + len(rows)
        self._waiting.clear()
        self._bytes = 0
        if self._table.dtype == self._kind:
            self._table[first : self._count] = rows
            return
        for name in self._kind.names or ():
            self._table[name][first : self._count] = rows[name]


class _Loading:
    """Tables that are filled object by object; `spaces`: those of each, one after another."""

    def __init__(self, beginnings: Sequence[tuple[Any, ...]]) -> None:
        runs, self.space_counts, _ = lengths_of([(begun, whole) for begun, whole in beginnings])
        count = len(beginnings)
        self.spaces = np.zeros(self.space_counts.sum(), dtype=SPACE)
        self.tables = Tables(
            ids=np.zeros(count, dtype=np.int64),
            keys=[],
            facts=np.zeros(count, dtype=FACT),
            runs=np.zeros(runs.sum(), dtype=RUNS),
            spaces=self.spaces,
        )
        self.tables.runs["object"] = np.repeat(np.arange(count), runs)
        self._filled = (
            _Filled(self.tables.facts, FACT),
            _Filled(self.tables.runs, RUN),
            _Filled(self.spaces, SPACE),
        )

    def take(self, number: int, key: str, data: bytes) -> None:
        """The next object."""
        row = len(self.tables.keys)
        fact, runs, spaces, _, rest = split(data)
        self.tables.ids[row] = number
        self.tables.keys.append(key)
        if rest:
            self.tables.records[row], self.tables.not_whole[row] = unpacked_rest(rest)
        for filled, part in zip(self._filled, (fact, runs, spaces), strict=True):
            filled.take(part)

    def end(self) -> None:
        """There are no more of them. Raises CacheDamaged."""
        for filled in self._filled:
            filled.end()


def _names(cache: Cache) -> Table:
    try:
        _, _, counts = lengths_of([(begun, whole) for begun, whole in cache.rows(_BEGINNINGS, LENGTHS_BYTES)])
        names = np.zeros(counts.sum(), dtype=NAMES)
        names["object"] = np.repeat(np.arange(len(counts)), counts)
        filled = _Filled(names, NAME)
        if len(names):
            for (data,) in cache.checked("SELECT data, crc FROM objects ORDER BY id", at_once=LOAD_OBJECTS):
                filled.take(split(data)[3])
        filled.end()
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise CacheDamaged(f"a row is no object: {error}") from error
    return names


def numbered(ids: Table) -> tuple[Table, Ints]:
    """The ids of spaces, each once, and for every one its number among them."""
    halves = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(is_new) - 1
    return ids[order[is_new]], numbers
