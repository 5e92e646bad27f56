"""notes.json: the few facts of an agent that must outlast its runs, replaced whole and durably.

The streamer is its one writer while an agent runs (`init` makes the first); the splitter reads it. What does
not belong here: journal positions, because a run resumes at what the container says and never at a local
note.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from cdp_container.domain.durable import read_file, replace_file
from cdp_container.errors import ConfigInvalid
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.shared import GateLevel

NOTES_NAME: Final = "notes.json"
NOTES_FORMAT: Final = 1
NOTES_BYTES_MAX: Final = 1024 * 1024
NONCES_MAX: Final = 1024
"""Owner nonces in one file: far above what one run can have in flight."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A volume that something fills from outside, as `cdp-agent adopt` does: it holds a part of a copy.

    Attributes:
        space: of the volume, 16 bytes.
        vm: the name of the VM whose disk is copied.
        began_ns: wall clock.
        ended: that is over, and the volume is whole from a cut on that was not protected yet.
    """

    space: bytes
    vm: str
    began_ns: int
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Notes:
    """What notes.json holds.

    Attributes:
        nonces: of `domain/owner`, each recorded before it was sent: the confirmed one and those whose outcome
            is not known. What `domain/owner` shows one of them was written by this agent. 16 bytes each.
        whole: ids of the spaces of which everything is in the container, or in the journal on its way there.
        episode: the newest one (`SplitterPage.episode`) after which everything in doubt was compared.
        fenced: why this site may not write any more, "" while it may.
        released_to: the site that this one gave the domain to, "" if none.
        releasing_to: the site that it is about to give it to, "" if none: guests write nothing any more.
        final: the cut that holds all that they wrote, None while that is not known. From when it is noted
            the release may have been sent, and the domain may be another's.
        release_began_ns, release_ended_ns: wall clock; 0 where it did not.
        carried: the cut that a failover or failback put onto the disks before the journal began, NOWHERE once
            a cut of this agent's own is protected: then positions tell where to go on.
    """

    nonces: tuple[bytes, ...] = ()
    whole: frozenset[bytes] = frozenset()
    episode: int = 0
    fenced: str = ""
    released_to: str = ""
    releasing_to: str = ""
    final: Place | None = None
    release_began_ns: int = 0
    release_ended_ns: int = 0
    carried: Place = NOWHERE
    filling: tuple[Filling, ...] = ()

    @property
    def gate(self) -> GateLevel:
        """What guests may do."""
        if self.released_to:
            return GateLevel.CLOSED
        return GateLevel.NO_WRITES if self.releasing_to else GateLevel.OPEN


def encode_notes(notes: Notes) -> bytes:
    """The bytes of notes.json."""
    assert len(notes.nonces) <= NONCES_MAX, len(notes.nonces)
    document = {
        "format": NOTES_FORMAT,
        "nonces": [nonce.hex() for nonce in notes.nonces],
        "whole": sorted(space.hex() for space in notes.whole),
        "episode": f"{notes.episode:016x}",
        "fenced": notes.fenced,
        "released_to": notes.released_to,
        "releasing_to": notes.releasing_to,
        "final": None if notes.final is None else list(astuple(notes.final)),
        "release_began_ns": notes.release_began_ns,
        "release_ended_ns": notes.release_ended_ns,
        "carried": list(astuple(notes.carried)),
        "filling": [
            {"space": one.space.hex(), "vm": one.vm, "began_ns": one.began_ns, "ended": one.ended}
            for one in notes.filling
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def decode_notes(data: bytes, name: str) -> Notes:
    """Parse notes.json; `name` is what errors call it. Raises ConfigInvalid."""
    try:
        document = orjson.loads(data)
        if document["format"] != NOTES_FORMAT:
            raise ConfigInvalid(
                f"{name} is refused", f"its format is {document['format']!r}, ours {NOTES_FORMAT}"
            )
        return Notes(
            nonces=tuple(bytes.fromhex(nonce) for nonce in document["nonces"][:NONCES_MAX]),
            whole=frozenset(bytes.fromhex(space) for space in document["whole"]),
            episode=int(document["episode"], 16),
            fenced=str(document["fenced"]),
            released_to=str(document["released_to"]),
            # Older files lack what follows.
            releasing_to=str(document.get("releasing_to", "")),
            final=_decode_place(document.get("final")),
            release_began_ns=int(document.get("release_began_ns", 0)),
            release_ended_ns=int(document.get("release_ended_ns", 0)),
            carried=_decode_place(document.get("carried")) or NOWHERE,
            filling=tuple(map(_decode_filling, document.get("filling", ()))),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(
            f"{name} is refused",
            f"it is damaged ({type(error).__name__})",
            "keep it as evidence and ask for help",
        ) from error


def _decode_filling(members: dict[str, Any]) -> Filling:
    space = bytes.fromhex(members["space"])
    return Filling(space, str(members["vm"]), int(members["began_ns"]), bool(members["ended"]))


def _decode_place(members: list[int] | None) -> Place | None:
    if members is None:
        return None
    epoch, cut, seq = members
    return Place(int(epoch), int(cut), int(seq))


def load_notes(directory: Path) -> Notes:
    """The notes of a journal directory, empty ones where there are none yet. Raises ConfigInvalid."""
    data = read_file(path := directory / NOTES_NAME, NOTES_BYTES_MAX)
    return Notes() if data is None else decode_notes(data, str(path))


def save_notes(directory: Path, notes: Notes) -> None:
    """Replace notes.json, whole or not at all; on stable storage when this returns.

    Raises LocalDiskFull, CdpError.
    """
    replace_file(directory / NOTES_NAME, encode_notes(notes))
