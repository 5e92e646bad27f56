"""How streamer and watcher talk over `watcher.sock`: one JSON line each way, one request a connection.

    {"command": "begin", "epoch": 3, "base": [2, 17, 40]}
    {"command": "take", "epoch": 3, "cut": 18, "hold": true}      the answer carries the batch's descriptor
    {"command": "sweep", "epoch": 3, "cut": 18}                   so does this one
    {"command": "place", "batch": 7, "epoch": 3, "cut": 19}
    {"command": "protected", "epoch": 3, "cut": 18}
    {"command": "accept", "tree": "...", "root": "what is there", "mounts": [["path", "what is there"]]}
    {"command": "scan", "tree": "...", "read_all": false}         the answer has the number of the scan
    {"command": "status"}

The answer is `{"ok": true, ...}` or `{"ok": false, "error": why}`. Bytes are in hex. Only encoding and
sockets; who asks what and when does not belong here.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final

import orjson

SOCKET_NAME: Final = "watcher.sock"
HOLD_SOCKET_NAME: Final = "hold.sock"
LINE_BYTES_MAX: Final = 4 << 20
"""An answer names at most SKEWED_FILES_MAX paths and as many trees as a domain has."""
_READ_BYTES: Final = 64 << 10


def listen_at(directory: Path, name: str, backlog: int) -> socket.socket:
    """A listening socket of mode 0600 in a directory, whose path may be of any length. Raises OSError."""
    (directory / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        # By its directory's descriptor, because a socket's path may have 107 bytes only.
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    finally:
        os.umask(before)
    listener.listen(backlog)
    return listener


def connect_to(directory: Path, name: str, timeout_seconds: float) -> socket.socket:
    """A connection to a socket of a directory. Raises OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        peer.settimeout(timeout_seconds)
        peer.connect(f"/proc/self/fd/{fd}/{name}")
    except BaseException:
        peer.close()
        raise
    finally:
        os.close(fd)
    return peer


def send_line(peer: socket.socket, members: dict[str, Any], fd: int | None = None) -> None:
    """Send one line, and a descriptor with it. Raises OSError."""
    line = orjson.dumps(members) + b"\n"
    if fd is None:
        peer.sendall(line)
        return
    sent = socket.send_fds(peer, [line[:_READ_BYTES]], [fd])
    peer.sendall(line[sent:])


def read_line(peer: socket.socket) -> tuple[dict[str, Any], int | None]:
    """One line as its members, and the descriptor that came with it. Raises OSError, ValueError."""
    data = bytearray()
    got: int | None = None
    try:
        while not data.endswith(b"\n"):
            piece, fds, _, _ = socket.recv_fds(peer, _READ_BYTES, 1)
            got = fds[0] if fds else got
            if not piece:
                raise ConnectionResetError("the connection ended within a line")
            data += piece
            if len(data) > LINE_BYTES_MAX:
                raise ValueError("the line is too long")
        members = orjson.loads(data)
        if not isinstance(members, dict):
            raise ValueError("the line is no object")
    except BaseException:
        if got is not None:
            os.close(got)
        raise
    return members, got
