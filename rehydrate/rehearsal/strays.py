"""Processes that a program leaves behind, whatever sessions and groups they made: they become ours, and end.

While a program runs this process adopts what descends from it (PR_SET_CHILD_SUBREAPER): whoever loses his
parent becomes our child, and nobody leaves. Only our own children are signalled, whose numbers the kernel
gives to nobody else before we took note of their end; what they leave behind is ours next. Who forks and
ends faster than we look is told, and not ended. What a service manager or a container engine was asked to
start is no descendant. What is run does not belong here (programs).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cdp_container.clock import Clock

POLL_SECONDS: Final = 0.02
_SET_SUBREAPER: Final = 36
_GET_SUBREAPER: Final = 37
_PARENT_FIELD: Final = 1
"""Which field of `stat` it is, after the name."""


class Strays:
    """Children that came to this process since `adopting` began. Nobody else may start any meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before = children()

    def end(self, patience_seconds: float, but: int = 0) -> list[int]:
        """End all but one, first by SIGTERM, then by SIGKILL; gives those that do not even end by that.

        Each signal gets `patience_seconds`.
        """
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if not self._ended(signum, patience_seconds, but):
                return []
        return sorted(self._left(but))

    def _ended(self, signum: int, patience_seconds: float, but: int) -> set[int]:
        until_ns = self._clock.boottime_ns() + int(patience_seconds * 1e9)
        told: set[int] = set()
        while left := self._left(but):
            for pid in left - told if signum == signal.SIGTERM else left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signum)
            told |= left
            if self._clock.boottime_ns() >= until_ns:
                break
            self._clock.sleep(POLL_SECONDS)
        return left

    def _left(self, but: int) -> set[int]:
        """Children that live; the end of others is noted, so that they are gone."""
        found = children() - self._before - {but}
        gone = set()
        for pid in found:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    gone.add(pid)
            except ChildProcessError:
                gone.add(pid)
        return found - gone


@contextmanager
def adopting(clock: Clock) -> Iterator[Strays]:
    """Adopt what descendants leave behind, until this ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(_GET_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)  # never fails since Linux 3.4
    try:
        yield Strays(clock)
    finally:
        libc.prctl(_SET_SUBREAPER, before.value, 0, 0, 0)


def children() -> set[int]:
    """The processes whose parent this one is, ended ones too that nobody waited for."""
    me, found = str(os.getpid()), set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    said = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended
            fields = said[said.rindex(b")") + 1 :].split()
            if fields[_PARENT_FIELD].decode() == me:
                found.add(int(name))
    return found
