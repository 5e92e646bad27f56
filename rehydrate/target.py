"""What a restore writes into: a new raw image file, or a block device. Refuses what somebody may still need.

How each kind of target keeps a half-done restore from looking done is told in file_target.py and
device_target.py; what is written where does not belong here (plan, restore).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cdp_container.errors import TargetUnsuitable
from rehydrate.device_target import open_device
from rehydrate.file_target import open_file
from rehydrate.localio import os_errors


class Target(Protocol):
    """Bytes of one volume on their way to stable storage. Methods may be called from several threads."""

    path: Path
    known_empty: bool
    """Whether what is not written reads as zeros already."""
    overwrites: str
    """What `--force` agreed to lose, in words; empty if nothing."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes. Raises LocalDiskFull, DeviceError, TargetUnsuitable."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make bytes read as zeros."""
        ...

    def finish(self) -> None:
        """Make everything durable, and only then visible as done."""
        ...

    def abandon(self) -> None:
        """Leave nothing behind that could be taken for a restored volume. Nothing after `finish`."""
        ...


@contextmanager
def open_target(path: Path, size_bytes: int, write_bytes: int, force: bool) -> Iterator[Target]:
    """A target that is fit for a volume; abandoned unless `finish` was called before the end of the block.

    Args:
        path: a file that does not exist or is empty, or a block device.
        size_bytes: of the volume.
        write_bytes: how many of them will be written, to see at once whether there is room.
        force: overwrite what is there (see `Target.overwrites`).

    Raises:
        TargetNotEmpty: it holds something, or is in use, and there is no `force`.
        TargetUnsuitable: too small, of the wrong kind, or its directory does not exist.
        LocalDiskFull: the file system has no room for `write_bytes`.
        AccessDenied: it may not be written.
    """
    what = f"restore into {path}"
    with os_errors(what):
        real = Path(os.path.realpath(path))
        try:
            status = os.stat(real)
        except FileNotFoundError:
            status = None
        target: Target
        if status is not None and stat.S_ISBLK(status.st_mode):
            target = open_device(real, size_bytes, force, what)
        elif status is None or stat.S_ISREG(status.st_mode):
            target = open_file(real, status, size_bytes, write_bytes, force, what)
        else:
            raise TargetUnsuitable(what, "it is neither a file nor a block device")
    try:
        yield target
    finally:
        target.abandon()
