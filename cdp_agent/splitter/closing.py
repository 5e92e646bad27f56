"""What guests may do while their site gives the domain up, or has: everything, read, nothing.

notes.json decides, durably; the gate in the streamer's page only says that it changed. So a start needs
neither the streamer nor the store to keep the exports closed. A splitter that starts while the domain is
being released opens no export either. What does not belong here: opening and closing exports (`process`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cdp_agent.splitter.capture import Capture
from cdp_container.domain.notes import Notes
from cdp_container.errors import CdpError
from cdp_container.journal.shared import GateLevel

GATE_SECONDS: Final = 0.1
"""How often the streamer's page is looked at; so long a release waits here at most."""


class Closing:
    """Follows the notes: `level` is what holds now.

    Args:
        capture: whose writes are refused; its page says when none can come any more.
        notes: reads notes.json; raises CdpError.
    """

    def __init__(self, capture: Capture, notes: Callable[[], Notes]) -> None:
        self._capture = capture
        self._notes = notes
        self._ending: asyncio.Task[None] | None = None
        self.level = GateLevel.OPEN if notes().gate is GateLevel.OPEN else GateLevel.CLOSED
        if self.level is not GateLevel.OPEN:
            capture.refuse_writes()

    def look(self) -> bool:
        """Go by what the notes say, if the streamer says that they changed; whether the level did."""
        before = self.level
        try:
            if self._capture.appending.published.streamer().gate is self.level:
                return False
            noted = self._notes().gate
            if noted is GateLevel.OPEN:
                self._open()
            else:
                self._capture.refuse_writes()
                self.level = max(self.level, noted)
        except (CdpError, OSError) as error:  # a page or a note that cannot be read: as it was
            self._capture.failures.last_error = f"looking at what guests may do: {error}"
        return self.level is not before

    def _open(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        # First: whoever sees a write must have seen this.
        self._capture.publish(replace(self._capture.page, writes_closed=False))
        self._capture.allow_writes()
        self.level = GateLevel.OPEN

    def keep(self) -> None:
        """Where writes are refused: see to it that those under way end, and say when they have."""
        if self.level is GateLevel.OPEN or self._capture.page.writes_closed:
            return
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end_writes())

    async def _end_writes(self) -> None:
        try:
            async with self._capture.standstill():
                pass  # none that was let in is under way, and none is let in
            await self._capture.sync()
            # Durably, as no write repeats it.
            self._capture.publish(replace(self._capture.page, writes_closed=True), durable=True)
        except OSError as error:  # it is mended by and by, and then this is tried again
            self._capture.failures.last_error = f"ending the writes: {error}"

    async def end(self) -> None:
        """Nothing is published any more."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.wait((self._ending,))
