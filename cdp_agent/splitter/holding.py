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
import contextlib
import os
from pathlib import Path
from typing import Final

from cdp_agent.splitter.appending import Appending
from cdp_container.errors import DeviceError

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
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._began_seconds = 0.0
        self.held = 0
        self.expired = 0
        self.longest_seconds = 0.0
        self.held_seconds = 0.0

    async def open(self, directory: Path) -> None:
        """Listen. Raises DeviceError."""
        try:
            (directory / SOCKET_NAME).unlink(missing_ok=True)
            await self._listen(directory)
            self._path = directory / SOCKET_NAME
        except OSError as error:
            hint = "check journal.directory and its permissions"
            raise DeviceError(f"opening {SOCKET_NAME}", str(error), hint) from error

    async def _listen(self, directory: Path) -> None:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # the kernel takes but short paths of sockets
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(
                    self._serve, f"/proc/self/fd/{fd}/{SOCKET_NAME}", limit=LINE_BYTES_MAX
                )
            finally:
                os.umask(before)
        finally:
            os.close(fd)

    async def close(self) -> None:
        """Hold nothing any more."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            await self._server.wait_closed()
        if self._path is not None:
            with contextlib.suppress(OSError):  # the next start takes it away, too
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._writers.add(writer)
        hold = _Hold(self)
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                answer = hold.answer(line)
                if not answer:
                    return
                writer.write(answer)
        except (OSError, ValueError):  # gone, or a line that is none of ours
            return
        finally:
            hold.end()
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

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
