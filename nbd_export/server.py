"""The NBD server on a unix socket, and on TCP: listens, counts its clients, closes in order.

A client's connection is `session`'s matter. One server process per socket path is the rule of
whoever starts it (the agent's lock); here a second one is noticed, not arbitrated.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from nbd_export.backend import Exports
from nbd_export.limits import BACKLOG_CONNECTIONS, CONNECTIONS_MAX, DRAIN_SECONDS_MAX, HANDSHAKE_SECONDS_MAX
from nbd_export.listening import TcpEndpoint, open_tcp_socket, open_unix_socket
from nbd_export.session import Session
from nbd_export.tls import TlsContexts


class NbdServer:
    """A running server; `serve` makes one."""

    def __init__(self, exports: Exports, handshake_seconds: float, connections_max: int) -> None:
        self._exports = exports
        self._handshake_seconds = handshake_seconds
        self._connections_max = connections_max
        self._sessions: set[Session] = set()
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
            partial(self._new_client, None), sock=listening, backlog=BACKLOG_CONNECTIONS
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
            partial(self._new_client, endpoint.tls), sock=listening, backlog=BACKLOG_CONNECTIONS
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
        for session in self._sessions:
            session.end()
        try:
            await asyncio.wait_for(self._empty.wait(), drain_seconds)
        except TimeoutError:
            for session in self._sessions:
                session.abort()
            await self._empty.wait()
            return False
        return True

    def _new_client(self, tls: TlsContexts | None) -> asyncio.BaseProtocol:
        # asyncio may still bring a client that it accepted just before we closed.
        if self._closing or len(self._sessions) >= self._connections_max:
            return _TurnedAway()
        session = Session(self._exports, self._handshake_seconds, self._gone, tls)
        self._sessions.add(session)
        self._empty.clear()
        return session

    def _gone(self, session: Session) -> None:
        self._sessions.discard(session)
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
    *,
    handshake_seconds: float = HANDSHAKE_SECONDS_MAX,
    connections_max: int = CONNECTIONS_MAX,
) -> NbdServer:
    """Serve `exports` on a unix socket that only this user may open, until `NbdServer.close`.

    Bugs of an export (see `backend`) go to the running loop's exception handler.

    Raises:
        SocketInUse: a server listens at `socket_path`, or something else than a socket is there.
        OSError: the socket cannot be made.
    """
    server = NbdServer(exports, handshake_seconds, connections_max)
    await server.listen(socket_path)
    return server


class _TurnedAway(asyncio.Protocol):
    """For a client too many or too late: the connection is closed without a word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream socket"
        transport.abort()
