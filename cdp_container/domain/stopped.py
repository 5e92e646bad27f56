"""stopped.json: what the disks of a journal directory looked like when their splitter ended, cleanly.

Whoever finds them so later knows that nobody wrote to them since, whatever the clocks showed meanwhile. It
speaks of one generation of the journal: a later one makes it void. What is done about a disk that was changed
does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.carried import CarriedVolume, parse_volume, volume_members
from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import ConfigInvalid

STOPPED_NAME: Final = "stopped.json"
STOPPED_FORMAT: Final = 1
STOPPED_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stopped:
    """A clean stop: the journal's generation, and every disk that was served, after its last sync."""

    generation: int
    volumes: tuple[CarriedVolume, ...]


def save_stopped(directory: Path, stopped: Stopped) -> None:
    """Replace stopped.json; on stable storage when this returns. Raises LocalDiskFull, CdpError."""
    document = {
        "format": STOPPED_FORMAT,
        "generation": f"{stopped.generation:016x}",
        "volumes": [volume_members(volume) for volume in stopped.volumes],
    }
    replace_file(directory / STOPPED_NAME, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def load_stopped(directory: Path) -> Stopped | None:
    """stopped.json of a journal directory, None where there is none. Raises ConfigInvalid."""
    path = directory / STOPPED_NAME
    data = read_file(path, STOPPED_BYTES_MAX)
    if data is None:
        return None
    try:
        document = orjson.loads(data)
        if document["format"] != STOPPED_FORMAT:
            raise ValueError("another format")
        volumes = tuple(parse_volume(volume) for volume in document["volumes"])
        return Stopped(int(document["generation"], 16), volumes)
    except (ValueError, KeyError, TypeError) as error:
        why = f"it is damaged ({type(error).__name__})"
        hint = "remove it, and say --compare-all in a failback: nothing else tells then who used the disks"
        raise ConfigInvalid(f"{path} is refused", why, hint) from error
