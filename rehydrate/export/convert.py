"""Running `qemu-img convert`: watched while it works, ended with us, and its end made one of our errors.

What the image is made of does not belong here (volume), nor where it goes in the end (files).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

from cdp_container.console import printable
from cdp_container.errors import CdpError, ExportFailed, LocalDiskFull, TargetUnsuitable
from rehydrate.export.formats import Shape
from rehydrate.rehearsal.interrupts import uninterrupted
from rehydrate.rehearsal.programs import without_secrets

PROGRAM: Final = "qemu-img"
COROUTINES: Final = 8
"""Requests at once of qemu-img: the store is far away."""
LOOK_SECONDS: Final = 0.2
KILL_SECONDS: Final = 5.0
MESSAGE_BYTES_MAX: Final = 2048
"""Of what it said, for the message."""


def check_program() -> None:
    """Raises ExportFailed where qemu-img is not installed."""
    if shutil.which(PROGRAM) is None:
        why = f"{PROGRAM} is not installed here"
        raise ExportFailed("make an image", why, "install it (Debian: qemu-utils and qemu-block-extra)")


def command_of(address: str, target: Path, shape: Shape) -> list[str]:
    """The words that make an image of an export."""
    words = [PROGRAM, "convert", "-f", "raw", "-O", shape.driver]
    if shape.is_compressed:
        words.append("-c")
    else:
        words += ["-m", str(COROUTINES), "-W"]
    if shape.options:
        words += ["-o", ",".join(shape.options)]
    return [*words, address, str(target)]


def convert(
    address: str, target: Path, shape: Shape, environment: Mapping[str, str], watch: Callable[[], None]
) -> None:
    """Make the image; whatever ends this ends the program.

    Args:
        address: the export, for NBD clients.
        target: an absolute path where nothing is.
        shape: the kind of image.
        environment: of this process; secrets are taken out of it.
        watch: called all the time; what it raises ends the program.

    Raises:
        LocalDiskFull, TargetUnsuitable: it could not write the image.
        ExportFailed: it failed otherwise; also where reading failed, which who serves the export knows of.
    """
    assert target.is_absolute(), target
    check_program()
    with tempfile.TemporaryFile() as said:
        process: subprocess.Popen[bytes] | None = None
        try:
            with uninterrupted():  # one that was started and is not known yet would be left running
                process = _started(command_of(address, target, shape), environment, said)
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
                watch()
        finally:
            if process is not None:
                _end(process)
        if process.returncode:
            raise failure_of(process.returncode, _message(said), target)


def _started(words: list[str], environment: Mapping[str, str], said: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        env={**without_secrets(environment), "LC_ALL": "C"},
        start_new_session=True,  # Ctrl-C reaches us, and we end it
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)


def _message(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read(MESSAGE_BYTES_MAX).decode(errors="replace").strip()


def failure_of(code: int, message: str, target: Path) -> CdpError:
    """What the end of qemu-img means: its exit code (negative: a signal), and what it said."""
    what = f"make {target.name}"
    if "No space left on device" in message or "Disk quota exceeded" in message:
        return LocalDiskFull(what, message.splitlines()[0])
    if code == -signal.SIGXFSZ or "File too large" in message:
        return TargetUnsuitable(what, "the file system, or a limit, takes no file of this size")
    if code < 0:
        return ExportFailed(what, f"{PROGRAM} was ended by signal {-code}")
    return ExportFailed(what, printable(message) or f"{PROGRAM} ended with {code} and said nothing")
