"""JSON over a unix socket, as QEMU and the agent of its guests speak it: bounded, and with deadlines.

What is said does not belong here (qemu, guest_agent).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.machines import ANSWER_BYTES_MAX

ANSWERS_MAX: Final = 10_000
"""Lines that are passed over until the one that is waited for: events, and late answers."""


class Away(Exception):
    """Nobody listens there: a VM that does not run."""


@dataclass(frozen=True, slots=True)
class Line:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str

    async def send(self, data: bytes) -> None:
        """Raises MachineFailed."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise self.failed(error.strerror or "the connection ended") from error

    async def receive(self) -> Mapping[str, Any]:
        """The next line that is an object of JSON. Raises MachineFailed."""
        for _ in range(ANSWERS_MAX):
            try:
                line = await self.reader.readline()
            except (OSError, ValueError) as error:  # a line that is too long is a ValueError
                raise self.failed(str(error)[:200]) from error
            if not line:
                raise self.failed("the connection ended")
            try:
                answer = orjson.loads(line.rpartition(b"\xff")[2])
            except ValueError:
                continue  # what was half said to somebody before us
            if isinstance(answer, dict):
                return answer
        raise self.failed(f"no answer among {ANSWERS_MAX} lines")

    async def say(self, command: str, arguments: Mapping[str, Any] | None, first: bytes = b"") -> None:
        """Send a command, after some bytes. Raises MachineFailed."""
        words = {"execute": command} | ({"arguments": arguments} if arguments is not None else {})
        await self.send(first + orjson.dumps(words) + b"\n")

    async def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> object:
        """What a command returns. Raises MachineFailed: it is refused, or nobody answers."""
        await self.say(command, arguments)
        for _ in range(ANSWERS_MAX):
            answer = await self.receive()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                error = answer["error"]
                words_of = error.get("desc") if isinstance(error, dict) else None
                raise self.failed(f"{command}: {str(words_of)[:200]}")
        raise self.failed(f"{command}: no answer among {ANSWERS_MAX}")

    def failed(self, why: str) -> MachineFailed:
        """An error that names the socket."""
        return MachineFailed(f"talk to {self.path}", why)


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[Line]:
    """A connection to a socket. Raises Away: nobody listens; MachineFailed."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_BYTES_MAX)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Away(f"{path}: {os.strerror(error.errno or 0)}") from error
    except OSError as error:
        raise MachineFailed(f"talk to {path}", error.strerror or "refused") from error
    try:
        yield Line(reader, writer, path)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
