"""What is visible of some runs, piece by piece: from extents as they are remembered, and from older results.

Which runs make up an interval does not belong here (alive), nor how one byte hides another
(extents.liveness).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np

from cdp_agent.collector.remembered import Remembered
from cdp_container.domain.spool import typed
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.liveness import COVER_ROW, ROWS, WINDOW_ROWS, Slots, visible
from cdp_container.extents.tables import Table

LOAD_ROWS: Final = 1 << 17
"""Extents that are read at once."""

FILES_MAX: Final = 64
"""Windows that are made ready at once, of two files each."""

ADDRESSES_MAX: Final = 1 << 62
"""Spaces are laid behind one another, and looked at together, as long as their sum stays below this."""

Portions = Callable[[int, int], Iterator[Table]]
"""The pieces (ROWS, `run` an age among the members) that are known to be visible in parts of an interval.

All that reach into `[start, end)` of any space; there may be others among them.
"""


@dataclass(frozen=True, slots=True)
class _Group:
    """Spaces that are looked at together: for each member where its space begins; -1 in other groups."""

    bases: Ints
    span_bytes: int


def shown(
    remembered: Remembered, members: Table, from_pieces: Flags, pieces: Portions, piece_count: int
) -> Iterator[Table]:
    """The visible pieces of an interval.

    Args:
        remembered: where extents are.
        members: all runs and covers of the interval (RUNS), the newest first.
        from_pieces: for each member, whether `pieces` has what is to be looked at of it.
        pieces: gives them, in any order, for one range of offsets after another.
        piece_count: how many they are.

    Yields:
        ROWS, `run` an index into `members`; each portion is sorted by (run, start), no byte comes twice.

    Raises CacheDamaged, LocalDiskFull.
    """
    for group in _groups(members):
        wanted = np.flatnonzero((group.bases >= 0) & ~from_pieces & (members["count"] > 0))
        covers = _covers(members, group)
        read = _Stored(remembered, members, wanted, group)
        known = _in_group(pieces, group)
        if int(members["count"][wanted].sum()) + piece_count <= WINDOW_ROWS:
            rows = np.concatenate((covers, *known(0, group.span_bytes)))
            found = visible(_merged(read(), _by_age(rows)), 0, group.span_bytes)
            yield _at_home(found, group)
            continue
        yield from _windowed(read, known, covers, group)


def _windowed(read: _Stored, known: Portions, covers: Table, group: _Group) -> Iterator[Table]:
    """The same, in windows: extents go to a file first, and from there to one file for each window.

    So do pieces: those of a random writer lie everywhere, and would be read again for every window.
    """
    slots = Slots(group.span_bytes)
    with tempfile.TemporaryFile() as file:
        for rows in read():
            slots.count(rows)
            _append(file, rows)
        for rows in known(0, group.span_bytes):
            slots.count(rows)
        windows = list(slots.windows())
        for first in range(0, len(windows), FILES_MAX):
            some = windows[first : first + FILES_MAX]
            with ExitStack() as stack:
                parted = [
                    [stack.enter_context(tempfile.TemporaryFile()) for _ in some] for _ in ("stored", "known")
                ]
                _part(_portions(file), some, parted[0])
                _part(known(some[0][0], some[-1][1]), some, parted[1])
                for (start, end), stored, pieces in zip(some, *parted, strict=True):
                    others = _within(itertools.chain((covers,), _portions(pieces)), start, end)
                    yield _at_home(visible(_merged(_portions(stored), others), start, end), group)


def _part(portions: Iterable[Table], windows: Sequence[tuple[int, int]], files: Sequence[BinaryIO]) -> None:
    """To each window's file the rows that reach into it, in their order."""
    for rows in portions:
        starts, ends = np.ascontiguousarray(rows["start"]), np.ascontiguousarray(rows["end"])
        for (start, end), part in zip(windows, files, strict=True):
            _append(part, rows[(starts < end) & (ends > start)])


def _append(file: BinaryIO, rows: Table) -> None:
    try:
        file.write(rows.tobytes())
    except OSError as error:
        raise typed(error) from error


def _portions(file: BinaryIO) -> Iterator[Table]:
    """The rows of a file, from its beginning."""
    try:
        file.seek(0)
        while chunk := file.read(LOAD_ROWS * ROWS.itemsize):
            yield np.frombuffer(chunk, dtype=ROWS)
    except OSError as error:
        raise typed(error) from error


