"""Exports of a site that gives its domain up: no write, then nothing, over restarts too."""

from __future__ import annotations

import asyncio
import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.splitter.closing import Closing
from cdp_agent.splitter.settings import OnJournalFull
from cdp_container.domain.notes import NOTES_NAME, Notes, load_notes, save_notes
from cdp_container.journal.shared import GateLevel, StreamerPage
from tests.unit.splitter.machine import FILE_BYTES, Machine, Splitter, overflow, run
from tests.waiting import until

RELEASING = Notes(releasing_to="site-b")
RELEASED = Notes(released_to="site-b")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def closing_of(splitter: Splitter) -> Closing:
    return Closing(splitter.capture, lambda: load_notes(splitter.machine.directory))


def level_of(closing: Closing) -> GateLevel:
    return closing.level


def tell(splitter: Splitter, notes: Notes) -> None:
    """As the streamer does it: the note first."""
    save_notes(splitter.machine.directory, notes)
    before = splitter.machine.pages.streamer.read() or StreamerPage()
    splitter.machine.pages.streamer.publish(replace(before, gate=notes.gate))


async def is_refused(splitter: Splitter) -> None:
    """Every way to change the volume is refused with EPERM."""
    volume = splitter.volume
    assert volume.write_now([(0, b"no")]) == 0
    for change in (
        volume.write(0, b"no", False),
        volume.write(0, bytes(128 << 10), True),
        volume.zero(0, 4096, False, True),
        volume.trim(0, 4096, False),
    ):
        with pytest.raises(PermissionError):
            await change


async def closed(splitter: Splitter, closing: Closing) -> None:
    closing.keep()
    await until(lambda: splitter.capture.page.writes_closed, "no write is under way")


def test_writes_are_refused_and_reads_go_on(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)
        await splitter.volume.write(0, b"before", False)
        assert not closing.look()
        tell(splitter, RELEASING)
        assert closing.look()
        assert level_of(closing) is GateLevel.NO_WRITES
        await is_refused(splitter)
        await splitter.volume.flush()
        assert await splitter.volume.read(0, 6) == b"before"
        assert not splitter.capture.page.writes_closed
        await closed(splitter, closing)
        page = splitter.machine.pages.splitter.read()
        assert page is not None
        assert (page.writes_closed, page.synced) == (True, page.tail)

    run(machine, scenario)
    assert machine.disk()[:6] == b"before"


def test_a_write_that_is_under_way_is_waited_for(machine: Machine) -> None:
    goes_on = threading.Event()

    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)

        def slow(name: str, path: Path) -> None:
            if name == "pwritev" and path.suffix == ".raw":
                assert goes_on.wait(60)

        machine.files.fail = slow
        written = asyncio.create_task(splitter.volume.write(0, b"x" * (128 << 10), False))
        await until(lambda: splitter.capture.page.tail != splitter.capture.page.applied, "it is under way")
        tell(splitter, RELEASING)
        closing.look()
        closing.keep()
        await is_refused(splitter)
        await asyncio.to_thread(machine.disk)  # time enough to close, if it did not wait
        assert not splitter.capture.page.writes_closed
        goes_on.set()
        await written
        await closed(splitter, closing)
        assert splitter.capture.page.synced == splitter.capture.page.tail

    run(machine, scenario)
    assert machine.disk()[: 128 << 10] == b"x" * (128 << 10)


def test_a_sync_that_fails_is_tried_again(machine: Machine) -> None:
    fails = True

    async def scenario(splitter: Splitter) -> None:
        nonlocal fails
        closing = closing_of(splitter)
        await splitter.volume.write(0, b"before", False)
        machine.files.fail = lambda name, path: (
            OSError(errno.EIO, "bad disk")
            if fails and name == "fdatasync" and path.suffix == ".raw"
            else None
        )
        tell(splitter, RELEASING)
        closing.look()
        closing.keep()
        await until(lambda: "ending the writes" in splitter.capture.failures.last_error, "the sync failed")
        assert not splitter.capture.page.writes_closed
        fails = False
        assert await splitter.capture.mend()
        await closed(splitter, closing)

    run(machine, scenario)


def small(machine: Machine, on_full: OnJournalFull) -> Machine:
    """The journal takes little."""
    machine.settings = replace(machine.settings, limit_bytes=4 * FILE_BYTES, on_journal_full=on_full)
    return machine


def test_writes_end_amid_an_overflow_too(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await overflow(splitter)
        closing = closing_of(splitter)
        tell(splitter, RELEASING)
        closing.look()
        await is_refused(splitter)
        await closed(splitter, closing)
        assert splitter.capture.page.overflowed

    run(small(machine, OnJournalFull.DEGRADE), scenario)


def test_a_write_that_waits_for_room_is_refused(machine: Machine) -> None:
    async def fill(splitter: Splitter) -> None:
        while True:
            await splitter.volume.write(0, bytes(8192), False)

    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)
        filling = asyncio.create_task(fill(splitter))
        await until(lambda: splitter.capture.why_writes_wait, "there is no room")
        tell(splitter, RELEASING)
        closing.look()
        with pytest.raises(PermissionError):
            await filling
        await closed(splitter, closing)

    run(small(machine, OnJournalFull.STOP_WRITES), scenario)


@pytest.mark.parametrize("notes", [RELEASING, RELEASED])
def test_a_start_opens_nothing_whatever_the_page_says(machine: Machine, notes: Notes) -> None:
    save_notes(machine.directory, notes)

    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)
        for told in GateLevel:
            machine.pages.streamer.publish(StreamerPage(gate=told))
            closing.look()
            assert level_of(closing) is GateLevel.CLOSED
        await is_refused(splitter)
        await closed(splitter, closing)

    run(machine, scenario)


def test_a_start_opens_where_the_page_is_older_than_the_notes(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        machine.pages.streamer.publish(StreamerPage(gate=GateLevel.CLOSED))
        closing = closing_of(splitter)
        closing.look()
        assert level_of(closing) is GateLevel.OPEN
        await splitter.volume.write(0, b"taken", False)

    run(machine, scenario)


def test_a_release_closes_and_a_cancel_opens(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)
        tell(splitter, RELEASING)
        closing.look()
        await closed(splitter, closing)
        tell(splitter, RELEASED)
        assert closing.look()
        assert level_of(closing) is GateLevel.CLOSED
        tell(splitter, Notes())
        assert closing.look()
        assert level_of(closing) is GateLevel.OPEN
        page = splitter.machine.pages.splitter.read()
        assert page is not None
        assert not page.writes_closed
        await splitter.volume.write(0, b"goes on", False)

    run(machine, scenario)


def test_a_cancel_amid_the_closing_wins(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)
        await splitter.volume.write(0, b"before", False)
        tell(splitter, RELEASING)
        closing.look()
        closing.keep()
        tell(splitter, Notes())
        closing.look()
        await splitter.volume.write(0, b"after", True)
        closing.keep()
        await closing.end()
        assert not splitter.capture.page.writes_closed

    run(machine, scenario)


def test_notes_that_cannot_be_read_change_nothing(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        closing = closing_of(splitter)
        tell(splitter, RELEASING)
        closing.look()
        (machine.directory / NOTES_NAME).write_bytes(b"{")
        machine.pages.streamer.publish(StreamerPage(gate=GateLevel.OPEN))
        assert not closing.look()
        await is_refused(splitter)
        assert "damaged" in splitter.capture.failures.last_error

    run(machine, scenario)
