"""What the streamer asks of the watcher, and what it makes of every failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from cdp_agent.streamer.build import CutBuilder, EpochFacts
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.step_types import Asked, ReadCut
from cdp_agent.streamer.tree_step_types import TreesSwept
from cdp_agent.streamer.trees import AGAIN_NS, NO_CUT, Batch, Look, Looked, Trees, Unprotected
from cdp_container.errors import WatcherFailed
from cdp_container.format.codec import Compressor
from cdp_container.format.names import tree_added
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.seal import WriterKeys
from cdp_container.journal.position import Position
from cdp_container.journal.record import Record as JournalRecord
from tests.sim.trees import SimBatch

TREE = b"t" * 16
BASE = Place(4, 9, 20)
SEEN = Position(7, 100)
ANEW = Looked(ready=True, changed=True, anew=True)


class Time:
    """Set by hand."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


@dataclass
class Fake:
    """A watcher that notes what it is told; `fails`: which calls do. `held`: where writes are.

    `swept`: a sweep finds something.
    """

    page: Look | None = field(default_factory=lambda: Look(1, 0, False, 0, False))
    told: list[tuple[object, ...]] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    held: Position | None = None
    swept: bool = False
    batches: int = 0
    closed: int = 0

    def _call(self, name: str, *what: object) -> None:
        self.told.append((name, *what))
        if name in self.fails:
            raise WatcherFailed(name, "as it was told to")

    def look(self) -> Look | None:
        return self.page

    def begin(self, epoch: int, base: Place) -> None:
        self._call("begin", epoch, base)
        if self.page is not None:
            self.page = self.page._replace(epoch=epoch, ready=True)

    def sweep(self, epoch: int, cut: int) -> Batch:
        self._call("sweep", epoch, cut)
        self.batches += self.swept
        return SimBatch(self.batches * self.swept, None, 444, (), frozenset({TREE}), (), ())

    def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
        self._call("take", epoch, cut)
        self.batches += 1
        return SimBatch(self.batches, self.held, 555, (), frozenset({TREE}), (), ())

    def place(self, batch: int, epoch: int, cut: int) -> None:
        self._call("place", batch, epoch, cut)

    def protected(self, epoch: int, cut: int) -> None:
        self._call("protected", epoch, cut)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def trees(fake: Fake) -> Trees:
    return Trees(fake, Time(), 5, BASE)


def test_what_is_taken_is_placed_just_before_a_cut_takes_it(fake: Fake, trees: Trees) -> None:
    fake.held = Position(7, 130)
    assert trees.sweep() == TreesSwept(done=True)
    taken = trees.take(SEEN, 500)
    assert taken is not None
    assert (taken.position, taken.taken_ns) == (Position(7, 130), 555)
    assert fake.told == [("begin", 5, BASE), ("sweep", 5, NO_CUT), ("take", 5, NO_CUT)]
    assert trees.take(SEEN, 700) == taken, "it waits"
    trees.put_into(3)
    assert fake.told[3:] == [("place", 1, 5, 3)]
    assert trees.take(SEEN, 700) != taken


@pytest.mark.parametrize("held", [None, SEEN])
def test_without_a_later_tail_the_cut_is_of_the_one_that_was_seen(
    fake: Fake, trees: Trees, held: Position | None
) -> None:
    fake.held = held
    trees.sweep()
    taken = trees.take(SEEN, 500)
    assert taken is not None
    assert (taken.position, taken.taken_ns) == (SEEN, 500)


def test_what_a_sweep_gave_goes_into_the_next_cut_wherever_that_ends(fake: Fake, trees: Trees) -> None:
    fake.swept = True
    assert trees.sweep() == TreesSwept(done=True, given=True)
    taken = trees.take(SEEN, 500)
    assert taken is not None
    assert (taken.swept, taken.position, taken.taken_ns) == (True, SEEN, 500)
    trees.put_into(3)
    assert fake.told[-1] == ("place", 1, 5, 3)
    assert fake.page is not None
    fake.page = fake.page._replace(changes=1)
    assert trees.look().changed, "no take came since"
    after = trees.take(SEEN, 600)
    assert after is not None
    assert not after.swept


@pytest.mark.parametrize("call", ["begin", "sweep", "take"])
def test_a_failure_means_no_batch_and_another_begin(fake: Fake, trees: Trees, call: str) -> None:
    fake.fails = {call}
    assert trees.sweep() == TreesSwept(done=call == "take")
    assert trees.take(SEEN, 500) is None
    assert trees.look() == Looked(ready=False, changed=False), "not at once again"
    assert call in trees.trouble
    fake.fails, fake.told = set(), []
    trees._clock.sleep(AGAIN_NS / 1e9)
    assert trees.look() == ANEW
    assert trees.take(SEEN, 500) is None, "no cut waits for it to be told of the epoch"
    assert trees.sweep().done
    assert trees.take(SEEN, 500) is not None
    assert fake.told[0] == ("begin", 5, BASE)
    assert trees.trouble == ""


def test_a_place_that_is_not_known_to_be_noted_changes_nothing_for_the_cut(fake: Fake, trees: Trees) -> None:
    trees.sweep()
    trees.take(SEEN, 500)
    fake.fails = {"place"}
    trees.put_into(3)
    fake.fails, fake.told = set(), []
    trees._clock.sleep(AGAIN_NS / 1e9)
    trees.sweep()
    assert fake.told[0] == ("begin", 5, BASE), "what was placed in no cut that is protected is undone"


