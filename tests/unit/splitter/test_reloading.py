"""Volumes that come, grow and go in a splitter that serves."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter.opening import SHARED
from cdp_agent.splitter.reloading import reload_volumes
from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.errors import BackingChanged, BackingUnreadable, ReloadRefused
from cdp_container.journal.shared import SharedPage, SplitterPage, StreamerPage
from tests.unit.splitter.machine import Machine, Splitter, run
from tests.waiting import turn, until

SIZE = 256 << 10


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, SIZE, volumes=2)


def another(machine: Machine, index: int = 2, size_bytes: int = SIZE) -> VolumeSettings:
    path = machine.directory / f"v{index}.raw"
    path.write_bytes(bytes(size_bytes))
    return VolumeSettings(f"v{index}", path, size_bytes, index, bytes([index] * 16))


@dataclass
class Decided:
    """What the machine's next start opens, once it is committed."""

    machine: Machine
    volumes: tuple[VolumeSettings, ...]
    error: OSError | None = None
    name: str = "decided"

    @property
    def removed(self) -> frozenset[int]:
        settings = self.machine.settings
        gone = {volume.index for volume in settings.volumes} - {new.index for new in self.volumes}
        return settings.removed | gone

    def commit(self) -> None:
        if self.error is not None:
            raise self.error
        settings = self.machine.settings
        self.machine.settings = replace(settings, volumes=self.volumes, removed=self.removed)

    def withdraw(self) -> bool:
        return False


async def reload(
    machine: Machine, splitter: Splitter, *wanted: VolumeSettings, error: OSError | None = None
) -> None:
    decided = Decided(machine, wanted, error)
    await reload_volumes(decided, machine.files, splitter.capture, splitter.backings, splitter.volumes)


def test_what_comes_is_captured_and_redone(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await reload(machine, splitter, *machine.settings.volumes, another(machine))
        new = splitter.volumes[2]
        await new.write(4096, b"captured", True)
        await new.write(8192, b"not flushed", False)
        splitter.release()
        with (machine.directory / "v2.raw").open("r+b") as file:
            file.seek(8192)
            file.write(bytes(11))
        again = machine.start()
        assert machine.disk(2)[4096:4104] == b"captured"
        assert machine.disk(2)[8192:8203] == b"not flushed"
        await again.stop()

    asyncio.run(lives())


def test_an_idle_site_takes_over_a_disk_that_was_just_filled(machine: Machine) -> None:
    """Which is younger than the journal's last write, and yet nobody changed it behind our back."""

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"the last write", True)
        machine.clock.sleep(600)
        new = another(machine)
        filled_ns = machine.clock.wall_ns()
        os.utime(new.backing, ns=(filled_ns, filled_ns))
        await reload(machine, splitter, *machine.settings.volumes, new)
        splitter.release()
        again = machine.start()
        assert await again.stop()

    asyncio.run(lives())


def filled_late(machine: Machine, volume: VolumeSettings) -> None:
    """A disk is filled long after the journal's last write."""
    machine.clock.sleep(600)
    now_ns = machine.clock.wall_ns()
    os.utime(volume.backing, ns=(now_ns, now_ns))


@pytest.mark.parametrize("power", [False, True])
def test_a_volume_that_no_splitter_served_yet_may_be_younger_than_the_journal(
    machine: Machine, power: bool
) -> None:
    """It is copied whole: that it was filled while nothing ran is no change behind our back."""

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"the last write", True)
        splitter.release()
        if power:
            machine.reboot()
        new = another(machine)
        filled_late(machine, new)
        machine.settings = replace(machine.settings, volumes=(*machine.settings.volumes, new))
        again = machine.start()
        assert await again.stop()

    asyncio.run(lives())


@pytest.mark.parametrize("changed", [0, 1])
def test_a_volume_that_comes_hides_no_change_of_another(machine: Machine, changed: int) -> None:
    """Of volume 1 the journal holds no record: it was served all the same."""

    async def life() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"the last write", True)
        splitter.release()

    asyncio.run(life())
    filled_late(machine, machine.settings.volumes[changed])
    machine.settings = replace(machine.settings, volumes=(*machine.settings.volumes, another(machine)))
    with pytest.raises(BackingChanged, match=f"v{changed}"):
        machine.start()


