"""Who uses a file or device on this machine, as far as we may see. Linux: /proc and /sys.

What is done about it does not belong here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def users_of(path: Path, status: os.stat_result) -> list[str]:
    """Who has the file or device open, as far as we may see."""
    found = [f"{path} is attached as {loop}" for loop in _loops_on(path)]
    own = str(os.getpid())
    processes = [process for process in sorted(Path("/proc").glob("[0-9]*")) if process.name != own]
    users = [process for process in processes if _has_open(process, status)]
    return found + [f"{path} is open in process {user.name} ({_name_of(user)})" for user in users]


def _has_open(process: Path, status: os.stat_result) -> bool:
    try:
        entries = list(os.scandir(process / "fd"))
    except OSError:  # it ended, or is not ours to see
        return False
    for entry in entries:
        try:
            opened = os.stat(entry.path)
        except OSError:  # closed meanwhile
            continue
        if stat.S_ISBLK(status.st_mode):
            if stat.S_ISBLK(opened.st_mode) and opened.st_rdev == status.st_rdev:
                return True
        elif (opened.st_dev, opened.st_ino) == (status.st_dev, status.st_ino):
            return True
    return False


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "ended"


def _loops_on(path: Path) -> list[str]:
    found = []
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            attached = backing.read_text().strip()
        except OSError:  # detached meanwhile
            continue
        if attached == str(path):
            found.append(f"/dev/{backing.parent.parent.name}")
    return found
