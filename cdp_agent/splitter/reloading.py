"""Volumes that come, grow and go while the others are served: all of a decision, or nothing.

Whatever can fail comes first: disks are opened, what goes is drained and synced. Then, in a time without
writes, the decision is made durable, and everything is as decided: a start after a kill opens what was
served.
What does not belong here: who decides, and where that is written (`volume_set`, `process`).
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, Protocol

from cdp_agent.splitter.backing import Backing, open_backing, served_by
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.settings import DRAIN_SECONDS, VolumeSettings
from cdp_agent.splitter.volume import Volume
from cdp_container.errors import BackingUnreadable, ReloadRefused
from cdp_container.journal.record import Note
from nbd_export.files import Files

QUIET_SECONDS_MAX: Final = 5.0
"""So long guests may wait for those of a disk that is slow."""


class Decision(Protocol):
    """Other volumes than those that are served."""

    @property
    def volumes(self) -> Sequence[VolumeSettings]:
        """All that are served from then on."""
        ...

    @property
    def removed(self) -> Collection[int]:
        """Indexes of all sources that ever were removed."""
        ...

    @property
    def name(self) -> str:
        """By which whoever decided knows what came of it."""
        ...

    def commit(self) -> None:
        """Every start from here on serves these, durably. Raises CdpError, OSError: it is as it was."""
        ...

    def withdraw(self) -> bool:
        """It was refused."""
        ...


async def reload_volumes(
    decision: Decision, files: Files, capture: Capture, backings: list[Backing], volumes: list[Volume]
) -> None:
    """Make `backings` and `volumes`, which the exports and the capture look at, what was decided.

    A volume that goes refuses its clients' requests; then its disk is synced and unlocked.

    Raises:
        BackingUnreadable, AlreadyRunning: a disk that is to come or grow is not fit; nothing was changed.
        ReloadRefused: requests did not end in time, or the decision was withdrawn; likewise.
        JournalFull, OSError: a disk that goes could not be synced, or the decision be made durable; likewise.
    """
    wanted = decision.volumes
    by_index = {backing.volume.index: backing for backing in backings}
    grown = [(by_index[new.index], new) for new in wanted if new.index in by_index]
    for backing, new in grown:
        _refuse_small(files, backing, new)
    added = _open_all(files, [new for new in wanted if new.index not in by_index])
    gone = [by_index[index] for index in sorted(by_index.keys() - {new.index for new in wanted})]
    leaving = [volume for volume in volumes if volume.source in {one.volume.index for one in gone}]
    try:
        await _drain(capture, gone, leaving)
        async with _soon(capture):
            await capture.note(Note.DISKS_TAKEN)  # what comes may be younger than all that was written
            await capture.in_thread(decision.commit)
            _take_over(decision, capture, backings, volumes, grown, added)
    except BaseException:
        for volume in leaving:
            volume.readmit()
        for backing in added:
            files.close(backing.fd)
        raise
    for backing in gone:
        # Not closed: reads of it may be under way. It is closed when this process ends.
        fcntl.flock(backing.fd, fcntl.LOCK_UN)


async def _drain(capture: Capture, gone: Sequence[Backing], leaving: Sequence[Volume]) -> None:
    """Whoever uses the disks next finds everything that was answered."""
    for volume in leaving:
        volume.remove()
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            for volume in leaving:  # while the others go on: a disk that hangs may be why it goes
                await volume.drained()
    except TimeoutError:
        raise ReloadRefused("nothing was changed", "requests to a volume that goes do not end") from None
    for backing in gone:
        backing.dirty = True
    if gone:
        await capture.sync()


@asynccontextmanager
async def _soon(capture: Capture) -> AsyncIterator[None]:
    """A time without writes, if it comes soon: those that come wait for it."""
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(QUIET_SECONDS_MAX):
                await stack.enter_async_context(capture.standstill())
        except TimeoutError:
            why = f"writes that are under way did not end within {QUIET_SECONDS_MAX:g} s"
            raise ReloadRefused("nothing was changed", why) from None
        yield


def _take_over(
    decision: Decision,
    capture: Capture,
    backings: list[Backing],
    volumes: list[Volume],
    grown: Sequence[tuple[Backing, VolumeSettings]],
    added: Sequence[Backing],
) -> None:
    """In a time without writes; nothing here fails, and nothing waits but for a disk."""
    by_source = {volume.source: volume for volume in volumes}
    for backing, new in grown:
        backing.volume = new
        by_source[new.index].grow(new.size_bytes)
    staying = {new.index for new in decision.volumes}
    volumes[:] = [volume for volume in volumes if volume.source in staying]
    backings[:] = [backing for backing in backings if backing.volume.index in staying]
    backings.extend(added)
    volumes.extend(Volume(backing, capture, capture.failures.losses) for backing in added)
    capture.dirty.change(decision.volumes)
    capture.intent.change(decision.volumes)
    capture.remove(decision.removed)
    sources, disks = served_by(backings)
    with suppress(OSError):  # the next write publishes it, or gives the journal up
        # Durably: after a power loss an older page would say that no splitter ever served what came, when
        # its records may be long gone, and a change behind our back would be passed over.
        capture.publish(replace(capture.page, sources=sources, disks=disks), durable=True)


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
