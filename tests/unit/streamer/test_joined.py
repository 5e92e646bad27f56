"""One watcher of two: what one cannot do leaves its own sources not whole, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from cdp_agent.streamer.joined import Joined, JoinedBatch, Part
from cdp_agent.streamer.trees import AGAIN_NS, Batch, Look, Trees
from cdp_container.errors import WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.layout import ExtentKind
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
from cdp_container.format.segment import NewExtent
from cdp_container.journal.position import Position

BASE = Place(4, 3, 9)
TREE, DISK = b"t" * 16, b"d" * 16
SEEN = Position(7, 100)


@dataclass
class Time:
    now_ns: int = 10**12

    def boottime_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


@dataclass
class Said:
    """See `trees.Batch`."""

    number: int
    source: bytes
    position: Position | None = None
    seen_ns: int = 5
    lacking: tuple[bytes, ...] = ()
    skewed: tuple[SkewedFile, ...] = ()
    skewed_more: int = 0
    more: bool = False
    instants: tuple[tuple[bytes, int], ...] = ()
    compare: bool = False
    closed: bool = False

    @property
    def touched(self) -> frozenset[bytes]:
        return frozenset({self.source})

    def records(self) -> Iterator[Record]:
        return iter(())

    def extents(self) -> Iterator[NewExtent]:
        yield NewExtent(self.source, 0, 4, ExtentKind.DATA, b"four")

    def close(self) -> None:
        self.closed = True


@dataclass
class Fake:
    """One of the two; `fails`: which calls do."""

    source: bytes
    page: Look | None = field(default_factory=lambda: Look(1, 0, False, 0, False))
    fails: set[str] = field(default_factory=set)
    told: list[tuple[object, ...]] = field(default_factory=list)
    gives: bool = True
    batches: int = 10
    position: Position | None = None
    since_ns: int = -1

    def _call(self, *what: object) -> None:
        self.told.append(what)
        if what[0] in self.fails:
            raise WatcherFailed(str(what[0]), "as it was told to")

    def look(self) -> Look | None:
        return self.page

    def begin(self, epoch: int, base: Place) -> None:
        self._call("begin", epoch, base)
        assert self.page is not None
        self.page = self.page._replace(epoch=epoch, ready=True)

    def _said(self) -> Batch:
        self.batches += self.gives
        return Said(self.batches * self.gives, self.source, self.position)

    def sweep(self, epoch: int, cut: int) -> Batch:
        self._call("sweep", epoch, cut)
        return self._said()

    def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
        self._call("take", epoch, cut)
        self.since_ns = since_ns
        return self._said()

    def place(self, batch: int, epoch: int, cut: int) -> None:
        self._call("place", batch, epoch, cut)

    def protected(self, epoch: int, cut: int) -> None:
        self._call("protected", epoch, cut)

    def close(self) -> None:
        self._call("close")


@dataclass
class Both:
    time: Time = field(default_factory=Time)
    trees: Fake = field(default_factory=lambda: Fake(TREE))
    imager: Fake = field(default_factory=lambda: Fake(DISK))

    def __post_init__(self) -> None:
        self.joined = Joined([Part(self.trees, (TREE,)), Part(self.imager, (DISK,))], self.time)
        self.as_seen = Trees(self.joined, self.time, 5, BASE)


@pytest.fixture
def both() -> Both:
    made = Both()
    assert made.as_seen.look().anew
    assert made.as_seen.sweep().done
    made.as_seen.put_into(1)
    return made


def test_both_are_told_and_asked_and_each_places_its_own(both: Both) -> None:
    both.trees.position = Position(7, 130)
    both.trees.gives = False
    taken = both.as_seen.take(SEEN, 500, 77)
    assert taken is not None
    assert taken.position == Position(7, 130)
    assert (taken.batch.lacking, taken.batch.touched) == ((), frozenset({TREE, DISK}))
    assert [extent.space for extent in taken.batch.extents()] == [TREE, DISK]
    assert (both.trees.since_ns, both.imager.since_ns) == (77, 77)
    both.as_seen.put_into(2)
    assert ("place", 12, 5, 2) in both.imager.told
    assert not any(call[0] == "place" and call[-1] == 2 for call in both.trees.told)
    assert both.trees.told[0] == both.imager.told[0] == ("begin", 5, BASE)
    both.as_seen.close()
    assert all(part.closed for part in taken.batch.parts)  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", ["take", "sweep", "place", "protected"])
def test_who_fails_lacks_alone_and_is_told_of_the_epoch_again(both: Both, call: str) -> None:
    both.imager.fails = {call}
    begun = both.trees.told.count(("begin", 5, BASE))
    if call == "sweep":
        assert both.as_seen.sweep().done
        both.as_seen.put_into(2)
    elif call == "protected":
        both.as_seen.protected(Place(5, 1, 3))
    else:
        taken = both.as_seen.take(SEEN, 500)
        assert taken is not None
        assert taken.batch.lacking == ((DISK,) if call == "take" else ())
        both.as_seen.put_into(2)
    taken = both.as_seen.take(SEEN, 500)
    assert taken is not None
    assert taken.batch.lacking == (DISK,)
    both.as_seen.put_into(3)
    both.imager.fails = set()
    assert not both.as_seen.look().anew
    both.time.now_ns += AGAIN_NS
    assert both.as_seen.look().anew
    assert both.as_seen.sweep().done
    both.as_seen.put_into(4)
    assert both.as_seen.take(SEEN, 500).batch.lacking == ()  # type: ignore[union-attr]
    assert both.trees.told.count(("begin", 5, BASE)) == begun, "it knew"
    assert [told for told in both.imager.told if told[0] == "begin"][1:] == [
        ("begin", 5, Place(5, 1, 3) if call == "protected" else BASE)
    ]


def test_one_that_is_not_there_lacks_alone_until_it_comes(both: Both) -> None:
    both.trees.page = None
    assert both.as_seen.look().ready
    assert both.as_seen.take(SEEN, 500).batch.lacking == (TREE,)  # type: ignore[union-attr]
    both.as_seen.put_into(2)
    both.trees.page = Look(2, 0, False, 0, False)
    assert both.as_seen.look().anew
    assert both.as_seen.sweep().done
    both.as_seen.put_into(3)
    assert both.as_seen.take(SEEN, 500).batch.lacking == ()  # type: ignore[union-attr]


def test_where_both_fail_nothing_is_taken(both: Both) -> None:
    both.trees.fails = both.imager.fails = {"take"}
    assert both.as_seen.take(SEEN, 500) is None
    assert "as it was told to" in both.as_seen.trouble
    both.trees.page = both.imager.page = None
    assert both.joined.look() is None
    with pytest.raises(WatcherFailed, match="nobody is there"):
        both.joined.take(5, 1, 0)


def test_a_vm_runs_as_long_as_nobody_knows_better(both: Both) -> None:
    assert both.joined.look() is not None
    assert not both.joined.look().runs  # type: ignore[union-attr]
    both.imager.page = None
    assert both.joined.look().runs  # type: ignore[union-attr]


def test_a_joined_batch_says_what_both_say() -> None:
    one = Said(1, TREE, more=True, skewed_more=2)
    other = Said(2, DISK, compare=True, instants=((DISK, 9),), lacking=(DISK,))
    joined = JoinedBatch(3, (one, other), ())
    assert (joined.more, joined.compare, joined.skewed_more) == (True, True, 2)
    assert (joined.instants, joined.lacking) == (((DISK, 9),), (DISK,))
