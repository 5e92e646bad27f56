"""What `lstat` says of a name, packed: two stamps that are equal say that nothing changed.

A stamp whose change time was too young when it was taken proves nothing: the next change may get the same.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import Final

from cdp_container.format.names import NameType

RACY_NS: Final = 20_000_000
"""File systems stamp with the clock of the kernel's ticks: 10 ms at most, and some room."""
NO_STAMP: Final = b""
"""Equal to none: whoever looks next reads."""

_STAMP: Final = struct.Struct("<IIIQqqQQQ")  # mode uid gid size mtime ctime device inode rdev
_INODE_AT: Final = 36
_NEVER: Final = -(1 << 63)

TYPES: Final = {
    stat.S_IFREG: NameType.FILE,
    stat.S_IFDIR: NameType.DIRECTORY,
    stat.S_IFLNK: NameType.SYMLINK,
    stat.S_IFIFO: NameType.FIFO,
    stat.S_IFCHR: NameType.CHAR,
    stat.S_IFBLK: NameType.BLOCK,
    stat.S_IFSOCK: NameType.SOCKET,
}


def stamp_of(found: os.stat_result, root_device: int, proven: bool = True) -> bytes:
    """The stamp; the device of the tree's root is 0, as its number may be another one after a reboot.

    One that is not `proven` has no change time, and is equal to none that is.
    """
    return _STAMP.pack(
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns if proven else _NEVER,
        device_of(found, root_device),
        found.st_ino,
        found.st_rdev,
    )


def device_of(found: os.stat_result, root_device: int) -> int:
    """The device, 0 for that of the tree's root."""
    return 0 if found.st_dev == root_device else found.st_dev


def stamp_inode(stamp: bytes) -> bytes:
    """Device and inode number of a stamp, packed; empty for NO_STAMP."""
    return stamp[_INODE_AT : _INODE_AT + 16]


def is_racy(found: os.stat_result, wall_ns: int) -> bool:
    """Whether a change at this instant might leave the change time as it is."""
    return found.st_ctime_ns > wall_ns - RACY_NS


def type_of(found: os.stat_result) -> NameType | None:
    """The type, None for what no container knows."""
    return TYPES.get(stat.S_IFMT(found.st_mode))
