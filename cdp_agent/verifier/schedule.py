"""Verifications by the calendar: the supervisor polls this, starts one when it is due, and never waits.

A time that came while the agent was not running is not made up for.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cdp_agent.supervisor import ALLOCATOR, SUPERVISOR_PID
from cdp_container.clock import Clock
from cdp_container.domain.schedule import CalendarTimes

STOP_SECONDS: Final = 10.0
"""A hold that is left behind keeps collection waiting for its term, but nobody waits longer for its end."""
CLOCK_BACK_NS: Final = 3600 * 1_000_000_000
"""Where the wall clock was set back by more, the next time is looked for anew."""


@dataclass(slots=True)
class Schedule:
    """Starts `argv` at `times`, on the wall clock; a time that comes while one runs is passed over."""

    argv: Sequence[str]
    times: CalendarTimes
    clock: Clock
    _process: subprocess.Popen[bytes] | None = None
    _due: datetime | None = None
    _looked_ns: int = -1

    def poll(self) -> None:
        """Start or reap; returns at once."""
        wall_ns = self.clock.wall_ns()
        if self._looked_ns < 0 or wall_ns < self._looked_ns - CLOCK_BACK_NS:
            self._look(wall_ns)
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._due is None or _moment(wall_ns) < self._due:
            return
        self._look(wall_ns)
        if self._process is None:
            environment = {**ALLOCATOR, **os.environ, SUPERVISOR_PID: str(os.getpid())}
            self._process = subprocess.Popen(self.argv, env=environment)

    def stop(self) -> None:
        """End the run that is under way: it drops its hold, and the next one goes on where the last ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _look(self, wall_ns: int) -> None:
        """For the next time after now."""
        self._looked_ns = wall_ns
        self._due = self.times.next(_moment(wall_ns) + timedelta(seconds=1))


def _moment(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC)
