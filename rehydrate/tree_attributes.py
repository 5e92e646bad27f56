"""Owners, modes, times and attributes of what was restored: set by descriptors; what could not be is told.

Without root much cannot be set; that is counted and listed, never passed over. What is set when does not
belong here (tree_target).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cdp_container.format.names import Name, NameType, Xattr

LISTED_MAX: Final = 100
"""Names that are listed with what could not be set; more are counted."""

OWNER: Final = "owner"
MODE: Final = "mode"
XATTR: Final = "xattr"
NODE: Final = "node"
TIME: Final = "time"

_DENIED: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENOSPC, errno.E2BIG}
)
_KERNELS: Final = b"security."
"""Labels that the target's own policy gives: those that the container does not know stay."""
_SPECIAL: Final = stat.S_ISUID | stat.S_ISGID


@dataclass(slots=True)
class NotSet:
    """What could not be set: how often each kind, and the first LISTED_MAX as (path, kind, why)."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[tuple[bytes, str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, path: bytes, kind: str, why: str) -> None:
        """Note one; may be called from several threads."""
        with self._lock:
            self.counts[kind] += 1
            if len(self.listed) < LISTED_MAX:
                self.listed.append((path, kind, why))


@dataclass(frozen=True, slots=True)
class Me:
    """As whom we run: what a file that we make gets by itself."""

    uid: int
    gid: int

    def owns(self, name: Name) -> bool:
        """Whether a new file has the right owner already."""
        return (name.uid, name.gid) == (self.uid, self.gid)


class Attributes:
    """Sets the attributes of one name after another."""

    def __init__(self, not_set: NotSet, me: Me) -> None:
        self.not_set = not_set
        self.me = me

    def make_plain(self, directory: int) -> None:
        """Undo what a new directory got from the one above it: group and ACLs."""
        for key in os.listxattr(directory):
            if not os.fsencode(key).startswith(_KERNELS):
                os.removexattr(directory, key)
        os.chown(directory, self.me.uid, self.me.gid)
        os.chmod(directory, 0o700)

    def set_open(self, path: bytes, fd: int, name: Name, is_new: bool = True) -> None:
        """Everything of an open file or directory; `is_new`: we made it, in a directory that we made."""
        owned = is_new and self.me.owns(name)
        if is_new and not name.xattrs and not name.mode & _SPECIAL and self._set_plainly(fd, name, owned):
            return
        if not owned:
            with self._noting(path, OWNER) as done:
                os.chown(fd, name.uid, name.gid)
            owned = done.well
        if name.xattrs or not is_new:
            self._set_xattrs(path, fd, name)
        mode = name.mode
        if mode & _SPECIAL and not owned:
            mode &= ~_SPECIAL  # else somebody else's rights would be ours to give
            self.not_set.add(path, MODE, "set-user-id and set-group-id go with the owner")
        with self._noting(path, MODE):
            os.chmod(fd, mode)
            if mode & _SPECIAL and stat.S_IMODE(os.fstat(fd).st_mode) != mode:
                self.not_set.add(path, MODE, "the kernel took set-user-id or set-group-id away")
        with self._noting(path, TIME):
            os.utime(fd, ns=(name.mtime_ns, name.mtime_ns))

    def _set_plainly(self, fd: int, name: Name, owned: bool) -> bool:
        """A file like most, all in few calls; False where one was refused: then each is tried by itself."""
        try:
            if not owned:
                os.chown(fd, name.uid, name.gid)
            os.chmod(fd, name.mode)
            os.utime(fd, ns=(name.mtime_ns, name.mtime_ns))
        except OSError:
            return False
        return True

    def set_named(self, path: bytes, directory: int, base: bytes, name: Name) -> None:
        """Everything of a link or node, which is not opened; `base` is its name in `directory`."""
        fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            magic = b"/proc/self/fd/%d" % fd
            with self._noting(path, OWNER):
                os.chown(base, name.uid, name.gid, dir_fd=directory, follow_symlinks=False)
            if name.type is NameType.SYMLINK:
                magic = b"/proc/self/fd/%d/%s" % (directory, base)
                self._set_xattrs(path, magic, name, follow=False)
            else:
                self._set_xattrs(path, magic, name)
                with self._noting(path, MODE):
                    os.chmod(magic, name.mode)
            with self._noting(path, TIME):
                times = (name.mtime_ns, name.mtime_ns)
                os.utime(base, ns=times, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(fd)

    def _set_xattrs(self, path: bytes, target: int | bytes, name: Name, follow: bool = True) -> None:
        wanted = dict(name.xattrs)
        with self._noting(path, XATTR):
            there = [os.fsencode(key) for key in os.listxattr(target, follow_symlinks=follow)]
            for key in there:
                if key not in wanted and not key.startswith(_KERNELS):
                    os.removexattr(target, key, follow_symlinks=follow)
        for key, value in wanted.items():
            with self._noting(path, XATTR):
                os.setxattr(target, key, value, follow_symlinks=follow)

    @contextmanager
    def _noting(self, path: bytes, kind: str) -> Iterator[_Done]:
        done = _Done()
        try:
            yield done
        except OSError as error:
            if error.errno not in _DENIED:
                raise
            done.well = False
            self.not_set.add(path, kind, os.strerror(error.errno or 0))


@dataclass(slots=True)
class _Done:
    well: bool = True


def same_attributes(fd: int, name: Name) -> bool:
    """Whether an open file or directory has everything but its content already."""
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid, status.st_mtime_ns) != (name.uid, name.gid, name.mtime_ns):
        return False
    wanted = dict(name.xattrs)
    there = {key: value for key, value in xattrs_of(fd) if key in wanted or not key.startswith(_KERNELS)}
    return stat.S_IMODE(status.st_mode) == name.mode and there == wanted


def xattrs_of(fd: int) -> list[Xattr]:
    """The extended attributes of an open file; none where its file system has no such thing."""
    try:
        return [(os.fsencode(key), os.getxattr(fd, key)) for key in os.listxattr(fd)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def is_plain(directory: int) -> bool:
    """Whether what is made in a directory gets nothing from it, neither a group nor an ACL."""
    if os.fstat(directory).st_mode & stat.S_ISGID:
        return False
    return all(key != b"system.posix_acl_default" for key, _ in xattrs_of(directory))
