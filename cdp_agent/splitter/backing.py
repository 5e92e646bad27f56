"""The backing stores: the files or block devices that hold the volumes, each locked for us alone."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass

from cdp_agent.splitter.files import Files
from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.errors import AlreadyRunning, BackingUnreadable


@dataclass(slots=True)
class Backing:
    """An open backing store; `dirty` if it was written since the last sync of it began."""

    volume: VolumeSettings
    fd: int
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
        raise BackingUnreadable(what, f"{volume.backing}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size_bytes = files.size_bytes(fd)
        if size_bytes < volume.size_bytes:
            raise BackingUnreadable(
                what, f"{volume.backing} has {size_bytes} bytes, the volume has {volume.size_bytes}"
            )
    except BlockingIOError:
        files.close(fd)
        raise AlreadyRunning(what, f"{volume.backing} is locked by another process") from None
    except BaseException:
        files.close(fd)
        raise
    return Backing(volume, fd)
