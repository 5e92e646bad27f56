"""What the streamer asks of the watcher, and what it makes of every failure."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from cdp_agent.streamer.trees import AGAIN_NS, NO_CUT, Batch, Look, Trees, Unprotected
from cdp_container.errors import WatcherFailed
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.position import Position
from tests.sim.trees import SimBatch

TREE = b"t" * 16
BASE = Place(4, 9, 20)
SEEN = Position(7, 100)


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
    """A watcher that notes what it is told; `fails`: which calls do. `held`: where writes are."""

    page: Look | None = field(default_factory=lambda: Look(1, 0, False, 0, False))
    told: list[tuple[object, ...]] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    held: Position | None = None
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

    def take(self, epoch: int, cut: int) -> Batch:
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
    taken = trees.take(SEEN, 500)
    assert taken is not None
    assert (taken.position, taken.taken_ns) == (Position(7, 130), 555)
    assert fake.told == [("begin", 5, BASE), ("take", 5, NO_CUT)]
    assert trees.take(SEEN, 700) == taken, "it waits"
    trees.put_into(3)
    assert fake.told[2:] == [("place", 1, 5, 3)]
    assert trees.take(SEEN, 700) != taken


@pytest.mark.parametrize("held", [None, SEEN])
def test_without_a_later_tail_the_cut_is_of_the_one_that_was_seen(
    fake: Fake, trees: Trees, held: Position | None
) -> None:
    fake.held = held
    taken = trees.take(SEEN, 500)
    assert taken is not None
    assert (taken.position, taken.taken_ns) == (SEEN, 500)


@pytest.mark.parametrize("call", ["begin", "take"])
def test_a_failure_means_no_batch_and_another_begin(fake: Fake, trees: Trees, call: str) -> None:
    fake.fails = {call}
    assert trees.take(SEEN, 500) is None
    assert trees.look() == (False, False), "not at once again"
    assert call in trees.trouble
    fake.fails, fake.told = set(), []
    trees._clock.sleep(AGAIN_NS / 1e9)
    assert trees.look() == (True, True)
    assert trees.take(SEEN, 500) is not None
    assert fake.told[0] == ("begin", 5, BASE)
    assert trees.trouble == ""


def test_a_place_that_is_not_known_to_be_noted_changes_nothing_for_the_cut(fake: Fake, trees: Trees) -> None:
    trees.take(SEEN, 500)
    fake.fails = {"place"}
    trees.put_into(3)
    fake.fails, fake.told = set(), []
    trees._clock.sleep(AGAIN_NS / 1e9)
    trees.take(SEEN, 500)
    assert fake.told[0] == ("begin", 5, BASE), "what was placed in no cut that is protected is undone"


def test_it_begins_behind_what_is_protected_of_its_own(fake: Fake, trees: Trees) -> None:
    trees.protected(Place(5, 1, 1))
    assert fake.told == [], "of the trees that cut holds what the base does"
    trees.take(SEEN, 500)
    trees.put_into(2)
    trees.protected(Place(5, 2, 2))
    assert fake.told[-1] == ("protected", 5, 2)
    fake.page = Look(2, 5, True, 0, False)  # another process of it
    assert trees.look() == (True, True)
    trees.take(SEEN, 500)
    assert ("begin", 5, Place(5, 2, 2)) in fake.told


def test_a_watcher_that_is_not_ready_is_told_and_not_asked(fake: Fake) -> None:
    class Slow(Fake):
        """It makes its index anew."""

        def begin(self, epoch: int, base: Place) -> None:
            self._call("begin", epoch, base)

    slow = Slow()
    trees = Trees(slow, Time(), 5, NOWHERE)
    assert trees.take(SEEN, 500) is None
    assert trees.look() == (False, True)
    assert slow.told == [("begin", 5, NOWHERE)]
    assert trees.take(SEEN, 500) is None
    assert len(slow.told) == 1


def test_it_is_asked_when_something_changed_since(fake: Fake, trees: Trees) -> None:
    trees.take(SEEN, 500)
    assert trees.look() == (True, False)
    assert fake.page is not None
    fake.page = fake.page._replace(changes=1)
    assert trees.look() == (True, True)
    fake.page = fake.page._replace(changes=0, dirty=True)
    assert trees.look() == (True, True)
    fake.page = None
    assert trees.look() == (False, False)
    trees.put_into(1)
    assert trees.take(SEEN, 500) is None


def test_how_long_it_is_left_alone_follows_how_long_it_took(fake: Fake) -> None:
    class Hanging(Fake):
        """No answer for half a minute."""

        def take(self, epoch: int, cut: int) -> Batch:
            time.sleep(30)
            return super().take(epoch, cut)

    time, hanging = Time(), Hanging(fails={"take"})
    trees = Trees(hanging, time, 5, BASE)
    assert trees.take(SEEN, 500) is None
    time.sleep(59)
    assert trees.look() == (False, False)
    time.sleep(2)
    assert trees.look() == (True, True)


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
