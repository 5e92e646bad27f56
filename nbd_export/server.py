"""The NBD server on a unix socket: listens, counts its clients, closes in order.

A client's connection is `session`'s matter. One server process per socket path is the rule of
whoever starts it (the agent's lock); here a second one is noticed, not arbitrated.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

from nbd_export.backend import Exports
from nbd_export.errors import SocketInUse
from nbd_export.limits import BACKLOG_CONNECTIONS, CONNECTIONS_MAX, DRAIN_SECONDS_MAX, HANDSHAKE_SECONDS_MAX
from nbd_export.session import Session

SOCKET_MODE = 0o600


class NbdServer:
    """A running server; `serve` makes one."""

    def __init__(self, exports: Exports, handshake_seconds: float, connections_max: int) -> None:
        self._exports = exports
        self._handshake_seconds = handshake_seconds
        self._connections_max = connections_max
        self._sessions: set[Session] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._listener: asyncio.Server | None = None
        self._closing = False
        self._path = Path()
        self._inode = 0

    @property
    def connections(self) -> int:
        """How many clients there are, with those that left while their requests still run."""
        return len(self._sessions)

    async def listen(self, path: Path) -> None:
        """Begin to accept clients; see `serve`."""
        listening = open_listening_socket(path)
        self._path, self._inode = path, path.stat().st_ino
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            self._new_client, sock=listening, backlog=BACKLOG_CONNECTIONS
        )

    async def close(self, drain_seconds: float = DRAIN_SECONDS_MAX) -> bool:
        """Stop accepting, finish the requests that were begun, close every connection, remove the socket.

        Returns:
            Whether all requests finished in `drain_seconds`; those that did not were cancelled.
        """
        self._closing = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
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

    def _new_client(self) -> asyncio.BaseProtocol:
        # asyncio may still bring a client that it accepted just before we closed.
        if self._closing or len(self._sessions) >= self._connections_max:
            return _TurnedAway()
        session = Session(self._exports, self._handshake_seconds, self._gone)
        self._sessions.add(session)
        self._empty.clear()
        return session

    def _gone(self, session: Session) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._empty.set()

    def _unlink_own_socket(self) -> None:
        """Remove our socket file, unless another server has put its own there since."""
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()


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


def open_listening_socket(path: Path) -> socket.socket:
    """A bound socket, ready for listen(2). A dead server's file is removed, a living one's never.

    Raises:
        SocketInUse: see `serve`.
        OSError: likewise.
    """
    _remove_dead_socket(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.bind(str(path))
        # Before listen(2) nobody can connect, so there is no moment of a wider mode.
        os.chmod(path, SOCKET_MODE)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_dead_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUse(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog says EAGAIN: somebody lives there, if busy
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            raise SocketInUse(f"a server listens at {path}") from None
    raise SocketInUse(f"a server listens at {path}")


class _TurnedAway(asyncio.Protocol):
    """For a client too many or too late: the connection is closed without a word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream socket"
        transport.abort()
