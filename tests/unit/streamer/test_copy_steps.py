"""Copies and cuts of the journal in one stream: when a round is read, and from when a source is whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_agent.streamer import steps
from cdp_agent.streamer.step_types import (
    Asked,
    AskedFor,
    CopyEnded,
    CutProven,
    CutRead,
    EpochBegan,
    Protected,
    ReadCut,
    SealSegment,
    SegmentSealed,
    TailMoved,
)
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE as NO_POSITION
from cdp_container.journal.position import Position
from tests.unit.streamer.test_steps import SECOND, Play, at


def copied(play: Play, seq: int, source: int | None, tail: int) -> None:
    """The round that is being read is sealed as one segment, and over."""
    play.on(CutRead(play.state.position, empty=False, reached=True))
    assert play.one(SealSegment).seq == seq
    play.on(SegmentSealed(seq, bytes([seq]) * 32, 1000, complete=True))
    assert play.all(ReadCut) == [], "first it must be known what the round may have seen"
    play.on(CopyEnded(source, at(tail), 0))


def test_a_source_is_whole_from_the_cut_that_holds_all_its_copies_saw() -> None:
    play = Play().began(lacking=(1,), announce=True)
    assert (play.one(ReadCut).copy, play.one(ReadCut).announce) == (1, True)
    copied(play, 1, None, 40)
    journal = play.one(ReadCut)
    assert (journal.copy, journal.from_position, journal.to_position) == (None, at(0), at(0))
    play.on(CutRead(at(0), empty=False, reached=True))
    play.on(SegmentSealed(2, b"j" * 32, 1000, complete=True))
    assert play.one(ReadCut).copy == 1
    play.on(TailMoved(at(100), 0, at(100)))
    copied(play, 3, 1, 60)
    assert play.one(ReadCut).to_position == at(100), "the cut after the last copy is taken at once"
    play.on(CutRead(at(50), empty=False, reached=False))
    assert play.one(SealSegment).lacking == (1,), "the last copy may have seen what comes until 60"
    play.on(SegmentSealed(4, b"k" * 32, 1000, complete=True))
    assert play.one(ReadCut).to_position == at(100)
    play.on(CutRead(at(100), empty=False, reached=True))
    assert play.one(SealSegment).lacking == ()


def test_a_whole_copy_is_worth_a_cut_without_any_write() -> None:
    play = Play().began(lacking=(0,))
    play.one(ReadCut)
    play.on(CutRead(at(0), empty=True, reached=True))
    play.on(CopyEnded(0, at(0), 0))
    assert (play.one(ReadCut).copy, play.one(ReadCut).announce) == (None, True)
    play.on(CutRead(at(0), empty=False, reached=True))
    assert play.one(SealSegment).lacking == ()
    play.on(SegmentSealed(1, b"x" * 32, 1000, complete=True))
    play.stored(1)
    play.on(CutProven(Place(5, 1, 1)))
    assert play.one(Protected).lacking == ()


@pytest.mark.parametrize("applied", [at(60), NO_POSITION])
def test_nothing_is_copied_while_the_disk_lacks_what_cuts_hold(applied: Position) -> None:
    play = Play().began(lacking=(0,))
    copied(play, 1, None, 0)
    play.on(CutRead(at(0), empty=True, reached=True))
    play.on(CopyEnded(None, at(0), 10**12))
    play.on(TailMoved(at(100), 0, at(60)), after_seconds=1)
    play.on(CutRead(at(100), empty=True, reached=True))
    play.on(TailMoved(at(100), 0, applied), after_seconds=10**4)
    assert play.all(ReadCut) == []
    play.on(TailMoved(at(100), 0, at(100)))
    assert play.one(ReadCut).copy == 0


def test_nothing_is_copied_before_the_records_of_the_time_before_a_power_loss() -> None:
    play, again = Play(), Position(9, 0)
    play.on(TailMoved(Position(9, 500), 88, again))
    play.on(EpochBegan(5, b"b" * 32, at(0), 77, (0,), announce=False, copy_from=again))
    read = play.one(ReadCut)
    assert (read.copy, read.to_position, read.taken_ns) == (None, again, 77)
    play.on(CutRead(at(60), empty=False, reached=False))
    play.on(SegmentSealed(1, b"1" * 32, 1000, complete=True))
    assert play.one(ReadCut).to_position == again
    play.on(CutRead(again, empty=True, reached=True))
    assert play.one(ReadCut).copy == 0


def test_a_journal_of_a_later_generation_lies_behind_all_that_was_applied() -> None:
    play = Play().began(lacking=(0,))
    assert steps._to_copy(replace(play.state, applied=Position(9, 0))) == 0


def test_copies_and_the_journal_take_turns() -> None:
    play = Play().began(lacking=(0, 1))
    kinds = []
    for number in range(1, 7):
        read = play.one(ReadCut)
        kinds.append(read.copy)
        play.on(CutRead(read.to_position, empty=False, reached=True))
        play.on(SegmentSealed(number, bytes([number]) * 32, 10, complete=True), after_seconds=1)
        if read.copy is not None:
            play.on(TailMoved(at(number * 10), 0, at(number * 10)))
            play.on(CopyEnded(None, at(number * 10), 0))
    assert kinds == [0, None, 0, None, 0, None]


def test_a_round_waits_for_its_rate() -> None:
    play = Play().began(lacking=(0,))
    again_ns = play.now_ns + 5 * SECOND
    play.on(CutRead(at(0), empty=True, reached=True))
    play.on(CopyEnded(None, at(0), again_ns))
    assert play.all(ReadCut) == []
    assert steps.due_ns(play.state) == again_ns
    play.until_due()
    assert play.one(ReadCut).copy == 0


def test_a_flush_waits_for_the_copies() -> None:
    play = Play().began(lacking=(0,))
    play.on(AskedFor(Asked(1, at(0))))
    copied(play, 1, 0, 0)
    read = play.one(ReadCut)
    assert (read.asked, read.announce) == ((), True)
    play.on(CutRead(at(0), empty=False, reached=True))
    play.on(SegmentSealed(2, b"x" * 32, 10, complete=True))
    assert play.one(ReadCut).asked == (Asked(1, at(0)),)
