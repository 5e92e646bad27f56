"""What a running `cdp-agent adopt` leaves in the journal directory for `status`: its lock, and how far it is.

Nothing else of adopting belongs here: `status` imports this, and is to be quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

LOCK_NAME: Final = "adopt.lock"
PROGRESS_NAME: Final = "adopt.json"
PROGRESS_BYTES_MAX: Final = 1024 * 1024


def load_progress(directory: Path) -> dict[str, Any]:
    """What an adoption wrote last; nothing where there is none, or it is not whole."""
    try:
        with (directory / PROGRESS_NAME).open("rb") as file:
            members = orjson.loads(file.read(PROGRESS_BYTES_MAX))
    except (OSError, orjson.JSONDecodeError):
        return {}
    return dict(members) if isinstance(members, dict) else {}
