"""Running the administrator's command, or a POST to a webhook, without ever waiting for it.

One runs at a time, in a session of its own, for a limited time; it gets the event on its standard input.
What does not belong here: what is said, and when.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cdp_agent.alerts.webhook import URL_VARIABLE, WHY
from cdp_container.clock import Clock
from cdp_container.domain.settings import AlertSettings

HOOK_SECONDS_MAX: Final = 20
"""Then it is killed, with everything that it started in its session."""
END_SECONDS: Final = 1.0
EVENT_BYTES_MAX: Final = 4096
"""A pipe takes so much at once, also from a hook that never reads."""
_SECRET: Final = ("AWS_", "CDP_")
"""A hook does not get the store's credentials: what begins so is kept from it."""


@dataclass(slots=True)
class Hook:
    """The one hook. `error` is of the last run that ended, "" where it was well."""

    settings: AlertSettings
    clock: Clock
    environment: Mapping[str, str]
    error: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None)
    _until_ns: int = 0
    _killed: bool = False

    @property
    def busy(self) -> bool:
        """Whether one runs."""
        return self._process is not None

    def start(self, event: bytes) -> None:
        """Begin a run; what goes wrong with it is in `error` afterwards."""
        assert not self.busy
        assert len(event) <= EVENT_BYTES_MAX, len(event)
        self._killed = False
        argv, environment = self._how()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self.error = f"it cannot be started: {error.strerror or 'refused'}"
            return
        self._process = process
        self._until_ns = self.clock.boottime_ns() + HOOK_SECONDS_MAX * 1_000_000_000
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # one that does not read it need not
            process.stdin.write(event)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def poll(self) -> None:
        """Notice that the run ended, or end one that takes too long. Returns at once."""
        process = self._process
        if process is None:
            return
        code = process.poll()
        if code is not None:
            self._process = None
            self.error = self._describe(code)
        elif self.clock.boottime_ns() >= self._until_ns:
            self._kill(process)

    def end(self) -> None:
        """Kill what still runs, and wait for that a moment."""
        process = self._process
        if process is not None:
            self._kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=END_SECONDS)
            self.poll()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Not waited for here: what hangs in the kernel does not end, nor what has another user's rights."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)

    def _how(self) -> tuple[list[str], dict[str, str]]:
        """What to start, and with which environment: a URL may be a secret, and so is no argument."""
        environment = {
            name: value for name, value in self.environment.items() if not name.startswith(_SECRET)
        }
        if self.settings.command is not None:
            return list(self.settings.command), environment
        assert self.settings.webhook is not None
        environment[URL_VARIABLE] = self.settings.webhook
        return [sys.executable, "-m", "cdp_agent.alerts.webhook"], environment

    def _describe(self, code: int) -> str:
        if self._killed:
            return f"it took longer than {HOOK_SECONDS_MAX} s and was killed"
        if code == 0:
            return ""
        if self.settings.webhook is not None and code in WHY:
            return WHY[code]
        return f"it ended with signal {-code}" if code < 0 else f"it ended with exit code {code}"
