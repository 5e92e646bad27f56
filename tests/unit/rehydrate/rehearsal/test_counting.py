"""What is counted of what is asked of a store, and that nothing else changes by it."""

from __future__ import annotations

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import NotFound, PreconditionFailed
from cdp_container.store.memory import MemoryStore
from cdp_container.store.zones import as_opened
from rehydrate.rehearsal.counting import LIST_PAGE_KEYS, CountingStore, Counts


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore(SystemClock()))


def test_every_kind_counts_from_zero(store: CountingStore) -> None:
    assert store.counts == Counts()
    tag = store.put_new("a", b"12345")
    tag = store.put_if("a", b"123456", tag)
    assert store.get("a").data == b"123456"
    assert store.get_unless("a", tag) is None
    assert store.get_range("a", 1, 3) == b"234"
    assert store.head("a").size == 6
    assert [found.key for found in store.list("")] == ["a"]
    store.delete("a")
    assert store.counts == Counts(get=3, list=1, head=1, put=2, delete=1, received_bytes=9)
    assert store.counts.requests == 8
    assert store.counts.by_kind() == {"GET": 3, "LIST": 1, "HEAD": 1, "PUT": 2, "DELETE": 1}


def test_what_fails_counts_too_and_is_under_way_no_more(store: CountingStore) -> None:
    store.put_new("a", b"1")
    with pytest.raises(NotFound):
        store.get("b")
    with pytest.raises(PreconditionFailed):
        store.put_new("a", b"2")
    assert (store.counts.get, store.counts.put, store.under_way) == (1, 2, 0)


def test_a_listing_counts_for_each_page(store: CountingStore) -> None:
    for number in range(LIST_PAGE_KEYS + 1):
        store.put_new(f"{number:05}", b"")
    assert len(list(store.list(""))) == LIST_PAGE_KEYS + 1
    assert store.counts.list == 2
    assert next(iter(store.list("")), None) is not None  # who takes one key asks for one page
    assert store.counts.list == 3
    assert list(store.list("x")) == []
    assert store.counts.list == 4


def test_a_difference_is_what_came_between(store: CountingStore) -> None:
    store.put_new("a", b"1")
    before = store.counts
    store.get("a")
    assert store.counts - before == Counts(get=1, received_bytes=1)


def test_what_stands_below_is_found() -> None:
    inner = MemoryStore(SystemClock())
    assert as_opened(CountingStore(inner)) is inner
