"""Which epochs count, and up to where: sad paths first."""

from __future__ import annotations

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.history import read_history
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    MissingObject,
    NoSuchBucket,
    NoSuchDomain,
)
from cdp_container.format.domain import OwnerState
from cdp_container.format.keys import OWNER_KEY, config_key, epoch_key, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, busy_container, write


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(SystemClock())


@pytest.fixture
def site(store: MemoryStore) -> Site:
    return busy_container(store)


def test_an_empty_place_is_no_domain(store: MemoryStore) -> None:
    with pytest.raises(NoSuchDomain):
        read_history(store)


def test_a_missing_bucket_is_no_missing_domain() -> None:
    with pytest.raises(NoSuchBucket):
        read_history(DirectoryStore("/nonexistent/container"))


def test_a_missing_epoch_record_is_named(site: Site, store: MemoryStore) -> None:
    store.delete(epoch_key(2))
    with pytest.raises(MissingObject, match=epoch_key(2)):
        read_history(store)


def test_an_epoch_record_under_another_key_is_refused(site: Site, store: MemoryStore) -> None:
    data = store.get(epoch_key(1)).data
    store.delete(epoch_key(2))
    store.put_new(epoch_key(2), data)
    with pytest.raises(DamagedObject, match="record of epoch 1"):
        read_history(store)


def test_an_epoch_record_of_another_domain_is_refused(site: Site, store: MemoryStore) -> None:
    other = busy_container(MemoryStore(SystemClock()), seed=5)
    store.delete(epoch_key(2))
    store.put_new(epoch_key(2), other.store.get(epoch_key(2)).data)
    with pytest.raises(ForeignObject):
        read_history(store)


def test_a_changed_configuration_is_refused(site: Site, store: MemoryStore) -> None:
    key = config_key(site.owner.config)
    data = store.get(key).data
    store.delete(key)
    store.put_new(key, data.replace(b"shop", b"ship"))
    with pytest.raises(DamagedObject, match=key):
        read_history(store)
    store.delete(key)
    with pytest.raises(MissingObject, match=key):
        read_history(store)


def test_without_an_owner_the_highest_epoch_record_stands_in(site: Site, store: MemoryStore) -> None:
    newest = read_history(store).newest
    store.delete(OWNER_KEY)
    history = read_history(store)
    assert history.newest == newest
    assert any(OWNER_KEY in note for note in history.notes)
    assert isinstance(history.in_doubt, MissingObject)


def test_each_epoch_counts_up_to_what_its_successor_states(site: Site, store: MemoryStore) -> None:
    history = read_history(store)
    # Epoch 1 has a segment 7 of a cut that was never complete, epoch 2 a zombie behind its end.
    assert segment_key(1, 7) in {found.key for found in store.list("log/")}
    assert segment_key(2, 5) in {found.key for found in store.list("log/")}
    assert {epoch: span.end for epoch, span in history.spans.items()} == {
        1: Place(1, 4, 6),
        2: Place(2, 3, 4),
        6: Place(6, 2, 2),
    }
    assert history.everything() == {1: 6, 2: 4, 6: 2}


def test_a_branch_follows_bases_and_leaves_the_side_branch_out(site: Site, store: MemoryStore) -> None:
    history = read_history(store)
    assert history.branch_of(history.newest) == {6: 2, 2: 4, 1: 5}
    assert history.branch_of(Place(1, 4, 6)) == {1: 6}
    assert history.branch_of(NOWHERE) == {}


def test_no_branch_goes_beyond_an_end(site: Site, store: MemoryStore) -> None:
    history = read_history(store)
    with pytest.raises(DamagedObject):
        history.branch_of(Place(2, 4, 5))
    with pytest.raises(MissingObject):
        history.branch_of(Place(4, 1, 1))


def test_a_claim_does_not_count_before_it_is_active(site: Site, store: MemoryStore) -> None:
    newest = read_history(store).newest
    site.write_owner(epoch=9, previous=6, state=OwnerState.CLAIMING)
    history = read_history(store)
    assert history.newest == newest
    assert 9 not in history.spans


def test_an_epoch_without_a_complete_cut_ends_at_its_base(site: Site, store: MemoryStore) -> None:
    newest = read_history(store).newest
    epoch = site.begin_epoch()
    history = read_history(store)
    assert history.newest == newest
    assert history.spans[epoch].end == NOWHERE
    disk = next(iter(site.images[newest]))
    site.cut([write(disk, 0, b"half a cut")], complete=False)
    assert read_history(store).newest == newest
    site.begin_epoch()
    after = site.cut([write(disk, 0, b"a cut")])
    history = read_history(store)
    assert history.newest == after
    assert history.spans[epoch].end == NOWHERE
    assert set(history.branch_of(after)) == {8, 6, 2, 1}


def test_protected_is_what_was_proven_and_everything_that_later_epochs_rest_on(
    site: Site, store: MemoryStore
) -> None:
    history = read_history(store)
    assert history.is_protected(Place(6, 1, 1))
    assert not history.is_protected(Place(6, 2, 2))
    assert history.is_protected(Place(1, 1, 3))


def test_a_damaged_tail_ends_the_history_and_is_told(site: Site, store: MemoryStore) -> None:
    key = segment_key(6, 2)
    data = store.get(key).data
    store.delete(key)
    store.put_new(key, data[:100] + b"x" + data[101:])
    history = read_history(store)
    assert history.newest == Place(6, 1, 1)
    assert history.lost is None
    assert any(key in note for note in history.notes)


def test_a_lost_protected_cut_is_told(site: Site, store: MemoryStore) -> None:
    store.delete(segment_key(6, 1))
    history = read_history(store)
    assert isinstance(history.lost, MissingObject)
    assert history.newest == Place(2, 3, 4)
    assert history.spans[6].end == NOWHERE


def test_a_domain_that_never_wrote_has_no_cut(store: MemoryStore) -> None:
    site = Site(store)
    site.add_volume("disk", 4096)
    site.write_owner()
    history = read_history(store)
    assert (history.newest, history.spans, history.everything()) == (NOWHERE, {}, {})
