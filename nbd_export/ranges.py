"""Keeping overlapping writes of a volume apart, in the order in which they came.

Where two overlapping writes are in flight at once, journal and disk might apply them in different
orders. So one waits for the other before it takes its place in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Held:
    start: int
    end: int
    released: asyncio.Event = field(default_factory=asyncio.Event)


class RangesInFlight:
    """The byte ranges that are being written, or wait for that; as many as the server lets be in flight."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def overlaps(self, offset: int, length: int) -> bool:
        """Whether anything in flight touches the range."""
        if not self._held:
            return False
        return any(held.start < offset + length and offset < held.end for held in self._held)

    async def none(self) -> None:
        """Return when nothing is in flight, if nothing more comes."""
        while self._held:
            await self._held[0].released.wait()

    @asynccontextmanager
    async def hold(self, offset: int, length: int) -> AsyncIterator[None]:
        """Wait for all that came earlier and overlaps, then hold the range."""
        earlier = [held for held in self._held if held.start < offset + length and offset < held.end]
        mine = _Held(offset, offset + length)
        self._held.append(mine)
        try:
            for held in earlier:
                await held.released.wait()
            yield
        finally:
            self._held.remove(mine)
            mine.released.set()
