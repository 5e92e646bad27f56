"""control.sock of an overlay that is served: how far it is, and the wish that all of it is fetched.

A line with a word each, `status` or `finish`, answered with a line of JSON. What the words do does not belong
here (process).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from nbd_export.lines import LineServer

CONTROL_SOCKET: Final = "control.sock"
CONNECTIONS_MAX: Final = 16
LINE_BYTES_MAX: Final = 64
ASK_SECONDS: Final = 10.0
"""How long an answer is waited for."""
ANSWER_BYTES_MAX: Final = 16 << 20

Answers = Mapping[str, Callable[[], Mapping[str, Any]]]


class ControlServer(LineServer):
    """Answers words, in the event loop; to be opened at the overlay's directory."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(CONTROL_SOCKET, lambda: _Words(answers), LINE_BYTES_MAX, CONNECTIONS_MAX)


class _Words:
    """See `Answering`: what is said on one connection."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def answer(self, line: bytes) -> bytes:
        """What belongs to a word; whoever says another one is hung up on."""
        answer = self._answers.get(line.decode("ascii", "replace").strip())
        return b"" if answer is None else orjson.dumps(answer()) + b"\n"

    def end(self) -> None:
        """Nothing is held for a connection."""


def ask(directory: Path, word: str) -> dict[str, Any] | None:
    """What the process that serves an overlay answers; None where there is none. Raises OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(ASK_SECONDS)
            try:
                asking.connect(f"/proc/self/fd/{fd}/{CONTROL_SOCKET}")
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            asking.sendall(word.encode() + b"\n")
            with asking.makefile("rb") as answered:
                line = answered.readline(ANSWER_BYTES_MAX)
    finally:
        os.close(fd)
    if not line:
        return None
    members: dict[str, Any] = orjson.loads(line)
    return members
