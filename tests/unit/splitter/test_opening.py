"""Before exports open: locks, foreign changes, unclean boots."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.splitter import opening
from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.redo import redo
from cdp_agent.splitter.settings import OnJournalFull
from cdp_container.errors import (
    AlreadyRunning,
    BackingChanged,
    BackingUnreadable,
    ConfigInvalid,
    DeviceError,
    JournalFull,
)
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind, Note
from tests.unit.splitter.machine import DOMAIN, FILE_BYTES, Lossy, Machine, Splitter


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def life(machine: Machine, clean: bool) -> None:
    splitter = machine.start()
    await splitter.volume.write(0, b"first", False)
    await splitter.volume.write(4096, b"second", True)
    await splitter.volume.zero(8192, 512, True, True)
    if clean:
        await splitter.stop()
    else:
        splitter.release()


def touch_later(machine: Machine, seconds: float) -> None:
    at_ns = machine.clock.now_ns + int(seconds * 1e9)
    os.utime(machine.settings.volumes[0].backing, ns=(at_ns, at_ns))


@pytest.mark.parametrize("clean", [True, False])
def test_a_disk_changed_later_is_refused(machine: Machine, clean: bool) -> None:
    async def lives() -> None:
        await life(machine, clean)
        touch_later(machine, 11)
        with pytest.raises(BackingChanged, match="was changed 11 s after"):
            machine.start()
        machine.settings = replace(machine.settings, redo=True)
        await machine.start().stop()

    asyncio.run(lives())


def test_without_the_check_a_redo_would_destroy_an_offline_change(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what the refusal above keeps from being lost."""
    monkeypatch.setattr(opening, "refuse_changed_times", lambda *given: None)
    monkeypatch.setattr(opening, "refuse_changed_content", lambda *given: None)

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"in the journal", False)
        splitter.release()
        machine.overwrite(0, b"changed offline")
        touch_later(machine, 11)
        again = machine.start()
        assert machine.disk().startswith(b"in the journal"), "the harness would not see the loss"
        again.release()

    asyncio.run(lives())


def test_a_disk_that_is_kept_is_not_redone_and_waits_for_its_copy(machine: Machine) -> None:
    async def lives() -> None:
        await life(machine, clean=False)
        backing = machine.settings.volumes[0].backing
        with backing.open("r+b") as disk:
            disk.write(b"FSCK!")
        touch_later(machine, 11)
        machine.clock.now_ns += 60 * 10**9
        machine.settings = replace(machine.settings, keep_disk=True, full_copy=True)
        splitter = machine.start()
        assert backing.read_bytes()[:5] == b"FSCK!"
        page = splitter.capture.page
        assert (page.exports_open, page.overflowed, page.compare_all) == (False, False, True)
        assert page.synced == page.tail
        await splitter.stop()
        machine.settings = replace(machine.settings, keep_disk=False, full_copy=False)
        await machine.start().stop()
        assert backing.read_bytes()[:5] == b"FSCK!"

    asyncio.run(lives())


def test_a_disk_changed_a_moment_later_is_ours(machine: Machine) -> None:
    async def lives() -> None:
        await life(machine, clean=False)
        touch_later(machine, 9)
        await machine.start().stop()

    asyncio.run(lives())


class NoTimes(Lossy):
    """Disks that are block devices."""

    def mtime_ns(self, fd: int) -> int | None:
        return None


@pytest.mark.parametrize("offset", [0, 4099, 8192 + 511])
def test_a_device_changed_behind_our_back_is_refused_by_its_content(machine: Machine, offset: int) -> None:
    machine.files = NoTimes()

    async def lives() -> None:
        await life(machine, clean=False)
        machine.overwrite(offset, b"!")
        with pytest.raises(BackingChanged, match="does not hold"):
            machine.start()
        machine.settings = replace(machine.settings, redo=True)
        await machine.start().stop()

    asyncio.run(lives())


def test_after_a_power_loss_the_disk_may_be_newer_than_the_journal(machine: Machine) -> None:
    machine.files = NoTimes()

    async def lives() -> None:
        await life(machine, clean=False)
        machine.reboot()
        machine.overwrite(0, b"a write of which the record was lost")
        again = machine.start()
        assert again.capture.page.episode
        await again.stop()

    asyncio.run(lives())


def test_what_was_overwritten_later_need_not_read_back(machine: Machine) -> None:
    machine.files = NoTimes()

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"a" * 512, True)
        await splitter.volume.write(256, b"b" * 512, True)
        await splitter.volume.write(700, b"c", False)
        splitter.release()
        await machine.start().stop()
        assert machine.disk()[:701] == b"a" * 256 + b"b" * 444 + b"c"

    asyncio.run(lives())


