"""Waiting for a condition with a deadline: the one way in which a test may wait, in a thread or in a loop.

What does not belong here: pauses of a fixed length. A test that needs one has a condition
that it does not name yet, or wants a simulated clock.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

# Short enough that a test does not notice, long enough that a busy machine with two cores does not suffer.
POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], T], what: str, deadline_seconds: float) -> T:
    """Ask `condition` until its answer is true, and return that answer.

    Args:
        condition: asked every `POLL_SECONDS`; an exception that it raises ends the waiting.
        what: what is waited for, as a clause ("the first cut is protected").
        deadline_seconds: generous: it says when a test has failed, never how quick the code is.

    Raises:
        AssertionError: the deadline passed first.
    """
    ends_at = time.monotonic() + deadline_seconds
    never = threading.Event()
    while not (answer := condition()):
        if time.monotonic() >= ends_at:
            raise AssertionError(f"waited {deadline_seconds} s in vain until {what}")
        never.wait(POLL_SECONDS)
    return answer


async def until(condition: Callable[[], object], what: str, deadline_seconds: float = 30.0) -> None:
    """The same within an event loop, where the condition is asked in every turn of it."""
    ends_at = time.monotonic() + deadline_seconds
    while not condition():
        if time.monotonic() >= ends_at:
            raise AssertionError(f"waited {deadline_seconds} s in vain until {what}")
        await turn()


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Suspend once: the loop runs what is ready, each task up to where it waits. No time is waited for."""
    yield
