"""What is live, for one set of retained cuts and one ledger in force: see `alive_types.Alive`.

Which cuts are retained does not belong here (domain.retention), nor what is done about it (choose, packing).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_agent.collector.alive_types import LIVE, OBJECTS, Interval
from cdp_agent.collector.counting import Past, check_facts, counting
from cdp_agent.collector.intervals import Found, State, glanced, runs_by_age, shown_of, updated
from cdp_agent.collector.lines import lines_of
from cdp_agent.collector.live_records import live_records
from cdp_agent.collector.remembered import Remembered, numbered
from cdp_agent.collector.results import pieces_of
from cdp_container.domain.ledgers import Ledger
from cdp_container.extents.beneath import OldestData
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.liveness import ROWS
from cdp_container.extents.tables import Table
from cdp_container.format.layout import NONE_U32, ObjectKind
from cdp_container.format.place import Place

LOAD_RUNS: Final = 1024
"""Runs whose extents are read at once in looking for old data."""

Floats: TypeAlias = NDArray[np.float64]


def alive_of(remembered: Remembered, past: Past, ledger: Ledger, retained: Collection[Place]) -> AliveObjects:
    """Find out what is live, and remember it.

    Args:
        remembered: the facts of every object that is there.
        past: which epochs count, up to where.
        ledger: the one in force.
        retained: the cuts that are kept. The newest cut is kept in any case, and so are forks.

    Raises LocalDiskFull; CacheDamaged where what is remembered is to be thrown away.
    """
    tables = remembered.tables()
    lines = lines_of(past.bases, past.newest, retained)
    counts = counting(tables, past, ledger)
    check_facts(tables, past, ledger, counts)
    state = State(remembered, tables, counts, lines)
    found = updated(state)
    records = live_records(remembered, state.counting, past, ledger, lines, retained)
    return AliveObjects(state, found, records, retained)


def objects_if(remembered: Remembered, past: Past, ledger: Ledger, retained: Collection[Place]) -> Table:
    """`Alive.objects` (OBJECTS) were only these cuts kept, and the newest; records aside. Remembers nothing.

    Its rows are those of any other call for the same ledger. Raises LocalDiskFull, CacheDamaged.
    """
    tables = remembered.tables()
    state = State(
        remembered, tables, counting(tables, past, ledger), lines_of(past.bases, past.newest, retained)
    )
    return _objects(state, glanced(state), {}, retained)


class AliveObjects:
    """See `alive_types.Alive`; good until `remembered` changes."""

    def __init__(
        self, state: State, found: list[Found], records: dict[int, Ints], retained: Collection[Place]
    ) -> None:
        self._state = state
        self._found = {each.number: each for each in found}
        self._records = records
        self._rows = {key: row for row, key in enumerate(state.tables.keys)}
        # A column of its own, as a search copies others.
        self._objects_of_runs = np.ascontiguousarray(state.tables.runs["object"])
        self.objects = _objects(state, found, records, retained)

    @property
    def intervals(self) -> Sequence[Interval]:
        """See `Alive`."""
        return self._state.lines.intervals

    def records(self, key: str) -> list[int]:
        """See `Alive`."""
        found: list[int] = self._records.get(self._rows[key], np.zeros(0, dtype=np.int64)).tolist()
        return found

    def pieces(self, key: str) -> Table:
        """See `Alive`. Raises CacheDamaged."""
        runs = self._runs_of(self._rows[key])
        numbers = self._state.lines.numbers_of(runs["epoch"], runs["seq"])
        found = [np.zeros(0, dtype=LIVE)]
        free = np.zeros(len(runs), dtype=np.bool_)
        for number in np.unique(numbers).tolist():
            interval = self._found.get(number)
            if interval is not None and interval.result is None:
                free |= numbers == number
            elif interval is not None:
                found.append(self._computed(interval, runs[numbers == number]))
        found.append(self._whole(runs[free]))
        return _joined(np.concatenate(found))

    def _runs_of(self, row: int) -> Table:
        """The extents' runs of one object that count."""
        table, counted = self._state.tables.runs, self._state.counting.runs
        low, high = np.searchsorted(self._objects_of_runs, [row, row + 1])
        at = counted[np.searchsorted(counted, low) : np.searchsorted(counted, high)]
        runs = table[at]
        return runs[runs["count"] > 0]

    def _computed(self, interval: Found, runs: Table) -> Table:
        assert interval.result is not None
        members = interval.members
        ours = (members["object"] == runs["object"][0]) & (members["count"] > 0)
        numbers = np.flatnonzero(ours)
        cache = self._state.remembered.cache
        portions = pieces_of(cache, interval.result, int(numbers[0]), int(numbers[-1]))
        pieces = np.concatenate([np.zeros(0, dtype=ROWS), *(p[ours[p["run"]]] for p in portions)])
        return self._live(pieces, members[pieces["run"]])

    def _whole(self, runs: Table) -> Table:
        extents = self._state.remembered.extents_of(runs)
        counts = runs["count"]
        pieces = np.zeros(len(extents), dtype=ROWS)
        pieces["start"], pieces["end"] = extents["start"], extents["start"] + extents["length"]
        pieces["row"] = np.repeat(runs["first"] - (np.cumsum(counts) - counts), counts) + np.arange(
            len(pieces)
        )
        pieces["frame"] = extents["frame"]
        return self._live(pieces, np.repeat(runs, counts))

    def _live(self, pieces: Table, runs: Table) -> Table:
        live = np.zeros(len(pieces), dtype=LIVE)
        for name in ("row", "start", "end", "frame"):
            live[name] = pieces[name]
        live["is_void"] = pieces["frame"] == NONE_U32
        for name in ("epoch", "seq", "cut"):
            live[name] = runs[name]
        if len(live):
            live["space"] = self._state.tables.spaces[runs["space"]]
        return live

    def over_data(self, pieces: Table) -> Flags:
        """See `Alive`. Raises CacheDamaged."""
        over = np.zeros(len(pieces), dtype=np.bool_)
        if not len(pieces):
            return over
        spaces, of = numbered(pieces["space"])
        order = np.argsort(of, kind="stable")
        firsts = np.searchsorted(of[order], np.arange(len(spaces)))
        for space, ours in zip(spaces, np.split(order, firsts[1:]), strict=True):
            number = int(np.flatnonzero(self._state.tables.spaces == space)[0])
            over[ours] = self._over_data(pieces[ours], number)
        return over

    def _over_data(self, pieces: Table, space: int) -> Flags:
        runs = self._state.tables.runs
        runs = runs[(runs["space"] == space) & (runs["count"] > 0)]
        runs = runs[(runs["start"] < pieces["end"].max()) & (runs["end"] > pieces["start"].min())]
        places, limits = _ordinals(runs, pieces)
        older = places < limits.max(initial=0)
        runs, places = runs[older], places[older]
        oldest = OldestData(pieces["start"], pieces["end"])
        for first in range(0, len(runs), LOAD_RUNS):
            some = runs[first : first + LOAD_RUNS]
            extents = self._state.remembered.extents_of(some)
            data = extents["frame"] != NONE_U32
            starts = extents["start"][data]
            of = np.repeat(places[first : first + LOAD_RUNS], some["count"])[data]
            oldest.take(starts, starts + extents["length"][data], of)
        return oldest.is_over(limits)

    def needed_by(self, cuts: Collection[Place]) -> set[str]:
        """See `Alive`. It looks at all that is live on a cut's branch. Raises CacheDamaged, KeyError."""
        ends = {interval.upto: number for number, interval in enumerate(self.intervals)}
        rows: set[int] = set()
        for cut in cuts:
            line = [self._found[at] for at in self._state.lines.back_from(ends[cut]) if at in self._found]
            if line:
                rows |= self._shown_by(line)
        return {self._state.tables.keys[row] for row in rows}

    def _shown_by(self, line: list[Found]) -> set[int]:
        members = np.concatenate([each.members for each in line])
        members = runs_by_age(self._state.tables, members)
        sources = [each.result for each in line if each.result is not None]
        rows: set[int] = set()
        for pieces in shown_of(self._state, members, sources):
            rows |= set(np.unique(members["object"][pieces["run"]]).tolist())
        return rows