def test_a_second_splitter_is_refused(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        with pytest.raises(AlreadyRunning, match=r"v0\.raw"):
            machine.start()
        await splitter.stop()

    asyncio.run(lives())


def test_an_absent_disk_is_refused_and_the_others_are_let_go(tmp_path: Path) -> None:
    machine = Machine(tmp_path, volumes=2)
    absent = machine.settings.volumes[1].backing
    absent.unlink()
    with pytest.raises(BackingUnreadable, match="No such file"):
        asyncio.run(life(machine, clean=True))
    absent.write_bytes(bytes(machine.settings.volumes[1].size_bytes))
    asyncio.run(life(machine, clean=True))


def test_a_disk_that_shrank_is_refused(machine: Machine) -> None:
    os.truncate(machine.settings.volumes[0].backing, 4096)
    with pytest.raises(BackingUnreadable, match="4096 bytes"):
        asyncio.run(life(machine, clean=True))


def test_a_limit_below_one_file_is_refused(machine: Machine) -> None:
    machine.settings = replace(machine.settings, limit_bytes=FILE_BYTES - 1)
    with pytest.raises(ConfigInvalid):
        asyncio.run(life(machine, clean=True))


async def episode_of_a_start(machine: Machine) -> int:
    splitter = machine.start()
    page = splitter.capture.page
    splitter.release()
    assert not page.compare_all or page.episode
    return page.episode


def test_a_kill_is_no_unclean_boot(machine: Machine) -> None:
    asyncio.run(life(machine, clean=False))
    assert not asyncio.run(episode_of_a_start(machine))


def test_a_reboot_after_a_clean_stop_is_clean(machine: Machine) -> None:
    asyncio.run(life(machine, clean=True))
    machine.reboot()
    assert not asyncio.run(episode_of_a_start(machine))


def test_an_unclean_boot_is_an_episode_that_stays(machine: Machine) -> None:
    asyncio.run(life(machine, clean=False))
    machine.reboot()
    episode = asyncio.run(episode_of_a_start(machine))
    assert episode
    asyncio.run(life(machine, clean=True))
    machine.reboot()
    assert asyncio.run(episode_of_a_start(machine)) == episode, (
        "a clean stop does not bring back what was lost"
    )
    machine.settings = replace(machine.settings, full_copy=True)
    assert asyncio.run(episode_of_a_start(machine)) not in (0, episode)


@pytest.mark.parametrize("clean", [False, True])
def test_a_start_after_a_power_loss_that_is_killed_leaves_the_doubt_to_the_next(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    def die(*given: object) -> None:
        raise OSError("killed here")

    asyncio.run(life(machine, clean))
    machine.reboot()
    with monkeypatch.context() as patched:
        patched.setattr(opening, "redo", die)
        with pytest.raises(DeviceError, match="killed here"):
            asyncio.run(episode_of_a_start(machine))
    assert bool(asyncio.run(episode_of_a_start(machine))) == (not clean)


def test_whoever_copies_is_told_before_a_redo(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(life(machine, clean=False))
    before = machine.pages.splitter.read()
    assert before is not None
    seen = []
    real = redo

    def look(*arguments: object) -> None:
        seen.append(machine.pages.splitter.read())
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "redo", look)
    asyncio.run(episode_of_a_start(machine))
    assert [(page.running, page.redos) for page in seen if page] == [(False, before.redos + 1)]
    after = machine.pages.splitter.read()
    assert after is not None
    assert (after.running, after.redos) == (True, before.redos + 1)


def test_redo_says_in_the_journal_that_it_is_under_way(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        for number in range(2500):  # the clock goes a millisecond with every look: more than two seconds
            await splitter.volume.write(number % 100 * 512, b"x", False)
        splitter.release()
        again = machine.start()
        with JournalReader(machine.directory / "journal", DOMAIN) as reader:
            page = again.capture.page
            notes = [note.offset for note in reader.records(reader.start, page.tail, kinds={Kind.NOTE})]
            assert notes.count(Note.REDO_PROGRESS) >= 2
        await again.stop()

    asyncio.run(lives())


def test_every_start_has_a_generation_of_its_own(machine: Machine) -> None:
    async def lives() -> list[int]:
        generations = []
        for _ in range(3):
            splitter: Splitter = machine.start()
            generations.append(splitter.capture.page.generation)
            await splitter.stop()
        return generations

    assert len(set(asyncio.run(lives()))) == 3


def test_starts_use_up_whole_files_and_that_is_shown_before_it_is_full(machine: Machine) -> None:
    """Of a limit that is no whole number of files what is behind the last one cannot be used."""
    machine.settings = replace(machine.settings, limit_bytes=5 * FILE_BYTES - 1)

    async def used_in_lives() -> list[int]:
        used = []
        for _ in range(4):
            splitter = machine.start()
            page = splitter.capture.page
            assert not page.overflowed
            assert page.limit_bytes == 4 * FILE_BYTES
            used.append(page.used_bytes)
            splitter.release()
        splitter = machine.start()
        assert splitter.capture.page.overflowed
        splitter.release()
        return used

    used = asyncio.run(used_in_lives())
    assert [bytes_ // FILE_BYTES for bytes_ in used] == [0, 1, 2, 3]


def test_whoever_was_killed_does_not_seem_to_serve_while_the_next_one_opens(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may read a whole journal first, or come to nothing: `status` must not say that it serves."""
    seen: list[bool] = []

    def looked(*given: object) -> Backing:
        page = machine.pages.splitter.read()
        assert page is not None
        seen.append(page.running or page.exports_open)
        raise BackingUnreadable("opening", "no")

    async def lives() -> None:
        splitter = machine.start()
        splitter.capture.publish(replace(splitter.capture.page, exports_open=True))
        splitter.release()
        monkeypatch.setattr(opening, "open_backing", looked)
        with pytest.raises(BackingUnreadable):
            machine.start()

    asyncio.run(lives())
    assert seen == [False]


def test_no_room_for_a_generation_is_an_overflow_at_start(machine: Machine) -> None:
    machine.settings = replace(machine.settings, limit_bytes=FILE_BYTES)

    async def lives() -> None:
        await life(machine, clean=False)
        splitter = machine.start()
        assert splitter.capture.page.overflowed
        assert machine.disk()[:5] == b"first"
        await splitter.volume.write(0, b"later", True)
        await splitter.stop()

    asyncio.run(lives())


def test_no_room_for_a_generation_waits_where_protection_comes_first(machine: Machine) -> None:
    machine.settings = replace(
        machine.settings, limit_bytes=FILE_BYTES, on_journal_full=OnJournalFull.STOP_WRITES
    )
    asyncio.run(life(machine, clean=False))
    with pytest.raises(JournalFull):
        machine.start()
