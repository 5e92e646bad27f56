"""How long a PUT may take on this line: as long as lines like it have taken.

Neither S3 library tells how far a request's body has got, so a limit on silence is a limit on the whole
upload. A short one makes a slow line useless: eight objects that share it would all time out, for ever. A
long one makes a put that hangs hang for minutes. So the limit is short until puts reach it, and grows.
What does not belong here: clocks, requests.
"""

from __future__ import annotations

import threading
from typing import Final

PUT_SECONDS: Final = (30, 120, 600)
"""The limits. The last lets eight objects of 8 MiB through a line of 1 Mbit/s."""


class PutPace:
    """Which of some limits is in force. Safe to use from several threads."""

    __slots__ = ("_level", "_limits", "_lock")

    def __init__(self, limits: tuple[int, ...] = PUT_SECONDS) -> None:
        self._limits = limits
        self._level = 0
        self._lock = threading.Lock()

    @property
    def limit_seconds(self) -> int:
        """The limit for a put that begins now."""
        return self._limits[self._level]

    def failed(self, limit_seconds: int, took_seconds: float) -> None:
        """A put brought no answer: where it used its limit up, the next one gets more.

        Of several that reached the same limit side by side, one makes it grow.
        """
        with self._lock:
            if took_seconds >= limit_seconds and limit_seconds == self.limit_seconds:
                self._level = min(self._level + 1, len(self._limits) - 1)

    def succeeded(self, took_seconds: float) -> None:
        """A put is done: where half of the shorter limit would have done, that is in force again."""
        with self._lock:
            if self._level > 0 and took_seconds * 2 < self._limits[self._level - 1]:
                self._level -= 1
