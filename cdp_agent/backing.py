"""What a volume lies on: a file or a block device, its size, and whether it holds anything yet.

What does not belong here: writing to it (the splitter) and copying it (the streamer).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from cdp_container.errors import BackingUnreadable

SECTOR_BYTES = 512
"""A guest's disk is a whole number of these."""


@dataclass(frozen=True, slots=True)
class Backing:
    """One opened look at a backing store."""

    path: str
    size_bytes: int
    is_device: bool


def inspect_backing(path: str) -> Backing:
    """Look at a backing file or device, without changing it. Raises BackingUnreadable."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BackingUnreadable(f"cannot open {path}", error.strerror or "unreadable") from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise BackingUnreadable(f"cannot protect {path}", "it is neither a file nor a block device")
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        os.pread(fd, SECTOR_BYTES, 0)
    except OSError as error:
        raise BackingUnreadable(f"cannot read {path}", error.strerror or "input/output error") from error
    finally:
        os.close(fd)
    if size_bytes == 0 or size_bytes % SECTOR_BYTES:
        raise BackingUnreadable(
            f"cannot protect {path}",
            f"its size is {size_bytes} bytes, not a whole number of {SECTOR_BYTES}-byte sectors",
            "make it a raw image of the size that the guest shall see: truncate -s SIZE FILE",
        )
    return Backing(path, size_bytes, stat.S_ISBLK(mode))
