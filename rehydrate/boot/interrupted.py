"""A loop that signals end in good order: whatever is awaited is cancelled, and then the signal takes its way.

A signal that raises amid the loop's own doings, as those of a command do, could leave processes behind.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Found = TypeVar("_Found")


def run_until_interrupted(work: Coroutine[Any, Any, _Found]) -> _Found:
    """What the work comes to. Raises what the handler of a signal raises that came meanwhile."""
    came: list[int] = []
    try:
        return asyncio.run(_watched(work, came))
    except asyncio.CancelledError:
        if came:
            signal.raise_signal(came[0])
        raise KeyboardInterrupt from None


async def _watched(work: Coroutine[Any, Any, _Found], came: list[int]) -> _Found:
    if threading.current_thread() is not threading.main_thread():
        return await work
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "within a task"

    def end(number: int) -> None:
        came.append(number)
        task.cancel()

    before = {number: signal.getsignal(number) for number in _ENDING}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, end, number)
    try:
        return await work
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
