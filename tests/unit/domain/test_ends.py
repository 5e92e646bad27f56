"""Where an epoch ends: key by key, whatever lies behind a gap, and never below what is proven."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from cdp_container.domain import ends
from cdp_container.domain.ends import Collected, find_end, highest_epoch
from cdp_container.domain.ledgers import ledger_of
from cdp_container.domain.owner_types import End
from cdp_container.domain.parallel import in_parallel
from cdp_container.errors import DamagedObject, MissingObject, NoSuchBucket
from cdp_container.format.keys import epoch_key, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.api import Blob
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, write
from tests.sim.clock import VirtualTime


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(VirtualTime())


def begun(store: MemoryStore) -> tuple[Site, bytes]:
    site = Site(store, encrypted=False)
    disk = site.add_volume("disk", 1 << 16)
    site.begin_epoch()
    return site, disk


def test_the_time_before_the_first_epoch_ends_nowhere(store: MemoryStore) -> None:
    assert find_end(store, bytes(16), 0, NOWHERE) == End()


def test_an_epoch_without_a_cut_ends_at_its_base(store: MemoryStore) -> None:
    site, disk = begun(store)
    base = site.cut([write(disk, 0, b"a" * 512)])
    epoch = site.begin_epoch()
    end = find_end(store, site.domain, epoch, base)
    assert end.place == base
    assert end.preamble is not None
    assert end.preamble.place == base


def test_a_base_that_is_lost_is_no_end_where_that_was_accepted(store: MemoryStore) -> None:
    """Without this nobody could ever take over: seed 82 of the owners' simulator."""
    site, disk = begun(store)
    first = site.cut([write(disk, 0, b"a" * 512)])
    base = site.cut([write(disk, 0, b"b" * 512)])
    epoch = site.begin_epoch()
    store.delete(segment_key(1, base.seq))
    with pytest.raises(MissingObject):
        find_end(store, site.domain, epoch, base)
    assert find_end(store, site.domain, epoch, NOWHERE).place == first
    later = site.cut([write(disk, 0, b"c" * 512)])
    assert find_end(store, site.domain, epoch, NOWHERE).place == later
    store.delete(segment_key(1, first.seq))
    store.delete(segment_key(epoch, later.seq))
    assert find_end(store, site.domain, epoch, NOWHERE).place == NOWHERE


def test_the_end_is_the_newest_complete_cut_of_the_run(store: MemoryStore) -> None:
    site, disk = begun(store)
    first = site.cut([write(disk, 0, b"a" * 512)])
    last = site.cut([write(disk, 0, b"b" * 512), write(disk, 4096, b"c" * 512)], segments=2)
    site.cut([write(disk, 0, b"d" * 512)], complete=False)
    for protected in (NOWHERE, first, last):
        end = find_end(store, site.domain, 1, protected)
        assert end.place == last
        assert end.digest == site.objects[last.seq - 1].digest


