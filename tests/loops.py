"""Loop devices: real block devices that lie in files. What is done with them does not belong here."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

_CONTROL: Final = Path("/dev/loop-control")
_COMMAND_SECONDS: Final = 30


def missing_for_loops() -> tuple[str, ...]:
    """What this machine lacks to give us loop devices, in words."""
    if os.geteuid() != 0:
        return ("root, who alone may make loop devices",)
    if shutil.which("losetup") is None:
        return ("losetup",)
    return () if _gives_one() else ("loop devices, which this kernel or container does not give",)


def _gives_one() -> bool:
    if not _CONTROL.exists():
        return False
    with tempfile.NamedTemporaryFile(prefix="cdp-loop-") as file:
        file.truncate(1 << 20)
        try:
            _losetup("--detach", _losetup("--find", "--show", file.name))
        except subprocess.CalledProcessError:
            return False
    return True


@contextmanager
def loop_device(file: Path, size_bytes: int) -> Iterator[Path]:
    """A device of this size, all zeros, in a new file; detached at the end, whoever still has it open."""
    with file.open("xb") as made:
        made.truncate(size_bytes)
    device = Path(_losetup("--find", "--show", str(file)))
    with ExitStack() as stack:
        stack.callback(file.unlink)
        stack.callback(_losetup, "--detach", str(device))
        yield device


def grow(device: Path, file: Path, size_bytes: int) -> None:
    """Give a device of `loop_device` more bytes, which are zeros, while it is in use."""
    with file.open("r+b") as made:
        made.truncate(size_bytes)
    _losetup("--set-capacity", str(device))


def _losetup(*words: str) -> str:
    command = ["losetup", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    return done.stdout.strip()
