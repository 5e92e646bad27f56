"""The control socket: one line each way, whatever the client does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.streamer.control import REQUEST_BYTES_MAX, SOCKET_NAME, Answer, ControlServer, call


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    def handler(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        if request.get("command") != "sleep":
            answer({"ok": True, "request": request})

    deep = tmp_path / ("d" * 120)  # longer than a socket's path may be
    deep.mkdir()
    server = ControlServer(deep, handler)
    yield deep
    server.close()


def test_a_request_is_answered(directory: Path) -> None:
    answer = call(directory, {"command": "status"}, 10.0)
    assert answer == {"ok": True, "request": {"command": "status", "timeout_seconds": 10.0}}


def test_the_socket_is_its_owners_alone(directory: Path) -> None:
    assert (directory / SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_a_request_that_takes_too_long_is_told_so(directory: Path) -> None:
    answer = call(directory, {"command": "sleep"}, 0.01)
    assert answer == {"ok": False, "error": "not done within 0.01 s", "timeout": True}


@pytest.mark.parametrize("line", [b"\n", b"7\n", b"[]\n", b"{\n", b'{"timeout_seconds": "x"}\n', b"\xff\n"])
def test_nonsense_is_answered_politely(directory: Path, line: bytes) -> None:
    with _connected(directory) as peer:
        peer.sendall(line)
        assert b"not understood" in peer.recv(4096)


def test_a_client_that_says_too_much_or_leaves_hurts_nobody(directory: Path) -> None:
    with _connected(directory) as peer:
        peer.sendall(b"x")
    with _connected(directory) as peer, suppress(OSError):  # it may hang up before all is said
        peer.sendall(b"x" * (8 * REQUEST_BYTES_MAX))
        assert peer.recv(4096) == b""
    assert call(directory, {"command": "status"}, 10.0)["ok"]


def test_nobody_listens_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"."):
        call(tmp_path, {"command": "status"}, 1.0)


def _connected(directory: Path) -> socket.socket:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
    finally:
        os.close(fd)
    return peer


def test_a_marker_is_answered_when_it_is_taken_and_when_it_is_protected(tmp_path: Path) -> None:
    later: list[Callable[[Answer], None]] = []

    def handler(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        answer({"ok": True, "taken": True})
        later.append(answer)

    server = ControlServer(tmp_path, handler)
    try:
        answer = call(tmp_path, {"command": "marker"}, 10.0, lambda: later[0]({"ok": True, "place": 7}))
        assert answer == {"ok": True, "place": 7}
        assert call(tmp_path, {"command": "marker"}, 0.01)["timeout"]
    finally:
        server.close()


def test_both_answers_may_come_at_once(tmp_path: Path) -> None:
    def handler(request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        answer({"ok": True, "taken": True})
        answer({"ok": False, "error": "why"})

    server = ControlServer(tmp_path, handler)
    taken = []
    try:
        assert call(tmp_path, {}, 10.0, lambda: taken.append(1)) == {"ok": False, "error": "why"}
    finally:
        server.close()
    assert taken == [1]
