"""Who gets memory when, and that what was taken comes back."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from nbd_export.memory import Memory


class Asking:
    """Somebody who wants memory; `woken` counts how often there may be some."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def test_what_is_given_back_goes_to_who_waited_longest() -> None:
    memory = Memory(100)
    one, two, three = (Asking() for _ in range(3))
    assert memory.take(one.wake, 80)
    assert not memory.take(two.wake, 50)
    assert not memory.take(three.wake, 10), "there would be room, but somebody waits"
    assert (two.woken, three.woken) == (0, 0)
    memory.change(-80)
    assert (two.woken, three.woken) == (1, 0)
    assert memory.take(two.wake, 50)
    assert three.woken == 1, "there is room for the next one too"
    assert memory.take(three.wake, 10)
    assert memory.used_bytes == 60


def test_who_leaves_holds_up_nobody() -> None:
    memory = Memory(100)
    one, two, three = (Asking() for _ in range(3))
    assert memory.take(one.wake, 80)
    assert not memory.take(two.wake, 100)
    assert not memory.take(three.wake, 10)
    memory.forget(two.wake)
    assert three.woken == 1
    assert memory.take(three.wake, 10)
    memory.forget(two.wake)


def test_full_is_told_also_by_what_was_taken_without_asking() -> None:
    memory = Memory(100)
    memory.change(100)
    assert memory.is_full
    assert not memory.take(Asking().wake, 1)
    memory.change(-1)
    assert not memory.is_full


def test_who_is_alone_gets_what_is_larger_than_everything() -> None:
    assert Memory(10).take(Asking().wake, 11)


def test_more_is_never_given_back_than_was_taken() -> None:
    memory = Memory(10)
    with pytest.raises(AssertionError):
        memory.change(-1)


@pytest.mark.parametrize("seed", range(20))
def test_all_get_their_turn_and_the_limit_holds(seed: int) -> None:
    rng = Random(seed)
    memory, limit = Memory(100), 100
    due: list[tuple[Callable[[], None], int]] = []
    held: list[int] = []

    def client(want: int) -> Callable[[], None]:
        def wake() -> None:
            due.append((wake, want))

        return wake

    def serve_due() -> int:
        before = len(held)
        while due:
            wake, count = due.pop(0)
            if memory.take(wake, count):
                held.append(count)
        assert memory.used_bytes == sum(held) <= limit
        return len(held) - before

    served = 0
    for _ in range(200):
        want = rng.randint(1, 100)
        due.append((client(want), want))
        served += serve_due()
        if held and rng.random() < 0.7:
            memory.change(-held.pop(rng.randrange(len(held))))
    served += serve_due()
    while served < 200:
        memory.change(-held.pop())
        served += serve_due()
