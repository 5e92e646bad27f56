"""The few system calls that all targets share, and what their errors mean to an administrator."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cdp_container.clock import SystemClock
from cdp_container.errors import (
    AccessDenied,
    AlreadyRunning,
    CdpError,
    DeviceError,
    LocalDiskFull,
    TargetUnsuitable,
)
from cdp_container.format.names import shown
from rehydrate.users import users_of

LOCK_RETRY_SECONDS: Final = 0.1
LOCKED_HINT: Final = (
    "an agent serves it, or another restore writes it: wait for that or stop it; --force does not help "
    "(`cdp-agent reload` lets go of a volume that was taken out of the configuration)"
)


def write_all(fd: int, offset: int, data: memoryview) -> None:
    """Write every byte at an offset."""
    while data:
        written = os.pwrite(fd, data, offset)
        offset += written
        data = data[written:]


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_alone(fd: int, path: Path, what: str, tries: int = 1) -> None:
    """Take the lock that an agent takes of a disk that it serves, until `fd` is closed.

    Args:
        fd: what is to be locked.
        path: its name.
        what: what was tried.
        tries: how often, LOCK_RETRY_SECONDS apart.

    Raises:
        AlreadyRunning: another process has it. No `--force` goes past that: its guests would write on.
    """
    for left in reversed(range(tries)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                why = [f"{path} is locked by another process", *users_of(path, os.fstat(fd))]
                raise AlreadyRunning(what, "; ".join(why), LOCKED_HINT) from None
            SystemClock().sleep(LOCK_RETRY_SECONDS)
        else:
            return


def read_up_to(fd: int, offset: int, length: int) -> bytes:
    """So many bytes; fewer at its end. Raises OSError."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Give an error of the operating system its meaning; `what` is what was tried."""
    try:
        yield
    except OSError as error:
        raise _typed(error, what) from error


def _typed(error: OSError, what: str) -> CdpError:
    why = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error.filename, bytes | str) and not os.path.isabs(error.filename):
        why = f"{why}: {shown(os.fsencode(error.filename))}"  # `what` names the directory that it is in
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return LocalDiskFull(what, why)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return AccessDenied(what, why, "check the owner and the permissions of the target")
        case errno.EFBIG | errno.ENAMETOOLONG | errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.ENXIO:
            return TargetUnsuitable(what, why)
        case errno.EEXIST:
            return TargetUnsuitable(what, "something else has this name")
        case _:
            return DeviceError(what, why)
