"""An event loop that looks again for a moment before it sleeps.

A client at queue depth 1 sends its next request some 20 µs after it got its reply. To sleep in between and
be woken costs more than that, twice. The rule is that of QEMU's event loops (`poll-max-ns`): look for a short
while, and only where that paid the last time.

What does not belong here: what the loop serves.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Final

LOOKS_MAX: Final = 40
"""How often it is looked before sleeping: 1 µs each."""
MISSES_MAX: Final = 4
"""After so many vain rounds one behind the other it sleeps at once, until events come quickly again."""
TRIES_EVERY: Final = 64
"""And every so many sleeps it tries again whether looking pays."""


class PollingSelector(selectors.EpollSelector):
    """Like its parent, but looks up to LOOKS_MAX times before it sleeps, as long as that pays."""

    def __init__(self) -> None:
        super().__init__()
        self._misses = 0
        self._sleeps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`."""
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._misses < MISSES_MAX or self._sleeps % TRIES_EVERY == 0:
            for _ in range(LOOKS_MAX):
                events = super().select(0)
                if events:
                    self._misses = 0
                    return events
            self._misses += 1
        self._sleeps += 1
        return super().select(timeout)


def polling_loop() -> asyncio.AbstractEventLoop:
    """A new event loop of this kind, for `asyncio.Runner`."""
    return asyncio.SelectorEventLoop(PollingSelector())
