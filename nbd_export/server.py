"""The NBD server on a unix socket, and on TCP: listens, counts its clients, closes in order.

A client's connection is `session`'s matter. One server process per socket path is the rule of
whoever starts it (the agent's lock); here a second one is noticed, not arbitrated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nbd_export.backend import Exports
from nbd_export.limits import BACKLOG_CONNECTIONS, DRAIN_SECONDS_MAX, ServerLimits
from nbd_export.listening import TcpEndpoint, open_tcp_socket, open_unix_socket
from nbd_export.memory import Memory
from nbd_export.session import Session
from nbd_export.tls import TlsContexts


@dataclass(eq=False, slots=True)
class _Door:
    """One listener's clients: how many, and those that chose no export yet, the oldest first."""

    tls: TlsContexts | None
    count: int = 0
    choosing: dict[Session, None] = field(default_factory=dict)


class NbdServer:
    """A running server; `serve` makes one."""

    def __init__(self, exports: Exports, limits: ServerLimits) -> None:
        self._exports = exports
        self._limits = limits
        self.memory = Memory(limits.in_flight_bytes)
        self._sessions: dict[Session, _Door] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._listeners: list[asyncio.Server] = []
        self._closing = False
        self._path = Path()
        self._inode = 0

    @property
    def connections(self) -> int:
        """How many clients there are, with those that left while their requests still run."""
        return len(self._sessions)

    async def listen(self, path: Path) -> None:
        """Begin to accept clients; see `serve`."""
        listening = open_unix_socket(path)
        self._path, self._inode = path, path.stat().st_ino
        loop = asyncio.get_running_loop()
        listener = await loop.create_unix_server(
            partial(self._new_client, _Door(None)), sock=listening, backlog=BACKLOG_CONNECTIONS
        )
        self._listeners.append(listener)

    async def listen_tcp(self, endpoint: TcpEndpoint) -> int:
        """Accept clients there too; returns the port.

        Raises:
            PlainBeyondLoopback, OSError, ValueError: see `open_tcp_socket`.
            TlsUnusable: the endpoint's certificates cannot be used.
        """
        if endpoint.tls is not None:
            endpoint.tls.current()
        listening = open_tcp_socket(endpoint)
        port: int = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            partial(self._new_client, _Door(endpoint.tls)), sock=listening, backlog=BACKLOG_CONNECTIONS
        )
        self._listeners.append(listener)
        return port

    async def close(self, drain_seconds: float = DRAIN_SECONDS_MAX) -> bool:
        """Stop accepting, finish the requests that were begun, close every connection, remove the socket.

        Returns:
            Whether all requests finished in `drain_seconds`; those that did not were cancelled.
        """
        self._closing = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._unlink_own_socket()
        for session in list(self._sessions):
            session.end()
        try:
            await asyncio.wait_for(self._empty.wait(), drain_seconds)
        except TimeoutError:
            for session in list(self._sessions):
                session.abort()
            await self._empty.wait()
            return False
        return True

    def _new_client(self, door: _Door) -> asyncio.BaseProtocol:
        # asyncio may still bring a client that it accepted just before we closed.
        if self._closing:
            return _TurnedAway()
        if door.count >= self._limits.connections:
            oldest = next(iter(door.choosing), None)
            if oldest is None:
                return _TurnedAway()
            # Whoever means it chooses an export within milliseconds. So strangers that only hold a
            # connection, however many, keep nobody out.
            del door.choosing[oldest]
            oldest.abort()
        session = Session(self._exports, self._limits, self.memory, self._opened, self._gone, door.tls)
        self._sessions[session] = door
        door.choosing[session] = None
        door.count += 1
        self._empty.clear()
        return session

    def _opened(self, session: Session) -> None:
        self._sessions[session].choosing.pop(session, None)

    def _gone(self, session: Session) -> None:
        door = self._sessions.pop(session)
        door.choosing.pop(session, None)
        door.count -= 1
        if not self._sessions:
            self._empty.set()

    def _unlink_own_socket(self) -> None:
        """Remove our socket file, unless another server has put its own there since."""
        if self._inode and self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
            self._inode = 0


async def serve(
    exports: Exports,
    socket_path: Path,
    limits: ServerLimits | None = None,
) -> NbdServer:
    """Serve `exports` on a unix socket that only this user may open, until `NbdServer.close`.

    Bugs of an export (see `backend`) go to the running loop's exception handler.

    Raises:
        SocketInUse: a server listens at `socket_path`, or something else than a socket is there.
        OSError: the socket cannot be made.
    """
    server = NbdServer(exports, limits or ServerLimits())
    await server.listen(socket_path)
    return server


class _TurnedAway(asyncio.Protocol):
    """For a client too many or too late: the connection is closed without a word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream socket"
        transport.abort()
