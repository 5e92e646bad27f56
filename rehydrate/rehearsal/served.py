"""`rehydrate serve` as a process beside a rehearsal: volumes of its point for VMs, with throw-away overlays.

What it serves and how stands in rehydrate.serve. Its secret goes through a pipe, never over a command line.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.console import PASSPHRASE_VARIABLE
from cdp_container.errors import CdpError
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.processes import end_all, is_child_of
from rehydrate.container import Secret
from rehydrate.localio import os_errors
from rehydrate.serve.companion import PARENT_VARIABLE
from rehydrate.serve.control import ask

PROGRAM: Final = "rehydrate"
OPEN_SECONDS_MAX: Final = 600.0
"""Until the exports are open: the heads of the point are read first."""
STOP_SECONDS_MAX: Final = 30.0
"""From the word to end until it is killed."""
POLL_SECONDS: Final = 0.1
LOG_NAME: Final = "serve.log"
_LOG_BYTES_SHOWN: Final = 2000


@dataclass(slots=True)
class Served:
    """One that was started."""

    process: subprocess.Popen[bytes]
    overlay: Path
    log: Path

    def wait_until_open(self, clock: Clock) -> None:
        """Raises CdpError: it ended, or is not open in time."""
        until_ns = clock.boottime_ns() + int(OPEN_SECONDS_MAX * 1e9)
        while _status(self.overlay) is None:
            if self.process.poll() is not None:
                raise self._failed(f"it ended with exit code {self.process.returncode}")
            if clock.boottime_ns() >= until_ns:
                raise self._failed(f"its exports are not open after {OPEN_SECONDS_MAX:g} s")
            clock.sleep(POLL_SECONDS)

    def end(self) -> None:
        """End it, and wait until it has."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def _failed(self, why: str) -> CdpError:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _LOG_BYTES_SHOWN))
            lines = file.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error:")] or lines[-1:] or ["it said nothing"]
        return CdpError("serve volumes to the VMs", f"{why}: {errors[-1]}", "--content all needs no serving")


def start_serving(address: str, point: str, overlay: Path, secret: Secret) -> Served:
    """Start it, in a thread that stays: it ends with that. Raises CdpError, DeviceError."""
    beside = Path(sys.executable).with_name(PROGRAM)
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which(PROGRAM)
    if program is None:
        raise CdpError("serve volumes to the VMs", f"there is no {PROGRAM} on PATH", "install it there")
    with os_errors(f"make {overlay}"):
        overlay.mkdir(mode=0o700)
    log = overlay.with_name(LOG_NAME)
    words = [program, "serve", address, "--overlay", str(overlay), "--at", point]
    environment = {name: value for name, value in os.environ.items() if name != PASSPHRASE_VARIABLE}
    environment[PARENT_VARIABLE] = str(os.getpid())
    given = _piped(secret)
    try:
        words += [] if given is None else [given[0], f"/dev/fd/{given[1]}"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                pass_fds=() if given is None else (given[1],),
                start_new_session=True,
            )
    finally:
        if given is not None:
            os.close(given[1])
    return Served(process, overlay, log)


def _piped(secret: Secret) -> tuple[str, int] | None:
    """An option, and the end of a pipe out of which its file's text comes."""
    if secret.private_key is not None:
        option, text = "--key-file", secret.private_key.hex()
    elif secret.passphrase is not None:
        option, text = "--passphrase-file", secret.passphrase
    else:
        return None
    reading, writing = os.pipe()
    os.write(writing, text.encode() + b"\n")  # at most SECRET_BYTES_MAX: a pipe has room for it
    os.close(writing)
    return option, reading


def end_left(overlay: Path) -> None:
    """End a process that serves an overlay, if one does: it was left by a rehearsal that was killed.

    It is found by its arguments: it answers only once it has read the point's heads, and only as long as its
    directory is there. One whose rehearsal lives is of another, which has the same directory by now.
    Raises MachineFailed: it does not end.
    """

    def is_left(pid: int) -> bool:
        return not is_child_of(pid, PARENT_VARIABLE)

    pid = asyncio.run(end_all("--overlay", str(overlay), STOP_SECONDS_MAX, is_left))
    if pid is not None:
        raise MachineFailed(f"end what serves {overlay}", f"process {pid} does not end", "end it by hand")


def _status(overlay: Path) -> int | None:
    """The process that serves an overlay; None where none does."""
    try:
        members = ask(overlay, "status")
    except (OSError, ValueError):
        return None
    return None if members is None else int(members["pid"])
