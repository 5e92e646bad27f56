"""Who is writing to the backing stores right now, a time in which nobody is, and one in which nobody begins.

What does not belong here: what is written, and why everything must stand still.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cdp_container.journal.position import Position


class Gate:
    """Lets writes in, in the order of the journal, and knows which have not returned."""

    def __init__(self) -> None:
        self._in_flight: dict[object, Position] = {}
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        self._open = asyncio.Event()
        self._open.set()
        self._quiet_lock = asyncio.Lock()
        self._is_held = False
        self._not_held = asyncio.Event()
        self.refuses = False
        """Whether writes that come are refused, not kept waiting: the site gives its domain up."""

    @property
    def is_open(self) -> bool:
        """Whether a write may be let in right now."""
        return self._open.is_set() and not self.refuses

    async def wait_until_open(self) -> None:
        """Return when it is not shut, and still is not."""
        while not self._open.is_set():  # it may be shut again before this runs
            await self._open.wait()

    def enter(self, at: Position) -> object:
        """Note a write whose first record is there; returns the ticket for `leave`."""
        ticket = object()
        self._in_flight[ticket] = at
        self._none_in_flight.clear()
        return ticket

    def leave(self, ticket: object) -> None:
        """The write of this ticket returned."""
        del self._in_flight[ticket]
        if not self._in_flight:
            self._none_in_flight.set()

    def first(self, otherwise: Position) -> Position:
        """The lowest position of a write that has not returned."""
        return next(iter(self._in_flight.values()), otherwise)  # they came in the order of the journal

    def hold(self) -> bool:
        """Let no write in until `release`; whether that can be: not in a quiet time, or while one is wanted.

        Nothing is waited for: no record is appended from here on, what was let in before is applied yet.
        """
        if self._is_held or self._quiet_lock.locked():
            return False
        self._is_held = True
        self._open.clear()
        return True

    def release(self) -> None:
        """Let writes in again."""
        assert self._is_held, "only what is held is released"
        self._is_held = False
        self._not_held.set()
        self._open.set()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """A time in which no write is under way; those that come wait."""
        async with self._quiet_lock:
            while self._is_held:  # soon over: nothing begins it again before the lock is free
                self._not_held.clear()
                await self._not_held.wait()
            self._open.clear()
            try:
                await self._none_in_flight.wait()
                yield
            finally:
                self._open.set()
