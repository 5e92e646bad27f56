"""Many requests at once: in order, bounded, and ended by the first error."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator, Iterator

import pytest

from rehydrate import flow as flowing
from rehydrate.flow import Flow
from rehydrate.pace import IN_FLIGHT_MIN, Pace


class JumpingClock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self._now_ns = 0

    def wall_ns(self) -> int:
        return self._now_ns

    def boottime_ns(self) -> int:
        self._now_ns += 10**9
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        self._now_ns += int(seconds * 1e9)


class Watched:
    """Work that notes how much of it goes on at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self._bytes = 0
        self.most = self.most_bytes = 0

    def __call__(self, item: int) -> int:
        with self._lock:
            self._now += 1
            self._bytes += item
            self.most, self.most_bytes = max(self.most, self._now), max(self.most_bytes, self._bytes)
        with self._lock:
            self._now -= 1
            self._bytes -= item
        return item


def identity(item: int) -> int:
    return item


def test_results_come_in_order_and_no_more_than_the_pace_are_in_flight() -> None:
    work = Watched()
    assert list(Flow().run(work, range(500), identity)) == list(range(500))
    assert 1 <= work.most <= IN_FLIGHT_MIN


def test_bytes_in_flight_are_bounded_and_a_larger_request_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowing, "BYTES_IN_FLIGHT_MAX", 100)
    work = Watched()
    items = [60, 30, 250, 60, 60, 10] * 20
    assert list(Flow().run(work, items, identity)) == items
    assert work.most_bytes <= 250
    small = Watched()
    list(Flow().run(small, [60, 30, 90] * 50, identity))
    assert small.most_bytes <= 100


def test_a_slow_request_lets_others_go_on_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowing, "WAITING_MAX", 50)
    others = threading.Semaphore(0)

    def work(item: int) -> int:
        if item == 0:
            for _ in range(49):
                assert others.acquire(timeout=30)
        else:
            others.release()
        return item

    assert list(Flow().run(work, range(200), identity)) == list(range(200))


def test_the_first_error_ends_it_and_what_was_in_flight_has_ended() -> None:
    begun, ended = [], []

    def work(item: int) -> int:
        begun.append(item)
        try:
            if item == 20:
                raise ValueError("the twentieth")
            return item
        finally:
            ended.append(item)

    got: list[int] = []
    with pytest.raises(ValueError, match="twentieth"):
        got.extend(Flow().run(work, range(10_000), identity))
    assert got == list(range(20))
    assert sorted(begun) == sorted(ended)
    assert len(begun) < 10_000


def test_a_flow_can_be_used_again_after_an_error() -> None:
    flow = Flow()
    with pytest.raises(ZeroDivisionError):
        list(flow.run(lambda item: 1 // item, [0], identity))
    assert list(flow.run(identity, [1, 2], identity)) == [1, 2]


def test_the_pace_follows_what_is_measured_and_backs_off_when_refused() -> None:
    flow = Flow(JumpingClock())
    most = max(flow.pace.in_flight for _ in flow.run(identity, range(1_000), identity))
    assert most >= 2 * IN_FLIGHT_MIN
    flow.pace = Pace(200)
    flow.refused()
    list(flow.run(identity, range(1_000), identity))
    assert flow.pace.in_flight < 200


@pytest.mark.parametrize("fixed", [1, 5, 64])
def test_as_many_as_are_fixed_are_in_flight_at_once(fixed: int) -> None:
    together = threading.Barrier(fixed)

    def work(item: int) -> int:
        together.wait(timeout=30)
        return item

    assert list(Flow(fixed=fixed).run(work, range(3 * fixed), identity)) == list(range(3 * fixed))


def test_no_more_than_are_fixed_are_begun_before_one_ends() -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()

    def items() -> Iterator[int]:
        for number in range(40):
            if number == 7:  # five are in flight and two ready: with three, who hands out may have to wait
                for _ in range(5):
                    assert begun.acquire(timeout=30)
                assert not begun.acquire(timeout=0.1)
                may_end.set()
            yield number

    def work(item: int) -> int:
        begun.release()
        assert may_end.wait(timeout=30)
        return item

    assert list(Flow(fixed=5).run(work, items(), identity)) == list(range(40))


def test_bytes_that_would_be_too_many_wait_while_requests_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowing, "BYTES_IN_FLIGHT_MAX", 100)
    begun, may_end = threading.Semaphore(0), threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            if number == 4:
                assert begun.acquire(timeout=30)
                assert begun.acquire(timeout=30)
                assert not begun.acquire(timeout=0.1)
                may_end.set()
            yield 50

    def work(item: int) -> int:
        begun.release()
        assert may_end.wait(timeout=30)
        return item

    assert list(Flow(fixed=16).run(work, items(), identity)) == [50] * 20


def test_a_large_request_that_ends_makes_room_for_many_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowing, "BYTES_IN_FLIGHT_MAX", 100)
    together = threading.Barrier(10)

    def work(item: int) -> int:
        if item == 10:
            together.wait(timeout=30)
        return item

    items = [100, *[10] * 10] * 5
    assert list(Flow().run(work, items, identity)) == items


def test_items_are_taken_by_the_caller_s_thread() -> None:
    """They may come from a database that only one thread may use."""
    taken_by: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(500):
            taken_by.add(threading.get_ident())
            yield number

    assert list(Flow().run(identity, items(), identity)) == list(range(500))
    assert taken_by == {threading.get_ident()}


def test_who_stops_early_leaves_no_thread_and_begins_nothing_more() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    results = Flow(fixed=4).run(work, range(1_000), identity)
    assert next(iter(results)) == 0
    assert isinstance(results, Generator)
    results.close()
    count = len(begun)
    assert count < 1_000
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]
    assert len(begun) == count


def test_errors_of_the_items_come_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(Flow().run(identity, items(), identity))
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]


def test_threads_wait_for_work_and_not_for_each_other() -> None:
    """Results are as ordered, whatever the order in which requests end and however many there are at once."""
    rng = random.Random(7)
    for fixed in (1, 2, 3, 17, 256):
        items = [rng.randrange(1, 2_000_000) for _ in range(2_000)]
        assert list(Flow(fixed=fixed).run(identity, items, identity)) == items
