"""What every interval shows: remembered, or computed out of what changed, and then remembered.

Of intervals that became one only what was visible is looked at again; of one that is as it was nothing, nor
of one that is a single cut. Which intervals there are does not belong here (lines), nor which runs count
(counting).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_agent.collector.cache import Cache
from cdp_agent.collector.counting import Counting
from cdp_agent.collector.lines import NO_INTERVAL, Lines
from cdp_agent.collector.remembered import Remembered, Tables
from cdp_agent.collector.results import (
    MEMBER,
    Result,
    Tally,
    drop_result,
    keep_result,
    pieces_within,
    read_results,
)
from cdp_agent.collector.showing import shown
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ObjectKind

KEEP_PIECES: Final = 1 << 20
"""New pieces after which results are made durable."""
_ALL: Final = slice(None)
NO_RESULT: Final = 0
"""The id of one that is not remembered: its pieces are nowhere."""


@dataclass(frozen=True, slots=True)
class State:
    """What a computation goes by."""

    remembered: Remembered
    tables: Tables
    counting: Counting
    lines: Lines


@dataclass(frozen=True, slots=True)
class Found:
    """An interval with runs: its number, its members, and its result; None where all of them is visible."""

    number: int
    members: Table
    result: Result | None


@dataclass(frozen=True, slots=True)
class _Grouped:
    """Runs that count, by interval and then the newest first: `runs[bounds[n]:bounds[n + 1]]` are one's."""

    runs: Table
    numbers: Ints
    bounds: Ints
    is_free: Flags

    def members(self, at: int) -> Table:
        """The runs of one interval, the newest first."""
        return self.runs[self.bounds[at] : self.bounds[at + 1]]


def _groups(state: State) -> _Grouped:
    table, at = state.tables.runs, state.counting.runs
    numbers = state.lines.numbers_of(table["epoch"][at], table["seq"][at])
    within = numbers != NO_INTERVAL
    at, numbers = at[within], numbers[within]
    order = np.lexsort((*_ages(state.tables, table, at), -numbers))[::-1]
    runs, numbers = table[at[order]], numbers[order]  # once: of files there are millions
    begins = _begins(numbers)
    bounds = np.append(begins, len(runs))
    return _Grouped(runs, numbers[begins], bounds, _is_free(state.tables, runs, begins))


def _ages(tables: Tables, runs: Table, at: Ints | slice = _ALL) -> tuple[Ints | Flags, ...]:
    """What sorts some runs (`at`) from the oldest to the newest, the last one counting most.

    Within a cut records apply before extents. Of two packs that hold one row the later one's counts.
    """
    facts = tables.facts
    ranks = np.empty(len(facts), dtype=np.int64)
    ranks[np.lexsort((facts["number"], facts["epoch"], facts["kind"]))] = np.arange(len(facts))
    column = {name: runs[name][at] for name in ("run", "object", "seq", "count", "cut", "epoch")}
    ranked, is_extent = ranks[column["object"]], column["count"] > 0
    return column["run"], ranked, column["seq"], is_extent, column["cut"], column["epoch"]


def runs_by_age(tables: Tables, runs: Table) -> Table:
    """The same runs, the newest first."""
    return runs[np.lexsort(_ages(tables, runs))[::-1]]


def _begins(numbers: Ints) -> Ints:
    if len(numbers) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate((np.array([True]), numbers[1:] != numbers[:-1])))


def _is_free(tables: Tables, runs: Table, begins: Ints) -> Flags:
    """Intervals of one cut: nothing hides anything. But several packs may hold the same row."""
    if len(begins) == 0:
        return np.zeros(0, dtype=np.bool_)
    of_pack = (tables.facts["kind"][runs["object"]] == ObjectKind.PACK) & (runs["count"] > 0)
    anything = np.ones(len(runs), dtype=np.bool_)
    free = np.ones(len(begins), dtype=np.bool_)
    for values, ours in ((runs["epoch"], anything), (runs["cut"], anything), (runs["object"], of_pack)):
        low = np.minimum.reduceat(np.where(ours, values, np.iinfo(np.int64).max), begins)
        high = np.maximum.reduceat(np.where(ours, values, -1), begins)
        free &= low >= high
    return free


