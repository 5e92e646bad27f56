"""What one VM, or an error nobody thought of, costs: never a write of another VM, nor a guest's."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cdp_agent.imager import cycle, process, rounds
from cdp_agent.imager.core import Imager
from cdp_agent.imager.guard import Guard
from cdp_agent.imager.memory import VmMemory
from cdp_container.errors import HypervisorFailed
from cdp_container.format.segment import NewExtent
from tests.unit.imager.model import BLOCK, SimHypervisor, SimVm, World, small


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two VMs that are whole, and then written: both are dirty in the next cycle."""
    small(monkeypatch, instant=24 * BLOCK)
    world = World(tmp_path, 1, vms=2, failing=0.0)
    world.begin()
    whole(world)
    dirty(world)
    return world


def whole(world: World) -> None:
    """Go on until all are; each is judged."""
    before = world.whole
    for _ in range(40):
        world.time.now_ns += 40_000_000_000
        world.cut(world.imager.sweep(world.epoch, 0), is_sweep=True)
        world.imager.image()
        world.cut(world.imager.take(world.epoch, 0, False, 0), is_sweep=False)
        if world.whole - before >= 4:
            return
    raise AssertionError("it is not whole again")


def dirty(world: World) -> None:
    for vm in world.vms.values():
        vm.write()
        vm.disks[0][:BLOCK] = b"\x77" * BLOCK
        for bitmap in vm.bitmaps[0].values():
            bitmap.dirty.add(0)


def keeps(world: World, vm: VmMemory) -> bool:
    """Whether a backup job is in its QEMU now."""
    return world.vms[vm.settings.name].kept is not None


def at_second_end(patch: pytest.MonkeyPatch, what: Callable[[SimHypervisor], None]) -> None:
    """Have something happen when the second VM of a cycle was read."""
    turns: list[int] = []
    real = cycle.end

    def end(hypervisor: SimHypervisor, vm: VmMemory) -> None:
        turns.append(1)
        if len(turns) == 2:
            what(hypervisor)
        real(hypervisor, vm)  # type: ignore[arg-type]

    patch.setattr(cycle, "end", end)


def test_what_was_read_of_one_vm_comes_again_whatever_another_meets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(_: SimHypervisor) -> None:
        raise KeyError("running")

    with monkeypatch.context() as patch:
        at_second_end(patch, odd)
        with pytest.raises(KeyError):
            world.imager.image()
    given = [given.batch for vm in world.imager.vms for disk in vm.disks for given in disk.given]
    assert world.imager._batch not in given, "it is in a batch that nobody has"
    assert all(vm.doubt_bytes for vm in world.imager.vms)
    whole(world)


def test_what_was_swept_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for vm in world.imager.vms:
        vm.forget()

    def odd(_: SimHypervisor) -> None:
        raise KeyError("running")

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "LEISURE_BYTES_MAX", 1 << 30)
        at_second_end(patch, odd)
        with pytest.raises(KeyError):
            world.imager.sweep(world.epoch, 0)
    assert all(not disk.given and not disk.is_read for vm in world.imager.vms for disk in vm.disks)
    whole(world)


def test_an_error_nobody_thought_of_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []

    def ends(code: int) -> None:
        ended.append(code)
        imager._stopping.set()

    def image(_: Imager) -> None:
        raise KeyError("running")

    imager = World(tmp_path, 1).imager
    monkeypatch.setattr("os._exit", ends)
    monkeypatch.setattr(Imager, "image", image)
    imager.start()
    thread = imager._thread
    assert thread is not None
    thread.join(10)
    assert ended == [1]
    assert "KeyError: 'running'" in capfd.readouterr().err


def test_a_connection_that_failed_is_not_cleaned_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[tuple[bool, SimVm]] = []
    real = SimHypervisor.clean

    def clean(hypervisor: SimHypervisor, keep: Sequence[str] = ()) -> None:
        cleaned.append((hypervisor.is_usable, hypervisor._vm))
        real(hypervisor, keep)

    def timed_out(hypervisor: SimHypervisor) -> None:
        hypervisor.is_usable = False
        raise HypervisorFailed("a command", "it did not answer in time")

    with monkeypatch.context() as patch:
        patch.setattr(SimHypervisor, "clean", clean)
        at_second_end(patch, timed_out)
        world.imager.image()
    assert len({id(vm) for _, vm in cleaned}) == 2
    assert all(is_usable for is_usable, _ in cleaned)
    assert all(vm.kept is None for vm in world.vms.values())
    assert sum(bool(vm.problem) for vm in world.imager.vms) == 1
    whole(world)


