"""Taking turns: one thread at a time while what is done is quick, all at once while it waits for what is far.

Threads of Python that make many short calls to the kernel wake each other before and after each of them, on
two cores for half as much again of both. Calls that go to another machine mostly wait, and are better made at
the same time. What is done in a turn is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

from cdp_container.clock import Clock, SystemClock

FAR_NS: Final = 1_000_000
"""A small file takes a twentieth of that where nobody waits, and several times that over a network."""


class Turns:
    """Begins with one at a time; what the newest turn took says how it goes on."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._one = threading.Lock()
        self._is_far = False

    @contextmanager
    def turn(self, parts: int) -> Iterator[None]:
        """To do so many small things."""
        with nullcontext() if self._is_far else self._one:
            began_ns = self._clock.boottime_ns()
            yield
            self._is_far = self._clock.boottime_ns() - began_ns > parts * FAR_NS
