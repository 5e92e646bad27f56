"""A journal that goes on while a guest's flush is under way, and after a sync that failed before."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.journal.block_map import MAP_HEADER_BYTES, decode_map_header, dirty_map_name, dirty_ranges
from tests.unit.splitter.machine import FILE_BYTES, SECTOR_BYTES, Lossy, Machine, Splitter, give_up, overflow

VOLUME_BYTES = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, VOLUME_BYTES, volumes=2)
    made.settings = replace(made.settings, limit_bytes=2 * FILE_BYTES)
    return made


async def given_up(splitter: Splitter) -> None:
    """Guests write until the journal is given up, and the streamer needs nothing of it."""
    await overflow(splitter)
    give_up(splitter)


class Held:
    """The next sync of a disk waits for `go`."""

    def __init__(self, machine: Machine) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        machine.files.fail = self.fail

    def fail(self, name: str, path: Path) -> OSError | None:
        if name == "fdatasync" and path.suffix == ".raw" and not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(30)
        return None


async def beside_a_flush(machine: Machine, splitter: Splitter) -> asyncio.Task[None]:
    """The journal goes on while a flush waits for its disk; gives the flush."""
    held = Held(machine)
    flushing = asyncio.create_task(splitter.volume.flush())
    await asyncio.to_thread(held.begun.wait, 30)
    going_on = asyncio.create_task(splitter.capture.go_on())
    await asyncio.wait([going_on], timeout=0.2)  # it may or may not wait for the flush
    held.go.set()
    assert await going_on
    return flushing


def test_a_flush_beside_it_does_not_take_the_synced_point_back(machine: Machine) -> None:
    """Else a kill before the next sync has a start judge the disks by a journal that was given up."""

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(512 << 10, b"journaled" * 400, True)
        await given_up(splitter)
        await splitter.volume.write(0, b"past it " * 1024, False)
        await (await beside_a_flush(machine, splitter))
        page = splitter.capture.page
        assert page.synced == page.tail
        splitter.release()
        again = machine.start()
        assert machine.disk()[:8] == b"past it "
        await again.stop()

    asyncio.run(lives())


class Forgetful(Lossy):
    """A disk whose syncs fail `failures` times: what was dirty is then in the page cache alone."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.lost: dict[int, dict[int, bytes]] = {}
        self.fail = self.sync_fails

    def sync_fails(self, name: str, path: Path) -> OSError | None:
        if name != "fdatasync" or path.name != "v0.raw" or not self.failures:
            return None
        self.failures -= 1
        inode = path.stat().st_ino
        self.lost.setdefault(inode, {}).update(self._before.pop(inode, {}))
        return OSError(errno.ENOSPC, "a thin pool that was full for a moment")

    def forget_cached(self, fd: int) -> None:
        for sector, content in self.lost.pop(os.fstat(fd).st_ino, {}).items():
            os.pwrite(fd, content, sector * SECTOR_BYTES)


@pytest.fixture
def forgetful(machine: Machine) -> Forgetful:
    files = Forgetful()
    machine.files = files
    return files


def test_a_failed_sync_amid_an_overflow_is_mended(machine: Machine, forgetful: Forgetful) -> None:
    """What the disk lost is lost, as on any disk: it reads so before anything is compared."""

    async def lives() -> None:
        splitter = machine.start()
        await given_up(splitter)
        await splitter.volume.write(40 * 4096, b"never on the disk" * 100, False)
        forgetful.failures = 2
        with pytest.raises(OSError, match="thin pool"):
            await splitter.volume.flush()
        with pytest.raises(OSError, match="thin pool"):
            await splitter.capture.go_on()
        assert not await splitter.capture.mend(), "the disk is not well yet"
        assert splitter.capture.page.overflowed
        with pytest.raises(OSError, match="a sync failed"):
            await splitter.volume.flush()
        assert await splitter.capture.mend()
        assert machine.disk()[40 * 4096 :].startswith(bytes(4096))
        await splitter.volume.flush()
        assert await splitter.capture.go_on()
        page = splitter.capture.page
        assert not page.compare_all
        data = (machine.directory / dirty_map_name(0)).read_bytes()
        assert (40 * 4096, 4096) in dirty_ranges(decode_map_header(data, "map"), data[MAP_HEADER_BYTES:])
        await splitter.volume.write(0, b"captured", True)
        assert await splitter.stop()

    asyncio.run(lives())


def test_each_guest_is_told_once_of_what_was_lost(machine: Machine, forgetful: Forgetful) -> None:
    """The sync was nobody's flush, and the next one goes well: the kernel would have told each of them."""

    async def lives() -> None:
        splitter = machine.start()
        await given_up(splitter)
        await splitter.volume.write(40 * 4096, b"never on the disk" * 100, False)
        forgetful.failures = 1
        with pytest.raises(OSError, match="thin pool"):
            await splitter.capture.sync()
        assert await splitter.capture.mend()
        for volume in splitter.volumes:
            with pytest.raises(OSError, match="a sync failed"):
                await volume.write(0, b"x", True)
            await volume.flush()
        assert await splitter.stop()

    asyncio.run(lives())


def test_a_sync_that_fails_as_the_journal_goes_on_leaves_it_given_up(
    machine: Machine, forgetful: Forgetful
) -> None:
    """Else what it lost would be in no record, and compared while the page cache still shows it."""

    async def lives() -> None:
        splitter = machine.start()
        await given_up(splitter)
        await splitter.volume.write(40 * 4096, b"never on the disk" * 100, False)
        forgetful.failures = 1
        with pytest.raises(OSError, match="thin pool"):
            await splitter.capture.go_on()
        assert splitter.capture.page.overflowed
        assert await splitter.capture.mend()
        assert await splitter.capture.go_on()
        assert machine.disk()[40 * 4096 :].startswith(bytes(4096))
        assert await splitter.stop()

    asyncio.run(lives())


@pytest.mark.parametrize("boots", [False, True])
def test_a_kill_does_not_hide_what_was_lost(machine: Machine, forgetful: Forgetful, boots: bool) -> None:
    """The next process finds nothing to sync, and the page cache still shows what no disk has."""

    async def lives() -> None:
        splitter = machine.start()
        await given_up(splitter)
        await splitter.volume.write(40 * 4096, b"never on the disk" * 100, False)
        forgetful.failures = 1
        with pytest.raises(OSError, match="thin pool"):
            await splitter.capture.sync()
        splitter.release()
        if boots:
            machine.reboot()
        again = machine.start()
        for volume in again.volumes:
            if not boots:
                with pytest.raises(OSError, match="a sync failed"):
                    await volume.flush()
                assert machine.disk()[40 * 4096 :].startswith(bytes(4096))
            await volume.flush()
        assert await again.stop()

    asyncio.run(lives())
