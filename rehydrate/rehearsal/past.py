"""The rehearsals of the past: a directory of their reports, to which files are only added.

Beyond a number the oldest go. What a report says stands in report.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdp_container.domain.durable import read_file, sync_directory
from cdp_container.errors import ConfigInvalid, DamagedObject, LimitExceeded, UsageError
from cdp_container.format.jsontext import load_object
from rehydrate.localio import os_errors

REHEARSALS_MAX: Final = 1_000
"""Kept in one history; the oldest go."""
REPORT_BYTES_MAX: Final = 16 << 20
NAME_BYTES: Final = 4
_NAME: Final = re.compile(r"[0-9]{20}-[0-9a-f]{8}\.json")
STATE_VARIABLE: Final = "XDG_STATE_HOME"

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Past:
    """One of them: its report, or why that cannot be read."""

    path: Path
    members: Mapping[str, Any] | None
    why: str = ""


def default_directory(environment: Mapping[str, str]) -> Path:
    """Where a user's history is. Raises UsageError where nothing tells."""
    state = environment.get(STATE_VARIABLE, "")
    if state.startswith("/"):
        return Path(state) / "cdp" / "rehearsals"
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        raise UsageError(
            "find the history of rehearsals", "neither XDG_STATE_HOME nor HOME is set", "say --history"
        )
    return Path(home) / ".local" / "state" / "cdp" / "rehearsals"


def prepare(directory: Path) -> None:
    """Make the directory, before anything is measured that could not be filed. Raises CdpError's kin."""
    with os_errors(f"make the history {directory}"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise UsageError("--history", f"{directory} cannot be written", "name another directory")


def add(directory: Path, members: Mapping[str, Any], entropy: Entropy) -> Path:
    """File a report, durably; the oldest beyond REHEARSALS_MAX go. Raises LocalDiskFull and its kin."""
    path = directory / f"{members['began_ns']:020}-{entropy(NAME_BYTES).hex()}.json"
    fresh = path.with_suffix(".new")
    with os_errors(f"file the rehearsal in {directory}"):
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(members, indent=1).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(fresh, path)  # unlike a rename, it replaces nothing
        finally:
            fresh.unlink(missing_ok=True)
        for old in _files(directory)[:-REHEARSALS_MAX]:
            old.unlink(missing_ok=True)
        sync_directory(directory)
    return path


def read_all(directory: Path) -> list[Past]:
    """All of a history, the oldest first; none where there is no directory yet."""
    if not directory.is_dir():
        return []
    with os_errors(f"read the history {directory}"):
        return [_read(path) for path in _files(directory)]


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _read(path: Path) -> Past:
    try:
        data = read_file(path, REPORT_BYTES_MAX)
        members = load_object(data or b"", REPORT_BYTES_MAX, str(path))
    except (DamagedObject, LimitExceeded, ConfigInvalid) as error:
        return Past(path, None, error.why)
    if members.get("what") != "dr-test" or not isinstance(members.get("outcome"), str):
        return Past(path, None, "it is no report of a DR-test")
    return Past(path, members)
