"""A copy of a container whose objects arrive in any order: its newest complete cut, or none."""

from __future__ import annotations

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.history import History
from cdp_container.domain.replica import read_replica, read_replica_domain
from cdp_container.errors import DamagedObject, NoSuchDomain
from cdp_container.format.keys import OWNER_KEY, config_key, epoch_key, segment_key
from cdp_container.format.place import NOWHERE
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, busy_container


@pytest.fixture
def site() -> Site:
    return busy_container(MemoryStore(SystemClock()))


def read(store: MemoryStore) -> History:
    return read_replica(store, read_replica_domain(store))


def point(history: History) -> str:
    return f"{history.newest.epoch}.{history.newest.cut}"


def without(site: Site, *keys: str) -> MemoryStore:
    """A copy in which these never arrived."""
    copy = MemoryStore(SystemClock())
    for found in site.store.list(""):
        if found.key not in keys:
            copy.put_new(found.key, site.store.get(found.key).data)
    return copy


def test_nothing_arrived() -> None:
    with pytest.raises(NoSuchDomain):
        read_replica_domain(MemoryStore(SystemClock()))


def test_only_the_owner_arrived(site: Site) -> None:
    copy = MemoryStore(SystemClock())
    copy.put_new(OWNER_KEY, site.store.get(OWNER_KEY).data)
    history = read(copy)
    assert (history.newest, history.spans) == (NOWHERE, {})
    assert any("configuration is not there" in note for note in history.notes)


def test_everything_arrived(site: Site) -> None:
    history = read(without(site))
    assert point(history) == "6.2"
    assert history.in_doubt is None
    assert [*history.spans] == [1, 2, 6]
    assert [span.end.cut for span in history.spans.values()] == [3, 3, 2], "up to what the newest is based on"


@pytest.mark.parametrize(
    ("absent", "newest"),
    [
        ([OWNER_KEY], "6.2"),
        ([segment_key(6, 1)], "2.3"),
        ([segment_key(2, 1)], "1.3"),
        ([segment_key(1, 1)], "0.0"),
        ([epoch_key(6)], "6.2"),
        ([epoch_key(2)], "6.2"),
        ([epoch_key(6), epoch_key(2), epoch_key(1), OWNER_KEY], "6.2"),
        ([epoch_key(6), *(segment_key(6, seq) for seq in (1, 2))], "2.4"),  # nothing says where that ended
        ([segment_key(6, 1), epoch_key(6)], "2.3"),
        ([OWNER_KEY, segment_key(6, 1), segment_key(2, 1)], "1.3"),
    ],
    ids=str,
)
def test_what_is_missing_hides_no_more_than_it_must(site: Site, absent: list[str], newest: str) -> None:
    history = read(without(site, *absent))
    assert point(history) == newest
    if newest != "6.2":
        assert history.in_doubt is None, "whoever reads a copy accepts what is there"
        assert OWNER_KEY in absent or any("not whole in this copy" in note for note in history.notes)


def test_an_owner_that_is_older_than_what_arrived(site: Site) -> None:
    old = site.owner
    site.write_owner(epoch=2, previous=1)
    copy = without(site)
    assert (point(read(copy)), old.epoch) == ("6.2", 6)


def test_without_the_configuration(site: Site) -> None:
    copy = without(site, config_key(site.owner.config))
    facts = read_replica_domain(copy)
    assert facts.config is None
    assert point(read_replica(copy, facts)) == "6.2"


def test_what_is_there_and_damaged_is_told(site: Site) -> None:
    for key in (OWNER_KEY, epoch_key(2)):
        copy = without(site, key)
        copy.put_new(key, b"{")
        with pytest.raises(DamagedObject, match=key):
            read_replica_domain(copy)
