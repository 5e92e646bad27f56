"""Disks that fail while guests write: what is said, what is kept, what mends itself."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter.settings import OnJournalFull
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage, StreamerPage
from tests.unit.splitter.machine import FILE_BYTES, Machine, Splitter, run
from tests.waiting import turn, until

DEADLINE_SECONDS = 30.0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, volume_bytes=1 << 20)


def failing(name: str, suffix: str, code: int = errno.EIO) -> Callable[[str, Path], OSError | None]:
    def fail(called: str, path: Path) -> OSError | None:
        return OSError(code, "injected") if called == name and path.suffix == suffix else None

    return fail


def healthy(name: str, path: Path) -> OSError | None:
    return None


async def fill(splitter: Splitter, count: int) -> None:
    """More than a journal file of records."""
    for number in range(count):
        await splitter.volume.write(number % 16 * 4096, bytes([number % 256]) * 4096, False)


@pytest.mark.parametrize("length", [512, 100 << 10])
def test_a_failed_disk_write_is_told_and_never_passed_by_a_sync(machine: Machine, length: int) -> None:
    async def scenario(splitter: Splitter) -> None:
        before = splitter.capture.page.tail
        machine.files.fail = failing("pwritev", ".raw", errno.ENOSPC)
        with pytest.raises(OSError, match="injected") as caught:
            await splitter.volume.write(0, b"n" * length, False)
        assert caught.value.errno == errno.ENOSPC
        machine.files.fail = healthy
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.flush()
        assert splitter.capture.page.synced == before
        assert await splitter.capture.mend()
        assert machine.disk()[:length] == b"n" * length, "journal and disk agree again"

    run(machine, scenario)


def test_a_failed_disk_write_makes_the_stop_unclean(machine: Machine) -> None:
    async def scenario() -> None:
        splitter = machine.start()
        machine.files.fail = failing("pwritev", ".raw")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.write(0, b"n", False)
        assert not await splitter.stop()
        machine.files.fail = healthy
        again = machine.start()  # redo is what mends it
        assert machine.disk()[:1] == b"n"
        assert await again.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_a_failing_journal_gives_way_to_the_guests(machine: Machine, call: str) -> None:
    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"before", False)
        machine.files.fail = failing(call, ".jnl")
        await splitter.volume.write(512, b"during", True)
        await splitter.volume.write(1024, b"after", True)
        page = machine.pages.splitter.read()
        assert page is not None
        assert page.overflowed
        assert page.tail == page.overflow_at == page.synced
        assert 0 < page.overflow_ns <= machine.clock.now_ns
        assert (machine.disk()[:6], machine.disk()[512:518]) == (b"before", b"during")
        assert not page.sync_failed

    run(machine, scenario)


def test_a_full_journal_gives_way_and_the_disk_is_synced_first(machine: Machine) -> None:
    machine.settings = replace(machine.settings, limit_bytes=2 * FILE_BYTES)

    async def scenario(splitter: Splitter) -> None:
        await fill(splitter, 20)
        assert splitter.capture.page.overflow_at == NOWHERE
        machine.files.calls.clear()
        await fill(splitter, 40)
        assert splitter.capture.page.overflowed
        assert ("fdatasync", machine.settings.volumes[0].backing) in machine.files.calls
        assert len(list((machine.directory / "journal").iterdir())) == 2

    run(machine, scenario)


def test_no_write_goes_past_the_journal_before_the_overflow_is_durable(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = machine.pages.splitter.publish

    def not_durable(page: SplitterPage, durable: bool = False) -> None:
        if durable:
            raise OSError(errno.EIO, "no msync")
        publish(page)

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = failing("pwritev", ".jnl")
        monkeypatch.setattr(type(machine.pages.splitter), "publish", lambda self, *given: not_durable(*given))
        for _ in range(2):
            with pytest.raises(OSError, match="no msync"):
                await splitter.volume.write(0, b"lost", False)
        assert machine.disk()[:4] == bytes(4)
        assert splitter.capture.page.overflow_at == NOWHERE
        monkeypatch.undo()
        await splitter.volume.write(0, b"kept", True)
        assert splitter.capture.page.overflowed

    run(machine, scenario)


def test_a_full_file_system_under_the_journal_is_a_full_journal(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = failing("allocate", ".jnl", errno.ENOSPC)
        await fill(splitter, 40)
        assert splitter.capture.page.overflowed

    run(machine, scenario)


def test_nothing_is_redone_after_an_overflow(machine: Machine) -> None:
    machine.settings = replace(machine.settings, limit_bytes=2 * FILE_BYTES)

    async def scenario() -> None:
        splitter = machine.start()
        await fill(splitter, 60)
        await splitter.volume.write(0, b"newer than the journal", False)
        splitter.release()  # killed
        again = machine.start()
        assert machine.disk().startswith(b"newer than the journal")
        assert again.capture.page.overflowed
        assert again.capture.page.overflow_ns == splitter.capture.page.overflow_ns > 0
        assert again.capture.page.generation != splitter.capture.page.generation
        await again.volume.write(0, b"goes on", True)
        assert await again.volume.read(0, 7) == b"goes on"
        await again.stop()

    asyncio.run(scenario())


def test_a_full_copy_forgets_the_overflow_and_the_journal_so_far(machine: Machine) -> None:
    settings = machine.settings
    machine.settings = replace(settings, limit_bytes=2 * FILE_BYTES)

    async def scenario() -> None:
        splitter = machine.start()
        await fill(splitter, 60)
        await splitter.stop()
        machine.settings = replace(machine.settings, full_copy=True)
        again = machine.start()
        page = again.capture.page
        assert not page.overflowed
        assert page.episode
        assert page.tail == page.synced == Position(page.generation, 0)
        assert len(list((machine.directory / "journal").iterdir())) == 1
        await again.volume.write(0, b"x", True)
        assert again.capture.page.tail.offset > 0
        await again.stop()

    asyncio.run(scenario())


def test_writes_wait_for_room_where_that_was_chosen(machine: Machine) -> None:
    machine.settings = replace(
        machine.settings, limit_bytes=2 * FILE_BYTES, on_journal_full=OnJournalFull.STOP_WRITES
    )

    async def scenario(splitter: Splitter) -> None:
        filling = asyncio.ensure_future(fill(splitter, 60))
        await until(lambda: splitter.capture.failures.last_error, "the journal is full", DEADLINE_SECONDS)
        assert "limit" in splitter.capture.failures.last_error
        assert "limit" in splitter.capture.why_writes_wait
        assert not filling.done()
        splitter.capture.trim()
        assert splitter.capture.why_writes_wait, "nothing is proven yet"
        await splitter.volume.flush()  # reads and flushes go on
        assert await splitter.volume.read(0, 1) is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not filling.done():
                await splitter.volume.flush()
                machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
                splitter.capture.trim()
                await turn()
        await filling
        assert not splitter.capture.why_writes_wait
        assert not splitter.capture.page.overflowed

    run(machine, scenario)


def test_a_failing_journal_fails_writes_where_protection_comes_first(machine: Machine) -> None:
    machine.settings = replace(machine.settings, on_journal_full=OnJournalFull.STOP_WRITES)

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = failing("pwritev", ".jnl")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.write(0, b"x", False)
        assert machine.disk()[:1] == b"\0", "what is not in the journal is not on the disk"
        machine.files.fail = healthy
        await splitter.volume.write(0, b"x", True)

    run(machine, scenario)


def test_no_overflow_over_a_disk_that_lacks_what_the_journal_holds(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = failing("pwritev", ".raw")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.write(0, b"x", False)
        machine.files.fail = failing("pwritev", ".jnl")
        with pytest.raises(OSError, match="injected"):
            await splitter.volume.write(0, b"y", False)
        assert splitter.capture.page.overflow_at == NOWHERE

    run(machine, scenario)


def test_a_record_is_kept_until_it_is_both_synced_and_proven(machine: Machine) -> None:
    """Invariant 2."""

    async def scenario(splitter: Splitter) -> None:
        journal = machine.directory / "journal"
        await fill(splitter, 400)
        count = len(list(journal.iterdir()))
        oldest = min(journal.iterdir())
        await splitter.volume.flush()
        assert not splitter.capture.trim(), "synced, but not proven"
        machine.pages.streamer.publish(StreamerPage(Position(99, 0)))
        assert not splitter.capture.trim(), "proven by another journal"
        machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
        assert oldest.exists()
        assert splitter.capture.trim()
        await fill(splitter, 14)
        assert not oldest.exists(), "recycled"
        assert len(list(journal.iterdir())) < count, "spare files beyond the limit are deleted"

    run(machine, scenario)


def test_nothing_unsynced_is_trimmed_though_it_is_proven(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await fill(splitter, 100)
        machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
        assert not splitter.capture.trim()

    run(machine, scenario)


def test_no_room_for_the_very_first_file_is_an_overflow_too(machine: Machine) -> None:
    machine.files.fail = failing("allocate", ".jnl", errno.ENOSPC)

    async def scenario() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"not captured", True)
        assert splitter.capture.page.overflowed
        splitter.release()  # killed
        machine.files.fail = healthy
        again = machine.start()
        assert again.capture.page.overflowed
        assert await again.stop()

    asyncio.run(scenario())


def test_a_journal_that_lost_its_end_after_an_overflow_keeps_no_guest_waiting(machine: Machine) -> None:
    async def scenario() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x" * 5000, False)
        machine.files.fail = failing("fdatasync", ".jnl")
        await splitter.volume.flush()
        machine.files.fail = healthy
        assert splitter.capture.page.overflowed
        splitter.release()
        machine.files.lose_power(Random(1), 1.0, suffixes=(".jnl",))
        machine.reboot()
        again = machine.start()
        assert again.capture.page.overflowed
        assert machine.disk().startswith(b"x" * 5000)
        await again.stop()

    asyncio.run(scenario())
