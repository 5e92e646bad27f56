"""failback.json: a journal directory whose disks are on their way to another site's cut.

While it is there no agent may serve these disks: they may be half of one state and half of another. A
failback makes it before it changes the first byte, and removes it when they are the cut that this site goes
on from. How they come there does not belong here.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.carried import CarriedVolume, parse_place, parse_volume, volume_members
from cdp_container.domain.durable import read_file, remove_file, replace_file
from cdp_container.errors import ConfigInvalid
from cdp_container.format.place import NOWHERE, Place

FAILBACK_NAME: Final = "failback.json"
FAILBACK_FORMAT: Final = 1
FAILBACK_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FailbackNote:
    """How far a failback is.

    Attributes:
        evidence: the directory, within the journal directory, that the overtaken run's journal was moved to.
        fork: the cut that these disks and the other site's history have in common, NOWHERE if none is known.
        doubts: by space id, why nothing is known of a disk, until a pass has ended.
        at: the cut that the disks are, durably; NOWHERE before the first pass has ended.
        volumes: of each disk, how it looked when it was that cut.
        towards: the cut that they were written towards since; NOWHERE while nothing was.
        touched_ns: wall clock, at most a few seconds before the last write.
        trees_ns: wall clock before the first write to a tree since `at`; 0 while there was none.
    """

    evidence: str
    fork: Place = NOWHERE
    doubts: tuple[tuple[bytes, str], ...] = ()
    at: Place = NOWHERE
    volumes: tuple[CarriedVolume, ...] = ()
    towards: Place = NOWHERE
    touched_ns: int = 0
    trees_ns: int = 0


def save_failback(directory: Path, note: FailbackNote) -> None:
    """Replace failback.json; on stable storage when this returns. Raises LocalDiskFull, CdpError."""
    document = {
        "format": FAILBACK_FORMAT,
        "evidence": note.evidence,
        "fork": list(astuple(note.fork)),
        "doubts": [{"space": space.hex(), "why": why} for space, why in note.doubts],
        "at": list(astuple(note.at)),
        "volumes": [volume_members(volume) for volume in note.volumes],
        "towards": list(astuple(note.towards)),
        "touched_ns": note.touched_ns,
        "trees_ns": note.trees_ns,
    }
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    replace_file(directory / FAILBACK_NAME, data)


def load_failback(directory: Path) -> FailbackNote | None:
    """failback.json of a journal directory, None where there is none. Raises ConfigInvalid."""
    data = read_file(path := directory / FAILBACK_NAME, FAILBACK_BYTES_MAX)
    return None if data is None else _decode(data, str(path))


def drop_failback(directory: Path) -> None:
    """Remove failback.json, durably; none at all is no error. Raises CdpError."""
    remove_file(directory / FAILBACK_NAME)


def _decode(data: bytes, name: str) -> FailbackNote:
    try:
        document = orjson.loads(data)
        if document["format"] != FAILBACK_FORMAT:
            raise ValueError("another format")
        evidence = str(document["evidence"])
        if not evidence or "/" in evidence or evidence.startswith("."):
            raise ValueError("no name of a directory")
        return FailbackNote(
            evidence=evidence,
            fork=parse_place(document["fork"]),
            doubts=tuple((bytes.fromhex(one["space"]), str(one["why"])) for one in document["doubts"]),
            at=parse_place(document["at"]),
            volumes=tuple(parse_volume(one) for one in document["volumes"]),
            towards=parse_place(document["towards"]),
            touched_ns=int(document["touched_ns"]),
            trees_ns=int(document.get("trees_ns", 0)),
        )
    except (ValueError, KeyError, TypeError) as error:
        why = f"it is damaged ({type(error).__name__})"
        hint = (
            "keep it as evidence; restore the volumes with `rehydrate failover` into a new journal directory"
        )
        raise ConfigInvalid(f"{name} is refused", why, hint) from error
