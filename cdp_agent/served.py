"""Which volumes are served, in a number: splitter and streamer must mean the same volumes and disks. PURE.

A volume's file may be replaced by another one of its name, agent.json may be ahead of a splitter that was not
told yet: then the streamer would read another disk than guests write, or miss one. What is done about it does
not belong here.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterable
from typing import TypeAlias

DiskId: TypeAlias = tuple[int, int]
"""What tells an open disk from all others: a block device's number, or a file's device and inode."""

_SERVED = struct.Struct("<Q16sQQQ")


def disk_of(status: os.stat_result) -> DiskId:
    """Of what `os.stat` or `os.fstat` gave."""
    if stat.S_ISBLK(status.st_mode):
        return status.st_rdev, 0
    return status.st_dev, status.st_ino


def served(volumes: Iterable[tuple[int, bytes, int, DiskId]]) -> int:
    """A digest, 8 bytes, of volumes in any order: index of the source, space, size in bytes, disk."""
    digest = hashlib.blake2b(digest_size=8)
    for index, space, size_bytes, disk in sorted(volumes):
        digest.update(_SERVED.pack(index, space, size_bytes, *disk))
    return int.from_bytes(digest.digest(), "little")
