"""Where an epoch ends of which something was collected: what a claim's look finds by the ledger in force."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from cdp_container.domain.owner_types import End, EndFound, Failure, FindEnd, WorkFailed
from cdp_container.domain.owner_work import do_work
from cdp_container.errors import StoreUnavailable
from cdp_container.format.domain import ObjectName
from cdp_container.format.index import Run
from cdp_container.format.keys import ledger_key, segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.seal import NO_KEYS
from cdp_container.store.api import Blob
from cdp_container.store.memory import MemoryStore
from tests.containers import CUT_NS, FIRST_CUT_NS, Site, in_force, write
from tests.sim.clock import VirtualTime


class World:
    """Six cuts of one epoch, one segment each."""

    def __init__(self, encrypted: bool = False) -> None:
        self.store = MemoryStore(VirtualTime())
        self.site = Site(self.store, seed=4, encrypted=encrypted)
        self.disk = self.site.add_volume("disk", 1 << 16)
        self.site.begin_epoch()
        self.cuts = [self.cut() for _ in range(6)]
        self.site.protect(self.cuts[-1])
        self.digests = {
            place: built.digest for place, built in zip(self.cuts, self.site.objects, strict=True)
        }

    def cut(self) -> Place:
        return self.site.cut([write(self.disk, 0, self.site.rng.randbytes(512))])

    def collect(self, first: int, last: int, retired: Iterable[tuple[int, int]] = ()) -> None:
        """Into a pack; the ledger says which cuts are retired, too."""
        pack = self.site.pack(1, first, last)
        runs = [self.site.run(1, first, last), in_force(pack)]
        runs += [Run(RunKind.CUTS_RETIRED, 1, one, other, bytes(32)) for one, other in retired]
        self.site.write_ledger(runs)
        for seq in range(first, last + 1):
            self.store.delete(segment_key(1, seq))

    def begin(self, base: Place) -> int:
        """As a failover to an older cut does."""
        epoch = self.site.begin_epoch(base=base)
        self.site.protect(base)
        return epoch

    def find(self, epoch: int, protected: Place | None = None) -> End:
        event = self.work(self.effect(epoch, protected))
        assert isinstance(event, EndFound), event
        return event.end

    def effect(self, epoch: int, protected: Place | None = None) -> FindEnd:
        owner = self.site.owner
        return FindEnd(epoch, owner.protected if protected is None else protected, owner.ledger)

    def work(self, effect: FindEnd) -> EndFound | WorkFailed:
        event = do_work(self.store, self.store, self.site.domain, effect, self.site.reader_keys())
        assert isinstance(event, EndFound | WorkFailed)
        return event


# --- what cannot be told ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["gone", "damaged", "another one", "torn"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_without_its_ledger_no_end_is_found(fault: str, encrypted: bool) -> None:
    """What is collected would be taken for lost, and what is retired for the end."""
    world = World(encrypted)
    world.collect(1, 3)
    epoch = world.begin(world.cuts[2])
    name = world.site.owner.ledger
    assert name is not None
    data = world.store.get(name.key).data
    if fault == "another one":
        world.site.owner = replace(world.site.owner, ledger=ObjectName(name.key, b"l" * 32))
    else:
        world.store.delete(name.key)
    if fault in ("damaged", "torn"):
        world.store.put_new(name.key, data[:-40] + bytes(40) if fault == "damaged" else data[:100])
    for protected in (None, NOWHERE):
        event = world.work(world.effect(epoch, protected))
        assert isinstance(event, WorkFailed)
        assert event.failure is Failure.LOST
        assert name.key in event.why


def after_a_lost_ledger(world: World) -> tuple[int, Place]:
    """An epoch with a proven cut and one behind it; the ledger that tells of the epoch before is gone."""
    world.collect(1, 3, retired=[(1, 2)])
    epoch = world.begin(world.cuts[-1])
    proven = world.cut()
    world.site.protect(proven)
    assert world.site.owner.ledger is not None
    world.store.delete(world.site.owner.ledger.key)
    return epoch, proven


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_lost_ledger_keeps_nobody_out_of_an_epoch_that_has_a_proven_cut(encrypted: bool) -> None:
    """Nothing at or beyond what is protected is ever collected or retired."""
    world = World(encrypted)
    epoch, proven = after_a_lost_ledger(world)
    assert world.find(epoch).place == proven
    newest = world.cut()
    found = world.find(epoch)
    assert (found.place, found.stopped_by) == (newest, "")
    assert "without the ledger in force" in found.warning
    assert ledger_key(1, 1) in found.warning


def test_nor_out_of_one_that_has_no_cut_yet() -> None:
    """An idle owner that restarts twice."""
    world = World()
    epoch, proven = after_a_lost_ledger(world)
    epoch = world.begin(proven)
    found = world.find(epoch)
    assert (found.place, bool(found.warning)) == (proven, True)
    newest = world.cut()
    assert world.find(epoch).place == newest


def test_a_base_that_is_older_than_what_is_protected_needs_it() -> None:
    """It may be retired, and still be there by name."""
    world = World()
    epoch, proven = after_a_lost_ledger(world)
    epoch = world.begin(world.cuts[4])
    event = world.work(world.effect(epoch, proven))
    assert isinstance(event, WorkFailed)
    assert event.failure is Failure.LOST


def test_a_lost_ledger_is_demanded_where_the_proven_cut_is_not_there() -> None:
    for fault in ("lost", "damaged", "accepted"):
        world = World()
        epoch, proven = after_a_lost_ledger(world)
        key = segment_key(epoch, proven.seq)
        data = world.store.get(key).data
        if fault != "accepted":
            world.store.delete(key)
        if fault == "damaged":
            world.store.put_new(key, data[:60])
        event = world.work(world.effect(epoch, NOWHERE if fault == "accepted" else None))
        assert isinstance(event, WorkFailed), fault
        assert (event.failure, ledger_key(1, 1) in event.why) == (Failure.LOST, True), fault


def test_a_ledger_that_is_there_is_not_warned_of() -> None:
    world = World()
    world.collect(1, 3)
    assert world.find(1).warning == ""


def test_a_sealed_ledger_needs_the_index_key() -> None:
    world = World(encrypted=True)
    world.collect(1, 3)
    effect = world.effect(world.begin(world.cuts[2]))
    event = do_work(world.store, world.store, world.site.domain, effect, NO_KEYS)
    assert isinstance(event, WorkFailed)
    assert (event.failure, ledger_key(1, 1) in event.why) == (Failure.LOST, True)
    assert world.find(effect.epoch).place == world.cuts[2]


def test_a_store_that_does_not_answer_loses_nothing() -> None:
    class Away(MemoryStore):
        def get(self, key: str) -> Blob:
            raise StoreUnavailable(key, "no answer")

    world = World()
    world.collect(1, 3)
    effect = world.effect(world.begin(world.cuts[2]))
    event = do_work(Away(VirtualTime()), world.store, world.site.domain, effect, NO_KEYS)
    assert isinstance(event, WorkFailed)
    assert event.failure is Failure.UNKNOWN


def test_no_epoch_ends_at_a_base_that_is_retired() -> None:
    world = World()
    world.collect(1, 3, retired=[(1, 3)])
    epoch = world.begin(world.cuts[2])
    event = world.work(world.effect(epoch))
    assert isinstance(event, WorkFailed)
    assert event.failure is Failure.LOST
    assert "retired" in event.why


def test_what_was_proven_and_is_retired_is_no_end() -> None:
    world = World()
    world.collect(1, 3, retired=[(5, 5)])
    event = world.work(world.effect(1, world.cuts[4]))
    assert isinstance(event, WorkFailed)
    assert "retired" in event.why


# --- a base that was collected ---------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_epoch_that_begins_at_a_collected_cut_ends_there_until_it_has_one(encrypted: bool) -> None:
    world = World(encrypted)
    world.collect(1, 3, retired=[(1, 2)])
    base = world.cuts[2]
    epoch = world.begin(base)
    end = world.find(epoch)
    assert end == End(base, world.digests[base], packed_ns=FIRST_CUT_NS + 2 * CUT_NS)
    assert end.time_ns == FIRST_CUT_NS + 2 * CUT_NS
    again = world.begin(base)
    assert world.find(again) == end
    newest = world.cut()
    found = world.find(again)
    assert (found.place, found.stopped_by) == (newest, "")
    assert found.preamble is not None
    assert found.preamble.previous_digest == end.digest
    world.site.protect(newest)
    assert world.find(again).place == newest


def test_one_that_follows_another_cut_than_the_base_does_not_count() -> None:
    world = World()
    world.collect(1, 3, retired=[(1, 2)])
    epoch = world.begin(world.cuts[2])
    world.site._line.digest = b"x" * 32
    world.cut()
    found = world.find(epoch)
    assert found.place == world.cuts[2]
    assert "does not follow" in found.stopped_by


# --- where a loss was accepted ---------------------------------------------------------------------


def test_the_newest_cut_that_is_left_may_have_been_collected() -> None:
    world = World()
    world.collect(1, 3)
    for seq in (4, 6):
        world.store.delete(segment_key(1, seq))
    event = world.work(world.effect(1))
    assert isinstance(event, WorkFailed)
    assert event.failure is Failure.LOST
    end = world.find(1, NOWHERE)
    assert (end.place, end.digest) == (world.cuts[2], world.digests[world.cuts[2]])


@pytest.mark.parametrize("retired", [(3, 3), (4, 4), (3, 5)])
def test_it_is_none_that_is_retired(retired: tuple[int, int]) -> None:
    """Collected or not: what only it needed may be gone."""
    world = World()
    world.collect(1, 3, retired=[retired])
    world.store.delete(segment_key(1, 6 if retired[1] == 5 else 5))
    expected = {(3, 3): 3, (4, 4): 2, (3, 5): 1}[retired]
    assert world.find(1, NOWHERE).place == world.cuts[expected]


def test_a_lost_epoch_falls_back_behind_a_base_that_is_retired() -> None:
    """And never beyond that base: what lies there is no part of the branch."""
    world = World()
    epoch = world.begin(world.cuts[4])
    world.site.protect(world.cut())
    world.collect(1, 3, retired=[(3, 3), (5, 5)])
    world.store.delete(segment_key(epoch, 1))
    assert world.find(epoch, NOWHERE).place == world.cuts[3]


def test_what_lies_beyond_a_lost_base_is_not_gone_on_from() -> None:
    world = World()
    epoch = world.begin(world.cuts[3])
    world.collect(4, 4, retired=[(4, 4)])
    assert world.find(epoch, NOWHERE).place == world.cuts[2]
