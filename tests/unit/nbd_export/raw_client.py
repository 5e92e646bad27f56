"""A client's end of a socket, for tests that say every byte themselves."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.unit.nbd_export.wire_client import FLAGS, go

DEADLINE_SECONDS = 20.0


def raw_client(path: Path, hello: bytes = b"") -> socket.socket:
    """A connected socket whose greeting was read and that has said `hello`."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(DEADLINE_SECONDS)
    client.connect(str(path))
    if hello:
        assert len(receive(client, 18)) == 18
        client.sendall(hello)
    return client


def opened_client(path: Path) -> socket.socket:
    client = raw_client(path, FLAGS + go(""))
    assert len(receive(client, 20 + 12 + 20)) == 52
    return client


def receive(client: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes (MSG_WAITALL means little on a socket with a timeout)."""
    data = bytearray()
    while len(data) < count:
        chunk = client.recv(count - len(data))
        assert chunk, "the server hung up"
        data += chunk
    return bytes(data)


def is_hung_up_on(client: socket.socket) -> bool:
    """Whether the server closes this connection; what it still says is dropped."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return True