def _joined(pieces: Table) -> Table:
    """Sorted by (row, start); those that a window parted are one."""
    pieces = pieces[np.lexsort((pieces["start"], pieces["row"]))]
    if len(pieces) == 0:
        return pieces
    same = (pieces["row"][1:] == pieces["row"][:-1]) & (pieces["start"][1:] == pieces["end"][:-1])
    begins = np.flatnonzero(np.concatenate((np.array([True]), ~same)))
    joined = pieces[begins]
    joined["end"] = pieces["end"][np.append(begins[1:], len(pieces)) - 1]
    return joined


def _ordinals(runs: Table, pieces: Table) -> tuple[Ints, Ints]:
    """Numbers that order the places of runs and pieces: by epoch, then seq."""
    epochs = np.concatenate((runs["epoch"], pieces["epoch"]))
    seqs = np.concatenate((runs["seq"], pieces["seq"]))
    order = np.lexsort((seqs, epochs))
    changed = (epochs[order][1:] != epochs[order][:-1]) | (seqs[order][1:] != seqs[order][:-1])
    ordinals = np.empty(len(order), dtype=np.int64)
    ordinals[order] = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(changed)))[: len(order)]
    return ordinals[: len(runs)], ordinals[len(runs) :]


def _objects(
    state: State, found: list[Found], records: dict[int, Ints], retained: Collection[Place]
) -> Table:
    tables = state.tables
    rows, live_rows, share = _shares(state, found)
    facts = tables.facts
    heads = facts["stored_bytes"] - facts["frame_bytes"]
    table = np.zeros(len(facts), dtype=OBJECTS)
    for name in ("kind", "epoch", "number", "cut", "stored_bytes", "stored_ns"):
        table[name] = facts[name]
    table["rows"], table["live_rows"] = rows, live_rows
    for row, wanted in records.items():
        table["live_records"][row] = len(wanted)
    # Nothing but records: a copy of it would be no smaller, and copied again by every pass.
    alike = np.where(rows > 0, live_rows / np.maximum(rows, 1), table["live_records"] > 0)
    live_bytes = np.rint(facts["frame_bytes"] * share + heads * alike).astype(np.int64)
    table["live_bytes"] = live_bytes
    kept = {(place.epoch, place.seq) for place in retained}
    places = zip(facts["epoch"].tolist(), facts["number"].tolist(), strict=True)
    ends = np.array([place in kept for place in places], dtype=np.bool_)
    table["ends_kept_cut"] = ends & (facts["kind"] == ObjectKind.SEGMENT)
    table["dead"] = (live_rows == 0) & (table["live_records"] == 0) & ~table["ends_kept_cut"]
    in_force = table[state.counting.objects]
    return in_force[np.lexsort((in_force["number"], in_force["epoch"], in_force["kind"]))]