def test_a_volume_that_was_served_may_not_be_filled_behind_our_back(machine: Machine) -> None:
    new = another(machine)

    async def life() -> None:
        splitter = machine.start()
        await reload(machine, splitter, *machine.settings.volumes, new)
        splitter.release()

    asyncio.run(life())
    filled_late(machine, new)
    with pytest.raises(BackingChanged, match="v2"):
        machine.start()


def test_also_after_a_power_loss_a_volume_that_was_served_may_not_be_changed_behind_our_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that is left may be the one that was durable last, and the volume's records may be gone."""
    shared, left = machine.directory / SHARED, [b""]
    publish = SharedPage.publish

    def noted(self: SharedPage[SplitterPage], page: SplitterPage, durable: bool = False) -> None:
        publish(self, page, durable)
        if durable:
            left[0] = shared.read_bytes()

    monkeypatch.setattr(SharedPage, "publish", noted)

    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", True)
        new = another(machine)
        await reload(machine, splitter, *machine.settings.volumes, new)
        await splitter.volumes[2].write(0, b"served", True)
        for number in range(60):  # so that its record is overtaken
            await splitter.volume.write(0, bytes([number + 1]) * 8192, True)
            machine.pages.streamer.publish(StreamerPage(splitter.capture.page.tail))
            splitter.capture.trim()
        splitter.release()
        machine.reboot()
        machine.restore_shared(left[0])
        filled_late(machine, new)
        with pytest.raises(BackingChanged, match="v2"):
            machine.start()

    asyncio.run(lives())


def test_a_volume_of_which_the_journal_holds_writes_was_served(machine: Machine) -> None:
    """Though the page that told so did not come to the disk before the power was lost."""
    new = another(machine)

    async def life() -> None:
        splitter = machine.start()
        before = (machine.directory / SHARED).read_bytes()
        await reload(machine, splitter, *machine.settings.volumes, new)
        await splitter.volumes[2].write(0, b"acknowledged", True)
        splitter.release()
        machine.restore_shared(before)
        machine.reboot()

    asyncio.run(life())
    filled_late(machine, new)
    with pytest.raises(BackingChanged, match="v2"):
        machine.start()


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_a_journal_that_takes_no_note_leaves_the_volumes_as_they_were(machine: Machine, call: str) -> None:
    async def lives() -> None:
        splitter = machine.start()
        machine.files.fail = lambda name, path: (
            OSError(errno.EIO, "the journal") if name == call and path.suffix == ".jnl" else None
        )
        with pytest.raises(OSError, match="the journal"):
            await reload(machine, splitter, *machine.settings.volumes, another(machine))
        machine.files.fail = lambda name, path: None
        assert len(splitter.volumes) == len(machine.settings.volumes) == 2
        assert await splitter.capture.mend()
        assert await splitter.stop()

    asyncio.run(lives())


