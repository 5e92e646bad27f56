"""Taking turns: one at a time while it is quick, all at once while it waits."""

from __future__ import annotations

import threading

import pytest

from rehydrate.turns import FAR_NS, Turns
from tests.waiting import wait_until


class Clock:
    """Goes on by what a test says."""

    now_ns = 0

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class Crew:
    """Threads that take a turn each and stay in it until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._may_end = threading.Event()
        self._threads: list[threading.Thread] = []
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        self._threads.append(threading.Thread(target=self._work))
        self._threads[-1].start()

    def end(self) -> None:
        self._may_end.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with self._turns.turn(1):
            with self._lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            self._may_end.wait(60)
            with self._lock:
                self.inside -= 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(clock)


def at_once(turns: Turns, threads: int) -> int:
    """How many of so many threads are in their turns together, once the first is."""
    crew = Crew(turns)
    for _ in range(threads):
        crew.begin()
    wait_until(lambda: crew.inside > 0, "one of them works", 60.0)
    crew.end()
    return crew.most


def test_one_at_a_time_while_it_is_quick(turns: Turns) -> None:
    assert at_once(turns, 5) == 1


def test_all_at_once_after_a_turn_that_took_long(turns: Turns, clock: Clock) -> None:
    with turns.turn(10):
        clock.now_ns += 10 * FAR_NS + 1
    crew = Crew(turns)
    for _ in range(5):
        crew.begin()
    wait_until(lambda: crew.inside == 5, "all of them work", 60.0)
    crew.end()
    assert at_once(turns, 5) == 1, "the last turn was quick again"


def test_much_at_once_may_take_longer(turns: Turns, clock: Clock) -> None:
    with turns.turn(10):
        clock.now_ns += 10 * FAR_NS
    assert at_once(turns, 5) == 1


def test_one_that_fails_hinders_nobody(turns: Turns) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="full"), turns.turn(1):
            raise OSError("full")
    assert at_once(turns, 5) == 1
