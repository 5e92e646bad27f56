"""Volumes that come, grow and go while the others are served.

What was decided stands in agent.json by now, durably: a start after a kill opens just that. What does not
belong here: who asks for it (`process`), what agent.json may say (`cdp_agent.reload`).
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence

from cdp_agent.splitter.backing import Backing, open_backing
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.files import Files
from cdp_agent.splitter.settings import VolumeSettings
from cdp_agent.splitter.volume import Volume
from cdp_container.errors import BackingUnreadable


async def reload_volumes(
    wanted: Sequence[VolumeSettings],
    files: Files,
    capture: Capture,
    backings: list[Backing],
    volumes: list[Volume],
) -> None:
    """Make `backings` and `volumes`, which the exports and the capture look at, what is wanted.

    A volume that goes refuses its clients' requests; then its disk is synced and unlocked.

    Raises:
        BackingUnreadable, AlreadyRunning: a disk that is to come or grow is not fit; nothing was changed.
        OSError: a disk that goes could not be synced; it stays locked, and everything else is done.
    """
    by_index = {backing.volume.index: backing for backing in backings}
    grown = [(by_index[new.index], new) for new in wanted if new.index in by_index]
    for backing, new in grown:
        _refuse_small(files, backing, new)
    added = _open_all(files, [new for new in wanted if new.index not in by_index])
    gone = by_index.keys() - {new.index for new in wanted}
    async with capture.standstill():
        for backing, new in grown:
            backing.volume = new
            volume = next(volume for volume in volumes if volume.source == new.index)
            volume.grow(new.size_bytes)
        for volume in [volume for volume in volumes if volume.source in gone]:
            volume.remove()
            volumes.remove(volume)
        backings.extend(added)
        volumes.extend(Volume(backing, capture) for backing in added)
        capture.dirty.change(wanted)
        capture.intent.change(wanted)
    if gone:
        await _let_go(capture, backings, [by_index[index] for index in sorted(gone)])


async def _let_go(capture: Capture, backings: list[Backing], gone: Sequence[Backing]) -> None:
    """Whoever uses the disks next finds everything that was answered."""
    for backing in gone:
        backing.dirty = True
    await capture.sync()
    for backing in gone:
        capture.removed.add(backing.volume.index)
        backings.remove(backing)
        # Not closed: reads of it may be under way. It is closed when this process ends.
        fcntl.flock(backing.fd, fcntl.LOCK_UN)


def _refuse_small(files: Files, backing: Backing, new: VolumeSettings) -> None:
    what = f"growing volume {new.name}"
    size_bytes = files.size_bytes(backing.fd)
    if size_bytes < new.size_bytes:
        raise BackingUnreadable(
            what, f"{backing.volume.backing} has {size_bytes} bytes, wanted are {new.size_bytes}"
        )
    if new.size_bytes < backing.volume.size_bytes:
        raise BackingUnreadable(what, "it would shrink, and what guests wrote behind its end would be lost")


def _open_all(files: Files, wanted: Sequence[VolumeSettings]) -> list[Backing]:
    opened: list[Backing] = []
    try:
        opened.extend(open_backing(files, new) for new in wanted)
    except BaseException:
        for backing in opened:
            files.close(backing.fd)
        raise
    return opened
