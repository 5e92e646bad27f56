"""A deadline of the event loop that can be called off and set again.

What does not belong here: what is awaited, and what happens when it does not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `on_late` once, `seconds` after `begin`, unless `end` comes first."""

    __slots__ = ("_on_late", "_seconds", "_timer")

    def __init__(self, seconds: float, on_late: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and neither ended nor passed."""
        return self._timer is not None

    def begin(self) -> None:
        """Begin, unless it runs already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._late)

    def end(self) -> None:
        """What was awaited has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        self._on_late()
