"""The process that runs a marker's hooks, and undoes them whatever becomes of the command that started it.

It reads its orders from standard input, runs the commands before, says so, and waits until its input ends, as
the command that started it has its marker, was interrupted or was killed; or until the time is over. Then,
always, it runs the commands after, in reverse order, of all hooks that were begun. A frozen file system must
not stay so because somebody pressed Ctrl-C. What a marker is does not belong here, nor which hooks there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

from cdp_container.clock import Clock, SystemClock

ORDERS_BYTES_MAX: Final = 1024 * 1024
END_SECONDS: Final = 1.0
"""What was killed and hangs in the kernel all the same is not waited for any longer."""

DONE: Final = "done"
_TIMED_OUT: Final = "timed out"
_INTERRUPTED: Final = "interrupted"


@dataclass(slots=True)
class Guard:
    """Runs hooks until `until_ns` of the boot-time clock. `over`: why no more is begun."""

    hooks: list[dict[str, Any]]
    until_ns: int
    goes_on: bool
    clock: Clock
    over: str = ""

    def run(self) -> None:
        """Before, wait, after."""
        begun: list[dict[str, Any]] = []
        well = True
        for hook in self.hooks:
            if self.over or not (well or self.goes_on):
                break
            begun.append(hook)  # before it runs: half of what it does may be done when it fails
            well = self._before(hook) and well
        if not self.over and (well or self.goes_on):
            _tell({"ready": True})
            self._wait(self._left_seconds())
        for hook in reversed(begun):
            if hook["after"]:
                outcome, seconds = self._command(hook["after"], hook["timeout_seconds"], may_end=False)
                _tell({"name": hook["name"], "stage": "after", "outcome": outcome, "seconds": seconds})
        _tell({"ended": self.over or "failed"})

    def _before(self, hook: dict[str, Any]) -> bool:
        if not hook["before"]:
            return True
        outcome, seconds = self._command(
            hook["before"], min(hook["timeout_seconds"], self._left_seconds()), may_end=True
        )
        _tell({"name": hook["name"], "stage": "before", "outcome": outcome, "seconds": seconds})
        if self._left_seconds() <= 0:
            self.over = "limit"
        return outcome == DONE

    def _command(self, words: list[str], timeout_seconds: float, may_end: bool) -> tuple[str, float]:
        """How a command ended, and after how many seconds; `may_end`: it is killed when our input ends."""
        began_ns = self.clock.boottime_ns()
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
        except OSError as error:
            return f"cannot be started: {error.strerror or 'refused'}", 0.0
        outcome = self._wait(timeout_seconds, process.pid, may_end)
        if outcome:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        try:
            code = process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        seconds = round((self.clock.boottime_ns() - began_ns) / 1e9, 3)
        ended = f"signal {-code}" if code < 0 else f"exit code {code}" if code else DONE
        return outcome or ended, seconds

    def _wait(self, seconds: float, pid: int | None = None, may_end: bool = True) -> str:
        """Until the process ends ("" then), our input does, or the time is over."""
        watched = [0] if may_end else []
        until_ns = self.clock.boottime_ns() + int(seconds * 1e9)
        pidfd = None if pid is None else os.pidfd_open(pid)
        try:
            left = max(0.0, (until_ns - self.clock.boottime_ns()) / 1e9)
            ready = select.select(watched if pidfd is None else [*watched, pidfd], [], [], left)[0]
        finally:
            if pidfd is not None:
                os.close(pidfd)
        if pidfd in ready:
            return ""
        if ready:
            self.over = "asked" if pid is None else _INTERRUPTED
            return _INTERRUPTED
        if pid is None:
            self.over = "limit"
        return _TIMED_OUT

    def _left_seconds(self) -> float:
        return max(0.0, (self.until_ns - self.clock.boottime_ns()) / 1e9)


def _tell(members: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # whoever started us is gone: we go on all the same
        os.write(1, json.dumps(members).encode() + b"\n")


def _orders() -> bytes:
    """The first line of our input; b"" where it ended before."""
    data = b""
    while b"\n" not in data and len(data) <= ORDERS_BYTES_MAX:
        part = os.read(0, 65536)
        if not part:
            return b""
        data += part
    return data


def main() -> int:
    """`python -m cdp_agent.marker_guard`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not ignored, which hooks would inherit: noticed, and no reason to leave anything frozen.
        signal.signal(number, lambda *_: None)
    orders = _orders()
    if orders:
        members = json.loads(orders)
        Guard(members["hooks"], members["until_ns"], members["goes_on"], SystemClock()).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
