"""failover.json: how far a failover is, in the journal directory of the site that takes over.

The same command goes on where it was: what was claimed is claimed again by our nonce, what was restored is
not restored twice, and from `prepared` on only the agent has to be started. What is done does not belong here
(`rehydrate.failover`), nor the agent's own files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.durable import remove_file, replace_file
from cdp_container.errors import AlreadyRunning, CdpError, ConfigInvalid
from cdp_container.format.place import NOWHERE, Place

NOTE_NAME: Final = "failover.json"
NOTE_FORMAT: Final = 1
NOTE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FailoverNote:
    """How far it is.

    Attributes:
        domain: 16 bytes. site: the one that takes over.
        began_ns: wall clock at its first start.
        left_ns: by the store's clock, when the owner before last said that it lives.
        released: it had given the domain to this site: nothing that it was asked to write is missing.
        hooked: the command of --before was run.
        epoch: that was activated, 0 before that; with its base, and the end of the epoch before.
        owned_ns: by the store's clock, when that was.
        cut_time_ns: wall clock at which the base was cut, 0 before it was read.
        lease_seconds: of the site before, as its agent's configuration has it; 0 where nobody can tell.
        prepared: everything is durable: disks, trees, agent.json, configuration, carried.json.
        served_ns: wall clock when the exports were open first, where VMs were to be started then; else 0.
        trees: ids (hex) and directories of the trees that were begun to be written; what is there is ours.
        booted: where VMs were begun to be started, in words (hypervisor and directory); empty before that.
    """

    domain: bytes
    site: str
    began_ns: int
    left_ns: int = 0
    released: bool = False
    hooked: bool = False
    epoch: int = 0
    base: Place = NOWHERE
    end: Place = NOWHERE
    owned_ns: int = 0
    cut_time_ns: int = 0
    lease_seconds: int = 0
    prepared: bool = False
    served_ns: int = 0
    trees: tuple[tuple[str, str], ...] = ()
    booted: str = ""


def load_note(directory: Path) -> FailoverNote | None:
    """The note of an interrupted failover, None where there is none. Raises ConfigInvalid."""
    path = directory / NOTE_NAME
    try:
        with path.open("rb") as file:
            members = orjson.loads(file.read(NOTE_BYTES_MAX + 1))
        if members.pop("format") != NOTE_FORMAT:
            raise ConfigInvalid(f"{path} is refused", "its format is another one than ours")
        base, end = (Place(*map(int, members.pop(name))) for name in ("base", "end"))
        trees = tuple((str(tree), str(path)) for tree, path in members.pop("trees", ()))
        domain = bytes.fromhex(members.pop("domain"))
        return FailoverNote(domain, base=base, end=end, trees=trees, **members)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}", error.strerror or "unreadable") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"it is damaged ({type(error).__name__})"
        hint = "remove it with the rest of the directory, if nothing was served from there; then start anew"
        raise ConfigInvalid(f"{path} is refused", why, hint) from error


def save_note(directory: Path, note: FailoverNote) -> None:
    """Replace the note, durably. Raises LocalDiskFull, CdpError."""
    members = {
        "format": NOTE_FORMAT,
        "domain": note.domain.hex(),
        "site": note.site,
        "began_ns": note.began_ns,
        "left_ns": note.left_ns,
        "released": note.released,
        "hooked": note.hooked,
        "epoch": note.epoch,
        "base": list(astuple(note.base)),
        "end": list(astuple(note.end)),
        "owned_ns": note.owned_ns,
        "cut_time_ns": note.cut_time_ns,
        "lease_seconds": note.lease_seconds,
        "prepared": note.prepared,
        "served_ns": note.served_ns,
        "trees": [list(tree) for tree in note.trees],
        "booted": note.booted,
    }
    replace_file(directory / NOTE_NAME, orjson.dumps(members, option=orjson.OPT_INDENT_2))


def change_note(directory: Path, change: Callable[[FailoverNote], FailoverNote]) -> FailoverNote:
    """Replace the note by what is made of it, so that two commands at once know of each other's changes.

    Gives what it is then. Raises AlreadyRunning: the failover is over; what `change`, load_note and save_note
    raise.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CdpError(f"cannot lock {directory}", error.strerror or "refused") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = load_note(directory)
        if before is None:
            why = "another command ended the failover meanwhile"
            raise AlreadyRunning(f"go on with the failover of {directory}", why, "look at what that one said")
        note = change(before)
        if note != before:
            save_note(directory, note)
        return note
    finally:
        os.close(fd)


def drop_note(directory: Path) -> None:
    """Remove the note, durably: the failover is over. Raises CdpError."""
    remove_file(directory / NOTE_NAME)
