"""serve.json of an overlay: which volumes of which point it is for, and how far it is; replaced durably.

Which blocks are here does not belong here (map_file).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import BackingUnreadable
from rehydrate.serve.map_file import BLOCK_BYTES

KEPT_FILE: Final = "serve.json"
VERSION: Final = 1
_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class KeptVolume:
    """A volume: its id, its name, what its files and its export are called, its size."""

    space: bytes
    name: str
    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What an overlay is for. `address`: of the container, without secrets; `hold`: the id of its hold.

    `is_made`: its files are there; before that nothing is in them. `is_finished`: everything is here.
    """

    domain: bytes
    address: str
    point: tuple[int, int]
    time_ns: int
    volumes: tuple[KeptVolume, ...]
    hold: str = ""
    is_made: bool = False
    is_finished: bool = False


def load_kept(directory: Path) -> Kept | None:
    """None where there is none. Raises BackingUnreadable: it cannot be understood; ConfigInvalid: or read."""
    path = directory / KEPT_FILE
    data = read_file(path, _BYTES_MAX)
    if data is None:
        return None
    what, hint = f"read {path}", "nothing was touched; serve into another, empty directory"
    try:
        members = orjson.loads(data)
        if members["version"] != VERSION or members["block_bytes"] != BLOCK_BYTES:
            raise BackingUnreadable(what, f"version {members['version']} is not known here", hint)
        return Kept(
            domain=bytes.fromhex(members["domain"]),
            address=str(members["address"]),
            point=(int(members["epoch"]), int(members["cut"])),
            time_ns=int(members["time_ns"]),
            volumes=tuple(
                KeptVolume(bytes.fromhex(one["id"]), one["name"], one["file"], int(one["size_bytes"]))
                for one in members["volumes"]
            ),
            hold=str(members["hold"]),
            is_made=members["made"] is True,
            is_finished=members["finished"] is True,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BackingUnreadable(what, f"it is damaged: {error}", hint) from error


def save_kept(directory: Path, kept: Kept) -> None:
    """Raises LocalDiskFull, CdpError: it could not be written; the old content is still there."""
    members = {
        "version": VERSION,
        "block_bytes": BLOCK_BYTES,
        "domain": kept.domain.hex(),
        "address": kept.address,
        "epoch": kept.point[0],
        "cut": kept.point[1],
        "time_ns": kept.time_ns,
        "volumes": [
            {"id": one.space.hex(), "name": one.name, "file": one.file, "size_bytes": one.size_bytes}
            for one in kept.volumes
        ],
        "hold": kept.hold,
        "made": kept.is_made,
        "finished": kept.is_finished,
    }
    replace_file(directory / KEPT_FILE, orjson.dumps(members, option=orjson.OPT_INDENT_2) + b"\n")
