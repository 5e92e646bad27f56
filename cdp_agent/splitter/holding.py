"""Guests' writes held for a moment, so that one instant can be found over volumes and trees: hold.sock.

Whoever connects says `hold` and is told `held <generation> <offset>`: the journal's tail, published, behind
which no record comes until `release` is said. That is answered with `kept`. A hold ends by itself after
HOLD_SECONDS_MAX, and with the connection; `release` is then answered with `expired`. Where writes stand
still already, or another one holds, the answer is `busy`. What was appended before may still be on its way
to its disk.

What does not belong here: what is done meanwhile (the watcher), how writes are let in (`gate`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from cdp_agent.splitter.appending import Appending
from cdp_container.errors import DeviceError
from nbd_export.lines import LineServer

SOCKET_NAME: Final = "hold.sock"
HOLD_SECONDS_MAX: Final = 0.05
"""So long a guest's write waits at most: less than many disks take for a sync."""
LINE_BYTES_MAX: Final = 64
CONNECTIONS_MAX: Final = 4
"""The watcher, and one that is dying."""


class HoldServer:
    """Serves hold.sock of a journal directory.

    For `status`: `held` counts holds, `expired` those that ended by themselves; `longest_seconds`, and all
    together `held_seconds`, writes were held.
    """

    def __init__(self, appending: Appending) -> None:
        self._appending = appending
        self._lines = LineServer(SOCKET_NAME, lambda: _Hold(self), LINE_BYTES_MAX, CONNECTIONS_MAX)
        self._began_seconds = 0.0
        self.held = 0
        self.expired = 0
        self.longest_seconds = 0.0
        self.held_seconds = 0.0

    async def open(self, directory: Path) -> None:
        """Listen. Raises DeviceError."""
        try:
            await self._lines.open(directory)
        except OSError as error:
            hint = "check journal.directory and its permissions"
            raise DeviceError(f"opening {SOCKET_NAME}", str(error), hint) from error

    async def close(self) -> None:
        """Hold nothing any more."""
        await self._lines.close()

    def begin(self) -> str:
        """Hold, if that can be: the tail, or ""."""
        if not self._appending.gate.hold():
            return ""
        self.held += 1
        self._began_seconds = asyncio.get_running_loop().time()
        tail = self._appending.tail
        return f"{tail.generation} {tail.offset}"

    def end(self) -> None:
        """Let writes in again."""
        self._appending.gate.release()
        lasted_seconds = asyncio.get_running_loop().time() - self._began_seconds
        self.longest_seconds = max(self.longest_seconds, lasted_seconds)
        self.held_seconds += lasted_seconds

    def facts(self) -> dict[str, float]:
        """For `status`."""
        return {
            "held": self.held,
            "expired": self.expired,
            "longest_seconds": self.longest_seconds,
            "held_seconds": self.held_seconds,
        }


class _Hold:
    """What one connection holds."""

    def __init__(self, server: HoldServer) -> None:
        self._server = server
        self._expiry: asyncio.TimerHandle | None = None
        self._has_expired = False

    def answer(self, line: bytes) -> bytes:
        """The answer to a line, empty where it is no word of ours."""
        if line == b"hold\n" and self._expiry is None:
            self._has_expired = False
            at = self._server.begin()
            if not at:
                return b"busy\n"
            self._expiry = asyncio.get_running_loop().call_later(HOLD_SECONDS_MAX, self._expire)
            return f"held {at}\n".encode()
        if line == b"release\n":
            kept = self._expiry is not None
            self.end()
            return b"kept\n" if kept else b"expired\n"
        return b""

    def _expire(self) -> None:
        self._server.expired += 1
        self.end()

    def end(self) -> None:
        """Let go, if it still holds."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
            self._server.end()
