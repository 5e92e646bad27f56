"""A new raw image file as a target: written as `<target>.partial`, named only after its fsync.

So a half-done restore never looks done, and what stood there before stays until the end. The progress file
beside it (resume) lets the next restore of the same cut go on. Devices do not belong here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_container.errors import LocalDiskFull, TargetNotEmpty, TargetUnsuitable, counted
from rehydrate.localio import lock_alone, os_errors, sync_directory, write_all
from rehydrate.resume import (
    Done,
    Image,
    Progress,
    holds_samples,
    progress_path,
    read_progress,
    remove_progress,
    write_progress,
)
from rehydrate.users import users_of

PARTIAL_SUFFIX: Final = ".partial"
BLOCK_BYTES: Final = 512
"""What `st_blocks` counts in."""
_FILE_MODE: Final = 0o600
_WITHOUT_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without links say: FAT, CIFS, FUSE, each in its own way."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a target is opened for; see `target.open_target`."""

    size_bytes: int
    write_bytes: int
    force: bool
    image: Image | None = None
    restart: bool = False
    tolerant: bool = False
    hold: str = ""


def name_new(partial: Path, path: Path) -> None:
    """Give a whole file its name, unless somebody has put something there meanwhile; both names may stand.

    A link, unlike a rename, fails then. Without links a file that somebody makes between the look and the
    rename is lost: microseconds, in place of the hours for which the file was made. Raises TargetNotEmpty.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise _made_meanwhile(path) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        if os.path.lexists(path):
            raise _made_meanwhile(path) from None
        os.rename(partial, path)


def _made_meanwhile(path: Path) -> TargetNotEmpty:
    return TargetNotEmpty(f"finish {path}", "another process has made this file meanwhile")


class FileTarget:
    """See `Target`: a sparse file that has its name only when it is complete."""

    def __init__(
        self,
        path: Path,
        fd: int,
        overwrites: str,
        replaces: bool,
        image: Image | None,
        done: Done,
        hold: str = "",
    ) -> None:
        self.path = path
        self.known_empty = True
        self.overwrites = overwrites
        self.note = ""
        self.done = done
        self._partial = partial_path(path)
        self._fd = fd
        self._replaces = replaces
        self.old_fd: int | None = None  # what is replaced, locked: no agent begins to serve it
        self._image = image
        self._hold = hold

    def begin(self) -> None:
        """See `Target.begin`: what stands there stays until `finish`."""

    def write(self, offset: int, data: memoryview) -> None:
        """See `Target.write`."""
        with os_errors(f"write {self._partial}"):
            write_all(self._fd, offset, data)

    def zero(self, offset: int, length: int) -> None:
        """See `Target.zero`; a hole reads as zeros."""

    def keep(self, done: Done) -> None:
        """See `Target.keep`: fsync of the data, then the progress file."""
        if self._image is None or self._fd < 0:
            return
        with os_errors(f"write {self._partial}"):
            os.fsync(self._fd)
            status = os.fstat(self._fd)
        progress = Progress(self._image, status.st_ino, status.st_mtime_ns, done, self._hold)
        write_progress(self.path, progress)
        self.done = done

    def finish(self) -> None:
        """See `Target.finish`: fsync, then the name, then the directory's fsync."""
        if self._fd < 0:
            return
        with os_errors(f"finish {self.path}"):
            os.fsync(self._fd)
            self._name()
            sync_directory(self.path.parent)
        self._close()

    def forget(self) -> None:
        """See `Target.forget`."""
        with os_errors(f"remove {progress_path(self.path)}"):
            if self._partial.exists() and self._partial.samefile(self.path):
                self._partial.unlink()  # the second name, where a restore was killed between two calls
            remove_progress(self.path)

    def _name(self) -> None:
        if not self._is_ours():
            raise TargetUnsuitable(f"finish {self.path}", f"{self._partial} was replaced by another process")
        if not self._replaces:
            name_new(self._partial, self.path)
            self._partial.unlink(missing_ok=True)  # its other name, if it was linked
        else:
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
        if self.done.nothing:
            with os_errors(f"remove the half-done {self._partial}"):
                if self._is_ours():
                    self._partial.unlink()
                    remove_progress(self.path)
        self._close()

    def _close(self) -> None:
        """Also let go of both locks."""
        os.close(self._fd)
        self._fd = -1
        if self.old_fd is not None:
            os.close(self.old_fd)
            self.old_fd = None


