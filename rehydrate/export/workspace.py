"""What an export to a bucket keeps on this machine: which upload it is, and what of it was acknowledged.

    NAME.upload.json   the upload (replaced atomically); it goes when all that the command brings is there
    NAME.parts         a line for each part that the store acknowledged: number, ETag, SHA-256
    NAME               the image, where one is made

A line that was torn is passed over: its part is sent again. Nothing of the store belongs here (bucket).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cdp_container.domain.durable import read_file, remove_file, replace_file
from cdp_container.errors import TargetUnsuitable
from rehydrate.export.parts import Sent
from rehydrate.localio import lock_alone, os_errors

STATE_SUFFIX: Final = ".upload.json"
NOTES_SUFFIX: Final = ".parts"
LOCK_NAME: Final = "export.lock"
STATE_BYTES_MAX: Final = 64 << 10
NOTES_BYTES_MAX: Final = 16 << 20
"""10,000 parts, some of them more than once."""
_VERSION: Final = 1
_FIELDS: Final = 3
_DIGITS: Final = 64
"""Of a SHA-256; a line with fewer was torn."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What is uploaded, and to where: whoever goes on must mean the very same.

    Attributes:
        domain, point, volume: in hex, EPOCH.NUMBER, in hex.
        rests_on: the digest of what decides the content of the point.
        image: the kind of image, in words.
        size_bytes: of the disk in it.
        address: of the bucket, without secrets.
        key: of the object, in the bucket.
    """

    domain: str
    point: str
    volume: str
    rests_on: str
    image: str
    size_bytes: int
    address: str
    key: str


@dataclass(frozen=True, slots=True)
class Made:
    """An image that is whole in the workspace."""

    size_bytes: int
    sha256: str
    inode: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class State:
    """An upload. `nonce` stands in the object's metadata; `upload` is the store's id while it goes on."""

    identity: Identity
    nonce: str
    made: Made | None = None
    upload: str = ""
    part_bytes: int = 0


@contextmanager
def locked(workspace: Path) -> Iterator[None]:
    """The workspace, for one export at a time. Raises TargetUnsuitable, AlreadyRunning."""
    what = f"work in {workspace}"
    with os_errors(what):
        if not workspace.is_dir():
            raise TargetUnsuitable(what, "there is no such directory", "create it first")
        lock = workspace / LOCK_NAME
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            lock_alone(fd, lock, what)
        except BaseException:
            os.close(fd)
            raise
    try:
        yield
    finally:
        os.close(fd)


def read_state(workspace: Path, name: str) -> State | None:
    """What an interrupted export of it left. Raises TargetUnsuitable where it makes no sense."""
    path = workspace / f"{name}{STATE_SUFFIX}"
    data = read_file(path, STATE_BYTES_MAX)
    if data is None:
        return None
    try:
        members = json.loads(data)
        if len(data) > STATE_BYTES_MAX or members.pop("version") != _VERSION:
            raise ValueError(path)
        return _state(members)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{path} is not what an export of this release leaves"
        raise TargetUnsuitable(f"go on with {name}", why, "--restart discards it") from error


def _state(members: Mapping[str, Any]) -> State:
    rest = dict(members)
    identity, made = Identity(**rest.pop("identity")), rest.pop("made")
    return State(identity, made=None if made is None else Made(**made), **rest)


def write_state(workspace: Path, name: str, state: State) -> None:
    """Durably. Raises as `replace_file`."""
    members = {"version": _VERSION, **asdict(state)}
    replace_file(workspace / f"{name}{STATE_SUFFIX}", json.dumps(members, indent=2).encode())


def forget(workspace: Path, name: str, has_image: bool) -> None:
    """Everything of an export; what says that there is one goes last. `has_image`: see `clear`."""
    clear(workspace, name, has_image)
    remove_file(workspace / f"{name}{STATE_SUFFIX}")


def clear(workspace: Path, name: str, has_image: bool) -> None:
    """All but what says that there is an export.

    `has_image`: whether it makes one there; else a file of that name is somebody else's.
    """
    image = [name] if has_image else []
    for one in (f"{name}{NOTES_SUFFIX}", *image):
        remove_file(workspace / one)


def is_whole(path: Path, made: Made | None) -> bool:
    """Whether an image is the one that was noted, as far as can be seen."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    found = (status.st_size, status.st_ino, status.st_mtime_ns)
    return made is not None and found == (made.size_bytes, made.inode, made.modified_ns)


class Notes:
    """The parts that were acknowledged. Any thread may add one."""

    def __init__(self, workspace: Path, name: str) -> None:
        self.path = workspace / f"{name}{NOTES_SUFFIX}"
        self._lock = threading.Lock()

    def read(self) -> dict[int, Sent]:
        """All of them; of a part that was sent twice the later one."""
        data = read_file(self.path, NOTES_BYTES_MAX) or b""
        found: dict[int, Sent] = {}
        for line in data.decode(errors="replace").split("\n")[:-1]:
            words = line.split(" ")
            if (
                len(words) == _FIELDS
                and len(words[2]) == _DIGITS
                and words[0].isascii()
                and words[0].isdigit()
            ):
                found[int(words[0])] = Sent(int(words[0]), words[1], words[2])
        return found

    def add(self, sent: Sent) -> None:
        """Note one. After a power loss it may be lost, and its part is sent again. Raises LocalDiskFull."""
        assert " " not in sent.etag, sent
        line = f"{sent.number} {sent.etag} {sent.sha256}\n".encode()
        with self._lock, os_errors(f"write {self.path}"):
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.write(fd, line) != len(line):
                    os.write(fd, b"\n")
            finally:
                os.close(fd)

    def clear(self) -> None:
        """None any more."""
        remove_file(self.path)
