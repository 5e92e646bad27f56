"""Programs that a rehearsal runs: with a time limit, and no secret in what is kept; nothing of them lives on.

Only the end of what a program prints is kept. What its exit code means does not belong here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cdp_container.clock import Clock
from cdp_container.console import PASSPHRASE_VARIABLE
from rehydrate.rehearsal.interrupts import uninterrupted
from rehydrate.rehearsal.strays import adopting

EXCERPT_BYTES_MAX: Final = 4096
KILL_SECONDS: Final = 5.0
"""From the request to end until it is killed; for what it left once more; and how long its output is
waited for after its end."""
SECRET_BYTES_MIN: Final = 4
"""What is shorter would be found in any text."""
HIDDEN: Final = "[secret]"
_READ_BYTES: Final = 64 << 10
_CREDENTIALS: Final = "AWS_"
_SECRET_WORDS: Final = ("SECRET", "TOKEN", "PASSWORD", "PASSPHRASE")


class Redaction:
    """Takes secrets out of text and bytes."""

    def __init__(self, secrets: Iterable[str]) -> None:
        encoded = {secret.encode() for secret in secrets}
        self._secrets = sorted(
            (one for one in encoded if len(one) >= SECRET_BYTES_MIN), key=len, reverse=True
        )

    def __call__(self, text: str) -> str:
        """The same without them."""
        return self.bytes(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def bytes(self, data: bytes) -> bytes:
        """The same of bytes."""
        for secret in self._secrets:
            data = data.replace(secret, HIDDEN.encode())
        return data

    @property
    def bytes_max(self) -> int:
        """Of the longest of them."""
        return max(map(len, self._secrets), default=0)


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """The values of variables that hold secrets, as their names tell."""
    return [value for name, value in environment.items() if any(word in name for word in _SECRET_WORDS)]


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a program that needs neither the store nor the domain's key."""
    return {
        name: value
        for name, value in environment.items()
        if name != PASSPHRASE_VARIABLE and not name.startswith(_CREDENTIALS)
    }


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code (negative: a signal), None where its time was up.

    `left`: processes of it that do not even end by SIGKILL, as they wait for a disk or a mount.
    """

    exit_code: int | None
    seconds: float
    excerpt: str
    left: tuple[int, ...] = ()


def run_program(
    words: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    limit_seconds: float,
    hide: Redaction,
    clock: Clock,
) -> Ended:
    """Run a program to its end, or to its limit; whatever ends this, all that it started ends with it.

    Raises OSError where it cannot be started.
    """
    began_ns = clock.boottime_ns()
    code: int | None = None
    started: _Started | None = None
    data, left = b"", []
    with adopting(clock) as strays:
        try:
            with uninterrupted():  # one that was started and is not known yet would be left running
                started = _started(words, environment, directory, hide)
            code = started.process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if started is not None:
                _end_group(started.process)
                left = strays.end(KILL_SECONDS)
                data = started.tail.ended()
    seconds = (clock.boottime_ns() - began_ns) / 1e9
    return Ended(code, seconds, data[-EXCERPT_BYTES_MAX:].decode(errors="replace"), tuple(left))


@dataclass(frozen=True, slots=True)
class _Started:
    process: subprocess.Popen[bytes]
    tail: _Tail


def _started(
    words: Sequence[str], environment: Mapping[str, str], directory: Path, hide: Redaction
) -> _Started:
    process = subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
    )
    assert process.stdout is not None
    return _Started(process, _Tail(process.stdout, hide))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a group, its leader gone or not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Tail:
    """The end of what comes out of a pipe, read by a thread, so that nobody who writes has to wait."""

    def __init__(self, pipe: IO[bytes], hide: Redaction) -> None:
        self._pipe = pipe
        self._hide = hide
        # Nothing is let go of before secrets are out of it, and of the last one half may be still to come.
        self._bytes_max = EXCERPT_BYTES_MAX + hide.bytes_max
        self._data = b""
        self._thread = threading.Thread(target=self._read, name="output", daemon=True)
        self._thread.start()

    def ended(self) -> bytes:
        """What came last. One who keeps the pipe open and does not end is not waited for."""
        self._thread.join(KILL_SECONDS)
        if not self._thread.is_alive():
            self._pipe.close()
        return self._data

    def _read(self) -> None:
        fd = self._pipe.fileno()
        while data := os.read(fd, _READ_BYTES):
            self._data = self._hide.bytes(self._data + data)[-self._bytes_max :]
