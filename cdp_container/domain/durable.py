"""Small local files: read, replaced whole or not at all, removed, durably. Objects in a store: see store/."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from cdp_container.errors import CdpError, ConfigInvalid, LocalDiskFull

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` this content and mode 0600; it outlasts a power loss when this returns.

    Raises:
        LocalDiskFull, CdpError: it could not be written; the old content is still there.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        try:
            # A link could have been laid there by whoever else may write to the directory.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(fresh, flags, 0o600)
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


def read_file(path: Path, bytes_max: int) -> bytes | None:
    """The content of a small file and at most one byte beyond the limit; None where there is none.

    Raises ConfigInvalid where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or "unreadable"
        raise ConfigInvalid(f"cannot read {path}", why, "run as the agent's user") from error


def remove_file(path: Path) -> None:
    """Remove a file, durably; none at all is no error. Raises CdpError."""
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        why = error.strerror or "input/output error"
        raise CdpError(f"cannot remove {path}", why, "check the directory") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
