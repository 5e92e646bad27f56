"""What comes together: all that can be done at once is, in order, and nothing twice or half."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from tests.unit.splitter.machine import Machine, Splitter, run
from tests.waiting import turn

BLOCK = 4096
LARGE = 80 << 10


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, volume_bytes=1 << 20)


def batch(count: int, at: int = 0) -> list[tuple[int, bytes | memoryview]]:
    return [((at + number) * BLOCK, bytes([number + 1]) * BLOCK) for number in range(count)]


def test_all_are_on_the_disk_and_published_when_it_returns(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        before = machine.pages.splitter.read()
        writes = [*batch(5), (0, b"later wins")]
        assert splitter.volume.write_now(writes) == 6
        after = machine.pages.splitter.read()
        assert before is not None
        assert after is not None
        assert after.tail.offset - before.tail.offset > 5 * BLOCK
        assert machine.disk()[:10] == b"later wins"
        assert machine.disk()[4 * BLOCK : 5 * BLOCK] == b"\5" * BLOCK
        assert machine.replay() == machine.disk()
        assert (splitter.volume.write_count, splitter.volume.written_bytes) == (6, 5 * BLOCK + 10)

    run(machine, scenario)


def test_a_large_one_ends_it(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        assert splitter.volume.write_now([*batch(2), (0, bytes(LARGE)), *batch(2)]) == 2

    run(machine, scenario)


def test_one_that_overlaps_a_write_in_flight_waits_with_all_behind_it(machine: Machine) -> None:
    release = threading.Event()

    def hold_disk(name: str, path: Path) -> OSError | None:
        if name == "pwritev" and path.suffix == ".raw" and threading.current_thread().name.startswith("io"):
            release.wait()
        return None

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = hold_disk
        large = asyncio.ensure_future(splitter.volume.write(10 * BLOCK, b"L" * LARGE, False))
        await turn()
        assert splitter.volume.write_now([*batch(2), (12 * BLOCK, b"s" * BLOCK), *batch(1, 5)]) == 2
        release.set()
        await large
        assert machine.replay() == machine.disk()

    run(machine, scenario)


def test_a_disk_that_fails_midway_answers_for_those_before_alone(machine: Machine) -> None:
    calls = 0

    def third_fails(name: str, path: Path) -> OSError | None:
        nonlocal calls
        if name == "pwritev" and path.suffix == ".raw":
            calls += 1
            return OSError(errno.EIO, "bad sector") if calls == 3 else None
        return None

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = third_fails
        writes = batch(5)
        assert splitter.volume.write_now(writes) == 2
        with pytest.raises(OSError, match="bad sector"):
            await splitter.volume.flush()  # the journal holds what the disk does not
        for offset, data in writes[2:]:
            await splitter.volume.write(offset, data, False)
        assert await splitter.capture.mend()
        await splitter.volume.flush()
        assert machine.replay() == machine.disk()
        assert machine.disk()[: 5 * BLOCK] == b"".join(data for _, data in writes)

    run(machine, scenario)


def test_a_journal_that_fails_takes_none(machine: Machine) -> None:
    def journal_fails(name: str, path: Path) -> OSError | None:
        return OSError(errno.EIO, "gone") if name == "pwritev" and path.suffix == ".jnl" else None

    async def scenario(splitter: Splitter) -> None:
        machine.files.fail = journal_fails
        before = machine.disk()
        assert splitter.volume.write_now(batch(3)) == 0
        assert machine.disk() == before, "journal first"
        machine.files.fail = lambda name, path: None

    run(machine, scenario)


def test_reads_at_once_see_what_was_written_and_end_where_one_cannot_be_had(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        volume = splitter.volume
        assert volume.write_now(batch(2)) == 2
        offsets = (0, BLOCK + 7, 1 << 20, 0)  # nothing stands at the third
        places = [(offset, memoryview(bytearray(9))) for offset in offsets]
        assert volume.read_now(places) == 2
        assert [bytes(into) for _, into in places[:2]] == [b"\1" * 9, b"\2" * 9]
        volume.remove()
        assert volume.read_now(places) == 0

    run(machine, scenario)
