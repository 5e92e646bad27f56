"""Mounts of `rehydrate mount` in tests: whether this machine can, and one that goes with its block.

What is shown in them does not belong here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_until

MOUNTED_SECONDS_MAX = 90.0
END_SECONDS_MAX = 90.0
_READY = ("mounted ", '{"event": "mounted"')


def missing_for_fuse() -> tuple[str, ...]:
    """What a mount lacks here, as a test names what it needs."""
    can = Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None
    # Without root it is fusermount3 that opens it; in a container without the device nobody can.
    can = can and (os.geteuid() != 0 or _opens())
    return () if can else ("a mount with FUSE",)


def missing_for_others() -> tuple[str, ...]:
    """What a mount by somebody else than root lacks here, where only root can become somebody else."""
    if os.geteuid() != 0:
        return ("root, who can become somebody else",)
    device = Path("/dev/fuse")
    others = device.exists() and device.stat().st_mode & 0o006 == 0o006
    return () if others else ("a /dev/fuse that is open to all, as it usually is",)


def _opens() -> bool:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@dataclass(slots=True)
class Mounted:
    """A `rehydrate mount` under way, and where."""

    process: subprocess.Popen[bytes]
    directory: Path
    log: Path

    def said(self) -> str:
        """What it said on stderr so far."""
        return self.log.read_text()

    def is_ready(self) -> bool:
        """Whether it can be read; a command that ended is an error."""
        assert self.process.poll() is None, self.said()
        return any(line.startswith(_READY) for line in self.said().splitlines())

    def wait(self) -> int:
        """Its exit code, once it ended."""
        return self.process.wait(END_SECONDS_MAX)


@contextmanager
def mounting(
    words: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path
) -> Iterator[Mounted]:
    """Run a command that mounts, until it has; whatever becomes of it, nothing stays mounted."""
    # What was started in the background may ignore Ctrl-C, and so would this.
    words = ["env", "--default-signal=INT", *words]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=dict(environment)
        )
    mounted = Mounted(process, directory, log)
    try:
        wait_until(mounted.is_ready, "it is mounted", MOUNTED_SECONDS_MAX)
        yield mounted
    finally:
        process.kill()
        process.wait(END_SECONDS_MAX)
        if is_mounted(directory):
            unmount(directory)


def is_mounted(directory: Path) -> bool:
    """Whether something is mounted there, be its program dead."""
    return any(line.split(" ")[4] == str(directory) for line in _mounts())


def unmount(directory: Path) -> None:
    """As anybody may who mounted it."""
    subprocess.run(["fusermount3", "-u", "-z", str(directory)], check=True)


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()
