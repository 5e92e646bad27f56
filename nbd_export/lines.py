"""A server of short lines at a UNIX socket, in the event loop that serves clients: one answer to each line.

What the lines mean does not belong here, nor servers that have a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Answering(Protocol):
    """One connection's words."""

    def answer(self, line: bytes) -> bytes:
        """The answer to a whole line, its end included; empty: it is hung up on."""
        ...

    def end(self) -> None:
        """The connection ended, however it did."""
        ...


class LineServer:
    """Listens at a name in a directory, for this user alone.

    Args:
        name: of the socket.
        begin: called for each connection.
        line_bytes_max: who says more without an end is hung up on.
        connections_max: so many at once; others are hung up on.
    """

    def __init__(
        self, name: str, begin: Callable[[], Answering], line_bytes_max: int, connections_max: int
    ) -> None:
        self._name = name
        self._begin = begin
        self._line_bytes_max = line_bytes_max
        self._connections_max = connections_max
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._path: Path | None = None

    async def open(self, directory: Path) -> None:
        """Listen; a dead one's socket is taken away: whoever has the directory's lock is alone.

        Raises OSError.
        """
        (directory / self._name).unlink(missing_ok=True)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # the kernel takes but short paths of sockets
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(
                    self._serve, f"/proc/self/fd/{fd}/{self._name}", limit=self._line_bytes_max
                )
            finally:
                os.umask(before)
        finally:
            os.close(fd)
        self._path = directory / self._name

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
        if len(self._writers) >= self._connections_max:
            writer.close()
            return
        self._writers.add(writer)
        answering = self._begin()
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                answer = answering.answer(line)
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
        except (OSError, ValueError):  # gone, or a line that is none of ours
            return
        finally:
            answering.end()
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
