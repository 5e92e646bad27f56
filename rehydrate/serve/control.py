"""control.sock of an overlay that is served: how far it is, and the wish that all of it is fetched.

A line with a word each, `status` or `finish`, answered with a line of JSON. What the words do does not belong
here (process).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

CONTROL_SOCKET: Final = "control.sock"
CONNECTIONS_MAX: Final = 16
LINE_BYTES_MAX: Final = 64
ASK_SECONDS: Final = 10.0
"""How long an answer is waited for."""
ANSWER_BYTES_MAX: Final = 16 << 20

Answers = Mapping[str, Callable[[], Mapping[str, Any]]]


class ControlServer:
    """Answers words, in the event loop."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._path: Path | None = None

    async def open(self, directory: Path) -> None:
        """Listen; a dead one's socket is taken away: whoever has the lock is alone. Raises OSError."""
        self._path = directory / CONTROL_SOCKET
        self._path.unlink(missing_ok=True)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # the kernel takes but short paths of sockets
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(
                    self._serve, f"/proc/self/fd/{fd}/{CONTROL_SOCKET}", limit=LINE_BYTES_MAX
                )
            finally:
                os.umask(before)
        finally:
            os.close(fd)

    async def close(self) -> None:
        """Answer nobody any more."""
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
        try:
            while line := await reader.readline():
                answer = self._answers.get(line.decode("ascii", "replace").strip())
                if answer is None:
                    return
                writer.write(orjson.dumps(answer()) + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # gone, or a line that is none of ours
            return
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def ask(directory: Path, word: str) -> dict[str, Any] | None:
    """What the process that serves an overlay answers; None where there is none. Raises OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(ASK_SECONDS)
            try:
                asking.connect(f"/proc/self/fd/{fd}/{CONTROL_SOCKET}")
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            asking.sendall(word.encode() + b"\n")
            with asking.makefile("rb") as answered:
                line = answered.readline(ANSWER_BYTES_MAX)
    finally:
        os.close(fd)
    if not line:
        return None
    members: dict[str, Any] = orjson.loads(line)
    return members
