"""Cuts over volumes and file trees in the streamer's step machine: when the watcher is asked, what waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_agent.streamer import steps
from cdp_agent.streamer.build import NOT_WHOLE, TOO_LATE, why_refused
from cdp_agent.streamer.step_types import (
    Answer,
    Asked,
    AskedFor,
    CopyEnded,
    CutProven,
    CutRead,
    EpochBegan,
    Fixed,
    PutEnded,
    PutOutcome,
    ReadCut,
    Refuse,
    SealSegment,
    SegmentSealed,
    TailMoved,
    Tick,
)
from cdp_agent.streamer.tree_step_types import SweepTrees, TreesLooked, TreesSwept
from cdp_container.journal.position import Position
from tests.unit.streamer.test_steps import SECOND, Play, at

ONE, TWO = b"1" * 16, b"2" * 16
TREES = (ONE, TWO)


def began(lacking: tuple[int, ...] = (), copy_from: Position | None = None) -> Play:
    play = Play()
    play.on(TailMoved(at(0), 0, at(0)))
    event = EpochBegan(5, b"b" * 32, at(0), 77, lacking, False, trees=TREES)
    play.on(event if copy_from is None else replace(event, copy_from=copy_from))
    return play


def swept(play: Play, given: bool = False) -> None:
    """The watcher is there, and did its first sweep, or the one that is due."""
    play.on(TreesLooked(ready=True, changed=True))
    assert play.state.sweeping
    play.on(TreesSwept(done=True, given=given))


def sealed_and_proven(play: Play) -> tuple[bytes, ...]:
    """The cut that was read is sealed in one segment, stored and proven; gives what lacks in it."""
    seal = play.one(SealSegment)
    facts = play.state.cuts[-1]
    effects = play.on(SegmentSealed(seal.seq, seal.seq.to_bytes(32, "big"), 100, complete=True))
    effects += play.on(PutEnded(seal.seq, PutOutcome.STORED))
    effects += play.on(CutProven(replace(facts.place, seq=seal.seq)))
    play.effects = effects
    assert seal.lacking_trees == facts.lacking_trees
    return facts.lacking_trees


def whole() -> Play:
    """Both trees are whole in a protected cut."""
    play = began()
    swept(play)
    play.on(CutRead(at(0), empty=False, reached=True))
    assert sealed_and_proven(play) == ()
    return play


def test_no_tree_is_whole_before_the_watcher_was_asked() -> None:
    play = began()
    play.on(TailMoved(at(100)))
    cut = play.one(ReadCut)
    assert (cut.trees, cut.lacking_trees) == (False, TREES)
    play.on(CutRead(at(100), empty=False, reached=True, lacking_trees=TREES))
    assert play.one(SealSegment).lacking_trees == TREES


def test_what_changed_in_trees_alone_is_worth_a_cut() -> None:
    play = whole()
    assert play.on(Tick(), after_seconds=100) == ()
    play.on(TreesLooked(ready=True, changed=True))
    assert play.one(ReadCut).trees
    assert not play.state.trees_changed


def test_a_watcher_that_is_not_there_is_not_asked_and_volumes_go_on() -> None:
    play = whole()
    assert play.on(TreesLooked(ready=False, changed=True), after_seconds=10) == ()
    play.on(TailMoved(at(100)), after_seconds=10)
    cut = play.one(ReadCut)
    assert (cut.trees, cut.lacking_trees) == (False, TREES)


def test_a_cut_may_end_behind_the_tail_that_it_was_asked_for() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=False))
    play.on(TailMoved(at(100)), after_seconds=2)
    assert play.one(ReadCut).trees
    play.on(TailMoved(at(160)))
    play.on(CutRead(at(150), empty=False, reached=True))
    sealed_and_proven(play)
    play.on(Tick(), after_seconds=2)
    assert play.one(ReadCut).from_position == at(150)


def test_what_waits_goes_into_the_cut_that_comes_all_the_way() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=True))
    play.on(TailMoved(at(100)), after_seconds=2)
    play.on(CutRead(at(50), empty=False, reached=False, lacking_trees=(ONE,), waits=True))
    assert sealed_and_proven(play) == (ONE,)
    cut = play.one(ReadCut)
    assert (cut.from_position, cut.trees) == (at(50), True)
    play.on(TreesLooked(ready=False, changed=False))
    play.on(CutRead(at(80), empty=False, reached=False, lacking_trees=(ONE,), waits=True))
    sealed_and_proven(play)
    assert play.one(ReadCut).trees, "what waits needs no watcher"
    play.on(CutRead(at(100), empty=False, reached=True))
    assert sealed_and_proven(play) == ()


def test_whoever_asks_while_something_waits_is_served_by_a_later_cut() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=True), after_seconds=2)
    play.on(TailMoved(at(100)))
    play.on(AskedFor(Asked(1, at(100))))
    play.on(CutRead(at(50), empty=False, reached=False, lacking_trees=(ONE,), waits=True))
    sealed_and_proven(play)
    assert play.one(ReadCut).asked == ()
    play.on(AskedFor(Asked(2, at(100), "late")))
    play.on(CutRead(at(100), empty=False, reached=True))
    assert not play.all(Fixed)
    sealed_and_proven(play)
    asked = play.one(ReadCut).asked
    assert [one.ticket for one in asked] == [1, 2]


def test_a_marker_that_waits_with_its_batch_names_the_cut_that_has_it() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=True))
    play.on(TailMoved(at(100)))
    play.on(AskedFor(Asked(1, at(100), "noon")))
    assert [one.name for one in play.one(ReadCut).asked] == ["noon"]
    play.on(CutRead(at(50), empty=False, reached=False, lacking_trees=(ONE,), waits=True))
    sealed_and_proven(play)
    assert [one.name for one in play.one(ReadCut).asked] == ["noon"]
    play.on(CutRead(at(100), empty=False, reached=True))
    assert play.one(Fixed).ticket == 1
    sealed_and_proven(play)
    assert play.one(Answer).place == play.state.protected


def test_a_marker_is_refused_and_a_flush_waits_where_a_tree_is_not_whole() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=True))
    play.on(AskedFor(Asked(1, at(0))))
    play.on(CutRead(at(0), empty=True, reached=True, lacking_trees=(TWO,)))
    assert [one.ticket for one in play.state.asked] == [1]
    assert play.on(TreesLooked(ready=True, changed=False)) == (), "not again and again"
    play.on(Tick(), after_seconds=1)
    assert [one.ticket for one in play.one(ReadCut).asked] == [1]
    play.on(AskedFor(Asked(2, at(0), "noon")))
    play.on(CutRead(at(0), empty=False, reached=True, lacking_trees=(TWO,)))
    sealed_and_proven(play)
    play.until_due()
    assert [one.ticket for one in play.one(ReadCut).asked] == [1, 2]
    play.on(CutRead(at(0), empty=True, reached=True, lacking_trees=(TWO,), refused="no"))
    assert play.one(Refuse) == Refuse(2, "no")
    play.until_due()
    play.on(CutRead(at(0), empty=False, reached=True))
    sealed_and_proven(play)
    assert play.one(Answer).ticket == 1


def test_that_a_tree_is_whole_again_is_worth_a_cut() -> None:
    play = whole()
    play.on(TailMoved(at(100)), after_seconds=2)
    play.on(CutRead(at(100), empty=False, reached=True, lacking_trees=TREES))
    sealed_and_proven(play)
    play.on(TreesLooked(ready=True, changed=True), after_seconds=2)
    play.on(CutRead(at(100), empty=True, reached=True))
    cut = play.one(ReadCut)
    assert (cut.announce, cut.trees) == (True, True)
    play.on(CutRead(at(100), empty=False, reached=True))
    assert sealed_and_proven(play) == ()
    assert play.on(Tick(), after_seconds=100) == ()


def test_a_tree_that_is_not_whole_is_asked_for_until_it_is() -> None:
    """A watcher that was not there for a moment may have nothing to tell when it is back."""
    play = whole()
    play.on(TailMoved(at(100)), after_seconds=2)
    play.on(CutRead(at(100), empty=False, reached=True, lacking_trees=TREES))
    sealed_and_proven(play)
    play.on(TreesLooked(ready=True, changed=False), after_seconds=2)
    assert play.one(ReadCut).trees


def test_more_is_asked_for_at_once() -> None:
    play = began()
    swept(play)
    play.on(CutRead(at(0), empty=False, reached=True, lacking_trees=(ONE,), again=True))
    sealed_and_proven(play)
    assert play.one(ReadCut).trees


def test_rounds_of_copies_leave_trees_as_they_were() -> None:
    play = began(lacking=(0,))
    copy = play.one(ReadCut)
    assert (copy.copy, copy.trees, copy.lacking_trees) == (0, False, TREES)
    play.on(CutRead(at(0), empty=False, reached=True, lacking_trees=TREES))
    seal = play.one(SealSegment)
    play.on(SegmentSealed(seal.seq, b"1" * 32, 100, complete=True))
    play.on(TreesLooked(ready=True, changed=True), after_seconds=2)
    play.on(TreesSwept(done=True))
    play.on(CopyEnded(None, at(0), play.now_ns))
    cut = play.one(ReadCut)
    assert (cut.copy, cut.trees) == (None, True)
    play.on(CutRead(at(0), empty=False, reached=True, lacking_trees=(TWO,)))
    seal = play.one(SealSegment)
    play.on(SegmentSealed(seal.seq, b"2" * 32, 100, complete=True))
    copy = play.one(ReadCut)
    assert (copy.copy, copy.lacking_trees) == (0, (TWO,))


def test_before_the_records_of_a_time_before_a_power_loss_trees_are_not_read() -> None:
    play = began(lacking=(0,), copy_from=at(50))
    assert play.one(ReadCut).to_position == at(50)
    play.on(CutRead(at(30), empty=False, reached=False, lacking_trees=TREES))
    seal = play.one(SealSegment)
    play.on(TreesLooked(ready=True, changed=True))
    play.on(SegmentSealed(seal.seq, b"1" * 32, 100, complete=True))
    cut = play.one(ReadCut)
    assert (cut.to_position, cut.trees, cut.lacking_trees) == (at(50), False, TREES)


def test_the_machine_wakes_for_trees() -> None:
    play = whole()
    assert play.on(TreesLooked(ready=True, changed=True)) == ()
    due_ns = steps.due_ns(play.state)
    assert due_ns == play.now_ns + SECOND
    play.until_due()
    assert play.one(ReadCut).trees


def test_cuts_go_on_while_the_watcher_reads() -> None:
    play = began()
    play.on(TreesLooked(ready=True, changed=True))
    assert play.all(SweepTrees) == [SweepTrees()]
    for offset in (100, 200, 300):
        play.on(TailMoved(at(offset)), after_seconds=1)
        cut = play.one(ReadCut)
        assert (cut.trees, cut.to_position, play.all(SweepTrees)) == (False, at(offset), [])
        play.on(CutRead(at(offset), empty=False, reached=True, lacking_trees=TREES))
        assert sealed_and_proven(play) == TREES
    play.on(AskedFor(Asked(1, at(300))))
    play.on(AskedFor(Asked(2, at(300), "noon")))
    assert not play.all(ReadCut)
    play.on(TreesSwept(done=True, given=True))
    given = play.one(ReadCut)
    assert (given.trees, given.asked) == (True, ()), "what a sweep gave is of no instant"
    play.on(CutRead(at(300), empty=False, reached=True, lacking_trees=TREES, again=True))
    sealed_and_proven(play)
    take = play.one(ReadCut)
    assert (take.trees, take.swept, [one.ticket for one in take.asked]) == (True, True, [1, 2])
    play.on(CutRead(at(300), empty=False, reached=True))
    assert sealed_and_proven(play) == ()
    assert [answer.ticket for answer in play.all(Answer)] == [1, 2]


def test_a_sweep_is_not_asked_for_amid_a_cut_of_the_journal() -> None:
    """Its take, or the placing of what waits, would meet it."""
    play = whole()
    play.on(TreesLooked(ready=True, changed=True))
    play.until_due()
    assert play.one(ReadCut).trees
    assert play.on(TreesLooked(ready=True, changed=True, anew=True)) == ()
    play.on(CutRead(at(0), empty=True, reached=True, lacking_trees=TREES, sweep=True))
    assert play.all(SweepTrees)


def test_a_sweep_that_failed_is_asked_for_when_the_watcher_was_looked_at_again() -> None:
    play = began()
    play.on(TreesLooked(ready=True, changed=True))
    assert play.on(TreesSwept(done=False)) == ()
    assert play.on(TreesLooked(ready=False, changed=False)) == ()
    assert play.on(TreesLooked(ready=True, changed=True)) == (SweepTrees(),)


def test_a_marker_with_too_much_for_a_take_waits_for_one_sweep() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=True))
    play.on(AskedFor(Asked(1, at(0), "noon")))
    assert not play.one(ReadCut).swept
    play.on(CutRead(at(0), empty=False, reached=True, lacking_trees=(ONE,), sweep=True))
    assert not play.all(Refuse)
    sealed_and_proven(play)
    play.on(TreesSwept(done=True))
    take = play.one(ReadCut)
    assert (take.swept, [one.ticket for one in take.asked]) == (True, [1])
    play.on(CutRead(at(0), empty=True, reached=True, lacking_trees=(ONE,), sweep=True, refused="no"))
    assert play.one(Refuse).ticket == 1
    assert play.all(SweepTrees)


def test_a_marker_whose_hooks_hold_waits_for_as_many_sweeps_as_it_takes() -> None:
    play = whole()
    play.on(TreesLooked(ready=True, changed=True))
    play.on(AskedFor(Asked(1, at(0), "noon", until_ns=10**15)))
    for _ in range(4):
        take = play.one(ReadCut)
        assert [one.ticket for one in take.asked] == [1]
        play.on(CutRead(at(0), empty=False, reached=True, lacking_trees=(ONE,), sweep=True))
        assert not play.all(Refuse)
        sealed_and_proven(play)
        play.on(TreesSwept(done=True))
    assert [one.ticket for one in play.one(ReadCut).asked] == [1]
    play.on(CutRead(at(0), empty=False, reached=True))
    assert play.one(Fixed).ticket == 1


FLUSH = Asked(1, at(0))
NOON = Asked(2, at(0), "noon")
HELD = Asked(3, at(0), "held", until_ns=1000)


@pytest.mark.parametrize(
    ("asked", "taken_ns", "is_whole", "more", "swept", "why"),
    [
        ((), 5000, False, False, True, ""),
        ((FLUSH,), 5000, False, True, True, ""),
        ((NOON,), 0, False, False, False, NOT_WHOLE),
        ((NOON,), 0, False, True, False, ""),
        ((NOON,), 0, False, True, True, NOT_WHOLE),
        ((NOON,), 0, True, False, True, ""),
        ((HELD,), 999, False, True, True, ""),
        ((HELD,), 999, False, True, False, ""),
        ((HELD,), 999, False, False, True, NOT_WHOLE),
        ((HELD,), 1000, False, True, True, NOT_WHOLE),
        ((HELD,), 1000, True, False, True, TOO_LATE),
        ((HELD,), 999, True, False, True, ""),
        ((HELD, NOON), 999, False, True, True, NOT_WHOLE),
        ((FLUSH, HELD), 999, False, True, True, ""),
    ],
)
def test_who_waits_for_trees_and_who_is_refused(
    asked: tuple[Asked, ...], taken_ns: int, is_whole: bool, more: bool, swept: bool, why: str
) -> None:
    assert why_refused(asked, taken_ns, is_whole=is_whole, more=more, swept=swept) == why
