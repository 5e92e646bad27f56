"""What is mounted within a tree: a mount that came or went must never look like a deletion of what is below.

The index remembers which directories of a tree are mount points, and of what, as it was when the container
was told of what is below them. A directory where that is another thing now is not gone into, and nothing is
said of it, unless the container has nothing below: then nothing can be lost, and it is remembered as it is.
Whoever opens a directory asks here, with the descriptor by which he goes on: so nothing comes in between. The
kernel's table of mounts only says where to look. What becomes of the tree does not belong here (tree.py).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
from pathlib import Path
from typing import Final, Protocol

from cdp_agent.watcher.index import NameRow

MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
NO_MOUNT: Final = b""
"""The identity of what is no mount point."""

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BYTES: Final = 256
_ATTRIBUTES: Final = slice(8, 16)
_ATTRIBUTES_MASK: Final = slice(56, 64)
_MOUNT_ROOT: Final = 0x2000
_MOUNT_POINT_FIELD: Final = 4
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class MountChanged(OSError):
    """A directory is another mount point than it was, or none any more, and the container has names below.

    Attributes:
        path: of the mount point, in its tree.
        found: the identity of what is there now, NO_MOUNT where nothing is mounted.
    """

    def __init__(self, path: bytes, found: bytes, why: str) -> None:
        super().__init__(errno.EXDEV, why)
        self.path = path
        self.found = found

    @property
    def why(self) -> str:
        """In words."""
        return self.strerror or ""


class Told(Protocol):
    """What `Index` says of mounts, and of what the container has below a directory."""

    def mounts(self, tree: int) -> dict[bytes, bytes]: ...  # noqa: D102

    def put_mount(self, tree: int, path: bytes, identity: bytes) -> None: ...  # noqa: D102

    def remove_mount(self, tree: int, path: bytes) -> None: ...  # noqa: D102

    def has_below(self, tree: int, path: bytes) -> bool: ...  # noqa: D102

    def name(self, tree: int, path: bytes) -> NameRow | None: ...  # noqa: D102


def identity_of(fd: int, found: os.stat_result) -> bytes:
    """What tells an open directory from another one that is mounted in its place, over reboots."""
    # Not the device's number: another disk gets that of the one before, and a new boot numbers anew.
    return b"%d %d" % (found.st_ino, os.fstatvfs(fd).f_fsid)


class Mounts:
    """The mount points of one tree, while its root is open.

    Args:
        told: the index.
        tree: the tree's number in it.
        accepted: what an operator accepted, by path: the identity that was there; it is taken out when used.
        accepts_all: whatever is there is right, because the operator accepted the tree as it is.
    """

    def __init__(
        self, told: Told, tree: int, accepted: dict[bytes, bytes] | None = None, accepts_all: bool = False
    ) -> None:
        self._told = told
        self._tree = tree
        self._accepted = {} if accepted is None else accepted
        self.accepts_all = accepts_all
        self._noted = told.mounts(tree)
        libc = ctypes.CDLL(None, use_errno=True)
        self._statx = getattr(libc, "statx", None)
        if self._statx is not None:
            self._statx.argtypes = (
                ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
            )  # fmt: skip
        self._buffer = ctypes.create_string_buffer(_STATX_BYTES)

    def check(self, path: bytes, fd: int, parent: int, is_foreign: bool) -> None:
        """Say whether the directory that was opened is what the container was told of.

        Args:
            path: in the tree; not its root.
            fd: the directory.
            parent: its own directory.
            is_foreign: the tree does not go into it.

        Raises:
            MountChanged: it is not.
            OSError: it cannot be told.
        """
        found = identity_of(fd, os.fstat(fd)) if self._is_mount(fd, parent) else NO_MOUNT
        noted = self._noted.get(path, NO_MOUNT)
        if noted == found:
            return
        if self._told.has_below(self._tree, path) and not self._may_be(path, fd, found, is_foreign):
            raise MountChanged(path, found, _words(path, noted, found))
        self._note(path, found)

    def leave(self, path: bytes) -> None:
        """A directory is gone, with all that is below. Raises MountChanged: something was mounted there."""
        for mount, noted in self._at_or_below(path).items():
            is_known = self.accepts_all or self._accepted.get(mount) == NO_MOUNT
            if not is_known and self._told.has_below(self._tree, mount):
                raise MountChanged(mount, NO_MOUNT, _words(mount, noted, NO_MOUNT))
        self.drop(path)

    def drop(self, path: bytes) -> None:
        """What was mounted at or below a path does not count any more."""
        for mount in self._at_or_below(path):
            self._note(mount, NO_MOUNT)

    def _at_or_below(self, path: bytes) -> dict[bytes, bytes]:
        return {
            mount: noted
            for mount, noted in self._noted.items()
            if mount == path or mount.startswith(path + b"/")
        }

    def _may_be(self, path: bytes, fd: int, found: bytes, is_foreign: bool) -> bool:
        """Whether it is right although it is not what was noted."""
        if self.accepts_all or self._accepted.get(path) == found:
            return True
        # An index that was made anew knows no mounts; an empty one is taken for what was not mounted.
        row = self._told.name(self._tree, path)
        is_new_here = row is not None and row.is_certain and not row.stamp
        return is_new_here and bool(found) and not is_foreign and not _is_empty(fd)

    def _note(self, path: bytes, found: bytes) -> None:
        self._accepted.pop(path, None)
        if found:
            self._noted[path] = found
            self._told.put_mount(self._tree, path, found)
        elif self._noted.pop(path, None) is not None:
            self._told.remove_mount(self._tree, path)

    def _is_mount(self, fd: int, parent: int) -> bool:
        if self._statx is not None and self._statx(fd, b"", _AT_EMPTY_PATH, 0, self._buffer) == 0:
            said = self._buffer.raw
            if int.from_bytes(said[_ATTRIBUTES_MASK], "little") & _MOUNT_ROOT:
                return bool(int.from_bytes(said[_ATTRIBUTES], "little") & _MOUNT_ROOT)
        # A kernel before 5.8: a directory that is mounted elsewhere on its own file system is not seen.
        return os.fstat(fd).st_dev != os.fstat(parent).st_dev


def _is_empty(fd: int) -> bool:
    listing = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        return not os.listdir(listing)
    finally:
        os.close(listing)


def _words(path: bytes, noted: bytes, found: bytes) -> str:
    where = ascii(os.fsdecode(path))
    if not found:
        return f"what was mounted at {where} is not: mount it, or accept the tree without it"
    if noted:
        return f"another file system than before is mounted at {where}: mount the right one, or accept it"
    return f"something was mounted over {where}, which had content: unmount it, or accept it"


class MountTable:
    """The kernel's table of mounts: where some came or went since it was looked at last. Never fails."""

    def __init__(self, table: Path = MOUNT_TABLE) -> None:
        self._table = table
        self._poll = select.poll()
        self._known: set[tuple[bytes, bytes]] = set()
        try:
            self._fd = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # scans find what is mounted without it
            return
        self._poll.register(self._fd, select.POLLPRI | select.POLLERR)
        self._poll.poll(0)
        self._known = self._read()

    def changed(self) -> list[bytes]:
        """The mount points where something came or went, as whole paths."""
        if self._fd < 0 or not self._poll.poll(0):
            return []
        before, self._known = self._known, self._read()
        return sorted({point for point, _ in before ^ self._known})

    def close(self) -> None:
        """Let go of the table."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> set[tuple[bytes, bytes]]:
        """Every mount as its point and its id."""
        try:
            lines = self._table.read_bytes().splitlines()
        except OSError:
            return self._known  # as above
        fields = (line.split(b" ") for line in lines)
        return {
            (_OCTAL.sub(_byte, parts[_MOUNT_POINT_FIELD]), parts[0])
            for parts in fields
            if len(parts) > _MOUNT_POINT_FIELD
        }


def _byte(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])


def path_below(point: bytes, top: bytes) -> bytes | None:
    """The path of a mount point in the tree at this directory; None where it is not below it."""
    start = top.rstrip(b"/") + b"/"
    return point[len(start) :] if point.startswith(start) and len(point) > len(start) else None
