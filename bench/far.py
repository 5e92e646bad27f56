"""A store that is far away: a TCP proxy, in a process of its own, that adds a round trip to all that passes.

Each piece is handed on half a round trip after it came, so many may be under way at once, as on a real line;
a new connection costs one more round trip. Bandwidth is not limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import urlsplit

END_SECONDS_MAX = 10.0


class _Line:
    """One direction of one connection: what came goes on later, in its order."""

    def __init__(self, delay_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay_seconds = delay_seconds
        self._pieces: deque[bytes | None] = deque()
        self._to: asyncio.Transport | None = None
        self._due = 0

    def put(self, piece: bytes | None, more_seconds: float = 0.0) -> None:
        """`piece` is None for the end."""
        self._pieces.append(piece)
        self._loop.call_later(self._delay_seconds + more_seconds, self._go_on)

    def to(self, transport: asyncio.Transport) -> None:
        self._to = transport
        self._send()

    def _go_on(self) -> None:
        self._due += 1
        self._send()

    def _send(self) -> None:
        while self._due and self._to is not None:
            self._due -= 1
            piece = self._pieces.popleft()
            if piece is None:
                self._to.close()
            elif not self._to.is_closing():
                self._to.write(piece)


class _Near(asyncio.Protocol):
    """The client's end."""

    def __init__(self, host: str, port: int, half_seconds: float) -> None:
        self._where = (host, port)
        self._half_seconds = half_seconds
        self._forth, self._back = _Line(half_seconds), _Line(half_seconds)
        self._is_first = True
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        near = cast(asyncio.Transport, transport)
        self._back.to(near)
        self._task = asyncio.create_task(self._connect(near))

    async def _connect(self, near: asyncio.Transport) -> None:
        try:
            far, _ = await asyncio.get_running_loop().create_connection(
                lambda: _Far(self._back), *self._where
            )
        except OSError:
            near.close()
        else:
            self._forth.to(far)

    def data_received(self, data: bytes) -> None:
        # The handshake of a real line takes a round trip before the first request.
        self._forth.put(data, 2 * self._half_seconds if self._is_first else 0.0)
        self._is_first = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._forth.put(None, 2 * self._half_seconds)


class _Far(asyncio.Protocol):
    """The server's end."""

    def __init__(self, back: _Line) -> None:
        self._back = back

    def data_received(self, data: bytes) -> None:
        self._back.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._back.put(None)


async def _serve(listening: socket.socket, host: str, port: int, round_trip_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Near(host, port, round_trip_seconds / 2), sock=listening)
    async with server:
        await server.serve_forever()


@contextmanager
def far(endpoint: str, round_trip_seconds: float) -> Iterator[str]:
    """The endpoint of a proxy before another endpoint, for as long as it is needed."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.far"),
                *(str(listening.fileno()), parts.hostname, str(parts.port), str(round_trip_seconds)),
            ],
            pass_fds=[listening.fileno()],
        )
    try:
        yield f"{parts.scheme}://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(END_SECONDS_MAX)


def main() -> None:
    """`python -m bench.far FD HOST PORT SECONDS`: the proxy itself."""
    fd, host, port, seconds = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt), socket.socket(fileno=int(fd)) as listening:
        listening.setblocking(False)
        asyncio.run(_serve(listening, host, int(port), float(seconds)))


if __name__ == "__main__":
    main()