def partial_path(path: Path) -> Path:
    """Where a volume is written until it is whole."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def open_file(path: Path, status: os.stat_result | None, wanted: Wanted, what: str) -> FileTarget:
    """A file at a path that is there (`status`) or not; see `target.open_target`."""
    if not path.parent.is_dir():
        raise TargetUnsuitable(what, f"the directory {path.parent} does not exist", "create it first")
    left = _left_over(partial_path(path), what)
    begun = None if wanted.restart or wanted.image is None else read_progress(path)
    if begun is not None and begun.image == wanted.image and begun.done.lost and not wanted.tolerant:
        lost = counted(len(begun.done.lost), "part")
        why = f"a restore that went on despite damage was interrupted; lost: {lost}"
        raise TargetNotEmpty(what, why, "--on-damage map goes on with it, --restart starts anew")
    if begun is not None and status is not None and _is_done(begun, status, wanted):
        return FileTarget(path, -1, "", False, None, begun.done)
    old_fd = None if status is None else _lock_old(path, status, what)
    try:
        if left is not None and status is not None and os.path.samestat(left, status):
            partial_path(path).unlink()  # the second name, where a restore was killed between two calls
            left = None
        target = _open_partial(path, status, wanted, what, left, begun)
    except BaseException:
        if old_fd is not None:
            os.close(old_fd)
        raise
    target.old_fd = old_fd
    return target


def _lock_old(path: Path, status: os.stat_result, what: str) -> int:
    """What will be replaced, locked: whoever serves it would go on with a file that has no name any more."""
    access = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY  # NFS locks only what is open for writing
    fd = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        lock_alone(fd, path, what)
        # Another restore may have ended since we looked: what it made was asked for by somebody.
        if not (os.path.samestat(os.fstat(fd), status) and os.path.samestat(os.stat(path), status)):
            raise TargetNotEmpty(what, f"another process has replaced {path} at this moment")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_partial(
    path: Path,
    status: os.stat_result | None,
    wanted: Wanted,
    what: str,
    left: os.stat_result | None,
    begun: Progress | None,
) -> FileTarget:
    """A new partial file, or the one that was `left` and is gone on with."""
    held = _what_file_holds(path, status)
    resumed = begun if begun is not None and left is not None and _is_left_by(begun, left, wanted) else None
    if left is not None:
        if resumed is None and left.st_blocks and not wanted.restart:  # without blocks it holds nothing
            held.append(f"{partial_path(path)}, {_whose(begun, wanted)}")
        held.extend(users_of(partial_path(path), left))
    if held and not wanted.force:
        raise TargetNotEmpty(what, "; ".join(held), _way_out(begun, left, wanted))
    check_room(path.parent, wanted.write_bytes - (left.st_blocks * BLOCK_BYTES if left else 0), what)
    if resumed is not None:
        fd, done = _reopen_partial(partial_path(path), resumed, what), resumed.done
    else:
        fd, done = _take_partial(partial_path(path), left is not None, what), Done()
    target = FileTarget(path, fd, "; ".join(held), status is not None, wanted.image, done, wanted.hold)
    try:
        if resumed is None:
            os.ftruncate(fd, wanted.size_bytes)
        if status is not None:
            target.note = _take_owner_and_mode(path, fd, status)
    except BaseException:
        target.abandon()
        raise
    return target


def _is_done(begun: Progress, status: os.stat_result, wanted: Wanted) -> bool:
    """Whether the file is what an earlier restore of the same has finished, untouched since."""
    found = replace(begun, inode=status.st_ino, modified_ns=status.st_mtime_ns)
    return begun == found and begun.image == wanted.image and begun.done.upto == wanted.size_bytes


def _is_left_by(begun: Progress, left: os.stat_result, wanted: Wanted) -> bool:
    """Whether a partial file is what an interrupted restore of the same left, as far as can be seen."""
    same_file = (left.st_ino, left.st_size) == (begun.inode, wanted.size_bytes)
    return begun.image == wanted.image and same_file and left.st_mtime_ns >= begun.modified_ns


def _whose(begun: Progress | None, wanted: Wanted) -> str:
    """Who left a partial file that cannot be gone on with."""
    if begun is None:
        return "left by a restore that was killed or is still running"
    if begun.image != wanted.image:
        if wanted.image is not None and begun.image.is_same_point(wanted.image):
            return "left by an interrupted restore from other objects than can be read now"
        return f"left by an interrupted restore of point {begun.image.point}"
    return "left by an interrupted restore and changed since"


def _way_out(begun: Progress | None, left: os.stat_result | None, wanted: Wanted) -> str | None:
    if left is None:
        return None
    restart = "--restart discards the half-done file and starts anew"
    if begun is None or wanted.image is None or begun.image.is_same_point(wanted.image):
        return restart
    same = (begun.image.domain, begun.image.space) == (wanted.image.domain, wanted.image.space)
    return f"--at {begun.image.point} goes on with it; {restart}" if same else restart


def _reopen_partial(partial: Path, begun: Progress, what: str) -> int:
    """The partial file of an interrupted restore, locked, if what it wrote still reads back."""
    fd = os.open(partial, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        lock_alone(fd, partial, what)
        if os.fstat(fd).st_ino != begun.inode or not holds_samples(fd, begun.done.samples):
            why = (
                f"{partial}, left by an interrupted restore, does not hold any more what was written into it"
            )
            raise TargetNotEmpty(what, why, "--restart discards it and starts anew")
    except BaseException:
        os.close(fd)
        raise
    return fd


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
            lock_alone(old, partial, what)
            partial.unlink(missing_ok=True)
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
    held = [f"{path} holds {counted(status.st_size, 'byte')}"] if status.st_size else []
    return held + users_of(path, status)


def check_room(directory: Path, write_bytes: int, what: str) -> None:
    """Raises LocalDiskFull where a directory's file system has no room for what will be written."""
    room = os.statvfs(directory)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < write_bytes:
        raise LocalDiskFull(what, f"{write_bytes} bytes will be written and {free_bytes} are free")
