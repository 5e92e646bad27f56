"""The store in memory keeps every promise that a real one makes."""

from __future__ import annotations

import pytest

from cdp_container.clock import SystemClock
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from tests.conformance.store_suite import StoreRaces, StoreSuite


@pytest.fixture
def store() -> Store:
    return MemoryStore(SystemClock())


class TestMemoryStore(StoreSuite, StoreRaces):
    """See `StoreSuite`."""


def test_two_stores_have_the_same_tags_for_the_same_writes() -> None:
    stores = [MemoryStore(SystemClock()) for _ in range(2)]
    assert len({store.put_new("a", b"1") for store in stores}) == 1
