"""Passes by the schedule: the supervisor polls this, starts one when it is due, and never waits for it.

What a pass does, and what becomes of one that is killed, does not belong here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cdp_agent.supervisor import ALLOCATOR, SUPERVISOR_PID
from cdp_container.clock import Clock

FIRST_SECONDS_MAX: Final = 300.0
"""After the agent's start: it has better things to do at first."""


@dataclass(slots=True)
class Schedule:
    """Starts `argv` every `every_seconds`, counted from the end of the one before."""

    argv: Sequence[str]
    every_seconds: float
    clock: Clock
    _process: subprocess.Popen[bytes] | None = None
    _due_ns: int = field(default=-1)

    def poll(self) -> None:
        """Start or reap; returns at once."""
        now_ns = self.clock.boottime_ns()
        if self._due_ns < 0:
            self._due_ns = now_ns + int(min(FIRST_SECONDS_MAX, self.every_seconds) * 1e9)
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._process = None
            self._due_ns = now_ns + int(self.every_seconds * 1e9)
        elif now_ns >= self._due_ns:
            environment = {**ALLOCATOR, **os.environ, SUPERVISOR_PID: str(os.getpid())}
            self._process = subprocess.Popen(self.argv, env=environment)

    def stop(self) -> None:
        """End the pass that is under way: the next one goes on where it was."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
