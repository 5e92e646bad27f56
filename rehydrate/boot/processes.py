"""Processes found by what they were started with: an option and its value, which no other process has.

So they are found where neither a file nor a socket tells of them: their directory is gone, or they are not so
far yet. How programs are run does not belong here (programs).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

SEARCHES_MAX: Final = 20
"""After so many that found one still, somebody else starts it again and again."""


def pids_with(option: str, value: str) -> list[int]:
    """The processes that have both among their arguments, one after the other."""
    return [
        int(name) for name in os.listdir("/proc") if name.isdigit() and has_words(int(name), option, value)
    ]


def has_words(pid: int, option: str, value: str) -> bool:
    """Whether a process has both among its arguments, one after the other."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended, or is another user's
    return (os.fsencode(option), os.fsencode(value)) in itertools.pairwise(words)


def is_child_of(pid: int, variable: str) -> bool:
    """Whether the process that started it, which a variable of its environment names, lives still."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        # In brackets stands its name, whatever characters that has; then its state, and its parent.
        parent = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1]
    except (OSError, IndexError):
        return False
    return os.fsencode(variable) + b"=" + parent in words


def _any(_: int) -> bool:
    return True


async def end_all(
    option: str, value: str, seconds_max: float, only: Callable[[int], bool] = _any
) -> int | None:
    """End all processes with an option: SIGTERM, at last SIGKILL; each signal gets `seconds_max`.

    `only`: those that it says of their numbers. Gives one that does not end, None where none is left.
    """

    def is_meant(pid: int) -> bool:
        return has_words(pid, option, value) and only(pid)

    found: list[int] = []
    quiet = 0
    for _ in range(SEARCHES_MAX):
        found = [pid for pid in pids_with(option, value) if only(pid)]
        for pid in found:
            if not await _ended(pid, is_meant, seconds_max):
                return pid
        quiet = 0 if found else quiet + 1
        if quiet == 2:  # one that just forks and ends, as a daemon does, could be missed once
            return None
    return found[0] if found else None


async def _ended(pid: int, is_meant: Callable[[int], bool], seconds_max: float) -> bool:
    """Whether a process has ended, killed at last; another one that got its number is left alone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not is_meant(pid):
            return True
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, number)
            if await _gone(handle, seconds_max):
                return True
        return False
    finally:
        os.close(handle)


async def _gone(handle: int, seconds_max: float) -> bool:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), seconds_max)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
    return True