@pytest.mark.parametrize("why", ["is_crowded", "is_usable"])
def test_a_vm_that_cannot_wait_is_let_go_of_while_another_is_slow(
    world: World, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """The second one is not read yet: its guest overwrites much, or its time is over."""
    opened: list[SimHypervisor] = []
    real_open, real_read = world.imager._open_vm, cycle.read_extents

    def open_vm(vm: VmMemory) -> SimHypervisor:
        opened.append(real_open(vm))  # type: ignore[arg-type]
        return opened[-1]

    let_go = threading.Event()

    def slow(hypervisor: SimHypervisor, *args: object) -> Iterator[NewExtent]:
        other = next(one for one in opened if one._vm is not hypervisor._vm)
        if not let_go.is_set():
            setattr(other, why, why == "is_crowded")
            deadline = time.monotonic() + 10
            while other._vm.kept is not None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert other._vm.kept is None, "its guest is kept waiting"
            let_go.set()
        return real_read(hypervisor, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(world.imager, "_open_vm", open_vm)
        patch.setattr(cycle, "read_extents", slow)
        world.imager.image()
    problems = [vm.problem for vm in world.imager.vms]
    assert sorted(map(bool, problems)) == [False, True]
    assert ("overwrites" if why == "is_crowded" else "in time") in "".join(problems)
    whole(world)


def test_learning_what_is_dirty_looks_at_the_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = world.imager.vms[0]
    hypervisor = world.imager._open_vm(vm)
    cycle.attend(hypervisor, vm)
    cycle.take_instant(hypervisor, vm, world.time)
    monkeypatch.setattr(SimHypervisor, "is_crowded", True)
    with pytest.raises(HypervisorFailed, match="overwrites"):
        cycle.learn(hypervisor, vm, live=False)


def test_a_job_that_stayed_is_taken_away_after_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the VM is left alone for longer, and although what waits is not taken."""
    vm = world.imager.vms[0]
    vm.failures = 5

    def gone(*_: object, **__: object) -> None:
        raise HypervisorFailed("a command", "it did not answer in time")

    with monkeypatch.context() as patch:
        patch.setattr(cycle, "learn", gone)
        patch.setattr(SimHypervisor, "clean", gone)
        world.imager.image()
        assert keeps(world, vm)
        world.time.now_ns += 1_100_000_000
        world.imager.image()
        assert keeps(world, vm)
    world.time.now_ns += 1_100_000_000
    assert vm.again_ns > world.time.now_ns, "it is left alone"
    world.imager.image()
    assert not keeps(world, vm)
    assert not vm.problem, "and as it answers it is captured again at once"
    whole(world)


def test_a_planned_stop_clears_also_what_failed_just_now(world: World) -> None:
    vm = world.imager.vms[0]
    sim = world.vms[vm.settings.name]
    vm.bitmap, vm.is_clean, vm.again_ns = 0, False, world.time.now_ns + 30_000_000_000
    sim.kept = [bytes(disk) for disk in sim.disks]
    assert world.imager.close()
    assert not keeps(world, vm)
    assert not any(any(vm.bitmaps) for vm in world.vms.values())


def test_a_planned_stop_says_where_something_is_left(world: World) -> None:
    world.vms["vm0"].failing = 1.0
    assert not world.imager.close()
    assert not any(world.vms["vm1"].bitmaps)


@pytest.mark.parametrize("is_clear", [True, False])
def test_the_guard_is_sent_away_only_where_nothing_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch, is_clear: bool
) -> None:
    said: list[str] = []

    class Guard:
        def __init__(self, clear: Callable[[], None]) -> None:
            """None is made."""

        def ended_well(self) -> None:
            said.append("well")

    monkeypatch.setattr(process, "Guard", Guard)
    monkeypatch.setattr(process, "serve", lambda *_: None)
    monkeypatch.setattr(Imager, "close", lambda _: is_clear)
    monkeypatch.setattr(Imager, "start", lambda _: None)
    assert process.run_imager(world.settings) == 0
    assert said == (["well"] if is_clear else [])


def test_the_guard_asks_all_at_once(world: World) -> None:
    """Each waits for the other: one after the other that would fail."""
    both = threading.Barrier(2, timeout=10)
    real = world.imager._open_vm

    def open_vm(vm: VmMemory) -> SimHypervisor:
        both.wait()
        return real(vm)  # type: ignore[return-value]

    process.clear(world.settings, open_vm)  # type: ignore[arg-type]
    assert not any(any(vm.bitmaps) for vm in world.vms.values())


def test_a_guard_that_was_killed_does_not_spoil_a_planned_stop() -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.close(ours)
    with subprocess.Popen(["true"]) as killed:
        guard = Guard.__new__(Guard)
        guard.pid, guard._pipe = killed.pid, theirs
        guard.ended_well()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(theirs)
