"""The one place where this project reads a clock.

Everything else is given a `Clock`, so that a test or the simulator can give its own time.
Wall time is for people and for records; it is never compared to decide anything. Leases and
deadlines use the boot-time clock, which goes on while the machine is suspended.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time. Both readings are integers, in nanoseconds."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 UTC, as the machine believes; may jump either way."""
        ...

    def boottime_ns(self) -> int:
        """Nanoseconds that only go forward, suspended time included."""
        ...

    def sleep(self, seconds: float) -> None:
        """Pause the calling thread (a simulated clock advances instead)."""
        ...


class SystemClock:
    """The machine's own clocks (CLOCK_REALTIME and CLOCK_BOOTTIME)."""

    __slots__ = ()

    def wall_ns(self) -> int:
        """See `Clock.wall_ns`."""
        return time.time_ns()

    def boottime_ns(self) -> int:
        """See `Clock.boottime_ns`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)
