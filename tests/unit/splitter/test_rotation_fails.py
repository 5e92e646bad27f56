"""A record that cannot be written into the next journal file: the journal ends where it did."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter.settings import OnJournalFull
from cdp_container.journal.position import Position
from cdp_container.journal.reader import JournalReader
from tests.unit.splitter.machine import DOMAIN, FILE_BYTES, Machine, Splitter, give_up, overflow

Fault = Callable[[str, Path], OSError | None]


def nothing_fails(name: str, path: Path) -> OSError | None:
    return None


def records_fail(wipe: bool = False) -> Fault:
    """Files after the first take their header alone; `wipe`: and then the first takes nothing more."""
    written: set[Path] = set()
    refused: list[Path] = []

    def fail(name: str, path: Path) -> OSError | None:
        if name != "pwritev" or path.suffix != ".jnl":
            return None
        if path.name == "000000000001.jnl":
            return OSError(errno.EIO, "bad sectors") if wipe and refused else None
        if path not in written:
            written.add(path)
            return None
        refused.append(path)
        return OSError(errno.EIO, "bad sectors")

    return fail


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, 1 << 20)
    made.settings = replace(made.settings, limit_bytes=6 * FILE_BYTES)
    return made


async def fill(splitter: Splitter, count: int = 7) -> None:
    """Most of the first file, so that the next write goes into the second."""
    for _ in range(count):
        await splitter.volume.write(0, b"j" * 8192, False)
    await splitter.capture.sync()


async def go_on(splitter: Splitter) -> None:
    give_up(splitter)
    assert await splitter.capture.go_on()
    await splitter.volume.write(4096, b"captured" * 512, True)


def check_one_run(machine: Machine, splitter: Splitter) -> None:
    """A reader that remembers nothing finds the new generation, and it follows the old one."""
    page = splitter.capture.page
    with JournalReader(machine.directory / "journal", DOMAIN) as reader:
        assert len(reader.runs) == 1
        assert list(reader.records(Position(page.generation, 0), page.tail))


async def ends_well(machine: Machine, splitter: Splitter) -> None:
    """Killed, and started again."""
    splitter.release()
    again = machine.start()
    assert machine.disk()[4096:].startswith(b"captured")
    assert await again.stop()


@pytest.mark.parametrize("wipe_fails", [False, True])
def test_the_journal_goes_on_behind_where_it_was_given_up(machine: Machine, wipe_fails: bool) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        machine.files.fail = records_fail(wipe=wipe_fails)
        await overflow(splitter)
        machine.files.fail = nothing_fails
        assert len(list((machine.directory / "journal").iterdir())) == 1, "the file that was not used is gone"
        await go_on(splitter)
        check_one_run(machine, splitter)
        await ends_well(machine, splitter)

    asyncio.run(lives())


def test_a_file_that_could_not_be_dropped_is_no_part_of_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or that a power loss brought back: its directory was not synced."""

    def unlink(path: Path) -> None:
        raise OSError(errno.EIO, "the directory")

    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        with JournalReader(machine.directory / "journal", DOMAIN) as streamer:
            machine.files.fail = records_fail()
            with monkeypatch.context() as patched:
                patched.setattr(machine.files, "unlink", unlink)
                await overflow(splitter)
            machine.files.fail = nothing_fails
            streamer.refresh()
            assert len(streamer.files) == 2
            await go_on(splitter)
            page = splitter.capture.page
            assert list(streamer.records(Position(page.generation, 0), page.tail)), "it remembers that file"
        check_one_run(machine, splitter)
        await ends_well(machine, splitter)

    asyncio.run(lives())


@pytest.mark.parametrize("seed", range(12))
def test_power_is_lost_after_it(machine: Machine, seed: int) -> None:
    """Each of what was taken back may be there again, or not."""
    rng = Random(seed)

    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        machine.files.fail = records_fail()
        await overflow(splitter)
        machine.files.fail = nothing_fails
        splitter.release()
        machine.files.lose_power(rng, 0.5, suffixes=[".jnl"])
        machine.reboot()
        again = machine.start()
        assert again.capture.page.overflowed
        await go_on(again)
        check_one_run(machine, again)
        await ends_well(machine, again)

    asyncio.run(lives())


@pytest.mark.parametrize("large", [False, True])
def test_a_guest_that_is_told_may_write_on(machine: Machine, large: bool) -> None:
    """With `stop-writes` the error is the guest's; what it writes next has a sound place."""
    machine.settings = replace(machine.settings, on_journal_full=OnJournalFull.STOP_WRITES)

    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        tail = splitter.capture.page.tail
        machine.files.fail = records_fail()
        with pytest.raises(OSError, match="bad sectors"):
            await splitter.volume.write(0, b"k" * ((200 << 10) if large else 8192), False)
        machine.files.fail = nothing_fails
        assert splitter.capture.page.tail == tail
        await splitter.volume.write(4096, b"captured" * 512, False)
        splitter.release()
        with JournalReader(machine.directory / "journal", DOMAIN) as reader:
            assert reader.find_end(tail).position.offset > tail.offset
        assert machine.replay()[4096:].startswith(b"captured" * 512)
        again = machine.start()
        await ends_well(machine, again)

    asyncio.run(lives())
