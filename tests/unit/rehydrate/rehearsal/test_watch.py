"""Curves: rates between two looks, and few points however long it takes."""

from __future__ import annotations

import pytest

from cdp_container.clock import SystemClock
from cdp_container.store.memory import MemoryStore
from rehydrate.rehearsal.counting import CountingStore
from rehydrate.rehearsal.watch import POINTS_MAX, Point, Watch
from tests.unit.domain.holding_play import Now
from tests.waiting import wait_until


@pytest.fixture
def store() -> CountingStore:
    store = CountingStore(MemoryStore(SystemClock()))
    store.put_new("a", b"12345678")
    return store


def test_a_point_is_what_came_since_the_one_before(store: CountingStore) -> None:
    clock = Now()
    watch = Watch(store, clock)
    watch.look()  # at the same instant: no rate can be told
    clock.passes(2)
    store.get("a")
    watch.look()
    assert watch.curve == [Point(2.0, 0.5, 4.0, 0.0)]


def test_there_are_never_many_points_and_none_is_lost(store: CountingStore) -> None:
    clock = Now()
    watch = Watch(store, clock)
    for _ in range(3 * POINTS_MAX):
        clock.passes(1)
        store.get("a")
        watch.look()
    curve = watch.curve
    assert POINTS_MAX // 4 < len(curve) <= POINTS_MAX
    assert curve[-1].seconds == 3 * POINTS_MAX
    lengths = [
        later.seconds - earlier.seconds
        for earlier, later in zip([Point(0, 0, 0, 0), *curve], curve, strict=False)
    ]
    total = sum(point.requests_per_second * length for point, length in zip(curve, lengths, strict=True))
    assert round(total) == 3 * POINTS_MAX + 1


def test_a_thread_looks_by_itself(store: CountingStore) -> None:
    with Watch(store, SystemClock(), period_seconds=0.001) as watch:
        wait_until(lambda: len(watch.curve) > 3, "it looked", 30)
    assert watch.curve
