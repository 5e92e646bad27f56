"""control.sock: how `status`, `marker`, `flush` and `release` reach the streamer: one JSON line each way.

    {"command": "status"}
    {"command": "flush", "timeout_seconds": 60}
    {"command": "marker", "name": "before-upgrade", "note": "", "application": false, "timeout_seconds": 60}
    {"command": "release", "site": "recovery"}
    {"command": "cancel-release"}
    {"command": "configure"}
    {"command": "filling", "vm": "shop-db", "volumes": ["db-root"]}
    {"command": "filled", "volumes": ["db-root"]}
    {"command": "plan", "epoch": 3, "plan_before": null, "ledger_before": null, "plan": {...}, "ledger": null}

`plan` is the collector's (planning.py), `filling` and `filled` are those of `cdp-agent adopt` (filling.py).

A release is begun, and goes on by itself: `status` tells how far it is. The answer is `{"ok": true, ...}`
(`facts`, or the `place` that is protected) or `{"ok": false, "error": why}`. A marker with `hooks` gets two,
the first, `{"ok": true, "taken": true}`, when its instant is fixed. What does not belong here: what the
commands do (`Engine`), and their output on a terminal.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
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

TAKEN: Final = "taken"
DESCRIBE_COMMAND: Final = "describe"
"""Ask hypervisors now; answered when they were asked."""
CONFIGURE_COMMAND: Final = "configure"
"""Look at once whether the domain's configuration is what the owner wants; `reload` says so."""

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
                for answer in self._answers(_read_line(peer)[0]):
                    peer.sendall(orjson.dumps(answer) + b"\n")
        except OSError:
            return  # the client is gone: nobody to tell
        finally:
            self._slots.release()

    def _answers(self, line: bytes) -> Iterator[Answer]:
        try:
            request = orjson.loads(line)
            timeout_seconds = float(request.get("timeout_seconds", 60.0))
        except (ValueError, TypeError, AttributeError):
            yield {"ok": False, "error": "the request is not understood"}
            return
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._handler(request, answers.put)
        try:
            answer = {TAKEN: True}
            while TAKEN in answer:
                answer = answers.get(timeout=min(max(timeout_seconds, 0.0), TIMEOUT_SECONDS_MAX))
                yield answer
        except queue.Empty:
            yield {"ok": False, "error": f"not done within {timeout_seconds:g} s", "timeout": True}


def call(
    directory: Path,
    request: dict[str, Any],
    timeout_seconds: float,
    on_taken: Callable[[], None] = lambda: None,
) -> Answer:
    """Ask the streamer of a journal directory; its answer comes within the timeout, or soon after it.

    `on_taken` is called when a marker's instant is fixed, and before that is known to be protected.

    Raises:
        OSError: nobody listens, or it does not answer.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
            peer.settimeout(timeout_seconds + REQUEST_SECONDS_MAX)
            peer.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            peer.sendall(orjson.dumps({**request, "timeout_seconds": timeout_seconds}) + b"\n")
            line, rest = _read_line(peer, ANSWER_BYTES_MAX)
            members = orjson.loads(line)
            if isinstance(members, dict) and TAKEN in members:
                on_taken()
                members = orjson.loads(_read_line(peer, ANSWER_BYTES_MAX, rest)[0])
    finally:
        os.close(fd)
    if not isinstance(members, dict):
        raise OSError("the answer is not understood")
    return members


def _read_line(
    peer: socket.socket, bytes_max: int = REQUEST_BYTES_MAX, data: bytes = b""
) -> tuple[bytes, bytes]:
    """Everything up to the first newline, and what came after it; raises OSError where there is none.

    `data`: what came before.
    """
    while b"\n" not in data:
        part = peer.recv(4096)
        if not part or len(data) > bytes_max:
            raise OSError("no whole line")
        data += part
    line, _, rest = data.partition(b"\n")
    return line, rest
