"""What a restore writes into: a new raw image file, or a block device. Refuses what somebody may still need.

How each kind of target keeps a half-done restore from looking done is told in file_target.py and
device_target.py; what is written where does not belong here (plan, restore).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cdp_container.errors import TargetUnsuitable
from rehydrate.device_target import open_device
from rehydrate.file_target import BLOCK_BYTES, Wanted, check_room, open_file, partial_path
from rehydrate.localio import os_errors
from rehydrate.resume import Done, Image


class Writable(Protocol):
    """What takes the bytes of a volume. Methods may be called from several threads."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes. Raises LocalDiskFull, DeviceError, TargetUnsuitable."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make bytes read as zeros."""
        ...


class Target(Writable, Protocol):
    """Bytes of one volume on their way to stable storage."""

    path: Path
    known_empty: bool
    """Whether what is not written reads as zeros already."""
    overwrites: str
    """What `--force` agreed to lose, in words; empty if nothing."""

    note: str
    """What else whoever restores should be told; empty if nothing."""

    done: Done
    """How far an interrupted restore of the same cut came, which this one goes on with."""

    def begin(self) -> None:
        """Be ready to be written: the first that may change anything of what the target holds."""
        ...

    def keep(self, done: Done) -> None:
        """Make what was written durable, and then the note of how far that is."""
        ...

    def forget(self) -> None:
        """After `finish`: drop the note, which nobody needs any more."""
        ...

    def finish(self) -> None:
        """Make everything durable, and only then visible as done."""
        ...

    def abandon(self) -> None:
        """Leave nothing behind that could be taken for a restored volume. Nothing after `finish`.

        What was kept stays for the next restore of the same cut.
        """
        ...


def check_room_for(wanted: Iterable[tuple[Path, int]]) -> None:
    """All targets together, each with the bytes that will be written into it. Raises LocalDiskFull."""
    devices: dict[int, list[tuple[Path, int]]] = {}
    for path, write_bytes in wanted:
        directory = Path(os.path.realpath(path)).parent
        if not _is_device(path) and directory.is_dir():  # one that is missing is told when it is opened
            devices.setdefault(os.stat(directory).st_dev, []).append((path, write_bytes))
    for files in devices.values():
        what = f"restore into {', '.join(str(path) for path, _ in files)}"
        with os_errors(what):
            directory = Path(os.path.realpath(files[0][0])).parent
            taken = sum(_taken(partial_path(Path(os.path.realpath(path)))) for path, _ in files)
            check_room(directory, sum(write_bytes for _, write_bytes in files) - taken, what)


def _taken(partial: Path) -> int:
    """What the partial file of an earlier restore takes already."""
    try:
        return os.lstat(partial).st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _resolve(path: Path, force: bool, what: str) -> tuple[Path, os.stat_result | None]:
    """Where a path ends, and what is there.

    A link is followed to a device, and by `force` to a file that exists: else a file would be made or
    replaced where nobody named one.
    """
    real = Path(os.path.realpath(path))
    status: os.stat_result | None
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = None
    if path.is_symlink():
        if status is None:
            raise TargetUnsuitable(what, f"it is a link to {real}, which does not exist", "name that itself")
        if not stat.S_ISBLK(status.st_mode) and not force:
            raise TargetUnsuitable(what, f"it is a link to {real}", "name that itself, or say --force")
    return real, status


@contextmanager
def open_target(
    path: Path,
    size_bytes: int,
    write_bytes: int,
    force: bool,
    image: Image | None = None,
    restart: bool = False,
    tolerant: bool = False,
    hold: str = "",
) -> Iterator[Target]:
    """A target that is fit for a volume; abandoned unless `finish` was called before the end of the block.

    Args:
        path: a file that does not exist or is empty, or a block device. Before `begin` nothing that it holds
            is changed.
        size_bytes: of the volume.
        write_bytes: how many of them will be written, to see at once whether there is room.
        force: overwrite what is there (see `Target.overwrites`).
        image: what will be restored; where an interrupted restore of the same was left, this one goes on with
            it. None: no note is kept of how far it came.
        restart: start anew even so.
        tolerant: go on even with one that lacks what damage left out.
        hold: the id of the hold under which it is restored, to be noted for the next restore of the same.

    Raises:
        TargetNotEmpty: it holds something, or is in use, and there is no `force`.
        TargetUnsuitable: too small, of the wrong kind, or its directory does not exist.
        LocalDiskFull: the file system has no room for `write_bytes`.
        AccessDenied: it may not be written.
    """
    what = f"restore into {path}"
    with os_errors(what):
        real, status = _resolve(path, force, what)
        target: Target
        if status is not None and stat.S_ISBLK(status.st_mode):
            target = open_device(real, size_bytes, force, what)
        elif status is None or stat.S_ISREG(status.st_mode):
            wanted = Wanted(size_bytes, write_bytes, force, image, restart, tolerant, hold)
            target = open_file(real, status, wanted, what)
        else:
            raise TargetUnsuitable(what, "it is neither a file nor a block device")
    try:
        yield target
    finally:
        target.abandon()
