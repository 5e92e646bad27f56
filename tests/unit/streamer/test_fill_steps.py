"""Sources that are filled from outside: which cuts list them, from when on they are whole, and who waits."""

from __future__ import annotations

import pytest

from cdp_agent.streamer.fill_step_types import FillingLooked, Lacking, lacking_at, marked
from cdp_agent.streamer.step_events import FILLED
from cdp_agent.streamer.step_types import (
    Answer,
    Asked,
    AskedFor,
    AskProof,
    CutProven,
    CutRead,
    EpochBegan,
    Fixed,
    Protected,
    ReadCut,
    Refuse,
    SealSegment,
    SegmentSealed,
    TailMoved,
    Tick,
)
from cdp_container.journal.position import NOWHERE as NO_POSITION
from cdp_container.journal.position import Position
from tests.unit.streamer.test_steps import Play, at
from tests.unit.streamer.test_tree_steps import whole

GOING_ON = FillingLooked(going_on=(1,))
ENDED = FillingLooked(ended=(1,))


def cut(play: Play, offset: int, reached: bool = True, empty: bool = False) -> None:
    """The cut that is being read comes to `offset`, and is sealed as one segment."""
    play.on(CutRead(at(offset), empty=empty, reached=reached))
    if not empty:
        seq = play.one(SealSegment).seq
        play.on(SegmentSealed(seq, seq.to_bytes(32, "big"), 1000, complete=True))


def listed(play: Play, offset: int, reached: bool = True) -> tuple[int, ...]:
    """What the cut that is being read lists as not whole."""
    play.on(CutRead(at(offset), empty=False, reached=reached))
    seal = play.one(SealSegment)
    play.on(SegmentSealed(seal.seq, seal.seq.to_bytes(32, "big"), 1000, complete=True))
    return seal.lacking


def protect(play: Play, seq: int) -> Protected:
    play.stored(seq)
    play.on(CutProven(play.one(AskProof).place))
    return play.one(Protected)


def moved(play: Play, offset: int) -> None:
    play.on(TailMoved(at(offset), 0, at(offset)), after_seconds=1)


def test_every_cut_lists_it_from_the_look_until_the_tail_of_its_end() -> None:
    play = Play().began()
    moved(play, 100)
    assert listed(play, 100) == ()
    play.on(GOING_ON)
    moved(play, 200)
    assert listed(play, 200) == (1,)
    assert protect(play, 1).filled == ()
    assert protect(play, 2).filled == (1,)
    moved(play, 300)
    play.one(ReadCut)
    play.on(ENDED)  # amid the read: the mark is 300
    assert listed(play, 250, reached=False) == (1,), "what was filled before its end is in part in there"
    assert listed(play, 300) == ()


def test_a_cut_that_was_begun_before_lists_it_too() -> None:
    """It may hold nothing of what is filled; nobody knows."""
    play = Play().began()
    moved(play, 100)
    play.on(GOING_ON)
    assert listed(play, 100) == (1,)


def test_that_it_is_whole_is_worth_a_cut_without_any_write() -> None:
    play = Play().began()
    play.on(GOING_ON)
    moved(play, 100)
    assert listed(play, 100) == (1,)
    play.on(ENDED)
    assert play.one(ReadCut).announce
    assert listed(play, 100) == ()
    assert play.on(Tick(), after_seconds=100) == (), "once"


def test_a_look_amid_an_empty_read_is_not_lost() -> None:
    play = Play().began()
    play.on(GOING_ON)
    moved(play, 100)
    assert listed(play, 100) == (1,)
    moved(play, 200)
    play.on(ENDED)
    cut(play, 200, empty=True)  # of a source that is no more, for one
    assert play.one(ReadCut).announce
    assert listed(play, 200) == ()


def test_a_flush_waits_and_is_answered_by_the_first_whole_cut() -> None:
    play = Play().began()
    play.on(GOING_ON)
    moved(play, 100)
    assert listed(play, 100) == (1,)
    play.on(AskedFor(Asked(7, at(100))))
    assert play.all(ReadCut) == [], "nothing is new, and it could not be answered"
    moved(play, 200)
    assert play.one(ReadCut).asked == ()
    assert listed(play, 200) == (1,)
    play.on(ENDED)
    assert [one.ticket for one in play.one(ReadCut).asked] == [7]
    assert listed(play, 200) == ()
    play.stored(1, 2, 3)
    play.on(CutProven(play.one(AskProof).place))
    assert play.one(Answer).place.cut == 3


