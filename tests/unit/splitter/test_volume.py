"""A volume's writes: in the journal, on the disk, in the same order; and a flush that means it."""

from __future__ import annotations

import asyncio
import errno
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter import volume
from tests.unit.splitter.machine import FILE_BYTES, Machine, Splitter, run
from tests.waiting import turn

LARGE = 80 << 10


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, volume_bytes=1 << 20)


def test_what_was_written_is_read_and_in_the_journal(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(100, b"small", False)
        await splitter.volume.write(4096, b"L" * LARGE, False)
        await splitter.volume.zero(5000, 100, False, True)
        await splitter.volume.trim(8192, 4096, False)
        assert await splitter.volume.read(100, 5) == b"small"
        assert await splitter.volume.read(4096, LARGE) == machine.disk()[4096 : 4096 + LARGE]
        assert machine.disk()[5000:5100] == bytes(100)
        assert machine.disk()[8192:12288] == bytes(4096)
        assert machine.replay() == machine.disk()

    run(machine, scenario)


def test_every_change_is_published_before_it_is_answered(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        for data in (b"s", b"L" * LARGE):
            before = machine.pages.splitter.read()
            await splitter.volume.write(0, data, False)
            after = machine.pages.splitter.read()
            assert before is not None
            assert after is not None
            assert after.tail.offset - before.tail.offset >= len(data)

    run(machine, scenario)


@pytest.mark.parametrize("seed", range(8))
def test_overlapping_writes_reach_journal_and_disk_in_one_order(machine: Machine, seed: int) -> None:
    rng = Random(seed)

    async def scenario(splitter: Splitter) -> None:
        volume, requests = splitter.volume, []
        for _ in range(120):
            offset, length = rng.randrange(1 << 17), rng.choice([512, 4096, LARGE, LARGE + 1])
            if rng.random() < 0.7:
                requests.append(volume.write(offset, rng.randbytes(length), False))
            else:
                requests.append(volume.zero(offset, length, False, rng.random() < 0.5))
        await asyncio.gather(*requests)
        assert machine.replay() == machine.disk()

    run(machine, scenario)


@pytest.mark.parametrize("file_bytes", [FILE_BYTES, 1 << 20], ids=["in parts", "in one"])
def test_what_a_thread_has_summed_is_sound_and_in_its_order(
    machine: Machine, file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed_from = 256 << 10
    monkeypatch.setattr(volume, "SUMMED_BY_THREAD_BYTES_MIN", summed_from)
    machine.settings = replace(machine.settings, file_bytes=file_bytes, limit_bytes=64 << 20)
    rng = Random(file_bytes)

    async def scenario(splitter: Splitter) -> None:
        lengths = (summed_from, 4096, 300_001, LARGE, 512, summed_from)
        writes = [(rng.randrange(1 << 16), rng.randbytes(length)) for length in lengths]
        await asyncio.gather(*(splitter.volume.write(offset, data, False) for offset, data in writes))
        assert machine.replay() == machine.disk()

    run(machine, scenario)


def test_a_small_write_waits_for_a_large_one_beneath_it(machine: Machine) -> None:
    release = threading.Event()

    def hold_disk(name: str, path: Path) -> OSError | None:
        if (
            name == "pwritev"
            and path.suffix == ".raw"
            and threading.current_thread() is not threading.main_thread()
        ):
            release.wait(30)
        return None

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = hold_disk
        large = asyncio.ensure_future(splitter.volume.write(0, b"L" * LARGE, False))
        await turn()
        tail = splitter.capture.page.tail
        small = asyncio.ensure_future(splitter.volume.write(10, b"small", False))
        await splitter.volume.write(LARGE, b"beside", False)  # what does not overlap goes on
        assert not small.done()
        assert splitter.capture.page.tail.offset - tail.offset == 64 + 8, "it is not in the journal yet"
        release.set()
        await asyncio.gather(large, small)
        assert machine.disk()[:20] == b"L" * 10 + b"small" + b"L" * 5

    run(machine, scenario)


def test_a_flush_is_answered_after_both_syncs(machine: Machine) -> None:
    """Invariant 1: the syncs of journal and disk stand between the writes and the answer."""

    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"x", False)
        machine.files.calls.clear()
        await splitter.volume.flush()
        synced = [path.suffix for name, path in machine.files.calls if name == "fdatasync"]
        assert sorted(synced) == [".jnl", ".raw"]  # side by side
        assert splitter.capture.page.synced == splitter.capture.page.tail

    run(machine, scenario)


@pytest.mark.parametrize("held", [".jnl", ".raw"])
def test_a_flush_waits_for_each_of_the_syncs(machine: Machine, held: str) -> None:
    release = threading.Event()

    def hold_sync(name: str, path: Path) -> OSError | None:
        if name == "fdatasync" and path.suffix == held:
            release.wait(30)
        return None

    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"x", False)
        machine.files.fail = hold_sync
        flush = asyncio.ensure_future(splitter.volume.flush())
        for _ in range(100):
            await turn()
        assert not flush.done()
        release.set()
        await flush

    run(machine, scenario)


@pytest.mark.parametrize("what", ["write", "large", "zero", "trim"])
def test_fua_syncs(machine: Machine, what: str) -> None:
    async def scenario(splitter: Splitter) -> None:
        volume = splitter.volume
        requests = {
            "write": lambda: volume.write(0, b"x", True),
            "large": lambda: volume.write(0, b"x" * LARGE, True),
            "zero": lambda: volume.zero(0, 4096, True, False),
            "trim": lambda: volume.trim(0, 4096, True),
        }
        machine.files.calls.clear()
        await requests[what]()
        synced = [path.suffix for name, path in machine.files.calls if name == "fdatasync"]
        assert set(synced) == {".jnl", ".raw"}  # side by side

    run(machine, scenario)


def test_a_flush_with_nothing_to_sync_costs_nothing(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"x", True)
        machine.files.calls.clear()
        await splitter.volume.flush()
        assert machine.files.calls == []

    run(machine, scenario)


def test_flushes_that_come_together_share_a_sync(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await splitter.volume.write(0, b"x", False)
        machine.files.calls.clear()
        await asyncio.gather(*(splitter.volume.flush() for _ in range(50)))
        assert len(machine.files.calls) <= 2

    run(machine, scenario)


def test_a_flush_during_a_sync_waits_for_the_next_one_if_something_was_written(machine: Machine) -> None:
    release, entered = threading.Event(), threading.Event()

    def hold_first(name: str, path: Path) -> OSError | None:
        if name == "fdatasync" and not entered.is_set():
            entered.set()
            release.wait(30)
        return None

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = hold_first
        await splitter.volume.write(0, b"x", False)
        first = asyncio.ensure_future(splitter.volume.flush())
        await asyncio.to_thread(entered.wait, 30)
        await splitter.volume.write(0, b"y", False)
        tail = splitter.capture.page.tail
        second = asyncio.ensure_future(splitter.volume.flush())
        release.set()
        await first
        await second
        assert splitter.capture.page.synced == tail

    run(machine, scenario)


def test_the_synced_point_does_not_pass_a_write_that_has_not_returned(machine: Machine) -> None:
    release = threading.Event()

    def hold_disk(name: str, path: Path) -> OSError | None:
        if name == "zero":
            release.wait(30)
        return None

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = hold_disk
        begun = splitter.capture.page.tail
        slow = asyncio.ensure_future(splitter.volume.zero(0, 4096, False, True))
        await turn()
        await splitter.volume.write(8192, b"x", True)
        assert splitter.capture.page.synced == begun
        release.set()
        await slow
        await splitter.volume.flush()
        assert splitter.capture.page.synced == splitter.capture.page.tail

    run(machine, scenario)


def test_a_read_error_is_the_clients(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        machine.settings.volumes[0].backing.write_bytes(b"short")
        with pytest.raises(OSError, match="shorter") as caught:
            await splitter.volume.read(0, 512)
        assert caught.value.errno == errno.EIO

    run(machine, scenario)
