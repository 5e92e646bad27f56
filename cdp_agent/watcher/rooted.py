"""Going into a tree by descriptors: from its root down, never through a link, never onto another file system.

A directory that is open is used again only while the kernel says that it is still at its path: one that was
moved meanwhile is another directory's place, or nobody's. All is let go of after a pass. What is found there
is decided by others.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Final

from cdp_agent.watcher.mounts import Mounts, identity_of

DIRECTORIES_MAX: Final = 128
"""Directories that are held open at once."""
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_NO_XATTRS: Final = frozenset({errno.EOPNOTSUPP, errno.ENODATA, errno.EINVAL})
_DELETED: Final = b" (deleted)"
"""What the kernel puts behind the path of a directory that is gone."""
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})


def is_gone(error: OSError) -> bool:
    """Whether an error only says that nothing of the tree is there (any more)."""
    return isinstance(error, Foreign) or error.errno in _GONE


class Foreign(OSError):
    """A directory of another file system, into which the tree does not go."""


class Root:
    """An open root of a tree. Raises OSError where it cannot be opened, or is no directory.

    Args:
        path: of the root; it may be reached through links.
        one_file_system: what lies on other file systems does not belong to the tree.
        mounts: what is mounted in it; None: whatever is there is gone into.
    """

    def __init__(self, path: Path, one_file_system: bool, mounts: Mounts | None = None) -> None:
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.stat = os.fstat(self.fd)
        self.device = self.stat.st_dev
        self._one = one_file_system
        self.mounts = mounts
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._top = b""

    def identity(self) -> bytes:
        """What tells this directory from another one that is mounted in its place, over reboots."""
        return identity_of(self.fd, self.stat)

    def close(self) -> None:
        """Let go of everything."""
        self.let_go()
        os.close(self.fd)

    def let_go(self) -> None:
        """Forget where directories are: they may have been moved since."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def directory(self, path: bytes) -> int:
        """A descriptor for what is below the directory that is at this path now; valid until the next call.

        Raises OSError: it is gone, no directory (any more), or foreign. MountChanged: it, or one above it, is
        not what the container was told of.
        """
        at, fd = len(path), self.fd
        while at > 0:
            if path[:at] in self._open:
                fd = self._open[path[:at]]
                if self._is_at(fd, path[:at]):
                    self._open.move_to_end(path[:at])
                    break
                self.let_go()
                fd = self.fd
            at = path.rfind(b"/", 0, at)
        at = max(at, 0)
        for name in path[at:].split(b"/"):
            if name:
                at = path.index(name, at) + len(name)
                fd = self._enter(fd, path[:at], name)
        return fd

    def _is_at(self, fd: int, path: bytes) -> bool:
        """Whether an open directory is still at its path: who moved it may have been heard of already."""
        if path.endswith(_DELETED):
            return False
        try:
            there = _path_of(fd)
            if there == self._top + path:
                return True
            self._top = _path_of(self.fd).rstrip(b"/") + b"/"
        except OSError:
            return False  # it is longer than the kernel tells
        return there == self._top + path

    def _enter(self, parent: int, path: bytes, name: bytes) -> int:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            is_foreign = self._one and os.fstat(fd).st_dev != self.device
            if self.mounts is not None:
                self.mounts.check(path, fd, parent, is_foreign)
            if is_foreign:
                raise Foreign(errno.EXDEV, "another file system")
        except BaseException:
            os.close(fd)
            raise
        self._open[path] = fd
        if len(self._open) > DIRECTORIES_MAX:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return fd

    def lstat(self, path: bytes) -> os.stat_result | None:
        """What is at a path; None where there is nothing, or nothing of this tree. Raises OSError."""
        if not path:
            return os.fstat(self.fd)
        parent, _, name = path.rpartition(b"/")
        try:
            return os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
        except OSError as error:
            if is_gone(error):
                return None
            raise

    def stat_directory(self, path: bytes, found: os.stat_result) -> os.stat_result:
        """What is said of a directory, of which `lstat` said this; MountChanged as in `directory`."""
        if not path:
            return found
        try:
            return os.fstat(self.directory(path))
        except Foreign:
            return found

    def is_foreign(self, found: os.stat_result) -> bool:
        """Whether a directory is the root of another file system, into which the tree does not go."""
        return self._one and stat.S_ISDIR(found.st_mode) and found.st_dev != self.device

    def open_listing(self, path: bytes) -> int:
        """A descriptor to list a directory by; the caller closes it. Raises OSError, Foreign."""
        return os.open(b".", _LISTING, dir_fd=self.directory(path))

    def open_file(self, path: bytes) -> int:
        """A descriptor to read a file by, whose access time stays; the caller closes it. Raises OSError."""
        parent, _, name = path.rpartition(b"/")
        fd = self.directory(parent)
        try:
            return os.open(name, _READING | os.O_NOATIME, dir_fd=fd)
        except PermissionError:
            return os.open(name, _READING, dir_fd=fd)  # only its owner may leave the access time as it is

    def readlink(self, path: bytes) -> bytes:
        """The target of a link. Raises OSError."""
        parent, _, name = path.rpartition(b"/")
        return os.fsencode(os.readlink(name, dir_fd=self.directory(parent)))

    def xattrs(self, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """The extended attributes of what is at a path, sorted; none where there are none. Raises OSError."""
        parent, _, name = path.rpartition(b"/")
        where = b"/proc/self/fd/%d" % (self.directory(parent) if path else self.fd)
        if path:
            where += b"/" + name
        try:
            keys = os.listxattr(where, follow_symlinks=not path)
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return ()
            raise
        found = []
        for key in sorted(keys):
            try:
                found.append((os.fsencode(key), os.getxattr(where, key, follow_symlinks=not path)))
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise
        return tuple(found)


def _path_of(fd: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % fd)