def test_a_flush_is_not_answered_with_the_newest_cut_where_that_lists_it() -> None:
    play = Play().began()
    play.on(GOING_ON)
    moved(play, 100)
    assert listed(play, 100) == (1,)
    moved(play, 200)
    play.on(ENDED)
    play.on(AskedFor(Asked(7, at(200))))
    cut(play, 200, empty=True)
    assert [one.ticket for one in play.one(ReadCut).asked] == [7]
    assert listed(play, 200) == ()


def test_a_planned_stop_does_not_wait_for_it() -> None:
    play = Play().began()
    play.on(GOING_ON)
    play.on(TailMoved(at(100), 0, at(100)))
    play.on(AskedFor(Asked(7, at(100))))
    cut(play, 100)
    moved(play, 200)
    play.on(AskedFor(Asked(8, at(200), anyway=True)))
    cut(play, 200)
    read = play.one(ReadCut)
    assert [one.ticket for one in read.asked] == [8]
    cut(play, 200, empty=True)
    assert [facts.tickets for facts in play.state.cuts] == [(), (8,)]
    assert [one.ticket for one in play.state.asked] == [7]
    assert play.on(Tick(), after_seconds=100) == ()


def test_a_marker_that_waits_is_refused_when_it_begins() -> None:
    play = Play().began()
    moved(play, 100)
    play.one(ReadCut)  # the next marker waits for its turn
    play.on(AskedFor(Asked(7, at(100), "waits")))
    play.on(GOING_ON)
    assert play.all(Refuse) == [Refuse(7, FILLED)]
    assert play.state.asked == ()


@pytest.mark.parametrize("with_trees", [False, True])
def test_a_marker_whose_cut_is_being_read_is_refused_too(with_trees: bool) -> None:
    play = whole() if with_trees else Play().began()
    play.on(AskedFor(Asked(7, at(0), "now")))
    assert [one.ticket for one in play.one(ReadCut).asked] == [7]
    play.on(GOING_ON)
    assert play.all(Refuse) == []
    play.on(CutRead(at(0), empty=False, reached=True))
    assert play.one(Refuse) == Refuse(7, FILLED)
    assert play.all(Fixed) == []
    assert play.state.cuts[-1].tickets == ()
    assert play.one(SealSegment).lacking == (1,)


def test_what_is_copied_and_what_is_filled_are_listed_once() -> None:
    play = Play().began(lacking=(1, 0))
    play.on(GOING_ON)
    play.on(CutRead(at(0), empty=False, reached=True))
    assert play.one(SealSegment).lacking == (1, 0)
    assert play.state.cuts[-1].lacking == (1, 0)
    assert play.state.cuts[-1].filled == (1,)


@pytest.mark.parametrize(("position", "announce"), [(100, True), (50, False)])
def test_an_epoch_goes_on_with_what_the_run_before_knew(position: int, announce: bool) -> None:
    play = Play()
    play.on(TailMoved(at(100), 0, at(100)))
    filling = (Lacking(1, at(100)),)
    play.on(EpochBegan(5, b"b" * 32, at(position), 77, (), announce=False, filling=filling, filled=(1,)))
    read = play.one(ReadCut)
    assert read.to_position == at(100)
    assert play.state.announce == announce
    assert listed(play, 100) == ()


# --- marks ---------------------------------------------------------------------------------------


def test_a_mark_stays_where_it_was_put() -> None:
    first = marked((), ENDED, at(100))
    assert first == (Lacking(1, at(100)),)
    assert marked(first, ENDED, at(200)) == first
    assert lacking_at(first, at(99)) == (1,)
    assert lacking_at(first, at(100)) == ()


def test_a_mark_follows_the_tail_into_another_generation() -> None:
    """Which of two generations is the later one nobody here knows."""
    anew = Position(8, 10)
    second = marked(marked((), ENDED, at(100)), ENDED, anew)
    assert second == (Lacking(1, anew),)
    assert lacking_at(second, at(100)) == (1,), "whole in truth; it is said again soon"
    assert lacking_at(second, anew) == ()


def test_what_begins_again_has_no_mark() -> None:
    assert marked(marked((), ENDED, at(100)), GOING_ON, at(200)) == (Lacking(1),)
    assert marked((), ENDED, NO_POSITION) == (Lacking(1),)
