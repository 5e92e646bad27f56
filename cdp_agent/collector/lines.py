"""The tree of a domain's history as intervals: what lies behind one retained cut, up to the next. PURE.

Where two lines with retained cuts part, the fork ends an interval, whether it is a retained cut or not: what
is visible there either side may show. The newest epoch's end ends one, too. Which cuts are retained, and what
stands in an interval, does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_agent.collector.alive_types import Interval
from cdp_container.extents.intervals import Ints
from cdp_container.format.place import NOWHERE, Place

NO_INTERVAL: Final = -1
"""The number of what no retained cut shows."""

Spans = tuple[tuple[int, int, int], ...]
"""What an interval is made of, oldest first: of each epoch the first seq and the last."""


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The stretches of one epoch: where each ends (ascending), and its interval's number."""

    ends: Ints
    numbers: Ints


@dataclass(frozen=True, slots=True)
class Lines:
    """All intervals. `_parents[n]` is the one that interval n follows on; NO_INTERVAL at a beginning."""

    intervals: tuple[Interval, ...]
    _epochs: Mapping[int, _Epoch]
    _parents: tuple[int, ...]
    _through: Mapping[int, list[int]]

    def spans(self, number: int) -> Spans:
        """What an interval is made of."""
        spans = []
        for epoch in (*self._through.get(number, ()), self.intervals[number].upto.epoch):
            stretches = self._epochs[epoch]
            at = int(np.flatnonzero(stretches.numbers == number)[0])
            first = int(stretches.ends[at - 1]) + 1 if at else 1
            spans.append((epoch, first, int(stretches.ends[at])))
        return tuple(spans)

    def numbers_of(self, epochs: Ints, seqs: Ints) -> Ints:
        """For each place the number of its interval, or NO_INTERVAL."""
        numbers = np.full(len(epochs), NO_INTERVAL, dtype=np.int64)
        if len(epochs) == 0:
            return numbers
        order = np.argsort(epochs, kind="stable")
        found, firsts = np.unique(epochs[order], return_index=True)
        for epoch, places in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
            stretches = self._epochs.get(epoch)
            if stretches is None or len(stretches.ends) == 0:
                continue
            at = np.searchsorted(stretches.ends, seqs[places])
            within = at < len(stretches.ends)
            numbers[places[within]] = stretches.numbers[at[within]]
        return numbers

    def back_from(self, number: int) -> list[int]:
        """An interval and all that it follows on, newest first: what its end is an image of."""
        line = []
        while number != NO_INTERVAL:
            line.append(number)
            number = self._parents[number]
        return line


def lines_of(bases: Mapping[int, Place], newest: Place, retained: Iterable[Place]) -> Lines:
    """The intervals of a history.

    Args:
        bases: for every epoch that counts its base.
        newest: the newest cut of the epoch in force, which counts as retained; NOWHERE if there is none.
        retained: cuts, each of an epoch of `bases` and on a branch.
    """
    marks: dict[int, dict[int, Place]] = {epoch: {} for epoch in bases}
    for place in (*retained, newest):
        if place:
            marks[place.epoch][place.seq] = place
    growing = _Growing(bases, marks)
    for epoch in sorted(bases):
        growing.add(epoch)
    return growing.lines()


def _continued(bases: Mapping[int, Place], marks: dict[int, dict[int, Place]]) -> dict[int, int]:
    """For each epoch that goes on in just one other, behind all its marks: the seq. Forks become marks."""
    attached: dict[int, dict[int, list[Place]]] = {}
    for epoch in sorted(bases, reverse=True):
        base = bases[epoch]
        if base and (marks[epoch] or epoch in attached):
            attached.setdefault(base.epoch, {}).setdefault(base.seq, []).append(base)
    goes_on: dict[int, int] = {}
    for epoch, children in attached.items():
        last = max((*children, *marks[epoch]))
        for seq, places in children.items():
            if seq == last and len(places) == 1 and seq not in marks[epoch]:
                goes_on[epoch] = seq
            else:
                marks[epoch].setdefault(seq, places[0])
    return goes_on


class _Growing:
    """Intervals, epoch by epoch, the oldest first."""

    def __init__(self, bases: Mapping[int, Place], marks: dict[int, dict[int, Place]]) -> None:
        self._bases = bases
        self._goes_on = _continued(bases, marks)
        self._marks = marks
        self._numbers: dict[tuple[int, int], int] = {}
        """The interval that ends at a place."""
        self._intervals: list[Interval] = []
        self._parents: list[int] = []
        self._epochs: dict[int, tuple[list[int], list[int]]] = {}
        self._through: dict[int, list[int]] = {}
        self._open: dict[int, tuple[Place, list[int]]] = {}
        """Where the stretch behind the marks of an epoch began, and the epochs that it leads through."""

    def add(self, epoch: int) -> None:
        """Take in an epoch; its base's was taken in before."""
        after, through = self._beginning(epoch)
        ends: list[int] = []
        numbers: list[int] = []
        for seq, place in sorted(self._marks[epoch].items()):
            number = len(self._intervals)
            self._intervals.append(Interval(after, place))
            self._parents.append(self._numbers.get((after.epoch, after.seq), NO_INTERVAL))
            self._numbers[epoch, seq] = number
            if through:
                self._through[number] = through
            for older in through:
                self._epochs[older][0].append(self._goes_on[older])
                self._epochs[older][1].append(number)
            ends.append(seq)
            numbers.append(number)
            after, through = place, []
        self._epochs[epoch] = ends, numbers
        if epoch in self._goes_on:
            self._open[epoch] = after, [*through, epoch]

    def _beginning(self, epoch: int) -> tuple[Place, list[int]]:
        base = self._bases[epoch]
        if not base:
            return NOWHERE, []
        if self._goes_on.get(base.epoch) == base.seq and base.seq not in self._marks[base.epoch]:
            return self._open[base.epoch]
        return base, []

    def lines(self) -> Lines:
        epochs = {
            epoch: _Epoch(np.array(ends, dtype=np.int64), np.array(numbers, dtype=np.int64))
            for epoch, (ends, numbers) in self._epochs.items()
        }
        return Lines(tuple(self._intervals), epochs, tuple(self._parents), self._through)
