"""What the streamer asks of the watcher, and the watcher of the splitter, over sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.watcher.client import Taken, WatcherClient, taken_members
from cdp_agent.watcher.hold_client import HoldClient
from cdp_agent.watcher.wire import HOLD_SOCKET_NAME, SOCKET_NAME, listen_at, read_line, send_line
from cdp_container.errors import WatcherFailed
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.position import Position

TREE = bytes(range(16))


@contextmanager
def server(directory: Path, name: str, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    listener = listen_at(directory, name, 5)

    def run() -> None:
        peer, _ = listener.accept()
        with peer:
            serve(peer)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    listener.close()


def test_no_watcher_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(WatcherFailed):
        WatcherClient(tmp_path).status()


@pytest.mark.parametrize("answer", [b"", b"x\n", b"[]\n", b"{}\n", b'{"ok":true}\n', b'{"ok":tr'])
def test_nonsense_is_a_typed_error(tmp_path: Path, answer: bytes) -> None:
    def serve(peer: socket.socket) -> None:
        read_line(peer)
        peer.sendall(answer)

    with server(tmp_path, SOCKET_NAME, serve), pytest.raises(WatcherFailed):
        WatcherClient(tmp_path).take(1, 1, hold=True)


def test_a_refusal_is_a_typed_error(tmp_path: Path) -> None:
    def serve(peer: socket.socket) -> None:
        read_line(peer)
        send_line(peer, {"ok": False, "error": "not ready"})

    with server(tmp_path, SOCKET_NAME, serve), pytest.raises(WatcherFailed, match="not ready"):
        WatcherClient(tmp_path).begin(1, NOWHERE)


def test_what_was_taken_comes_with_its_file(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    said = Taken(
        7, 0, Position(5, 6), 123, (TREE,), (SkewedFile(TREE, b"a/\xff" + b"x" * 90_000, 1, 2),), 3, 9, 10
    )

    def serve(peer: socket.socket) -> None:
        asked.append(read_line(peer)[0])
        fd = os.open(tmp_path / "batch", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"content")
        send_line(peer, taken_members(said), fd)
        os.close(fd)

    with server(tmp_path, SOCKET_NAME, serve):
        taken = WatcherClient(tmp_path).take(3, 4, hold=True)
    assert taken.fd is not None
    assert os.pread(taken.fd, 100, 0) == b"content"
    os.close(taken.fd)
    assert (taken.batch, taken.position, taken.skewed, taken.not_whole) == (
        7,
        Position(5, 6),
        said.skewed,
        (TREE,),
    )
    assert asked == [{"command": "take", "epoch": 3, "cut": 4, "hold": True}]


def test_an_empty_take_has_no_file(tmp_path: Path) -> None:
    said = Taken(0, None, None, 123, (), (), 0, 0, 0)

    def serve(peer: socket.socket) -> None:
        read_line(peer)
        send_line(peer, taken_members(said))

    with server(tmp_path, SOCKET_NAME, serve):
        assert WatcherClient(tmp_path).take(3, 4, hold=False) == said


def test_begin_names_the_base(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def serve(peer: socket.socket) -> None:
        asked.append(read_line(peer)[0])
        send_line(peer, {"ok": True})

    with server(tmp_path, SOCKET_NAME, serve):
        WatcherClient(tmp_path).begin(4, Place(3, 8, 9))
    assert asked == [{"command": "begin", "epoch": 4, "base": [3, 8, 9]}]


@pytest.mark.parametrize("answer", [b"", b"no\n", b"held 1\n", b"held a b\n", b"x" * 200])
def test_a_hold_that_is_not_is_a_typed_error(tmp_path: Path, answer: bytes) -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(answer)

    with server(tmp_path, HOLD_SOCKET_NAME, serve), pytest.raises(WatcherFailed):
        HoldClient(tmp_path).hold()
    with pytest.raises(WatcherFailed):
        HoldClient(tmp_path / "nowhere").hold()


@pytest.mark.parametrize(("answer", "kept"), [(b"kept\n", True), (b"expired\n", False), (b"", False)])
def test_a_hold_is_released(tmp_path: Path, answer: bytes, kept: bool) -> None:
    def serve(peer: socket.socket) -> None:
        assert peer.recv(100) == b"hold\n"
        peer.sendall(b"held 12 345\n")
        assert peer.recv(100) == b"release\n"
        peer.sendall(answer)

    with server(tmp_path, HOLD_SOCKET_NAME, serve):
        client = HoldClient(tmp_path)
        assert client.hold() == Position(12, 345)
        assert client.release() is kept
    assert client.release() is False
