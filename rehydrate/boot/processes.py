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
from pathlib import Path
from typing import Final

SEARCHES_MAX: Final = 20
"""After so many that found one still, somebody else starts it again and again."""


def pids_with(option: str, value: str) -> list[int]:
    """The processes that have both among their arguments, one after the other."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _has(int(name), option, value)]


async def end_all(option: str, value: str, seconds_max: float) -> int | None:
    """End all processes with an option: SIGTERM, at last SIGKILL; each signal gets `seconds_max`.

    Gives one that does not end, None where none is left.
    """
    found: list[int] = []
    quiet = 0
    for _ in range(SEARCHES_MAX):
        found = pids_with(option, value)
        for pid in found:
            if not await _ended(pid, option, value, seconds_max):
                return pid
        quiet = 0 if found else quiet + 1
        if quiet == 2:  # one that just forks and ends, as a daemon does, could be missed once
            return None
    return found[0] if found else None


def _has(pid: int, option: str, value: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended, or is another user's
    return (os.fsencode(option), os.fsencode(value)) in itertools.pairwise(words)


async def _ended(pid: int, option: str, value: str, seconds_max: float) -> bool:
    """Whether a process has ended, killed at last; another one that got its number is left alone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not _has(pid, option, value):
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
