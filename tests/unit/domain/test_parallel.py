"""Many requests at once: in order, bounded, and over when one fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cdp_container.domain.parallel import in_parallel


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(in_parallel(lambda n: n * n, range(100), workers=7)) == [n * n for n in range(100)]


def test_items_are_taken_only_as_results_are() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_parallel(lambda n: n, items(), workers=3)
    assert next(results) == 0
    assert len(taken) <= 6
    results.close()  # type: ignore[attr-defined] # a generator
    assert len(taken) <= 6


def test_as_many_run_at_once_as_there_are_workers() -> None:
    lock, running, most = threading.Lock(), 0, 0
    all_there = threading.Event()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 4:
                all_there.set()
        all_there.wait(30)
        with lock:
            running -= 1

    list(in_parallel(work, range(20), workers=4))
    assert most == 4


def test_the_first_error_ends_it_and_nothing_goes_on_behind_it() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise ValueError("five")
        return number

    with pytest.raises(ValueError, match="five"):
        list(in_parallel(work, range(1000), workers=2))
    count = len(begun)
    assert count <= 5 + 4 + 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    assert len(begun) == count
