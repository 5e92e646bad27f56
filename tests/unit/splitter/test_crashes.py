"""Killed or without power at any moment: then disk and journal agree, and nothing acknowledged is lost.

Long lives by chance; every state of short ones is in `test_crash_states`. The name of a test holds its seed,
which replays exactly; one that fails is kept in `FAILED_SEEDS`. `--deep` runs many more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter import opening
from cdp_container.errors import JournalDamaged
from cdp_container.journal.shared import StreamerPage
from nbd_export.files import Buffer
from tests.unit.splitter.machine import SECTOR_BYTES, Lossy, Machine, Splitter

pytestmark = pytest.mark.slow

VOLUME_BYTES = 256 << 10
LARGE = 70 << 10
SEEDS = 16
DEEP_SEEDS = 2000
FAILED_SEEDS: tuple[int, ...] = ()
"""Seeds of a power loss that once failed, each for a reason of its own; never taken out."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "power_seed" in metafunc.fixturenames:
        count = DEEP_SEEDS if metafunc.config.getoption("--deep") else SEEDS
        metafunc.parametrize("power_seed", (*FAILED_SEEDS, *range(count)))


class Killed(BaseException):
    """The process is gone."""


class Killing(Lossy):
    """Kills at one call: before it, or in the middle of a write."""

    calls_left = 1 << 30

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        if self._is_the_end():
            data = b"".join(buffers)
            os.pwrite(fd, data[: len(data) // 2 // SECTOR_BYTES * SECTOR_BYTES], offset)
            raise Killed
        super().pwritev(fd, buffers, offset)

    def zero(self, fd: int, offset: int, length: int, may_trim: bool) -> None:
        if self._is_the_end():
            raise Killed
        super().zero(fd, offset, length, may_trim)

    def fdatasync(self, fd: int) -> None:
        if self._is_the_end():
            raise Killed
        super().fdatasync(fd)

    def _is_the_end(self) -> bool:
        self.calls_left -= 1
        return self.calls_left <= 0


@dataclass
class Guest:
    """Writes, and knows what each sector may hold: what was flushed last, and what was written since."""

    rng: Random
    written: bytearray = field(default_factory=lambda: bytearray(VOLUME_BYTES))  # acknowledged
    allowed: dict[int, set[bytes]] = field(default_factory=dict)  # sector -> contents, after a power loss
    under_way: dict[int, bytes] = field(
        default_factory=dict
    )  # sector -> content of the write without an answer

    async def work(self, splitter: Splitter, steps: int) -> None:
        for _ in range(steps):
            await self._step(splitter)

    async def _step(self, splitter: Splitter) -> None:
        kind = self.rng.choice(["write", "write", "write", "large", "zero", "trim", "flush", "fua"])
        if kind == "flush":
            await splitter.volume.flush()
            self.allowed.clear()
            return
        length = LARGE if kind == "large" else SECTOR_BYTES * self.rng.randrange(1, 9)
        offset = SECTOR_BYTES * self.rng.randrange((VOLUME_BYTES - length) // SECTOR_BYTES)
        data = bytes(length) if kind in ("zero", "trim") else self.rng.randbytes(length)
        self._may_hold(offset, data)
        if kind == "zero":
            await splitter.volume.zero(offset, length, False, True)
        elif kind == "trim":
            await splitter.volume.trim(offset, length, False)
        else:
            await splitter.volume.write(offset, data, kind == "fua")
        self.written[offset : offset + length] = data
        self.under_way.clear()
        if kind == "fua":
            self.allowed.clear()

    def _may_hold(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), SECTOR_BYTES):
            sector = (offset + at) // SECTOR_BYTES
            before = bytes(self.written[offset + at : offset + at + SECTOR_BYTES])
            contents = self.allowed.setdefault(sector, {before})
            self.under_way[sector] = data[at : at + SECTOR_BYTES]
            contents.add(self.under_way[sector])

    def check(self, disk: bytes) -> None:
        """After a power loss."""
        for sector in range(VOLUME_BYTES // SECTOR_BYTES):
            place = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            allowed = self.allowed.get(sector, {bytes(self.written[place])})
            assert disk[place] in allowed, (
                f"sector {sector} holds what nobody wrote, or lost what was flushed"
            )

    def check_after_kill(self, disk: bytes) -> None:
        """Everything acknowledged is there; of the one write under way any sectors may be."""
        for sector in range(VOLUME_BYTES // SECTOR_BYTES):
            place = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            assert disk[place] in (bytes(self.written[place]), self.under_way.get(sector))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, VOLUME_BYTES)


@pytest.mark.parametrize("call", range(1, 60, 2))
def test_killed_at_every_call_of_a_workload(machine: Machine, call: int) -> None:
    guest, files = Guest(Random(call % 7)), Killing()
    machine.files = files

    async def first_life() -> None:
        splitter = machine.start()
        files.calls_left = call
        try:
            await guest.work(splitter, 60)
        finally:
            splitter.release()

    with pytest.raises(Killed):
        asyncio.run(first_life())
    files.calls_left = 1 << 30
    asyncio.run(restart_and_compare(machine))
    guest.check_after_kill(machine.disk())


@pytest.mark.parametrize("call", range(1, 40, 3))
def test_killed_at_every_call_of_a_redo(machine: Machine, call: int) -> None:
    guest, files = Guest(Random(3)), Killing()
    machine.files = files

    async def first_life() -> None:
        splitter = machine.start()
        await guest.work(splitter, 40)
        splitter.release()

    async def second_life() -> None:
        files.calls_left = call
        machine.start().release()

    asyncio.run(first_life())
    files.lose_power(Random(call), 0.5, suffixes=[".raw"])
    try:
        asyncio.run(second_life())
    except Killed:
        files.lose_power(Random(call), 0.5, suffixes=[".raw"])
    files.calls_left = 1 << 30
    asyncio.run(restart_and_compare(machine))
    assert machine.disk() == bytes(guest.written)


async def restart_and_compare(machine: Machine) -> None:
    splitter = machine.start()
    assert machine.disk() == machine.replay(), "disk and journal agree"
    await splitter.volume.write(0, b"\0", False)  # and it goes on
    await splitter.volume.write(0, machine.replay()[:1], False)
    assert await splitter.stop()


def test_power_loss(machine: Machine, power_seed: int) -> None:
    rng = Random(power_seed)
    guest = Guest(rng)

    async def life() -> None:
        splitter = machine.start()
        guest.check(machine.disk())
        guest.written[:] = machine.disk()
        guest.allowed.clear()
        shared = (machine.directory / "shared").read_bytes()
        for _ in range(3):
            await guest.work(splitter, rng.randrange(20))
            if rng.random() < 0.5:
                machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
                splitter.capture.trim()
        splitter.release()
        machine.files.lose_power(rng, rng.choice([0.1, 0.5, 1.0]))
        if rng.random() < 0.5:
            machine.restore_shared(shared)
        machine.reboot()

    for _ in range(4):
        asyncio.run(life())


@pytest.mark.parametrize("seed", range(4))
def test_what_the_journal_kept_is_on_the_disk_after_a_power_loss(machine: Machine, seed: int) -> None:
    asyncio.run(lose_the_disk_only(machine, seed))
    assert machine.disk() == machine.replay()


def test_without_redo_the_harness_sees_a_loss(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of invariant 8."""
    monkeypatch.setattr(opening, "redo", lambda *arguments: 0)
    asyncio.run(lose_the_disk_only(machine, seed=1))
    assert machine.disk() != machine.replay()


async def lose_the_disk_only(machine: Machine, seed: int) -> None:
    """Acknowledged writes, some of them in the container by now, which the disk alone has lost."""
    splitter = machine.start()
    await Guest(Random(seed)).work(splitter, 60)
    await splitter.volume.write(0, b"acknowledged", False)
    splitter.release()
    machine.files.lose_power(Random(seed), 1.0, suffixes=[".raw"])
    machine.reboot()
    await machine.start().stop()


def test_a_flushed_record_that_is_gone_is_damage_not_an_end(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x" * 5000, True)
        splitter.release()
        path = min((machine.directory / "journal").iterdir())
        data = bytearray(path.read_bytes())
        data[4096 + 100] ^= 1
        path.write_bytes(data)
        with pytest.raises(JournalDamaged, match="reached once"):
            machine.start()

    asyncio.run(lives())


def test_a_published_record_that_is_gone_without_a_power_loss_is_damage(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x" * 5000, False)
        splitter.release()
        os.truncate(min((machine.directory / "journal").iterdir()), 4096 + 100)
        with pytest.raises(JournalDamaged, match="reached once"):
            machine.start()
        machine.reboot()  # whereas a power loss explains it
        again = machine.start()
        assert again.capture.page.episode
        await again.stop()

    asyncio.run(lives())


def test_a_journal_that_is_gone_is_damage_until_everything_is_copied(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", True)
        splitter.release()
        for path in (machine.directory / "journal").iterdir():
            path.unlink()
        with pytest.raises(JournalDamaged, match="gone"):
            machine.start()
        machine.settings = replace(machine.settings, full_copy=True)
        await machine.start().stop()

    asyncio.run(lives())


def test_a_shared_page_that_is_gone_is_damage_until_the_operator_says_redo(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", True)
        splitter.release()
        machine.restore_shared(b"")
        with pytest.raises(JournalDamaged, match="nobody knows"):
            machine.start()
        machine.settings = replace(machine.settings, redo=True)
        await machine.start().stop()

    asyncio.run(lives())


def test_a_guest_that_never_flushes_loses_only_what_came_after_our_own_sync(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        for number in range(40):
            await splitter.volume.write(number * 512, b"never flushed".ljust(512), False)
        await splitter.capture.sync()  # as the process does every few seconds
        assert splitter.capture.page.synced == splitter.capture.page.tail
        await splitter.volume.write(50 * 512, b"after it".ljust(512), False)
        splitter.release()
        machine.files.lose_power(Random(1), 1.0)
        machine.reboot()
        again = machine.start()
        assert all(machine.disk()[number * 512 :].startswith(b"never flushed") for number in range(40))
        again.release()

    asyncio.run(lives())
