"""Intervals of a tree of epochs."""

from __future__ import annotations

import numpy as np

from cdp_agent.collector.alive_types import Interval
from cdp_agent.collector.lines import NO_INTERVAL, Lines, lines_of
from cdp_container.format.place import NOWHERE, Place


def at(epoch: int, seq: int) -> Place:
    return Place(epoch, seq, seq)


def number(lines: Lines, epoch: int, seq: int) -> int:
    return int(lines.numbers_of(np.array([epoch]), np.array([seq]))[0])


def test_nothing_has_no_interval() -> None:
    lines = lines_of({1: NOWHERE}, NOWHERE, [])
    assert lines.intervals == ()
    assert number(lines, 1, 1) == NO_INTERVAL


def test_what_no_retained_cut_shows_is_in_no_interval() -> None:
    lines = lines_of({1: NOWHERE, 2: at(1, 3)}, at(2, 2), [])
    assert number(lines, 1, 3) == number(lines, 2, 1) == 0
    assert number(lines, 1, 4) == number(lines, 2, 3) == number(lines, 7, 1) == NO_INTERVAL


def test_an_interval_goes_on_through_epochs_without_a_retained_cut() -> None:
    bases = {1: NOWHERE, 2: at(1, 5), 3: at(2, 4), 4: at(3, 1)}
    lines = lines_of(bases, at(4, 9), [at(1, 2), at(4, 6)])
    assert lines.intervals == (
        Interval(NOWHERE, at(1, 2)),
        Interval(at(1, 2), at(4, 6)),
        Interval(at(4, 6), at(4, 9)),
    )
    assert lines.spans(1) == ((1, 3, 5), (2, 1, 4), (3, 1, 1), (4, 1, 6))
    assert [number(lines, epoch, 1) for epoch in (1, 2, 3, 4)] == [0, 1, 1, 1]
    assert lines.back_from(2) == [2, 1, 0]


def test_a_fork_ends_an_interval_on_both_sides() -> None:
    bases = {1: NOWHERE, 2: at(1, 3), 3: at(1, 3)}
    lines = lines_of(bases, at(3, 2), [at(2, 2)])
    assert lines.intervals == (
        Interval(NOWHERE, at(1, 3)),
        Interval(at(1, 3), at(2, 2)),
        Interval(at(1, 3), at(3, 2)),
    )
    assert lines.back_from(1) == [1, 0]
    assert lines.back_from(2) == [2, 0]


def test_a_side_branch_without_a_retained_cut_makes_no_fork() -> None:
    lines = lines_of({1: NOWHERE, 2: at(1, 3), 3: at(1, 5)}, at(3, 2), [])
    assert lines.intervals == (Interval(NOWHERE, at(3, 2)),)
    assert number(lines, 2, 1) == NO_INTERVAL
