"""carried.json: which cut the volumes of a journal directory hold, put there by another than its agent.

A failover or failback writes it after its last fsync; the first `cdp-agent run` after it believes it only
where every fact of a volume still fits, and removes it. What that means for the container does not belong
here (the streamer's `resume`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from cdp_container.domain.durable import read_file, remove_file, replace_file, sync_directory
from cdp_container.errors import BackingUnreadable, CdpError, ConfigInvalid
from cdp_container.format.place import Place, is_place

CARRIED_NAME: Final = "carried.json"
BELIEVED_NAME: Final = "carried-believed.json"
"""What carried.json becomes when a `run` believed it: its splitter looks again before it opens the disks."""
CARRIED_FORMAT: Final = 1
CARRIED_BYTES_MAX: Final = 1024 * 1024
NO_CTIME: Final = 0
"""Of a device: its node does not tell when the device was written, so it never fits and is compared."""


@dataclass(frozen=True, slots=True)
class CarriedVolume:
    """A volume as it was when it held the cut. `space`: 16 bytes; `ctime_ns`: of its inode, nanoseconds."""

    space: bytes
    path: str
    size_bytes: int
    inode: int
    ctime_ns: int

    @property
    def can_be_known(self) -> bool:
        """Whether a later look can tell that nobody wrote to it."""
        return self.ctime_ns != NO_CTIME

    @property
    def is_untouched(self) -> bool:
        """Whether it is known that nobody wrote to it since."""
        try:
            return self.can_be_known and look_at(self.path, self.space) == self
        except BackingUnreadable:
            return False


@dataclass(frozen=True, slots=True)
class Carried:
    """What carried.json holds: the domain (16 bytes), the cut, and every volume that holds it."""

    domain: bytes
    place: Place
    volumes: tuple[CarriedVolume, ...]


def look_at(path: str, space: bytes) -> CarriedVolume:
    """A volume as it is now. Raises BackingUnreadable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            size_bytes = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
    except OSError as error:
        raise BackingUnreadable(f"cannot open {path}", error.strerror or "unreadable") from error
    ctime_ns = status.st_ctime_ns if stat.S_ISREG(status.st_mode) else NO_CTIME
    return CarriedVolume(space, path, size_bytes, status.st_ino, ctime_ns)


def save_carried(directory: Path, carried: Carried) -> None:
    """Replace carried.json; on stable storage when this returns. Raises LocalDiskFull, CdpError."""
    replace_file(directory / CARRIED_NAME, _encode(carried))


def load_carried(directory: Path, name: str = CARRIED_NAME) -> Carried | None:
    """carried.json of a journal directory, None where there is none. Raises ConfigInvalid."""
    data = read_file(path := directory / name, CARRIED_BYTES_MAX)
    return None if data is None else _decode(data, str(path))


def load_believed(directory: Path) -> Carried | None:
    """What the first `run` found in carried.json. Raises ConfigInvalid."""
    return load_carried(directory, BELIEVED_NAME)


def believe_carried(directory: Path) -> None:
    """Rename carried.json, durably: no later `run` takes it for news. Raises CdpError."""
    try:
        (directory / CARRIED_NAME).rename(directory / BELIEVED_NAME)
        sync_directory(directory)
    except OSError as error:
        raise _failed(directory, error) from error


def drop_carried(directory: Path) -> None:
    """Remove carried.json, durably; none at all is no error. Raises CdpError."""
    remove_file(directory / CARRIED_NAME)


def _failed(directory: Path, error: OSError) -> CdpError:
    what = f"cannot remove {directory / CARRIED_NAME}"
    return CdpError(what, error.strerror or "input/output error", "check the directory and its permissions")


def _encode(carried: Carried) -> bytes:
    place = carried.place
    document = {
        "format": CARRIED_FORMAT,
        "domain": carried.domain.hex(),
        "place": [place.epoch, place.cut, place.seq],
        "volumes": [volume_members(volume) for volume in carried.volumes],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _decode(data: bytes, name: str) -> Carried:
    try:
        document = orjson.loads(data)
        if document["format"] != CARRIED_FORMAT:
            why = f"its format is {document['format']!r}, ours {CARRIED_FORMAT}"
            raise ConfigInvalid(f"{name} is refused", why, "remove it: everything is compared then")
        return Carried(
            domain=bytes.fromhex(document["domain"]),
            place=parse_place(document["place"]),
            volumes=tuple(parse_volume(volume) for volume in document["volumes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        why = f"it is damaged ({type(error).__name__})"
        raise ConfigInvalid(f"{name} is refused", why, "remove it: everything is compared then") from error


def parse_place(numbers: list[Any]) -> Place:
    """The place of three numbers, as those files hold it. Raises ValueError, TypeError."""
    epoch, cut, seq = (int(number) for number in numbers)
    place = Place(epoch, cut, seq)
    if min(epoch, cut, seq) < 0 or not is_place(place):
        raise ValueError("no place")
    return place


def volume_members(volume: CarriedVolume) -> dict[str, Any]:
    """A volume as carried.json and failback.json hold it."""
    return {
        "space": volume.space.hex(),
        "path": volume.path,
        "size_bytes": volume.size_bytes,
        "inode": volume.inode,
        "ctime_ns": volume.ctime_ns,
    }


def parse_volume(volume: dict[str, Any]) -> CarriedVolume:
    """The volume of such members. Raises ValueError, KeyError, TypeError."""
    return CarriedVolume(
        space=bytes.fromhex(volume["space"]),
        path=str(volume["path"]),
        size_bytes=int(volume["size_bytes"]),
        inode=int(volume["inode"]),
        ctime_ns=int(volume["ctime_ns"]),
    )
