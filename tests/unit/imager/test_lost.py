"""What may be forgotten, and what may not: batches that came to nothing, bases, and what is too much."""

from __future__ import annotations

import errno
import os
import random
import tracemalloc
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from cdp_agent.imager import core, cycle, rounds
from cdp_agent.imager.core import FOLDER, Imager
from cdp_agent.imager.memory import Instant, VmMemory
from cdp_agent.imager.ranges import gathered, total_bytes
from cdp_agent.streamer.watched import FileBatch
from cdp_agent.watcher.page import PageReader
from cdp_container.clock import Clock
from cdp_container.errors import WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.segment import NewExtent
from tests.unit.imager.model import BLOCK, BLOCKS, DISKS, SIZE, SimHypervisor, World, small
from tests.unit.imager.test_failing import dirty, whole


class Still(random.Random):
    """By it no guest writes by itself."""

    def random(self) -> float:
        return 1.0

    def getrandbits(self, k: int) -> int:
        return super().getrandbits(k)  # else it would draw these by the other, without end


class Worlds:
    """Makes them, and closes them in the end."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch
        self.made: list[World] = []

    def new(self, vms: int = 1, instant: int = 24 * BLOCK) -> World:
        """Whole, and all of that is protected; the guests stand still."""
        small(self._patch, instant)
        world = World(self._folder, 1, vms, failing=0.0)
        self.made.append(world)
        world.begin()
        whole(world)
        for vm in world.vms.values():
            vm.runs, vm.rng = False, Still(1)
        world.imager.image()
        world.cut(world.imager.take(world.epoch, 0, False, 0), is_sweep=False)
        world.settled = world.cuts[-1][0]
        world.imager.protected(world.epoch, world.settled.cut)
        world.imager.image()
        assert world.imager._waiting is None
        return world


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    made = Worlds(tmp_path, monkeypatch)
    yield made
    for world in made.made:
        world.imager.close()


def test_a_batch_that_was_lost_before_its_vm_began_anew_is_missed(worlds: Worlds) -> None:
    """Whoever took it never said so; and the VM's restart made all be forgotten that was given."""
    world = worlds.new()
    dirty(world)
    world.imager.image()
    lost = world.imager.take(world.epoch, 0, False, 0)
    assert lost.fd is not None
    os.close(lost.fd)
    world.vms["vm0"].restart()
    world.imager.image()
    world.begin_again()
    taken = world.imager.take(world.epoch, 0, False, 0)
    assert len(taken.not_whole) == DISKS, "the container has nothing of what was given"
    world.cut(taken, is_sweep=False)
    whole(world)


def test_a_base_before_what_is_protected_lacks_that(worlds: Worlds) -> None:
    world = worlds.new()
    world.imager.begin(world.epoch + 1, world.settled)
    assert all(vm.is_read for vm in world.imager.vms)
    world.imager.begin(world.epoch + 2, replace(world.settled, cut=world.settled.cut - 1))
    assert not any(vm.is_read for vm in world.imager.vms)


def test_what_was_swept_into_a_file_that_failed_is_not_held_for_read(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although whoever heard of it still has the error, and by it the reading that was left off."""
    world = worlds.new()
    disks = [disk for vm in world.imager.vms for disk in vm.disks]
    for vm in world.imager.vms:
        vm.forget()

    def full(_: BinaryIO, __: int, ___: Sequence[Record], extents: Generator[NewExtent, None, None]) -> None:
        while not any(disk.read_to for disk in disks):
            next(extents)
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(core, "write_batch", full)
        with pytest.raises(WatcherFailed, match="no room") as caught:
            world.imager.sweep(world.epoch, 0)
    assert caught.value.__cause__ is not None
    assert [(disk.read_to, disk.given) for disk in disks] == [(0, [])] * DISKS
    whole(world)


@pytest.mark.parametrize(
    ("vms", "instant", "read"), [(1, 8, 0), (3, 48, 2)], ids=["of one VM", "of all together"]
)
def test_what_was_written_after_it_was_counted_does_not_come_over_the_limit(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch, vms: int, instant: int, read: int
) -> None:
    """Or what a QEMU says that lies: a batch would fill the disk that the journal is on."""
    world = worlds.new(vms, instant * BLOCK)
    dirty(world)
    real = cycle.take_instant

    def late(hypervisor: SimHypervisor, vm: VmMemory, clock: Clock) -> Instant:
        for bitmaps in world.vms[vm.settings.name].bitmaps:
            for bitmap in bitmaps.values():
                bitmap.dirty |= {*range(BLOCKS)}
        return real(hypervisor, vm, clock)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cycle, "take_instant", late)
        world.imager.image()
    waiting = world.imager._waiting
    assert len([] if waiting is None else waiting.instants) == read
    assert all(vm.kept is None for vm in world.vms.values())
    assert [vm.problem for vm in world.imager.vms] == [""] * vms
    assert world.imager._leisure == ({"vm0"} if vms == 1 else frozenset())
    whole(world)


def test_more_than_can_be_learnt_is_dirty(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bitmap of millions of runs would take longer than a cycle may, each time."""
    world = worlds.new()
    monkeypatch.setattr(cycle, "LEARNT_STATES_MAX", 3 * DISKS)
    vm = world.imager.vms[0]
    for number in (1, BLOCKS - 1):
        for bitmap in world.vms["vm0"].bitmaps[0].values():
            bitmap.dirty.add(number)
    hypervisor = world.imager._open_vm(vm)
    cycle.attend(hypervisor, vm)
    cycle.swap(hypervisor, vm)
    cycle.learn(hypervisor, vm, live=True)
    rest = (3 * BLOCK, SIZE)
    assert [disk.doubt for disk in vm.disks] == [[(BLOCK, 2 * BLOCK), rest], [rest]]


def test_ranges_are_gathered_in_little_memory() -> None:
    count, block = 200_000, 4096
    tracemalloc.start()
    try:
        found = gathered(
            ((number * 2 * block, (number * 2 + 1) * block) for number in range(count)),
            block,
            count * 2 * block,
            count=100,
        )
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert len(found) <= 100
    assert (found[0][0], found[-1][1]) == (0, count * 2 * block)
    assert total_bytes(found) == count * 2 * block


def runs(imager: Imager, folder: Path) -> bool:
    """As whoever releases the domain sees it."""
    imager.idle()
    reader = PageReader(folder, FOLDER)
    page = reader.read()
    reader.close()
    assert page is not None
    return page.runs


def test_a_guest_that_wrote_between_two_images_ran(worlds: Worlds, tmp_path: Path) -> None:
    """Though it is stopped at both. Who looks ten times a second sees it, however soon it is still again."""
    world = worlds.new()
    world.time.now_ns += 2_000_000_000
    assert not runs(world.imager, tmp_path)
    dirty(world)
    world.imager.image()
    assert runs(world.imager, tmp_path), "what was read waits"
    FileBatch(world.imager.take(world.epoch, 0, False, 0)).close()
    assert runs(world.imager, tmp_path)
    world.imager.image()
    assert runs(world.imager, tmp_path), "for a moment"
    world.time.now_ns += 1_100_000_000
    assert not runs(world.imager, tmp_path)


def test_limits_fit_together() -> None:
    assert rounds.CYCLE_BYTES_MAX >= rounds.INSTANT_BYTES_MAX, "else one VM would never be read"