def _groups(members: Table) -> Iterator[_Group]:
    """Spaces behind one another, as few groups as possible; those without an extent are in none."""
    extents = members[members["count"] > 0]
    spaces, places = np.unique(extents["space"], return_inverse=True)
    spans = np.zeros(len(spaces), dtype=np.int64)
    np.maximum.at(spans, places, extents["end"])
    first = 0
    while first < len(spaces):
        total, upto = int(spans[first]), first + 1
        while upto < len(spaces) and total + int(spans[upto]) <= ADDRESSES_MAX:
            total, upto = total + int(spans[upto]), upto + 1
        bases = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(spans[first : upto - 1])))
        at = np.searchsorted(spaces[first:upto], members["space"])
        at = np.minimum(at, upto - first - 1)
        ours = spaces[first:upto][at] == members["space"]
        yield _Group(np.where(ours, bases[at], -1), total)
        first = upto


def _covers(members: Table, group: _Group) -> Table:
    """The covers of a group, each up to the end of its space."""
    numbers = np.flatnonzero((group.bases >= 0) & (members["count"] == 0))
    rows = np.zeros(len(numbers), dtype=ROWS)
    if len(numbers) == 0:
        return rows
    bases = np.unique(group.bases[group.bases >= 0])
    ends = np.append(bases[1:], group.span_bytes)
    end = ends[np.searchsorted(bases, group.bases[numbers])]
    rows["start"] = group.bases[numbers] + np.minimum(members["start"][numbers], end - group.bases[numbers])
    rows["end"], rows["run"], rows["row"] = end, numbers, COVER_ROW
    return rows[rows["start"] < rows["end"]]


@dataclass(frozen=True, slots=True)
class _Stored:
    """The extents of some members, the newest first, at their group's addresses."""

    remembered: Remembered
    members: Table
    wanted: Ints
    group: _Group

    def __call__(self) -> Iterator[Table]:
        sums = np.cumsum(self.members["count"][self.wanted])
        at = 0
        while at < len(self.wanted):
            before = int(sums[at - 1]) if at else 0
            upto = max(at + 1, int(np.searchsorted(sums, before + LOAD_ROWS, side="right")))
            yield self._rows(self.wanted[at:upto])
            at = upto

    def _rows(self, numbers: Ints) -> Table:
        runs = self.members[numbers]
        extents = self.remembered.extents_of(runs)
        counts = runs["count"]
        rows = np.zeros(len(extents), dtype=ROWS)
        rows["start"] = extents["start"] + np.repeat(self.group.bases[numbers], counts)
        rows["end"] = rows["start"] + extents["length"]
        rows["run"] = np.repeat(numbers, counts)
        rows["row"] = np.repeat(runs["first"] - (np.cumsum(counts) - counts), counts) + np.arange(len(rows))
        rows["frame"], rows["share"] = extents["frame"], extents["share"]
        return rows


def _in_group(pieces: Portions, group: _Group) -> Portions:
    bases = np.unique(group.bases[group.bases >= 0])
    beyond = np.append(bases[1:], group.span_bytes)

    def portions(start: int, end: int) -> Iterator[Table]:
        within = (bases < end) & (beyond > start)
        low = int(np.maximum(start - bases[within], 0).min())
        high = int((np.minimum(end, beyond[within]) - bases[within]).max())
        for rows in pieces(low, high):
            ours = rows[group.bases[rows["run"]] >= 0]
            ours["start"] += group.bases[ours["run"]]
            ours["end"] += group.bases[ours["run"]]
            yield ours

    return portions


def _at_home(rows: Table, group: _Group) -> Table:
    rows["start"] -= group.bases[rows["run"]]
    rows["end"] -= group.bases[rows["run"]]
    return rows


def _within(portions: Iterable[Table], start: int, end: int) -> Table:
    """What of some rows reaches into a window, the newest first."""
    return _by_age(np.concatenate([rows[(rows["start"] < end) & (rows["end"] > start)] for rows in portions]))


def _by_age(rows: Table) -> Table:
    return rows[np.lexsort((rows["start"], rows["run"]))]


def _merged(stored: Iterable[Table], others: Table) -> Iterator[Table]:
    """Two streams, each the newest first, as one; they have no run in common."""
    at = 0
    for rows in stored:
        upto = int(np.searchsorted(others["run"], rows["run"][-1]))
        if upto > at:
            both = np.concatenate((rows, others[at:upto]))
            yield both[np.argsort(both["run"], kind="stable")]
        else:
            yield rows
        at = max(at, upto)
    yield others[at:]
