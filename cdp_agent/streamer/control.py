"""control.sock: how `status`, `marker`, `flush` and `release` reach the streamer: one JSON line each way.

    {"command": "status"}
    {"command": "flush", "timeout_seconds": 60}
    {"command": "marker", "name": "before-upgrade", "note": "", "application": false, "timeout_seconds": 60}
    {"command": "release", "site": "recovery"}
    {"command": "cancel-release"}
    {"command": "plan", "epoch": 3, "plan_before": null, "ledger_before": null, "plan": {...}, "ledger": null}

`plan` is the collector's (cdp_agent/streamer/planning.py).

A release is begun, and goes on by itself: `status` tells how far it is. The answer is `{"ok": true, ...}`
(`facts`, or the `place` that is protected) or `{"ok": false, "error": why}`. What does not belong here: what
the commands do (`Engine`), and their output on a terminal.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

SOCKET_NAME: Final = "control.sock"
REQUEST_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 1024 * 1024
CONNECTIONS_MAX: Final = 32
"""Each waits in a thread of its own; whoever comes later waits to be accepted."""
REQUEST_SECONDS_MAX: Final = 5.0
"""How long a client may take to say what it wants."""
TIMEOUT_SECONDS_MAX: Final = 86_400.0

MARKER_BYTES_MAX: Final = 200
"""A marker's name, in UTF-8: it stands in tables and on command lines."""
MARKER_RULE: Final = f"a marker needs a printable name of up to {MARKER_BYTES_MAX} bytes"

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any], Callable[[Answer], None]], None]
"""Given a request and how to answer it; called from any thread, returns at once."""


def is_marker_name(name: object) -> bool:
    """Whether a cut may have this name."""
    return isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= MARKER_BYTES_MAX


class ControlServer:
    """Listens until `close`. `handler` passes requests on to the thread that owns the engine."""

    def __init__(self, directory: Path, handler: Handler) -> None:
        self._path = directory / SOCKET_NAME
        self._handler = handler
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            # By its directory's descriptor, because a socket's path may have 107 bytes only.
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._listener.bind(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            finally:
                os.close(fd)
        finally:
            os.umask(before)
        self._listener.listen(CONNECTIONS_MAX)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and take the socket away."""
        self._path.unlink(missing_ok=True)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                peer, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(peer,), name="control-peer", daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.settimeout(REQUEST_SECONDS_MAX)
                answer = self._answer(_read_line(peer))
                peer.sendall(orjson.dumps(answer) + b"\n")
        except OSError:
            return  # the client is gone: nobody to tell
        finally:
            self._slots.release()

    def _answer(self, line: bytes) -> Answer:
        try:
            request = orjson.loads(line)
            timeout_seconds = float(request.get("timeout_seconds", 60.0))
        except (ValueError, TypeError, AttributeError):
            return {"ok": False, "error": "the request is not understood"}
        answered = threading.Event()
        answers: list[Answer] = []

        def answer(members: Answer) -> None:
            answers.append(members)
            answered.set()

        self._handler(request, answer)
        if not answered.wait(min(max(timeout_seconds, 0.0), TIMEOUT_SECONDS_MAX)):
            return {"ok": False, "error": f"not done within {timeout_seconds:g} s", "timeout": True}
        return answers[0]


def call(directory: Path, request: dict[str, Any], timeout_seconds: float) -> Answer:
    """Ask the streamer of a journal directory; its answer comes within the timeout, or soon after it.

    Raises:
        OSError: nobody listens, or it does not answer.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
            peer.settimeout(timeout_seconds + REQUEST_SECONDS_MAX)
            peer.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            peer.sendall(orjson.dumps({**request, "timeout_seconds": timeout_seconds}) + b"\n")
            members = orjson.loads(_read_line(peer, ANSWER_BYTES_MAX))
    finally:
        os.close(fd)
    if not isinstance(members, dict):
        raise OSError("the answer is not understood")
    return members


def _read_line(peer: socket.socket, bytes_max: int = REQUEST_BYTES_MAX) -> bytes:
    """Everything up to the first newline; raises OSError where there is none."""
    data = b""
    while b"\n" not in data:
        part = peer.recv(4096)
        if not part or len(data) > bytes_max:
            raise OSError("no whole line")
        data += part
    return data.partition(b"\n")[0]
