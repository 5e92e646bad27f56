"""Replacing a small local file, whole or not at all, durably. Objects in a store are no files: see store/."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from cdp_container.errors import CdpError, LocalDiskFull

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` this content and mode 0600; it outlasts a power loss when this returns.

    Raises:
        LocalDiskFull, CdpError: it could not be written; the old content is still there.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        finally:
            fresh.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        why = error.strerror or "input/output error"
        if error.errno in _FULL:
            raise LocalDiskFull(f"cannot write {path}", why) from error
        raise CdpError(f"cannot write {path}", why, "check the directory and its permissions") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
