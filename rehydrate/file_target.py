"""A new raw image file as a target: written as `<target>.partial`, named only after its fsync.

So a half-done restore never looks done, and what stood there before stays until the end. Devices do not
belong here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from cdp_container.errors import LocalDiskFull, TargetNotEmpty, TargetUnsuitable
from rehydrate.localio import os_errors, sync_directory, write_all
from rehydrate.users import users_of

PARTIAL_SUFFIX: Final = ".partial"
_FILE_MODE: Final = 0o600


class FileTarget:
    """See `Target`: a sparse file that has its name only when it is complete."""

    def __init__(self, path: Path, partial: Path, fd: int, overwrites: str, replaces: bool) -> None:
        self.path = path
        self.known_empty = True
        self.overwrites = overwrites
        self.note = ""
        self._partial = partial
        self._fd = fd
        self._replaces = replaces

    def begin(self) -> None:
        """See `Target.begin`: what stands there stays until `finish`."""

    def write(self, offset: int, data: memoryview) -> None:
        """See `Target.write`."""
        with os_errors(f"write {self._partial}"):
            write_all(self._fd, offset, data)

    def zero(self, offset: int, length: int) -> None:
        """See `Target.zero`; a hole reads as zeros."""

    def finish(self) -> None:
        """See `Target.finish`: fsync, then the name, then the directory's fsync."""
        with os_errors(f"finish {self.path}"):
            os.fsync(self._fd)
            self._name()
            sync_directory(self.path.parent)
        os.close(self._fd)
        self._fd = -1

    def _name(self) -> None:
        if not self._is_ours():
            raise TargetUnsuitable(f"finish {self.path}", f"{self._partial} was replaced by another process")
        if not self._replaces:
            # A link, unlike a rename, fails where somebody has put a file there meanwhile.
            try:
                os.link(self._partial, self.path)
            except FileExistsError:
                raise TargetNotEmpty(
                    f"finish {self.path}", "another process has made this file meanwhile"
                ) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
            else:
                os.unlink(self._partial)
                return
        os.rename(self._partial, self.path)

    def _is_ours(self) -> bool:
        """Whether the partial file's name still stands for the file that we write."""
        try:
            return os.path.samestat(os.stat(self._partial), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def abandon(self) -> None:
        """See `Target.abandon`."""
        if self._fd < 0:
            return
        with os_errors(f"remove the half-done {self._partial}"):
            if self._is_ours():
                self._partial.unlink()
        os.close(self._fd)
        self._fd = -1


def open_file(
    path: Path, status: os.stat_result | None, size_bytes: int, write_bytes: int, force: bool, what: str
) -> FileTarget:
    """A file at a path that is there (`status`) or not; see `target.open_target`."""
    if not path.parent.is_dir():
        raise TargetUnsuitable(what, f"the directory {path.parent} does not exist", "create it first")
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    held = _what_file_holds(path, status)
    left = _left_over(partial, what)
    if left is not None:
        held.append(f"{partial}, left by a restore that was killed or is still running")
        held.extend(users_of(partial, left))
    if held and not force:
        raise TargetNotEmpty(what, "; ".join(held))
    check_room(path.parent, write_bytes, what)
    fd = _take_partial(partial, left is not None, what)
    target = FileTarget(path, partial, fd, "; ".join(held), replaces=status is not None)
    try:
        os.ftruncate(fd, size_bytes)
        if status is not None:
            target.note = _take_owner_and_mode(path, fd, status)
    except BaseException:
        target.abandon()
        raise
    return target


def _left_over(partial: Path, what: str) -> os.stat_result | None:
    """What stands where the partial file is to be, if anything. Raises TargetUnsuitable if it is no file."""
    try:
        status = os.lstat(partial)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no file"
        why = f"{partial}, where the volume is written until it is whole, is {kind}"
        raise TargetUnsuitable(what, why, "remove it, or choose another target")
    return status


def _take_owner_and_mode(path: Path, fd: int, status: os.stat_result) -> str:
    """Give the new file the owner and mode of the one that it replaces; gives what to tell if we may not."""
    try:
        os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
    except OSError as error:
        # The old mode might show the volume to another group than before, so the new file stays ours alone.
        return f"{path} will not keep its owner and mode: {os.strerror(error.errno or 0)}"
    return ""


def _take_partial(partial: Path, is_there: bool, what: str) -> int:
    """A partial file of our own, locked. One that a living restore writes is refused, `--force` or not."""
    if is_there:
        old = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink(missing_ok=True)
        except BlockingIOError:
            why = f"another restore is writing {partial}"
            raise TargetNotEmpty(what, why, "wait for it, or choose another target") from None
        finally:
            os.close(old)
    try:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    except FileExistsError:
        raise TargetNotEmpty(what, f"another process has made {partial} at this moment") from None
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _what_file_holds(path: Path, status: os.stat_result | None) -> list[str]:
    if status is None:
        return []
    held = [f"{path} holds {status.st_size} bytes"] if status.st_size else []
    return held + users_of(path, status)


def check_room(directory: Path, write_bytes: int, what: str) -> None:
    """Raises LocalDiskFull where a directory's file system has no room for what will be written."""
    room = os.statvfs(directory)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < write_bytes:
        raise LocalDiskFull(what, f"{write_bytes} bytes will be written and {free_bytes} are free")
