"""What the directory store needs of a file system, call by call: new files, times, locks, errors.

Keys and promises do not belong here: `cdp_container.store.directory` puts these together.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    ForeignObject,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750

MTIME_STEPS_NS = (1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
"""How far a replaced object's time is moved until the file system shows a later one (FAT counts in 2 s)."""


class NewFile:
    """A file being written, under a name of its own in `.tmp/`, locked while its writer lives."""

    __slots__ = ("directory", "fd", "name")

    def __init__(self, directory: int, name: str, fd: int) -> None:
        self.directory = directory
        self.name = name
        self.fd = fd

    @classmethod
    def create(cls, directory: int) -> NewFile:
        """An empty one in an open directory."""
        while True:
            name = secrets.token_hex(16)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(name, flags, FILE_MODE, dir_fd=directory)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink == 1:
                return cls(directory, name, fd)
            os.close(fd)  # a sweeper was quicker than our lock

    def discard(self) -> None:
        """Take away its name (a link or a rename has given it another one) and close it."""
        try:
            os.unlink(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            pass  # a rename took it
        finally:
            os.close(self.fd)


def tag_of(status: os.stat_result) -> str:
    """The tag of the version that a file is; see `DirectoryStore` for why it never comes back."""
    return f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"


def read_at(fd: int, start: int, length: int) -> bytes:
    """`length` bytes from `start`; fewer only where the file ends."""
    parts = []
    while length > 0:
        part = os.pread(fd, length, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write everything at the file's position."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def make_directory(name: str, above: int) -> None:
    """Make a directory below the open one, unless it is there."""
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=above)
    except FileExistsError:
        return


def make_later(fd: int, than_ns: int) -> None:
    """Give the file a time after `than_ns`, as the file system shows it."""
    for step_ns in MTIME_STEPS_NS:
        if os.fstat(fd).st_mtime_ns > than_ns:
            return
        os.utime(fd, ns=(than_ns + step_ns, than_ns + step_ns))
    if os.fstat(fd).st_mtime_ns <= than_ns:
        raise StoreRefused("replace an object", "the file system does not keep the times of files")


def try_lock(fd: int) -> bool:
    """Whether the file is locked by this descriptor now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def typed_error(error: OSError, what: str, verb: str) -> CdpError:
    """The one place where a file system's error gets its meaning."""
    why = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOENT if verb == "replace":
            return PreconditionFailed(what, "there is no such object")
        case errno.ENOENT | errno.EISDIR:
            return NotFound(what, "there is no such object")
        case errno.EEXIST:
            return PreconditionFailed(what, "an object has this key already")
        case errno.ENOSPC | errno.EDQUOT:
            return StoreFull(what, why)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return AccessDenied(what, why, "check the owner and the permissions of the directory")
        case errno.ELOOP | errno.ENOTDIR:
            return ForeignObject(what, "a symbolic link or a file stands where a directory should")
        case _:
            return StoreUnavailable(what, why, "check the disk and the kernel log")
