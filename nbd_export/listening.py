"""The sockets that the server listens on, and who may be reached by them.

What does not belong here: what is done with a client (`server`, `session`).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nbd_export.errors import PlainBeyondLoopback, SocketInUse
from nbd_export.limits import (
    KEEPALIVE_IDLE_SECONDS,
    KEEPALIVE_INTERVAL_SECONDS,
    KEEPALIVE_PROBES_MAX,
    UNACKNOWLEDGED_MILLISECONDS_MAX,
)
from nbd_export.tls import TlsContexts

SOCKET_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """Where clients come in by TCP: an address in digits, a port (0: any), and the certificates, if any."""

    host: str
    port: int
    tls: TlsContexts | None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_unix_socket(path: Path) -> socket.socket:
    """A bound socket, ready for listen(2). A dead server's file is removed, a living one's never.

    Raises:
        SocketInUse: a server listens at `path`, or something else than a socket is there.
        OSError: the socket cannot be made.
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


def open_tcp_socket(endpoint: TcpEndpoint) -> socket.socket:
    """Likewise for TCP; a client whose machine is gone is noticed within some minutes.

    Raises:
        PlainBeyondLoopback: without TLS, any machine could read and write the disks.
        ValueError: the host is no address.
        OSError: the socket cannot be made.
    """
    address = ipaddress.ip_address(endpoint.host)
    if endpoint.tls is None and not address.is_loopback:
        raise PlainBeyondLoopback(f"{endpoint} can be reached from elsewhere, and there is no TLS")
    listening = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # What is accepted inherits these.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
            (socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
            (socket.TCP_KEEPCNT, KEEPALIVE_PROBES_MAX),
            (socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLISECONDS_MAX),
        ):
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
        listening.bind((endpoint.host, endpoint.port))
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
