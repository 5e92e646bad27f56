"""The backing stores: the files or block devices that hold the volumes, each locked for us alone."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.errors import AlreadyRunning, BackingUnreadable
from cdp_container.journal.served import DiskId, disk_of, disks_served, volumes_served
from nbd_export.files import Files


@dataclass(slots=True)
class Backing:
    """An open backing store; `dirty` if it was written since the last sync of it began."""

    volume: VolumeSettings
    fd: int
    disk: DiskId
    dirty: bool = False


def open_backing(files: Files, volume: VolumeSettings) -> Backing:
    """Open and lock a volume's backing store.

    Raises:
        BackingUnreadable: it is absent, too small, or may not be opened.
        AlreadyRunning: another process has locked it.
    """
    what = f"opening the disk of volume {volume.name}"
    try:
        fd = files.open(volume.backing)
    except OSError as error:
        busy = error.errno == errno.EBUSY
        why = "it is mounted, or used by the kernel" if busy else error.strerror
        raise BackingUnreadable(what, f"{volume.backing}: {why}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A restore may have replaced it between the two calls: guests would write into a file without a name.
        if not os.path.samestat(os.stat(volume.backing), os.fstat(fd)):
            why = f"{volume.backing} was replaced while it was opened"
            raise AlreadyRunning(what, why, "start again")
        disk, size_bytes = disk_of(os.fstat(fd)), files.size_bytes(fd)
        if size_bytes < volume.size_bytes:
            raise BackingUnreadable(
                what, f"{volume.backing} has {size_bytes} bytes, the volume has {volume.size_bytes}"
            )
    except BlockingIOError:
        files.close(fd)
        raise AlreadyRunning(what, f"{volume.backing} is locked by another process") from None
    except OSError as error:
        files.close(fd)
        raise BackingUnreadable(what, f"{volume.backing}: {error.strerror}") from error
    except BaseException:
        files.close(fd)
        raise
    return Backing(volume, fd, disk, dirty=True)  # what an earlier process wrote may not be on the disk yet


def served_by(backings: Sequence[Backing]) -> tuple[int, int]:
    """What the splitter publishes of which volumes it serves, and from which disks."""
    volumes = ((one.volume.index, one.volume.space, one.volume.size_bytes) for one in backings)
    return volumes_served(volumes), disks_served((one.volume.index, one.disk) for one in backings)


def served_before(backings: Mapping[int, Backing], sources: int) -> Collection[int]:
    """The indexes of those that were all that was served when `sources` was published; all if that is not so.

    What comes has higher indexes than what was there.
    """
    indexes = sorted(backings)
    for count in range(len(indexes)):
        if served_by([backings[index] for index in indexes[:count]])[0] == sources:
            return indexes[:count]
    return indexes


def sync_of(files: Files, backings: Iterable[Backing]) -> Callable[[], None]:
    """What syncs those that were written since their last sync began; for a thread. It raises OSError."""
    dirty = [backing for backing in backings if backing.dirty]
    for backing in dirty:
        backing.dirty = False
    fds = [backing.fd for backing in dirty]

    def sync() -> None:
        for fd in fds:
            files.fdatasync(fd)

    return sync


def forget_cached(files: Files, backings: Iterable[Backing]) -> None:
    """After a failed sync the page cache may show what the disks never got; from here on it does not.

    Raises:
        OSError: it still may.
    """
    for backing in backings:
        files.forget_cached(backing.fd)