def _shares(state: State, found: list[Found]) -> tuple[Ints, Ints, Floats]:
    """For each object: extents that count, how many are visible, which share of what frames hold that is."""
    tables = state.tables
    count = len(tables.facts)
    counted = state.counting.runs
    of, weights = tables.runs["object"][counted], tables.runs["count"][counted]
    rows = np.bincount(of, weights=weights, minlength=count).astype(np.int64)
    whole = np.bincount(tables.runs["object"], weights=tables.runs["frame_bytes"], minlength=count)
    live_rows = np.zeros(count, dtype=np.int64)
    live: Floats = np.zeros(count, dtype=np.float64)
    free = [each.members for each in found if each.result is None]
    if free:
        runs = _stacked(free)
        live_rows += np.bincount(runs["object"], weights=runs["count"], minlength=count).astype(np.int64)
        live += np.bincount(runs["object"], weights=runs["frame_bytes"], minlength=count)
    shown = [each.result.shown for each in found if each.result is not None]
    if shown:
        table = _stacked(shown)
        at = np.searchsorted(tables.ids, table["id"])
        live_rows += np.bincount(at, weights=table["rows"], minlength=count).astype(np.int64)
        live += np.bincount(at, weights=table["frame_bytes"], minlength=count)
    return rows, np.minimum(live_rows, rows), _share(live, whole.astype(np.float64))


def _stacked(tables: list[Table]) -> Table:
    """Many small tables as one; numpy would compare their types one by one."""
    return np.frombuffer(b"".join(table.tobytes() for table in tables), dtype=tables[0].dtype)


def _share(live: Floats, whole: Floats) -> Floats:
    share: Floats = np.where(whole > 0, np.minimum(live / np.maximum(whole, 1e-9), 1.0), 0.0)
    return share
