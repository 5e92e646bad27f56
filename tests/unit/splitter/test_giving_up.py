"""Giving the journal up beside flushes, a second quiet time, and a large write that is taken back."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.splitter.settings import OnJournalFull
from tests.unit.splitter.machine import FILE_BYTES, Lossy, Machine
from tests.waiting import turn


class SlowDisk(Lossy):
    """The first sync of a disk waits for `go`; syncs of the journal fail while `journal_fails`."""

    def __init__(self) -> None:
        super().__init__()
        self.watching = self.journal_fails = False
        self.disk_syncs = threading.Event()
        self.go = threading.Event()

    def fdatasync(self, fd: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if self.watching and name.endswith(".raw") and not self.disk_syncs.is_set():
            self.disk_syncs.set()
            assert self.go.wait(30)
        if self.journal_fails and name.endswith(".jnl"):
            raise OSError(errno.EIO, "the journal's disk is dying")
        super().fdatasync(fd)


def test_a_flush_beside_an_overflow_does_not_fail_for_ever(tmp_path: Path) -> None:
    machine, files = Machine(tmp_path), SlowDisk()
    machine.files = files
    machine.settings = replace(machine.settings, limit_bytes=4 * FILE_BYTES)

    async def lives() -> None:
        splitter = machine.start()
        files.watching = files.journal_fails = True

        async def fill() -> None:
            for _ in range(60):
                await splitter.volume.write(0, b"x" * 8192, False)

        filling = asyncio.create_task(fill())
        await asyncio.to_thread(files.disk_syncs.wait, 30)
        flushing = asyncio.create_task(splitter.volume.flush())
        await turn()
        files.go.set()
        await filling
        await asyncio.gather(flushing, return_exceptions=True)  # it may fail, once
        files.journal_fails = False
        assert splitter.capture.page.overflowed
        await splitter.capture.mend()
        await splitter.volume.write(0, b"y" * 4096, False)
        await splitter.volume.flush()
        assert not splitter.capture.page.sync_failed
        splitter.release()

    asyncio.run(lives())


def test_no_write_begins_in_a_second_quiet_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)

    async def lives() -> None:
        splitter = machine.start()
        capture = splitter.capture
        first, second, looked = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def quiet_first() -> None:
            async with capture.appending.gate.quiet():
                await first.wait()

        async def quiet_second() -> int:
            await second.wait()
            async with capture.appending.gate.quiet():
                for _ in range(10):
                    await turn()
                looked.set()
                return len(capture.appending.gate._in_flight)

        async def write() -> None:
            ticket = await capture.admit(lambda: capture.appending.append_write(0, 0, b"w" * 512))
            await looked.wait()
            capture.done(ticket)

        tasks = [asyncio.create_task(quiet_first()), asyncio.create_task(quiet_second())]
        await turn()
        tasks.append(asyncio.create_task(write()))
        await turn()
        first.set()
        second.set()
        begun = (await asyncio.gather(*tasks))[1]
        assert begun == 0
        splitter.release()

    asyncio.run(lives())


def test_a_write_that_was_taken_back_stays_so_after_a_power_loss(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.settings = replace(machine.settings, on_journal_full=OnJournalFull.STOP_WRITES)

    async def lives() -> None:
        splitter = machine.start()
        seen = 0

        def fail(name: str, path: Path) -> OSError | None:
            nonlocal seen
            if name == "pwritev" and path.name == "000000000002.jnl":
                seen += 1
                if seen == 2:  # its header is written, its first record is not
                    return OSError(errno.EIO, "a bad sector")
            return None

        machine.files.fail = fail
        with pytest.raises(OSError, match="bad sector"):
            await splitter.volume.write(0, b"L" * 70_000, False)
        machine.files.fail = lambda name, path: None
        shared = (tmp_path / "shared").read_bytes()
        for number in range(15):
            await splitter.volume.write(0, bytes([65 + number]) * 3900, False)
        await splitter.volume.write(0, b"!" * 1000, False)
        await splitter.volume.flush()
        flushed = machine.disk()
        splitter.release()
        for undo in reversed(machine.files._undo):
            undo()
        machine.files._undo.clear()
        machine.restore_shared(shared)
        machine.reboot()
        again = machine.start()
        assert machine.disk() == flushed
        again.release()

    asyncio.run(lives())


def test_a_disk_that_lost_something_in_a_slow_sync_keeps_the_journal(tmp_path: Path) -> None:
    """The kernel tells of it once, and that sync still waits for the journal: the overflow must know."""
    machine = Machine(tmp_path)
    held, disk_failed = threading.Event(), threading.Event()

    def fail(name: str, path: Path) -> OSError | None:
        if name == "fdatasync" and path.suffix == ".jnl":
            assert held.wait(30)
        if name == "fdatasync" and path.suffix == ".raw" and not disk_failed.is_set():
            disk_failed.set()
            return OSError(errno.EIO, "what was dirty is lost")
        if name == "pwritev" and path.suffix == ".jnl" and disk_failed.is_set() and not held.is_set():
            return OSError(errno.EIO, "the journal's disk is dying")
        return None

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"only the journal has it" * 100, False)
        machine.files.fail = fail
        flushing = asyncio.create_task(splitter.volume.flush())
        await asyncio.to_thread(disk_failed.wait, 30)
        with pytest.raises(OSError, match="lost"):
            await splitter.volume.write(8192, b"x" * 4096, False)
        held.set()
        with pytest.raises(OSError, match="lost"):
            await flushing
        assert not splitter.capture.page.overflowed
        machine.overwrite(0, bytes(4096))  # what the kernel dropped
        assert await splitter.capture.mend()
        assert machine.disk().startswith(b"only the journal has it")
        await splitter.stop()

    asyncio.run(lives())
