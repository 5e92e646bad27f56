"""Which volumes are served, and from which disks, in two numbers. PURE.

Splitter and streamer must mean the same volumes, or one would be missed; and where a copy is read, the same
disks: a volume's file may be replaced by another one of its name. What is done about it does not belong here.
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

_VOLUME = struct.Struct("<Q16sQ")
_DISK = struct.Struct("<QQQ")


def disk_of(status: os.stat_result) -> DiskId:
    """Of what `os.stat` or `os.fstat` gave."""
    if stat.S_ISBLK(status.st_mode):
        return status.st_rdev, 0
    return status.st_dev, status.st_ino


def volumes_served(volumes: Iterable[tuple[int, bytes, int]]) -> int:
    """A digest, 8 bytes, of volumes in any order: index of the source, space, size in bytes."""
    return _digest(_VOLUME.pack(*volume) for volume in sorted(volumes))


def disks_served(disks: Iterable[tuple[int, DiskId]]) -> int:
    """A digest, 8 bytes, of the disks of volumes in any order: index of the source, disk."""
    return _digest(_DISK.pack(index, *disk) for index, disk in sorted(disks))


def _digest(parts: Iterable[bytes]) -> int:
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little")
