"""What is read of a container, from where, and with how many requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.faults import check_branch
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import read_history
from cdp_container.domain.image import Volumes, cuts_of, volumes_of
from cdp_container.errors import DamagedObject, MissingObject
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Found
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, busy_container, write


class WatchedStore(MemoryStore):
    """Counts requests, and leaves keys out of listings as a lagging store does."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.ranges: list[str] = []
        self.unlisted: set[str] = set()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges.append(key)
        return super().get_range(key, start, length)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        return (found for found in super().list(prefix, start_after) if found.key not in self.unlisted)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


def segments_of(site: Site, store: WatchedStore) -> set[tuple[int, int]]:
    history = read_history(store)
    with closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents:
        check_branch(contents, history.branch_of(history.newest), history.origins())
        return set(contents.segments)


def test_a_listing_that_omits_keys_loses_nothing(store: WatchedStore) -> None:
    site = busy_container(store)
    expected = segments_of(site, store)
    store.unlisted = {segment_key(1, 1), segment_key(1, 3), segment_key(2, 4), segment_key(6, 1)}
    assert segments_of(site, store) == expected
    store.unlisted = {found.key for found in MemoryStore.list(store, "log/")}
    assert segments_of(site, store) == expected


def test_what_lies_beyond_an_end_is_not_read(store: WatchedStore) -> None:
    site = busy_container(store)
    assert segments_of(site, store) == {(1, n) for n in range(1, 7)} | {(2, n) for n in range(1, 5)} | {
        (6, 1),
        (6, 2),
    }


def test_heads_in_catalogs_are_not_asked_for_one_by_one(store: WatchedStore) -> None:
    site = busy_container(store)
    wide = [segment_key(1, seq) for seq in range(1, 6)]
    site.catalog(wide, level=1)
    site.catalog(wide[:2], level=0, number=1)
    site.catalog([segment_key(2, 1)], level=0, number=2)
    store.ranges.clear()
    segments_of(site, store)
    assert not set(store.ranges) & {*wide, segment_key(2, 1)}


def test_a_damaged_catalog_does_no_harm(store: WatchedStore) -> None:
    site = busy_container(store)
    expected = segments_of(site, store)
    built = site.catalog([segment_key(1, seq) for seq in range(1, 6)])
    store.delete(built.key)
    store.put_new(built.key, built.data[:-40] + b"x" + built.data[-39:])
    history = read_history(store)
    with closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents:
        assert set(contents.segments) == expected
        assert any(built.key in note for note in contents.notes)


def test_a_catalog_proves_nothing_about_presence(store: WatchedStore) -> None:
    site = busy_container(store)
    key = segment_key(1, 2)
    site.catalog([key])
    store.delete(key)
    history = read_history(store)
    with (
        closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents,
        pytest.raises(MissingObject, match=key),
    ):
        check_branch(contents, history.branch_of(history.newest), history.origins())


def test_a_segment_of_another_length_than_its_catalog_says_is_read_itself(store: WatchedStore) -> None:
    site = busy_container(store)
    key = segment_key(1, 2)
    site.catalog([key])
    data = store.get(key).data
    store.delete(key)
    store.put_new(key, data + b"more")
    history = read_history(store)
    with closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents:
        assert isinstance(contents.broken[key].error, DamagedObject)


def test_a_segment_that_does_not_follow_the_one_before_is_refused(store: WatchedStore) -> None:
    site = Site(store)
    disk = site.add_volume("disk", 4096)
    site.begin_epoch()
    site.cut([write(disk, 0, b"first")])
    twin = Site(MemoryStore(SystemClock()))  # the same ids and keys, another first segment
    assert twin.add_volume("disk", 4096) == disk
    twin.begin_epoch()
    twin.cut([write(disk, 0, b"other")])
    second = site.cut([write(disk, 0, b"second")])
    site.protect(second)
    store.delete(segment_key(1, 1))
    store.put_new(segment_key(1, 1), twin.objects[0].data)
    history = read_history(store)
    with (
        closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents,
        pytest.raises(DamagedObject, match="digest"),
    ):
        check_branch(contents, history.branch_of(history.newest), history.origins())


def test_without_a_key_cuts_are_known_and_nothing_else(store: WatchedStore) -> None:
    busy_container(store)
    history = read_history(store)
    from cdp_container.format.seal import NO_KEYS

    with closing(gather(store, history.domain, NO_KEYS, history.everything())) as contents:
        cuts = cuts_of(contents, history.branch_of(history.newest))
        assert contents.sealed
    assert [(cut.place.epoch, cut.place.cut) for cut in cuts] == [
        (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (6, 1), (6, 2),
    ]  # fmt: skip


def test_volumes_are_those_of_the_cut(store: WatchedStore) -> None:
    site = busy_container(store)
    history = read_history(store)
    with closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents:

        def at(place: Place) -> dict[str, tuple[int, bool]]:
            branch = history.branch_of(place)
            (cut,) = (cut for cut in cuts_of(contents, branch) if cut.place == place)
            return {v.name: (v.size_bytes, v.whole) for v in volumes_of(contents, branch, cut)}

        assert at(Place(1, 2, 4)) == {"disk": (600_000, True), "log": (100_000, False)}
        assert at(Place(2, 2, 3))["disk"] == (150_000, True)
        assert at(Place(2, 3, 4))["spare"] == (50_000, True)
        assert "spare" not in at(history.newest)


def test_volumes_are_the_same_in_whatever_order_cuts_are_asked_for(store: WatchedStore) -> None:
    site = busy_container(store)
    history = read_history(store)
    with closing(gather(store, history.domain, site.reader_keys(), history.everything())) as contents:
        cuts = cuts_of(contents, history.everything())
        alone = [volumes_of(contents, history.branch_of(cut.place), cut) for cut in cuts]
        volumes = Volumes(contents)
        assert [volumes.at(history.branch_of(cut.place), cut) for cut in cuts] == alone
        for cut, expected in reversed(list(zip(cuts, alone, strict=True))):
            assert volumes.at(history.branch_of(cut.place), cut) == expected