def test_what_grew_takes_writes_behind_its_old_end(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        first, second = machine.settings.volumes
        with first.backing.open("r+b") as file:
            file.truncate(2 * SIZE)
        await reload(machine, splitter, replace(first, size_bytes=2 * SIZE), second)
        assert splitter.volume.size_bytes == 2 * SIZE
        await splitter.volume.write(2 * SIZE - 5, b"there", True)
        assert machine.disk()[-5:] == b"there"

    run(machine, scenario)


def test_what_goes_is_synced_unlocked_and_refuses_requests(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        gone = splitter.volumes[1]
        await gone.write(0, b"all that was answered", False)
        await splitter.volume.write(0, b"stays", False)
        await reload(machine, splitter, machine.settings.volumes[0])
        for request in (
            gone.write(0, b"x", False),
            gone.write(0, b"x" * (128 << 10), False),
            gone.zero(0, 512, False, True),
            gone.trim(0, 512, False),
            gone.read(0, 512),
        ):
            with pytest.raises(OSError, match="not protected any more") as caught:
                await request
            assert caught.value.errno == errno.ESHUTDOWN
        assert gone.write_now([(0, b"x")]) == 0
        splitter.release()
        machine.files.lose_power(Random(1), 1.0, suffixes=[".raw"])
        assert (machine.directory / "v1.raw").read_bytes()[:21] == b"all that was answered"
        (machine.directory / "v1.raw").unlink()  # its records in the journal are passed over
        again = machine.start()
        assert machine.disk()[:5] == b"stays"
        await again.stop()

    asyncio.run(lives())


def test_writes_under_way_are_waited_for(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        gone = splitter.volumes[1]
        data = b"w" * (128 << 10)
        writing = asyncio.create_task(gone.write(0, data, False))
        await turn()
        await reload(machine, splitter, machine.settings.volumes[0])
        await writing
        assert (machine.directory / "v1.raw").read_bytes()[: len(data)] == data

    run(machine, scenario)


@pytest.mark.parametrize("fault", ["absent", "small", "shrinks", "grows beyond its disk"])
def test_what_cannot_be_changes_nothing(machine: Machine, fault: str) -> None:
    first, second = machine.settings.volumes
    wanted = {
        "absent": (first, second, another(machine), replace(another(machine), index=3, backing=Path("/no"))),
        "small": (first, second, replace(another(machine), size_bytes=2 * SIZE)),
        "shrinks": (replace(first, size_bytes=SIZE // 2), second),
        "grows beyond its disk": (first, replace(second, size_bytes=2 * SIZE)),
    }[fault]

    async def scenario(splitter: Splitter) -> None:
        with pytest.raises(BackingUnreadable):
            await reload(machine, splitter, *wanted)
        assert [volume.size_bytes for volume in splitter.volumes] == [SIZE, SIZE]
        await splitter.volume.write(0, b"goes on", True)

    run(machine, scenario)


@pytest.mark.parametrize("fault", ["the sync of what goes", "the commit"])
def test_what_fails_late_changes_nothing_either(machine: Machine, fault: str) -> None:
    """One comes, one grows, one goes, and the last step fails; a later start opens what was served."""
    first, second = machine.settings.volumes

    async def lives() -> None:
        splitter = machine.start()
        with first.backing.open("r+b") as file:
            file.truncate(2 * SIZE)
        wanted = (replace(first, size_bytes=2 * SIZE), another(machine))
        sources = splitter.capture.page.sources
        if fault == "the commit":
            error = OSError(errno.EIO, "agent.json")
        else:
            error = None
            machine.files.fail = lambda name, path: (
                OSError(errno.EIO, "bad disk") if (name, path.name) == ("fdatasync", "v1.raw") else None
            )
        with pytest.raises(OSError, match=r"agent\.json|bad disk"):
            await reload(machine, splitter, *wanted, error=error)
        machine.files.fail = lambda name, path: None
        assert await splitter.capture.mend()
        assert [volume.source for volume in splitter.volumes] == [0, 1]
        assert [volume.size_bytes for volume in splitter.volumes] == [SIZE, SIZE]
        assert splitter.capture.page.sources == sources
        await splitter.volumes[1].write(0, b"served as before", False)
        third = replace(another(machine), backing=machine.directory / "third.raw")
        third.backing.write_bytes(b"content of another disk".ljust(SIZE, b"\0"))
        await reload(machine, splitter, first, second, third)
        assert splitter.capture.page.sources != sources
        splitter.release()
        again = machine.start()
        assert machine.disk(1).startswith(b"served as before")
        assert machine.disk(2).startswith(b"content of another disk")
        await again.stop()

    asyncio.run(lives())


def test_a_disk_that_hangs_can_be_taken_out_while_the_others_go_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot, until its requests end; but nobody else waits for that."""
    monkeypatch.setattr("cdp_agent.splitter.reloading.DRAIN_SECONDS", 0.2)
    release = threading.Event()

    def hang(name: str, path: Path) -> OSError | None:
        if (name, path.name) == ("pwritev", "v1.raw"):
            release.wait(30)
        return None

    async def scenario(splitter: Splitter) -> None:
        stays, hangs = splitter.volumes
        machine.files.fail = hang
        writing = asyncio.create_task(hangs.write(0, b"h" * (128 << 10), False))
        reloading = asyncio.create_task(reload(machine, splitter, machine.settings.volumes[0]))
        await until(lambda: hangs._is_removed, "the volume refuses requests")
        assert stays.write_now([(0, b"nobody waits")]) == 1
        with pytest.raises(ReloadRefused, match="do not end"):
            await reloading
        release.set()
        await writing
        await hangs.write(0, b"served as before", False)

    run(machine, scenario)