def updated(state: State) -> list[Found]:
    """The result of every interval that has runs: those that are remembered, the others computed.

    Raises LocalDiskFull, CacheDamaged.
    """
    grouped = _groups(state)
    cache = state.remembered.cache
    older = _older(state, read_results(cache))
    found: list[Found] = []
    fresh = 0
    for at, number in enumerate(grouped.numbers.tolist()):
        members, sources = grouped.members(at), older.pop(number, [])
        result = None if grouped.is_free[at] else _result(state, number, members, sources)
        found.append(Found(number, members, result))
        if result is not None and all(result is not source for source in sources):
            fresh += result.piece_count
        _drop(cache, [source for source in sources if source is not result])
        if fresh >= KEEP_PIECES:
            cache.keep()
            fresh = 0
    for sources in older.values():
        _drop(cache, sources)
    cache.keep()
    return found


def glanced(state: State) -> list[Found]:
    """The same without remembering anything: for retained cuts that are no more than a question.

    Raises LocalDiskFull, CacheDamaged.
    """
    grouped = _groups(state)
    older = _older(state, read_results(state.remembered.cache))
    found: list[Found] = []
    for at, number in enumerate(grouped.numbers.tolist()):
        members = grouped.members(at)
        result = None if grouped.is_free[at] else _glance(state, members, older.get(number, []))
        found.append(Found(number, members, result))
    return found


def _glance(state: State, members: Table, sources: list[Result]) -> Result:
    ours = _as_members(state.tables, members)
    tally = Tally(ours["id"])
    for pieces in shown_of(state, members, sources):
        tally.take(pieces)
    return Result(NO_RESULT, (), ours, tally.shown(), tally.piece_count)


def _drop(cache: Cache, results: Iterable[Result]) -> None:
    for result in results:
        drop_result(cache, result)


def _older(state: State, results: Iterable[Result]) -> dict[int, list[Result]]:
    """Remembered results by the interval that each lies in as a whole; under NO_INTERVAL the others."""
    older: dict[int, list[Result]] = {}
    results = list(results)
    spans = [span for result in results for span in result.spans]
    table = np.array(spans, dtype=np.int64).reshape(-1, 3)
    firsts = state.lines.numbers_of(table[:, 0], table[:, 1]).tolist()
    lasts = state.lines.numbers_of(table[:, 0], table[:, 2]).tolist()
    at = 0
    for result in results:
        upto = at + len(result.spans)
        numbers = {*firsts[at:upto], *lasts[at:upto]}
        older.setdefault(numbers.pop() if len(numbers) == 1 else NO_INTERVAL, []).append(result)
        at = upto
    return older


def _result(state: State, number: int, members: Table, sources: list[Result]) -> Result:
    """An interval's result: one of those that are remembered, if it still is that, or a new one."""
    ours = _as_members(state.tables, members)
    for source in sources:
        if np.array_equal(source.members, ours):
            return source
    spans = state.lines.spans(number)
    return keep_result(state.remembered.cache, spans, ours, shown_of(state, members, sources))


def _as_members(tables: Tables, runs: Table) -> Table:
    members = np.zeros(len(runs), dtype=MEMBER)
    members["id"], members["run"] = tables.ids[runs["object"]], runs["run"]
    return members


def shown_of(state: State, members: Table, sources: Collection[Result]) -> Iterator[Table]:
    """The visible pieces of some runs, of which results already say what need not be looked at."""
    ours = _as_members(state.tables, members)
    order = np.argsort(_as_one(ours))
    known = np.zeros(len(ours), dtype=np.bool_)
    ages: list[Ints] = []
    for source in sources:
        age = _places_in(ours[order], source.members)
        ages.append(np.where(age < 0, -1, order[age]))
        known[ages[-1][age >= 0]] = True

    def pieces(start: int, end: int) -> Iterator[Table]:
        for source, age in zip(sources, ages, strict=True):
            for portion in pieces_within(state.remembered.cache, source, start, end):
                of = age[portion["run"]]
                still = portion[of >= 0]
                still["run"] = of[of >= 0]
                yield still

    count = sum(source.piece_count for source in sources)
    yield from shown(state.remembered, members, known, pieces, count)


def _places_in(ordered: Table, wanted: Table) -> Ints:
    """Where each of some members stands in a sorted table of them; -1 where it does not."""
    if len(ordered) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.searchsorted(_as_one(ordered), _as_one(wanted))
    at = np.minimum(at, len(ordered) - 1)
    return np.where(ordered[at] == wanted, at, -1)


def _as_one(members: Table) -> Ints:
    """One sortable number per member: an object has far fewer runs than 2**32."""
    one: Ints = (members["id"] << 32) + members["run"]
    return one
