"""The proxy that stands for a long way: all that passes comes whole, in order, in both directions."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator

import pytest

from bench.far import far

WAIT_SECONDS_MAX = 60.0


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets, and ends where its client does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening,))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(WAIT_SECONDS_MAX)
        assert not thread.is_alive(), "the end of a connection came through"


def _serve(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def test_all_comes_whole_and_in_order(echo: str) -> None:
    sent = random.Random(1).randbytes(3 << 20)
    with far(echo, 0.01) as endpoint:
        host, port = endpoint.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), WAIT_SECONDS_MAX) as client:
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            came = b""
            while len(came) < len(sent):
                came += client.recv(1 << 16)
            sender.join(WAIT_SECONDS_MAX)
    assert came == sent
