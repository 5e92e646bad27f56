"""Disks that are rightly younger than the journal's last record: a kill then closes no exports."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.journal.read_back import MTIME_SLACK_SECONDS
from tests.unit.splitter.machine import FILE_BYTES, Machine, give_up, overflow

LONG_NS = int(6 * MTIME_SLACK_SECONDS * 1e9)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, 1 << 20)
    made.settings = replace(made.settings, limit_bytes=2 * FILE_BYTES)
    return made


def written_now(machine: Machine) -> None:
    """The volume's file was changed at this moment of the machine's clock."""
    now_ns = machine.clock.wall_ns()
    os.utime(machine.settings.volumes[0].backing, ns=(now_ns, now_ns))


@pytest.mark.parametrize("power", [False, True])
def test_it_goes_on_after_maps_that_took_their_time(machine: Machine, power: bool) -> None:
    def slow_maps(name: str, path: Path) -> OSError | None:
        if path.parent.name == "dirty" and name == "allocate":
            machine.clock.now_ns += LONG_NS
            written_now(machine)
        return None

    async def lives() -> None:
        splitter = machine.start()
        await overflow(splitter)
        give_up(splitter)
        machine.files.fail = slow_maps
        assert await splitter.capture.go_on()
        machine.files.fail = lambda name, path: None
        splitter.release()
        if power:
            machine.reboot()
        again = machine.start()
        assert await again.stop()

    asyncio.run(lives())


def test_a_note_that_cannot_be_written_leaves_the_journal_given_up(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await overflow(splitter)
        give_up(splitter)
        begun: list[Path] = []

        def fail(name: str, path: Path) -> OSError | None:
            begun.extend([path] if path.suffix == ".jnl" and name == "pwritev" else [])
            return OSError(errno.EIO, "the note") if len(begun) == 2 else None

        machine.files.fail = fail
        before = splitter.capture.page
        with pytest.raises(OSError, match="the note"):
            await splitter.capture.go_on()
        machine.files.fail = lambda name, path: None
        assert splitter.capture.page == before
        await splitter.volume.write(0, b"past the journal", True)
        assert await splitter.capture.go_on()
        assert await splitter.stop()

    asyncio.run(lives())
