"""Carrying out many requests at once, in order, as many as the pace allows, with bounded memory.

How many that are is decided in pace; what is asked for is not known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from cdp_container.clock import Clock, SystemClock
from rehydrate.pace import IN_FLIGHT_MAX, Pace, Sample, next_pace

BYTES_IN_FLIGHT_MAX: Final = 64 << 20
"""Bytes asked for and not yet written; a request that is larger by itself goes alone."""

WAITING_MAX: Final = 4 * IN_FLIGHT_MAX
"""Requests begun before the oldest has ended: a slow one holds the others up only then."""

SAMPLE_NS: Final = 500_000_000
"""Rates over less than this say little."""

T = TypeVar("T")
R = TypeVar("R")


class Flow:
    """Runs requests for one restore after another, and learns how many at once are best.

    `fixed`: always so many, from 1 to IN_FLIGHT_MAX.
    """

    def __init__(self, clock: Clock | None = None, fixed: int | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._changed = threading.Condition()
        self._operations = self._bytes = 0  # in flight
        self._ended_operations = self._ended_bytes = self._refusals = 0  # since the last sample
        self._sampled_ns = self._clock.boottime_ns()
        assert fixed is None or 1 <= fixed <= IN_FLIGHT_MAX, fixed
        self._is_fixed = fixed is not None
        self.pace = Pace(starting=True) if fixed is None else Pace(fixed)

    def refused(self) -> None:
        """Told whenever the store failed a request or asked for patience."""
        with self._changed:
            self._refusals += 1

    def run(self, work: Callable[[T], R], items: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[R]:
        """`work(item)` for every item, in the order of the items.

        The first error ends it; what is in flight is waited for, what is not begun is dropped.
        """
        waiting: deque[Future[R]] = deque()
        pool = ThreadPoolExecutor(max_workers=IN_FLIGHT_MAX, thread_name_prefix="fetch")
        self._restart()
        try:
            for item in items:
                size = bytes_of(item)
                self._take(size)
                future = pool.submit(work, item)
                future.add_done_callback(lambda _, size=size: self._give(size))  # type: ignore[misc]
                waiting.append(future)
                while waiting and (waiting[0].done() or len(waiting) >= WAITING_MAX):
                    yield waiting.popleft().result()
                self._learn()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _take(self, size: int) -> None:
        """Wait until one more request may begin."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(size))
            self._operations += 1
            self._bytes += size

    def _has_room(self, size: int) -> bool:
        if not self._operations:
            return True
        return self._operations < self.pace.in_flight and self._bytes + size <= BYTES_IN_FLIGHT_MAX

    def _give(self, size: int) -> None:
        with self._changed:
            self._operations -= 1
            self._bytes -= size
            self._ended_operations += 1
            self._ended_bytes += size
            self._changed.notify()

    def _restart(self) -> None:
        """Measure from now on: what was before is no rate of ours."""
        with self._changed:
            self._ended_operations = self._ended_bytes = 0
            self._sampled_ns = self._clock.boottime_ns()

    def _learn(self) -> None:
        """Take a sample where it is time, and adapt."""
        if self._is_fixed:
            return
        now_ns = self._clock.boottime_ns()
        elapsed_ns = now_ns - self._sampled_ns
        with self._changed:
            if elapsed_ns < SAMPLE_NS or self._ended_operations < self.pace.in_flight:
                return
            sample = Sample(elapsed_ns / 1e9, self._ended_operations, self._ended_bytes, self._refusals)
            self._refusals = 0
            self.pace = next_pace(self.pace, sample)
        self._restart()