def test_it_begins_behind_what_is_protected_of_its_own(fake: Fake, trees: Trees) -> None:
    trees.protected(Place(5, 1, 1))
    assert fake.told == [], "of the trees that cut holds what the base does"
    trees.sweep()
    trees.take(SEEN, 500)
    trees.put_into(2)
    trees.protected(Place(5, 2, 2))
    assert fake.told[-1] == ("protected", 5, 2)
    fake.page = Look(2, 5, True, 0, False)  # another process of it
    assert trees.look() == ANEW
    trees.sweep()
    assert ("begin", 5, Place(5, 2, 2)) in fake.told


def test_a_watcher_that_is_not_ready_is_told_and_not_asked(fake: Fake) -> None:
    class Slow(Fake):
        """It makes its index anew."""

        def begin(self, epoch: int, base: Place) -> None:
            self._call("begin", epoch, base)

    slow = Slow()
    trees = Trees(slow, Time(), 5, NOWHERE)
    assert trees.sweep() == TreesSwept(done=False)
    assert trees.look() == Looked(ready=False, changed=True)
    assert slow.told == [("begin", 5, NOWHERE)]
    assert trees.take(SEEN, 500) is None
    assert len(slow.told) == 1


def test_it_is_asked_when_something_changed_since(fake: Fake, trees: Trees) -> None:
    trees.sweep()
    trees.take(SEEN, 500)
    assert trees.look() == Looked(ready=True, changed=False)
    assert fake.page is not None
    fake.page = fake.page._replace(changes=1)
    assert trees.look() == Looked(ready=True, changed=True)
    fake.page = fake.page._replace(changes=0, dirty=True)
    assert trees.look() == Looked(ready=True, changed=True)
    fake.page = None
    assert trees.look() == Looked(ready=False, changed=False)
    trees.put_into(1)
    assert trees.take(SEEN, 500) is None


def test_how_long_it_is_left_alone_follows_how_long_it_took(fake: Fake) -> None:
    class Hanging(Fake):
        """No answer for two seconds, or to a sweep for half a minute."""

        def sweep(self, epoch: int, cut: int) -> Batch:
            time.sleep(30 * ("sweep" in self.fails))
            return super().sweep(epoch, cut)

        def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
            time.sleep(2)
            return super().take(epoch, cut, since_ns)

    time, hanging = Time(), Hanging(fails={"take"})
    trees = Trees(hanging, time, 5, BASE)
    waits = []
    for _ in range(8):
        assert trees.sweep().done
        assert trees.take(SEEN, 500) is None
        began_ns = time.now_ns
        while not trees.look().ready:
            time.sleep(1)
        waits.append((time.now_ns - began_ns) // 10**9)
    assert waits == [4, 8, 16, 32, 64, 128, 128, 128], "cuts waited two seconds each"
    hanging.fails = {"sweep"}
    assert not trees.sweep().done
    time.sleep(1)
    assert trees.look() == ANEW, "no cut waited"
    hanging.fails = set()
    trees.sweep()
    assert trees.take(SEEN, 500) is not None
    hanging.fails = {"place"}
    trees.put_into(1)
    time.sleep(1)
    assert trees.look() == ANEW


def test_what_would_be_lost_of_trees() -> None:
    unprotected = Unprotected()
    seen: list[int | None] = []
    steps: list[tuple[bool | None, int]] = [
        (True, 100), (False, 200), (False, 300),
        (None, 150), (None, 0),  # what came before is protected, and not what this is about
        (None, 250),  # what came since may not be
        (True, 400), (None, 500),
    ]  # fmt: skip
    for is_all_protected, at_ns in steps:
        if is_all_protected is None:
            unprotected.protected(at_ns)
        else:
            unprotected.look(is_all_protected, at_ns)
        seen.append(unprotected.since_ns)
    assert seen == [None, 200, 200, 200, 200, 250, None, None]


class NoWrites:
    """A journal in which nothing stands."""

    start = SEEN

    def records(self, from_position: Position, to_position: Position) -> Iterator[JournalRecord]:
        return iter(())


@pytest.mark.parametrize(
    ("lacking", "more", "marker"), [((), False, "noon"), ((TREE,), True, None), ((TREE,), False, None)]
)
def test_a_marker_stands_in_no_cut_at_which_a_tree_is_not_whole(
    fake: Fake, trees: Trees, lacking: tuple[bytes, ...], more: bool, marker: str | None
) -> None:
    """Also where it waits for a sweep, and the cut that is made meanwhile holds something."""
    said = tree_added(TREE, "home")
    fake.take = lambda *_: SimBatch(1, None, 5, lacking, frozenset(), (said,), (), more=more)  # type: ignore[method-assign]
    trees.sweep()
    builder = CutBuilder(
        EpochFacts(5, NOWHERE, NOWHERE, "a", "test"),
        WriterKeys(b"d" * 16),
        [],
        NoWrites(),  # type: ignore[arg-type]
        Copying({}, None),
        Time(),
        bytes,
        Compressor(level=1),
    )
    builder.trees = trees
    asked = (Asked(1, SEEN, "noon", until_ns=10**15),)
    effect = ReadCut(3, SEEN, SEEN, 900, asked, None, announce=False, trees=True, lacking_trees=(TREE,))
    read = builder.read(effect)
    assert (read.lacking_trees, read.sweep, bool(read.refused)) == (lacking, more, bool(lacking) and not more)
    assert builder._cut is not None
    assert builder._cut.marker == marker
