"""Carrying out many requests at once, in order, as many as the pace allows, with bounded memory.

How many that are is decided in pace; what is asked for is not known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from cdp_container.clock import Clock, SystemClock
from rehydrate.pace import IN_FLIGHT_MAX, Pace, Sample, next_pace

BYTES_IN_FLIGHT_MAX: Final = 64 << 20
"""Bytes asked for and not yet written; a request that is larger by itself goes alone."""

WAITING_MAX: Final = 4 * IN_FLIGHT_MAX
"""Requests handed out before the oldest has ended: a slow one holds the others up only then."""

SAMPLE_NS: Final = 500_000_000
"""Rates over less than this say little."""

SAMPLE_AT_START_NS: Final = 250_000_000
"""While requests are doubled it is their number that costs most time, not a choice that is a little off."""

T = TypeVar("T")
R = TypeVar("R")


class Flow:
    """Runs requests for one restore after another, and learns how many at once are best.

    `fixed`: always so many, from 1 to IN_FLIGHT_MAX.
    """

    def __init__(self, clock: Clock | None = None, fixed: int | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._lock = threading.Lock()
        self._ended_operations = self._ended_bytes = self._refusals = 0  # since the last sample
        self._sampled_ns = self._clock.boottime_ns()
        assert fixed is None or 1 <= fixed <= IN_FLIGHT_MAX, fixed
        self._is_fixed = fixed is not None
        self.pace = Pace(starting=True) if fixed is None else Pace(fixed)

    def refused(self) -> None:
        """Told whenever the store failed a request or asked for patience."""
        with self._lock:
            self._refusals += 1

    def run(self, work: Callable[[T], R], items: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[R]:
        """`work(item)` for every item, in the order of the items, which are taken by the caller's thread.

        The first error ends it; what is in flight is waited for, what is not begun is dropped.
        """
        crew: _Crew[T, R] = _Crew(work, lambda: self.pace.in_flight, self._ended)
        waiting: deque[_Task[T, R]] = deque()
        self._restart()
        try:
            for item in items:
                task: _Task[T, R] = _Task(item, bytes_of(item))
                waiting.append(task)
                crew.hand_out(task, waiting[0])
                while waiting and (waiting[0].is_done or len(waiting) >= WAITING_MAX):
                    yield crew.result(waiting.popleft())
                self._learn()
            while waiting:
                yield crew.result(waiting.popleft())
        finally:
            crew.end()

    def _ended(self, size: int) -> None:
        with self._lock:
            self._ended_operations += 1
            self._ended_bytes += size

    def _restart(self) -> None:
        """Measure from now on: what was before is no rate of ours."""
        with self._lock:
            self._ended_operations = self._ended_bytes = 0
            self._sampled_ns = self._clock.boottime_ns()

    def _learn(self) -> None:
        """Take a sample where it is time, and adapt."""
        if self._is_fixed:
            return
        now_ns = self._clock.boottime_ns()
        elapsed_ns = now_ns - self._sampled_ns
        with self._lock:
            least_ns = SAMPLE_AT_START_NS if self.pace.starting else SAMPLE_NS
            if elapsed_ns < least_ns or self._ended_operations < self.pace.in_flight:
                return
            sample = Sample(elapsed_ns / 1e9, self._ended_operations, self._ended_bytes, self._refusals)
            self._refusals = 0
            self.pace = next_pace(self.pace, sample)
        self._restart()


class _Task(Generic[T, R]):
    """One request: what is asked for, and in the end either its result or its error."""

    __slots__ = ("error", "is_done", "item", "result", "size")

    def __init__(self, item: T, size: int) -> None:
        self.item = item
        self.size = size
        self.is_done = False
        self.error: BaseException | None = None
        self.result: R


class _Crew(Generic[T, R]):
    """Threads that carry out what one other thread hands out and collects.

    To wake a thread costs as much as half a small request. So a thread that ends a request takes the next by
    itself, and who hands out is woken for many at once.
    """

    def __init__(
        self, work: Callable[[T], R], in_flight_max: Callable[[], int], ended: Callable[[int], None]
    ) -> None:
        self._work = work
        self._in_flight_max = in_flight_max
        self._ended = ended
        self._lock = threading.Lock()
        self._has_work = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._awaited: _Task[T, R] | None = None  # its end wakes who hands out
        self._wants_few = False  # so does it when few are ready
        self._ready: deque[_Task[T, R]] = deque()
        self._operations = self._bytes = self._idle = 0
        self._threads: list[threading.Thread] = []
        self._is_over = False

    def hand_out(self, task: _Task[T, R], oldest: _Task[T, R]) -> None:
        """Have a task done; where as many wait as may be in flight, wait for few or for `oldest`."""
        with self._lock:
            self._ready.append(task)
            if self._has_room():
                self._call_one()
            if len(self._ready) < self._in_flight_max():
                return
            self._wants_few = True
            self._awaited = oldest
            self._progress.wait_for(lambda: oldest.is_done or self._has_few())
            self._wants_few = False

    def result(self, task: _Task[T, R]) -> R:
        """What came of a task, once it is done."""
        with self._lock:
            self._awaited = task
            self._progress.wait_for(lambda: task.is_done)
        if task.error is not None:
            raise task.error
        return task.result

    def end(self) -> None:
        """Drop what is not begun and wait for the rest."""
        with self._lock:
            self._is_over = True
            self._has_work.notify_all()
        for thread in self._threads:
            thread.join()

    def _call_one(self) -> None:
        """Wake a thread that has nothing to do, or begin another."""
        if self._idle:
            self._has_work.notify()
        elif len(self._threads) < IN_FLIGHT_MAX:
            thread = threading.Thread(target=self._take_part, name="fetch")
            self._threads.append(thread)
            thread.start()

    def _take_part(self) -> None:
        """What a thread does: one task after the other, as long as there is room for it."""
        while (task := self._next()) is not None:
            try:
                task.result = self._work(task.item)
            except BaseException as error:  # noqa: BLE001 (whoever waits for the result gets it)
                task.error = error
            self._finish(task)

    def _next(self) -> _Task[T, R] | None:
        with self._lock:
            while not self._has_room() and not self._is_over:
                self._idle += 1
                self._has_work.wait()
                self._idle -= 1
            if self._is_over:
                return None
            task = self._ready.popleft()
            self._operations += 1
            self._bytes += task.size
            if self._has_room():  # a large one that ended, or a higher pace, makes room for several
                self._call_one()
            if self._wants_few and self._has_few():
                self._progress.notify()
            return task

    def _finish(self, task: _Task[T, R]) -> None:
        self._ended(task.size)
        with self._lock:
            task.is_done = True
            self._operations -= 1
            self._bytes -= task.size
            if task is self._awaited:
                self._progress.notify()

    def _has_few(self) -> bool:
        return 2 * len(self._ready) <= self._in_flight_max()

    def _has_room(self) -> bool:
        """Whether there is a task that may begin."""
        if not self._ready or not self._operations:
            return bool(self._ready)
        is_small = self._bytes + self._ready[0].size <= BYTES_IN_FLIGHT_MAX
        return self._operations < self._in_flight_max() and is_small
