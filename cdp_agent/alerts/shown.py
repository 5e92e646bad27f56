"""What is shown of alerts: the watch's own record, alerts.json, as `status` reads it.

Nothing that says alerts belongs here (`watch`, `hook`): `status` imports this, and is to be quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

ALERTS_NAME: Final = "alerts.json"
FACTS_BYTES_MAX: Final = 1024 * 1024


def shown_error(directory: Path) -> str:
    """What went wrong with the hook when it last ran, "" where nothing did."""
    try:
        return str(orjson.loads(read_shown(directory / ALERTS_NAME)).get("error", ""))
    except (orjson.JSONDecodeError, AttributeError):
        return ""


def read_shown(path: Path) -> bytes:
    """What a process shows in a file, b"" where it shows nothing."""
    try:
        with path.open("rb") as file:
            return file.read(FACTS_BYTES_MAX)
    except OSError:
        return b""
