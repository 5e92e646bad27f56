"""What stands in a tree of a site that was overtaken, and in no cut: kept aside before it is changed.

What the container has need not be kept: a name that is there as one of the known cuts has it. Everything else
is moved to a directory of evidence, or copied where that is on another file system or the file is written in
place. Nothing there is ever written over. What the tree becomes does not belong here (tree_target).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cdp_container.domain.namespace import Entry, Namespace, Tree
from cdp_container.errors import TargetUnsuitable
from cdp_container.format.names import Name, NameType, shown
from rehydrate.localio import os_errors
from rehydrate.mounted import mount_below
from rehydrate.removal import remove_directory
from rehydrate.tree_attributes import same_attributes, xattrs_of

LEVELS_MAX: Final = 800
"""Directories one within the other that are gone through: each takes a descriptor and a call."""
LISTED_MAX: Final = 20
"""Paths that are named; more are counted."""
COPIED_AT_ONCE: Final = 1 << 20
_NO_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Known(Protocol):
    """Says how a path was at a cut that the container has."""

    def find(self, path: bytes) -> Name | None:
        """The name, if it was there."""
        ...


@dataclass(frozen=True, slots=True)
class KnownTree:
    """A tree at one cut; see `Known`."""

    namespace: Namespace
    tree: Tree

    def find(self, path: bytes) -> Name | None:
        """See `Known`."""
        found: Entry | None = self.namespace.find(self.tree, path)
        return None if found is None else found.what


class Evidence:
    """Where one pass keeps what one tree has beside the container.

    Args:
        folder: not there yet; made when there is something to be kept.
        earlier: those of passes before: what was copied there, and is as it was, is not copied again.
        known: the cuts that the directory may be.
        ours_ns: between which times (wall clock) an interrupted pass of ours wrote: what changed then was
            looked at before, or is ours. None where there was none.

    Attributes:
        kept: how many names were kept; the first of them are `listed`.
        mounts: the paths at which something is mounted: nothing there is ever moved or removed.
    """

    def __init__(
        self,
        folder: Path,
        known: Sequence[Known],
        ours_ns: tuple[int, int] | None = None,
        earlier: Sequence[Path] = (),
    ) -> None:
        self.folder = folder
        self._earlier = earlier
        self._known = known
        self._ours_ns = ours_ns
        self._has_folder = False
        self.mounts: frozenset[bytes] = frozenset()
        self.kept = 0
        self.listed: list[bytes] = []

    def removes(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        """Take a name away, with all that is below it; what is only here is moved aside.

        Raises TargetUnsuitable: something is mounted at it or below.
        """
        mount = mount_below(path, self.mounts)
        if mount is not None:
            raise in_the_way(self.folder, mount)
        if not stat.S_ISDIR(status.st_mode):
            if self._is_only_here(directory, path, base, status):
                self._move(directory, path, base)
            else:
                os.unlink(base, dir_fd=directory)
            return
        if not any(known.find(path) for known in self._known) and not self._is_ours(status):
            self._move(directory, path, base)
            return
        _refuse_deep(path)
        fd = os.open(base, _LISTING, dir_fd=directory)
        try:
            for found in os.listdir(fd):
                inner = os.fsencode(found)
                below = os.stat(inner, dir_fd=fd, follow_symlinks=False)
                self.removes(fd, path + b"/" + inner, inner, below)
        finally:
            os.close(fd)
        os.rmdir(base, dir_fd=directory)

    def changes(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        """A file is about to be written where it is: what is only here is copied aside."""
        if self._is_only_here(directory, path, base, status) and not self._was_copied(path, status):
            with self._kept(path) as target:
                _copy(directory, base, target)

    # --- what is known -------------------------------------------------------------------------------

    def _is_ours(self, status: os.stat_result) -> bool:
        return self._ours_ns is not None and self._ours_ns[0] < status.st_ctime_ns <= self._ours_ns[1]

    def _is_only_here(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> bool:
        if self._is_ours(status):
            return False
        names = [name for known in self._known if (name := known.find(path)) is not None]
        return not any(_is_as(directory, base, status, name) for name in names)

    def _was_copied(self, path: bytes, status: os.stat_result) -> bool:
        for folder in self._earlier:
            try:
                found = os.lstat(os.fsencode(folder) + b"/" + path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if (found.st_size, found.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
                return True
        return False

    # --- keeping -------------------------------------------------------------------------------------

    def _move(self, directory: int, path: bytes, base: bytes) -> None:
        with self._kept(path) as target:
            try:
                os.rename(base, target, src_dir_fd=directory)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(directory, base, target)
                _remove(directory, base)

    def _kept(self, path: bytes) -> _Keeping:
        if not self._has_folder:
            self.folder.mkdir(parents=True)
            self._has_folder = True
        self.kept += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append(path)
        return _Keeping(self.folder, path)


def in_the_way(folder: Path, mount: bytes) -> TargetUnsuitable:
    """What ends a failback because of a mount; `folder`: where what is only here would be kept."""
    return TargetUnsuitable(
        f"keep in {folder} what is only here",
        f"something is mounted at {shown(mount)}, in what the newest cut does not have",
        "unmount it, or mount it elsewhere, and run the failback again",
    )


def _refuse_deep(path: bytes) -> None:
    """Raises TargetUnsuitable."""
    if path.count(b"/") >= LEVELS_MAX:
        raise TargetUnsuitable(
            f"keep {shown(path)}",
            f"it lies more than {LEVELS_MAX} directories deep",
            "move its topmost directory out of the tree, and run the failback again",
        )


class _Keeping:
    """The place of one path in the evidence, with the directories above it; durable when it is left."""

    def __init__(self, folder: Path, path: bytes) -> None:
        self._target = os.fsencode(folder) + b"/" + path
        self._what = f"keep {shown(path)} in {folder}"
        self._errors = os_errors(self._what)

    def __enter__(self) -> bytes:
        self._errors.__enter__()
        os.makedirs(os.path.dirname(self._target), mode=0o700, exist_ok=True)
        assert not os.path.lexists(self._target), self._target
        return self._target

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            fd = os.open(os.path.dirname(self._target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._errors.__exit__(*raised)  # type: ignore[arg-type]  # as they came


def _is_as(directory: int, base: bytes, status: os.stat_result, name: Name) -> bool:
    """Whether what stands there is what a cut has; content is told by size and time."""
    kind = stat.S_IFMT(status.st_mode)
    if name.type is NameType.FILE:
        if kind != stat.S_IFREG or status.st_size != name.size_bytes:
            return False
        fd = os.open(base, os.O_RDONLY | _NO_LINK, dir_fd=directory)
        try:
            return same_attributes(fd, name)
        finally:
            os.close(fd)
    if name.type is NameType.SYMLINK:
        return kind == stat.S_IFLNK and os.readlink(base, dir_fd=directory) == name.target
    if name.type in (NameType.CHAR, NameType.BLOCK):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return kind in (stat.S_IFCHR, stat.S_IFBLK) and device == name.device
    if name.type is NameType.DIRECTORY:
        return kind == stat.S_IFDIR
    return kind in (stat.S_IFIFO, stat.S_IFSOCK)  # there is nothing in them


def _copy(directory: int, base: bytes, target: bytes) -> None:
    """Copy a name, and all below it, to a path that is free; durable when this returns."""
    status = os.stat(base, dir_fd=directory, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(base, dir_fd=directory), target)
    elif kind == stat.S_IFREG:
        _copy_file(directory, base, target)
    elif kind == stat.S_IFDIR:
        _refuse_deep(target)
        os.mkdir(target, 0o700)
        fd = os.open(base, _LISTING, dir_fd=directory)
        try:
            for found in os.listdir(fd):
                _copy(fd, os.fsencode(found), target + b"/" + os.fsencode(found))
            _set_attributes(fd, target, status)
        finally:
            os.close(fd)
    # What is left are sockets, pipes and devices, which hold nothing.


def _copy_file(directory: int, base: bytes, target: bytes) -> None:
    source = os.open(base, os.O_RDONLY | _NO_LINK, dir_fd=directory)
    try:
        status = os.fstat(source)
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(out, status.st_size)
            at = 0
            while (low := _data_from(source, at)) is not None:
                beyond = os.lseek(source, low, os.SEEK_HOLE)
                data = os.pread(source, min(COPIED_AT_ONCE, beyond - low), low)
                if not data:
                    break
                at = low
                while data:
                    written = os.pwrite(out, data, at)
                    at, data = at + written, data[written:]
            _set_attributes(source, target, status)
            os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(source)


def _data_from(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _set_attributes(source: int, target: bytes, status: os.stat_result) -> None:
    """As far as they can be: the evidence is there for what is in it."""
    try:
        for key, value in xattrs_of(source):
            os.setxattr(target, key, value)
        os.chown(target, status.st_uid, status.st_gid)
        os.chmod(target, stat.S_IMODE(status.st_mode))
    except PermissionError:
        os.chmod(target, 0o700 if stat.S_ISDIR(status.st_mode) else 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSPC, errno.E2BIG):
            raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove(directory: int, base: bytes) -> None:
    """Remove what was copied, and all below it."""
    status = os.stat(base, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        remove_directory(directory, base)
    else:
        os.unlink(base, dir_fd=directory)
