"""What failed stays failed until it is mended: by a redo, or by giving up the journal."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdp_container.journal.position import NOWHERE
from cdp_container.journal.shared import SharedPage, SplitterPage
from nbd_export.files import Buffer
from tests.unit.splitter.machine import Lossy, Machine, Splitter, run
from tests.unit.splitter.test_failures import failing, healthy
from tests.waiting import turn, until


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, volume_bytes=1 << 20)


def test_a_failed_sync_is_sticky_until_a_redo_has_mended_it(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"first", True)
        synced = splitter.capture.page.synced
        await splitter.volume.write(0, b"acked", False)
        machine.files.fail = failing("fdatasync", ".raw")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.flush()
        machine.files.fail = healthy
        for _ in range(3):  # a later sync would succeed, and prove nothing
            with pytest.raises(OSError, match="injected"):
                await splitter.volume.flush()
        assert splitter.capture.page.sync_failed
        assert splitter.capture.page.synced == synced
        machine.overwrite(0, b"LOST!")  # what the kernel dropped
        assert await splitter.capture.mend()
        await splitter.volume.flush()
        assert machine.disk()[:5] == b"acked"
        assert not splitter.capture.page.sync_failed

    run(machine, scenario)


def test_a_mending_that_fails_leaves_it_failed(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"acked", False)
        machine.files.fail = failing("fdatasync", ".raw")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.flush()
        assert not await splitter.capture.mend()
        assert splitter.capture.page.sync_failed
        machine.files.fail = healthy
        assert await splitter.capture.mend()

    run(machine, scenario)


class ReportedOnce(Lossy):
    """What a redo writes is lost, of which whoever syncs next is told, once. The first sync can wait."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = False
        self.redone = threading.Event()
        self.journal_waiting = threading.Event()
        self.journal_may = threading.Event()
        self.disk_may = threading.Event()

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        super().pwritev(fd, buffers, offset)
        if self.is_slow and threading.current_thread().name.startswith("io"):
            self.redone.set()

    def fdatasync(self, fd: int) -> None:
        is_disk = os.readlink(f"/proc/self/fd/{fd}").endswith(".raw")
        if self.is_slow and not is_disk and not self.journal_waiting.is_set():
            self.journal_waiting.set()
            assert self.journal_may.wait(30)
        if self.is_slow and is_disk:
            assert self.disk_may.wait(30)
            if self.redone.is_set():
                self.is_slow = False
                raise OSError(errno.EIO, "reported once")
        super().fdatasync(fd)


def test_a_mending_waits_for_the_sync_that_runs(machine: Machine) -> None:
    """Or that sync is told what became of the redo, and the mending is not."""
    machine.files = files = ReportedOnce()

    async def scenario(splitter: Splitter) -> None:
        capture = splitter.capture
        await splitter.volume.write(0, b"a" * 4096, False)
        files.is_slow = True
        flush = asyncio.create_task(splitter.volume.flush())
        await until(files.journal_waiting.is_set, "the journal's sync began")
        files.fail = failing("pwritev", ".raw")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.write(8192, b"b" * 4096, False)
        files.fail = healthy
        mending = asyncio.create_task(capture.mend())
        await turn()
        files.journal_may.set()
        beside = await asyncio.to_thread(files.redone.wait, 0.1)
        files.disk_may.set()
        assert not beside, "no redo beside a sync"
        synced = capture.page.synced
        assert not await mending, "it is told of what it lost itself"
        assert capture.page.synced == synced
        with pytest.raises(OSError, match="injected"):
            await flush
        assert await capture.mend()
        await splitter.volume.flush()
        assert machine.disk()[8192:8193] == b"b"

    run(machine, scenario)


def test_a_failed_journal_stays_so_until_its_overflow_is_durable(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = type(machine.pages.splitter).publish

    def not_durable(self: SharedPage[SplitterPage], page: SplitterPage, durable: bool = False) -> None:
        if durable:
            raise OSError(errno.EIO, "no sync")
        publish(self, page)

    async def scenario(splitter: Splitter) -> None:
        capture = splitter.capture
        await splitter.volume.write(0, b"a" * 4096, False)
        synced = capture.page.synced
        with monkeypatch.context() as patched:
            patched.setattr(type(machine.pages.splitter), "publish", not_durable)
            machine.files.fail = failing("fdatasync", ".jnl")
            with pytest.raises(OSError, match="no sync"):
                await splitter.volume.flush()
            machine.files.fail = healthy  # the kernel has dropped the pages and told so once
            assert not await capture.mend()
        for _ in range(2):
            with pytest.raises(OSError, match="syncing the journal"):
                await splitter.volume.flush()
        assert capture.page.sync_failed
        assert (capture.page.synced, capture.page.overflow_at) == (synced, NOWHERE)
        assert await capture.mend(), "now the overflow can be noted"
        assert capture.page.overflowed
        await splitter.volume.flush()
        assert not capture.page.sync_failed

    run(machine, scenario)


def test_journal_and_disk_failed_together_are_mended_by_redo_and_overflow(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        capture = splitter.capture
        await splitter.volume.write(0, b"acked", False)
        machine.files.fail = lambda name, path: (
            OSError(errno.EIO, "injected") if name == "fdatasync" else None
        )
        with pytest.raises(OSError, match="syncing the backing store"):
            await splitter.volume.flush()
        machine.files.fail = healthy
        machine.overwrite(0, b"LOST!")
        synced = capture.page.synced
        assert capture.page.overflow_at == NOWHERE
        assert await capture.mend()
        assert machine.disk()[:5] == b"acked"
        assert capture.page.overflowed
        assert capture.page.synced.offset > synced.offset
        await splitter.volume.flush()

    run(machine, scenario)


def test_flushes_beside_an_overflow_do_not_notice_it(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = failing("fdatasync", ".jnl")
        await splitter.volume.write(0, b"a", False)
        flushes = [asyncio.create_task(splitter.volume.flush()) for _ in range(3)]
        await until(
            lambda: splitter.capture.failures.first or all(flush.done() for flush in flushes),
            "the sync failed",
        )
        flushes.append(asyncio.create_task(splitter.volume.flush()))
        await asyncio.gather(*flushes)
        assert splitter.capture.page.overflowed

    run(machine, scenario)


@pytest.mark.parametrize("length", [512, 100 << 10])
def test_a_page_that_cannot_be_published_gives_way_like_the_journal(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    publish, left = type(machine.pages.splitter).publish, 1

    def once(self: SharedPage[SplitterPage], page: SplitterPage, durable: bool = False) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "no page")
        publish(self, page, durable)

    async def scenario(splitter: Splitter) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(type(machine.pages.splitter), "publish", once)
            await splitter.volume.write(0, b"x" * length, True)
        assert machine.disk()[:length] == b"x" * length
        # A small write is tried once more, in its turn, before the journal is given up.
        assert splitter.capture.page.overflowed == (length > 512)

    run(machine, scenario)
