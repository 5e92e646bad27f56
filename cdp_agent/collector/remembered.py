"""The facts of all objects, as they are remembered: in memory as tables, their extents on local disk.

Which objects there are, and which of them count, does not belong here (reading, alive).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from cdp_agent.collector.cache import Cache, CacheDamaged, checksum
from cdp_agent.collector.facts import (
    EXTENT,
    FACT,
    RUN,
    ObjectFacts,
    RecordFact,
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

LOAD_OBJECTS: Final = 256
"""Facts of so many objects are read at once; a big pack's are a few MiB."""

RUNS: Final = np.dtype([*((name, RUN[name]) for name in RUN.names or ()), ("object", "<i8")])
"""A RUN with the object's row in the tables, and the space's number among all."""


@dataclass(slots=True)
class Tables:
    """All objects that are remembered, one row each.

    Attributes:
        ids: unique for ever, ascending.
        keys: in the container.
        facts: of type FACT.
        runs: of type RUNS, by object and then in their order.
        spaces: the ids that `runs` number.
        records: by row, of those that have any.
        not_whole: by row, of those that have any.
    """

    ids: Ints
    keys: list[str]
    facts: Table
    runs: Table
    spaces: list[bytes]
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

        Where several of an object follow each other it is read but once.
        """
        found: list[Table] = []
        for row, first, count in _stretches(runs):
            number = int(self.tables().ids[row])
            found.append(self._rows(number, first, count))
        rows = np.concatenate(found) if found else np.zeros(0, dtype=EXTENT)
        if len(rows) != int(runs["count"].sum()):
            raise CacheDamaged("an object has not as many extents as its runs")
        return rows

    def _rows(self, number: int, first: int, count: int) -> Table:
        low, high = first // PART_ROWS, (first + count - 1) // PART_ROWS
        parts = [
            data
            for (data,) in self.cache.checked(
                "SELECT data, crc FROM extents WHERE object = ? AND part BETWEEN ? AND ? ORDER BY part",
                number,
                low,
                high,
            )
        ]
        rows = np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), dtype=EXTENT)
        return rows[first - low * PART_ROWS :][:count]


def _stretches(runs: Table) -> Iterator[tuple[int, int, int]]:
    """(object, first, count): neighbouring runs of one object that go on in each other are one."""
    if len(runs) == 0:
        return
    ends = runs["first"] + runs["count"]
    goes_on = (runs["object"][1:] == runs["object"][:-1]) & (runs["first"][1:] == ends[:-1])
    begins = np.flatnonzero(np.concatenate((np.array([True]), ~goes_on)))
    lasts = np.concatenate((begins[1:], np.array([len(runs)]))) - 1
    firsts = runs["first"][begins]
    yield from zip(
        runs["object"][begins].tolist(), firsts.tolist(), (ends[lasts] - firsts).tolist(), strict=True
    )


def _loaded(cache: Cache) -> Tables:
    ids: list[int] = []
    keys: list[str] = []
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    spaces: dict[bytes, int] = {}
    numbers: list[list[int]] = []
    lists: dict[bytes, list[int]] = {}
    tables = Tables(np.zeros(0, dtype=np.int64), keys, np.zeros(0), np.zeros(0), [])
    try:
        for row, (number, key, data) in enumerate(
            cache.checked("SELECT id, key, data, crc FROM objects ORDER BY id", at_once=LOAD_OBJECTS)
        ):
            fact, runs, names, rest = split(data)
            ids.append(number)
            keys.append(key)
            parts[0].append(fact)
            parts[1].append(runs)
            if names not in lists:
                ids_of = [names[at : at + 16] for at in range(0, len(names), 16)]
                lists[names] = [spaces.setdefault(space, len(spaces)) for space in ids_of]
            numbers.append(lists[names])
            if rest:
                tables.records[row], tables.not_whole[row] = unpacked_rest(rest)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise CacheDamaged(f"a row is no object: {error}") from error
    tables.ids = np.array(ids, dtype=np.int64)
    tables.facts = np.frombuffer(b"".join(parts[0]), dtype=FACT)
    tables.spaces = list(spaces)
    counts = [len(part) // RUN.itemsize for part in parts[1]]
    tables.runs = _all_runs(np.frombuffer(b"".join(parts[1]), dtype=RUN), counts, numbers)
    return tables


def _all_runs(runs: Table, counts: Sequence[int], numbers: list[list[int]]) -> Table:
    """Runs with their object, and with spaces numbered among all instead of in their object."""
    table = np.zeros(len(runs), dtype=RUNS)
    for name in RUN.names or ():
        table[name] = runs[name]
    table["object"] = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    known = np.array([number for each in numbers for number in each], dtype=np.int64)
    before = np.cumsum([0, *(len(each) for each in numbers)])[:-1]
    if len(table):
        table["space"] = known[before[table["object"]] + table["space"]]
    return table
