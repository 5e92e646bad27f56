"""The few system calls that all targets share, and what their errors mean to an administrator."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    DeviceError,
    LocalDiskFull,
    TargetUnsuitable,
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


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Give an error of the operating system its meaning; `what` is what was tried."""
    try:
        yield
    except OSError as error:
        raise _typed(error, what) from error


def _typed(error: OSError, what: str) -> CdpError:
    why = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return LocalDiskFull(what, why)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return AccessDenied(what, why, "check the owner and the permissions of the target")
        case errno.EFBIG | errno.ENAMETOOLONG | errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.ENXIO:
            return TargetUnsuitable(what, why)
        case _:
            return DeviceError(what, why)
