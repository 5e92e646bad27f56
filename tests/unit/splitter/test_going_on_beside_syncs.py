"""A journal that goes on while a guest's flush is under way, and after a sync that failed before."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.journal.shared import StreamerPage
from tests.unit.splitter.machine import FILE_BYTES, Machine, Splitter

VOLUME_BYTES = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, VOLUME_BYTES, volumes=2)
    made.settings = replace(made.settings, limit_bytes=2 * FILE_BYTES)
    return made


async def overflow(splitter: Splitter) -> None:
    """Guests write until the journal is given up, and the streamer needs nothing of it."""
    for number in range(60):
        await splitter.volume.write(0, bytes([number + 1]) * 8192, False)
        if splitter.capture.page.overflowed:
            splitter.machine.pages.streamer.publish(StreamerPage(splitter.capture.page.overflow_at))
            return
    raise AssertionError("the journal took everything")


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
        await overflow(splitter)
        await splitter.volume.write(0, b"past it " * 1024, False)
        await (await beside_a_flush(machine, splitter))
        page = splitter.capture.page
        assert page.synced == page.tail
        splitter.release()
        again = machine.start()
        assert machine.disk()[:8] == b"past it "
        await again.stop()

    asyncio.run(lives())
