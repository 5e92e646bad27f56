"""The curves of a rehearsal: requests and bytes per second, and requests under way, over its time.

Memory and report stay small however long it takes: two points become one where there are too many. Drawing
does not belong here (page).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from cdp_container.clock import Clock
from rehydrate.rehearsal.counting import CountingStore

PERIOD_SECONDS: Final = 0.25
POINTS_MAX: Final = 480


@dataclass(frozen=True, slots=True)
class Point:
    """One stretch of time that ended `seconds` after the beginning."""

    seconds: float
    requests_per_second: float
    bytes_per_second: float
    in_flight: float


@dataclass(frozen=True, slots=True)
class _Seen:
    seconds: float
    requests: int
    received_bytes: int
    in_flight: float


class Watch:
    """Looks at a counting store now and then, in a thread; to be used as a context."""

    def __init__(self, store: CountingStore, clock: Clock, period_seconds: float = PERIOD_SECONDS) -> None:
        self._store = store
        self._clock = clock
        self._period_seconds = period_seconds
        self._began_ns = clock.boottime_ns()
        self._seen = [_Seen(0.0, 0, 0, 0.0)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """See now."""
        counts = self._store.counts
        now = (self._clock.boottime_ns() - self._began_ns) / 1e9
        self._seen.append(_Seen(now, counts.requests, counts.received_bytes, float(self._store.under_way)))
        if len(self._seen) > POINTS_MAX:
            self._seen = _halved(self._seen)
            self._period_seconds *= 2

    @property
    def curve(self) -> list[Point]:
        """What was seen, the oldest first."""
        return [
            Point(
                later.seconds,
                (later.requests - earlier.requests) / (later.seconds - earlier.seconds),
                (later.received_bytes - earlier.received_bytes) / (later.seconds - earlier.seconds),
                later.in_flight,
            )
            for earlier, later in zip(self._seen, self._seen[1:], strict=False)
            if later.seconds > earlier.seconds
        ]

    def _watch(self) -> None:
        while not self._ended.wait(self._period_seconds):
            self.look()


def _halved(seen: list[_Seen]) -> list[_Seen]:
    """Every second of them, the first and the last included; what was in flight is the mean of two."""
    kept = seen[:1]
    for earlier, later in zip(seen[1::2], seen[2::2], strict=False):
        mean = (earlier.in_flight + later.in_flight) / 2
        kept.append(_Seen(later.seconds, later.requests, later.received_bytes, mean))
    return kept if len(seen) % 2 else [*kept, seen[-1]]
