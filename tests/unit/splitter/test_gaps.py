"""A gap in the journal's files: what is redone, what is refused, and that nothing sound is deleted for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.errors import BackingChanged, JournalDamaged
from cdp_container.journal.files import file_name
from cdp_container.journal.record import FILE_HEADER_BYTES, decode_file_header
from cdp_container.journal.shared import StreamerPage
from tests.unit.splitter.machine import Machine, Splitter
from tests.unit.splitter.test_opening import NoTimes


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.files = NoTimes()
    return made


def names(machine: Machine) -> list[str]:
    return sorted(path.name for path in (machine.directory / "journal").iterdir())


def begun(machine: Machine) -> list[str]:
    """The files that have a header of their own; the next one may have its name already."""
    headers = {
        path.name: decode_file_header(path.read_bytes()[:FILE_HEADER_BYTES])
        for path in (machine.directory / "journal").iterdir()
    }
    return sorted(name for name, header in headers.items() if header and file_name(header.number) == name)


async def fill(splitter: Splitter, count: int = 60) -> None:
    """Some nine files, the first block written again and again."""
    for number in range(count):
        await splitter.volume.write(0, bytes([number + 1]) * 8192, False)


def damage_header(machine: Machine, number: int) -> None:
    with (machine.directory / "journal" / file_name(number)).open("r+b") as file:
        file.write(b"\xff" * 64)


def refused(machine: Machine, why: str) -> None:
    disk, before = machine.disk(), names(machine)
    with pytest.raises(JournalDamaged, match=why):
        machine.start()
    assert machine.disk() == disk, "nothing old was put over what was flushed"
    assert names(machine) == before, "nothing was deleted"


@pytest.mark.parametrize("proven", [False, True])
def test_old_files_that_come_back_are_not_redone(machine: Machine, proven: bool) -> None:
    """A file system that loses unlinks and a rename whose new header it keeps."""

    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        await splitter.volume.flush()
        kept = machine.directory / "kept"
        shutil.copytree(machine.directory / "journal", kept)
        machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
        splitter.capture.trim()
        trimmed = begun(machine)
        await splitter.volume.write(0, b"N" * 64, True)
        while begun(machine) == trimmed:
            await splitter.volume.write(200 << 10, b"u" * 8192, False)
        disk = machine.disk()
        splitter.release()
        journal = machine.directory / "journal"
        (journal / begun(machine)[-1]).rename(journal / trimmed[0])
        for path in kept.iterdir():
            if path.name < trimmed[0]:
                shutil.copy(path, journal / path.name)
        machine.reboot()
        if not proven:
            machine.pages.streamer.publish(StreamerPage())
            refused(machine, "was not sent yet")
            return
        again = machine.start()
        assert machine.disk() == disk
        assert names(machine)[0] > trimmed[0], "trimmed once more"
        await again.stop()

    asyncio.run(lives())


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("boot", [Machine.reboot, lambda machine: None])
def test_a_damaged_header_amid_the_files_is_refused(
    machine: Machine, clean: bool, boot: Callable[[Machine], None]
) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        await splitter.volume.flush()
        if clean:
            await splitter.stop()
        else:
            splitter.release()
        damage_header(machine, 4)
        boot(machine)
        refused(machine, "was not sent yet")

    asyncio.run(lives())


def test_files_beyond_a_gap_are_not_dropped_for_an_old_synced_point(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        shared = (machine.directory / "shared").read_bytes()
        await fill(splitter)
        await splitter.volume.flush()
        splitter.release()
        machine.restore_shared(shared)
        damage_header(machine, 4)
        machine.reboot()
        refused(machine, "000000000004")

    asyncio.run(lives())


def test_a_synced_point_in_no_file_is_refused(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        await splitter.volume.flush()
        splitter.release()
        newest = int(begun(machine)[-1].split(".")[0])
        damage_header(machine, newest)
        machine.reboot()
        refused(machine, "no file holds")

    asyncio.run(lives())


def test_what_was_synced_long_ago_may_be_recycled_by_now(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        shared = (machine.directory / "shared").read_bytes()
        await fill(splitter)
        await splitter.volume.flush()
        machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
        splitter.capture.trim()
        splitter.release()
        machine.restore_shared(shared)  # the page that was mapped never reached the disk
        machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
        machine.reboot()
        disk = machine.disk()
        await machine.start().stop()
        assert machine.disk() == disk

    asyncio.run(lives())


@pytest.mark.parametrize("clean", [True, False])
def test_a_journal_without_any_sound_file_is_refused(machine: Machine, clean: bool) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", True)
        if clean:
            await splitter.stop()
        else:
            splitter.release()
        damage_header(machine, 1)
        refused(machine, "gone")

    asyncio.run(lives())


def test_a_name_is_durable_before_its_header_and_its_header_before_the_next_file(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await fill(splitter)
        await splitter.volume.flush()
        machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
        splitter.capture.trim()
        machine.files.calls.clear()
        await fill(splitter, 30)
        calls = machine.files.calls
        renamed = [call[1] for call in calls if call[0] == "rename"]
        assert len(renamed) >= 3
        for path, following in itertools.pairwise(renamed):
            named, begun_at = calls.index(("rename", path)), calls.index(("pwritev", path))
            assert ("sync_directory", path.parent) in calls[named:begun_at]
            next_begun_at = calls.index(("pwritev", following)) if ("pwritev", following) in calls else None
            assert ("fdatasync", path) in calls[begun_at:next_begun_at]
        await splitter.stop()

    asyncio.run(lives())


def test_a_start_that_died_early_is_no_last_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)

    def die(*given: object, **named: object) -> None:
        raise OSError("killed here")

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"journal", False)
        splitter.release()
        machine.overwrite(0, b"KEEP THIS")
        machine.clock.now_ns += 60 * 10**9
        at_ns = machine.clock.now_ns
        os.utime(machine.settings.volumes[0].backing, ns=(at_ns, at_ns))
        machine.settings = replace(machine.settings, keep_disk=True, full_copy=True)
        with monkeypatch.context() as patched:
            patched.setattr(type(machine.pages.splitter), "publish", die)
            with pytest.raises(Exception, match="killed here"):
                machine.start()
        machine.settings = replace(machine.settings, keep_disk=False, full_copy=False)
        with pytest.raises(BackingChanged):
            machine.start()
        assert machine.disk().startswith(b"KEEP THIS")

    asyncio.run(lives())