@pytest.mark.parametrize("broken", [None, 1, 2, 3, 20, 40])
def test_reading_ahead_finds_the_same_end_in_few_rounds(
    store: MemoryStore, broken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, disk = begun(store)
    for _ in range(40):
        site.cut([write(disk, 0, b"a" * 512)])
    collected = Collected(ledger_of([site.run(1, 10, 12)]))
    if broken is not None:
        store.delete(segment_key(1, broken))
        store.put_new(segment_key(1, broken), b"torn")
    rounds: list[int] = []

    def counted(work: Callable[[int], object], items: Iterable[int], workers: int) -> Iterator[object]:
        rounds.append(workers)
        return in_parallel(work, items, workers)

    monkeypatch.setattr(ends, "in_parallel", counted)
    alone = find_end(store, site.domain, 1, NOWHERE, collected)
    assert rounds == []
    assert find_end(store, site.domain, 1, NOWHERE, collected, read_ahead=8) == alone
    assert alone.place.seq == (40 if broken is None else broken - 1)
    assert max(rounds) <= 8
    assert len(rounds) <= 4 + 40 // 8


def test_what_lies_behind_a_gap_does_not_count(store: MemoryStore) -> None:
    site, disk = begun(store)
    last = site.cut([write(disk, 0, b"a" * 512)])
    site.cut([write(disk, 0, b"b" * 512)], put=False)
    site.cut([write(disk, 0, b"c" * 512)])
    assert find_end(store, site.domain, 1, last).place == last


def test_a_segment_that_does_not_follow_ends_the_run(store: MemoryStore) -> None:
    site, disk = begun(store)
    last = site.cut([write(disk, 0, b"a" * 512)])
    other = Site(MemoryStore(VirtualTime()), seed=0, encrypted=False)
    space = other.add_volume("disk", 1 << 16)
    other.begin_epoch()
    other.cut([write(space, 0, b"x" * 512)])
    other.cut([write(space, 0, b"y" * 512)])
    store.put_new(segment_key(1, 2), other.objects[1].data)
    end = find_end(store, site.domain, 1, last)
    assert end.place == last
    assert "does not follow" in end.stopped_by or "domain" in end.stopped_by


@pytest.mark.parametrize("cut_to", [0, 10, 200, 400])
def test_a_torn_segment_behind_what_is_proven_ends_the_run(store: MemoryStore, cut_to: int) -> None:
    site, disk = begun(store)
    last = site.cut([write(disk, 0, b"a" * 512)])
    site.cut([write(disk, 0, b"b" * 512)], put=False)
    store.put_new(segment_key(1, 2), site.objects[1].data[:cut_to])
    end = find_end(store, site.domain, 1, last)
    assert end.place == last
    assert end.stopped_by


def test_what_was_proven_must_be_there(store: MemoryStore) -> None:
    site, disk = begun(store)
    last = site.cut([write(disk, 0, b"a" * 512)])
    store.delete(segment_key(1, last.seq))
    with pytest.raises(MissingObject):
        find_end(store, site.domain, 1, last)


def test_what_was_proven_must_be_what_it_was(store: MemoryStore) -> None:
    site, disk = begun(store)
    place = site.cut([write(disk, 0, b"a" * 512)])
    with pytest.raises(DamagedObject):
        find_end(store, site.domain, 1, Place(1, place.cut + 1, place.seq))


def test_a_missing_epoch_record_is_no_end(store: MemoryStore) -> None:
    site, _ = begun(store)
    store.delete(epoch_key(1))
    with pytest.raises(MissingObject):
        find_end(store, site.domain, 1, NOWHERE)


def test_the_highest_epoch_is_found_in_records_and_in_segments(store: MemoryStore) -> None:
    assert highest_epoch(store) == 0
    for epoch in (1, 7):
        for seq in range(1, 30):
            store.put_new(segment_key(epoch, seq), b"")
    store.put_new(epoch_key(3), b"")
    assert highest_epoch(store) == 7
    store.put_new(epoch_key(40), b"")
    assert highest_epoch(store) == 40


class VanishingStore(MemoryStore):
    """Its bucket is gone after `left` more reads."""

    left = 1_000_000

    def get(self, key: str) -> Blob:
        self._read()
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._read()
        return super().get_range(key, start, length)

    def _read(self) -> None:
        if self.left == 0:
            raise NoSuchBucket("read", "there is no such bucket")
        self.left -= 1


@pytest.mark.parametrize("protected", ["nothing", "the first cut"])
def test_a_bucket_that_is_gone_is_no_end(protected: str) -> None:
    """Its absence says nothing about the next key, and nothing about what was proven."""
    store = VanishingStore(VirtualTime())
    site, disk = begun(store)
    first = site.cut([write(disk, 0, b"a" * 512)])
    site.cut([write(disk, 0, b"b" * 512)])
    place = NOWHERE if protected == "nothing" else first
    before = store.left
    find_end(store, site.domain, 1, place)
    for left in range(before - store.left):
        store.left = left
        with pytest.raises(NoSuchBucket):
            find_end(store, site.domain, 1, place)
