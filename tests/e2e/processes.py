"""Commands with a time limit, and what /proc says of processes. What they are for does not belong here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_SECONDS_MAX = 60.0
CHILDREN = ("splitter", "streamer", "watcher")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it said for programs."""
        members: dict[str, Any] = json.loads(self.out)
        return members

    def must(self, code: int = 0) -> Done:
        """Itself, where it ended with this exit code."""
        assert self.code == code, f"exit code {self.code}, not {code}\n{self.out}{self.err}"
        assert "Traceback" not in self.err, self.err
        return self


def run(words: list[str], environment: Mapping[str, str], seconds_max: float = COMMAND_SECONDS_MAX) -> Done:
    """Run a command to its end, in a group of its own that dies with the time limit."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds_max)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Done(process.returncode, out, err)


def children_of(supervisor: int) -> dict[str, int]:
    """The living children of a supervisor by their names."""
    found = {}
    for pid, parent, state in processes():
        if parent == supervisor and state not in "ZX":
            words = command_line(pid)
            for name in CHILDREN:
                if f"{name}-process" in words:
                    found[name] = pid
    return found


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, state) of every process."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                yield int(path.name), int(fields[1]), fields[0]


def group_members(group: int) -> list[int]:
    """The living processes of a process group."""
    members = []
    for pid, _, state in processes():
        with contextlib.suppress(OSError):
            if state not in "ZX" and os.getpgid(pid) == group:
                members.append(pid)
    return members


def command_line(pid: int) -> list[str]:
    """The words by which a process was started, [] where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def is_gone(pid: int) -> bool:
    """Whether a process writes no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
