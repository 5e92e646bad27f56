"""Virtual time: a queue of things that happen, and the clock that jumps from one to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable

SECOND = 1_000_000_000


class VirtualTime:
    """See `cdp_container.clock.Clock`. `wall_offset_ns` may be changed at will: nothing may depend on it."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * SECOND
        self.wall_offset_ns = 1_700_000_000 * SECOND
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def wall_ns(self) -> int:
        return self.now_ns + self.wall_offset_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing in the simulation may sleep")

    def at(self, time_ns: int, happening: Callable[[], None]) -> None:
        """Let something happen at that time, or at once where it is past."""
        self._count += 1
        heapq.heappush(self._queue, (max(time_ns, self.now_ns), self._count, happening))

    def after(self, seconds: float, happening: Callable[[], None]) -> None:
        """Let something happen so much later."""
        self.at(self.now_ns + int(seconds * SECOND), happening)

    def run_until(self, time_ns: int) -> None:
        """Let everything happen up to that time."""
        while self._queue and self._queue[0][0] <= time_ns:
            at_ns, _, happening = heapq.heappop(self._queue)
            self.now_ns = max(self.now_ns, at_ns)
            happening()
        self.now_ns = max(self.now_ns, time_ns)
