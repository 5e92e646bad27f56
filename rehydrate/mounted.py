"""What is mounted below a directory, by the kernel's table: whoever removes what stands there spares it.

What is done about a mount does not belong here (tree_target, rehearsal.workspace); showing a point as a file
system neither (mount).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
_MOUNT_POINT: Final = 4
"""Which field of a line there it is; blanks in it are written as octal codes."""
_OCTAL: Final = re.compile(rb"\\([0-3][0-7]{2})")


def mounts_below(path: Path, table: Path = MOUNTS) -> list[Path]:
    """What is mounted at or below a directory, but for the directory itself."""
    found = []
    for line in table.read_bytes().splitlines():
        fields = line.split(b" ")
        if len(fields) > _MOUNT_POINT:
            place = Path(os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), fields[_MOUNT_POINT])))
            if path in place.parents:
                found.append(place)
    return found


def mounts_in(directory: int) -> frozenset[bytes]:
    """The paths below an open directory at which something is mounted.

    Also where that is the same file system once more, of which no number of a device tells.
    """
    top = os.readlink(b"/proc/self/fd/%d" % directory)
    found = mounts_below(Path(os.fsdecode(top)))
    return frozenset(os.path.relpath(os.fsencode(mount), top) for mount in found)


def mount_above(path: bytes, mounts: frozenset[bytes]) -> bytes | None:
    """The mount at which a path stands, or below which; None where it is in none."""
    at = path
    while at:
        if at in mounts:
            return at
        at = at.rpartition(b"/")[0]
    return None


def mount_below(path: bytes, mounts: frozenset[bytes]) -> bytes | None:
    """A mount at a path or below it, None where there is none."""
    return min((mount for mount in mounts if mount == path or mount.startswith(path + b"/")), default=None)
