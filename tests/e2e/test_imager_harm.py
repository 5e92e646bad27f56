"""Whatever becomes of an imager amid a cycle, the guest writes on, and nothing of ours stays in its QEMU.

Judged by the disks' files: a write that QEMU refused would be missing there.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.imager import cycle, hypervisor
from cdp_agent.imager.cycle import read_extents
from cdp_agent.imager.qmp import Commanding
from cdp_agent.vms.qmp_answers import ask_all, parse_answers
from cdp_container.clock import SystemClock
from cdp_container.errors import HypervisorFailed
from cdp_container.format.place import NOWHERE
from cdp_container.format.segment import NewExtent
from tests.e2e.hypervisors import stopped_qemu
from tests.e2e.imaged import Container, Written, imager_of, protect_all, settings_of, space_of, written_vm
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("qemu-system-x86_64")

MIB = 1 << 20
SIZES = (8 * MIB, 8 * MIB)
KILLED = """
import sys
from pathlib import Path
from cdp_agent.imager import core, cycle, process
from cdp_agent.imager.settings import DiskSettings, ImagerSettings, VmSettings
from cdp_container.format.place import NOWHERE

directory, qmp, sizes = Path(sys.argv[1]), sys.argv[2], [int(size) for size in sys.argv[3:]]
disks = tuple(DiskSettings(bytes([n]) * 16, str(n), f"d{n}", size) for n, size in enumerate(sizes))
settings = ImagerSettings(directory, (VmSettings("vm", qmp, disks),), 0.2)

def serve(directory, imager, stopped, name):
    imager.begin(1, NOWHERE)
    while True:
        imager.sweep(1, 0)
        taken = imager.take(1, 0, False, 0)
        if not taken.not_whole:
            break
    def amid(*_):
        print("amid", flush=True)
        sys.stdin.read()
        yield
    cycle.read_extents = amid
    print("whole", flush=True)
    sys.stdin.readline()
    imager.image()

core.Imager.start = lambda self: None
process.serve = serve
process.run_imager(settings)
"""


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Written]:
    with written_vm(tmp_path / "vm", SIZES) as made:
        yield made


def on_disk(vm: Written) -> list[bytes]:
    return [(vm.folder / f"{number}.raw").read_bytes() for number in range(len(SIZES))]


def test_an_imager_that_was_killed_amid_a_cycle_leaves_nothing(vm: Written, tmp_path: Path) -> None:
    dice = random.Random(3)
    vm.write_some(dice, 10)
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(vm.qmp), *map(str, SIZES)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "whole\n"
        vm.write_some(dice, 10)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "amid\n"
        assert any("fleece" in name for name in vm.left_over())
        assert [cache["no-flush"] for cache in vm.caches()] == [True] * 4
        vm.write_some(dice, 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        vm.write_some(dice, 10)
        # Nobody starts another imager here: the guard does it.
        wait_until(lambda: vm.left_over() == [] and vm.bitmaps() == [], "all is cleared away", 60.0)
        process.stdin.close()
        vm.write_some(dice, 10)
    assert on_disk(vm) == [bytes(disk) for disk in vm.disks]
    assert vm.ask("query-block-jobs") == []


def test_without_room_no_cycle_is_begun(vm: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than any file system has; and as soon as there is room it goes on by itself."""
    dice = random.Random(4)
    settings = settings_of(tmp_path, {"vm": vm})
    imager, container = imager_of(settings), Container(settings)
    imager.begin(1, NOWHERE)
    protect_all(imager, container)
    vm.write_some(dice, 10)
    with monkeypatch.context() as patch:
        patch.setattr(hypervisor, "FLEECE_BYTES_MAX", 1 << 61)
        imager.image()
        assert "what a guest overwrites" not in imager.vms[0].problem
        assert "(" in imager.vms[0].problem
        assert (vm.left_over(), imager.status()["vms"][0]["problem"]) == ([], imager.vms[0].problem)
        vm.write_some(dice, 10)
    imager.vms[0].again_ns = 0
    protect_all(imager, container)
    assert [container.spaces[space_of(0, n)] for n in range(2)] == vm.disks
    assert on_disk(vm) == [bytes(disk) for disk in vm.disks]
    imager.close()


def test_a_guest_that_overwrites_too_much_ends_the_cycle_and_sees_nothing(
    vm: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "FLEECE_BYTES_MAX", 4 * MIB)
    monkeypatch.setattr(hypervisor, "FLEECE_KEPT_BYTES", 2 * MIB)
    dice = random.Random(5)
    settings = settings_of(tmp_path, {"vm": vm})
    imager, container = imager_of(settings), Container(settings)
    for disk in range(2):
        vm.write(disk, 0, SIZES[disk], 7)
    imager.begin(1, NOWHERE)
    protect_all(imager, container)
    vm.write_some(dice, 10)
    turns: list[int] = []

    def amid(*args: object) -> Iterator[NewExtent]:
        """The guest writes all over its disks while they are read."""
        if not turns:
            for number in range(40):
                vm.write(0, number * 2 * 65536, 4096, dice.randint(1, 255))
        turns.append(1)
        return read_extents(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cycle, "read_extents", amid)
    imager.image()
    assert "overwrites more" in imager.vms[0].problem
    assert vm.left_over() == []
    assert on_disk(vm) == [bytes(disk) for disk in vm.disks]
    imager.vms[0].again_ns = 0
    protect_all(imager, container)
    assert [container.spaces[space_of(0, n)] for n in range(2)] == vm.disks
    imager.close()


def test_disks_that_were_swapped_or_resized_are_read_anew(vm: Written, tmp_path: Path) -> None:
    """A snapshot puts another node on top: its bitmap, which hears nothing any more, must not be believed."""
    dice = random.Random(6)
    settings = settings_of(tmp_path, {"vm": vm})
    imager, container = imager_of(settings), Container(settings)
    imager.begin(1, NOWHERE)
    protect_all(imager, container)
    overlay = tmp_path / "overlay.qcow2"
    vm.ask("blockdev-snapshot-sync", device="d0", **{"snapshot-file": str(overlay), "format": "qcow2"})
    vm.write_some(dice, 10)
    protect_all(imager, container)
    assert imager.vms[0].disks[0].node != ""
    assert [container.spaces[space_of(0, n)] for n in range(2)] == vm.disks
    vm.ask("block_resize", device="d1", size=SIZES[1] + MIB)
    imager.image()
    assert "had" in imager.vms[0].problem
    assert "reload" in imager.vms[0].problem
    imager.close()


class Cut:
    """Cuts the connection at the N-th command of a cycle, before QEMU hears it or after it answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.heard = False
        self.count = 0
        real = Commanding.do

        def do(qmp: Commanding, command: str, arguments: Any = None, fd: int | None = None) -> Any:  # noqa: ANN401
            self.count += 1
            if self.left is None:
                return real(qmp, command, arguments, fd)
            self.left -= 1
            if self.left == 0 and self.heard:
                real(qmp, command, arguments, fd)
            if self.left <= 0:
                raise HypervisorFailed(command, "the connection was cut")
            return real(qmp, command, arguments, fd)

        patch.setattr(Commanding, "do", do)


@pytest.mark.parametrize("heard", [False, True])
def test_wherever_a_cycle_is_cut_the_next_one_is_right(
    vm: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """Every command of a cycle in turn; what was written before, meanwhile and after comes back."""
    dice = random.Random(8)
    settings = settings_of(tmp_path, {"vm": vm})
    imager, container = imager_of(settings), Container(settings)
    imager.begin(1, NOWHERE)
    protect_all(imager, container)
    cut = Cut(monkeypatch)
    vm.write_some(dice, 3)
    imager.image()
    commands, place = cut.count, 0
    assert commands > 15
    protect_all(imager, container)
    for place in range(1, commands + 1):
        vm.write_some(dice, 3)
        cut.left, cut.heard = place, heard
        imager.image()
        cut.left = None
        assert imager.vms[0].problem or place > commands - 3, place
        vm.write_some(dice, 2)
        imager.vms[0].again_ns = 0
        protect_all(imager, container)
        assert [container.spaces[space_of(0, n)] for n in range(2)] == vm.disks, place
        assert vm.left_over() == [], place
        assert len(vm.bitmaps()) == 1, place
    imager.close()
    assert vm.bitmaps() == []


def test_a_server_of_another_program_is_left_alone(vm: Written, tmp_path: Path) -> None:
    dice = random.Random(9)
    settings = settings_of(tmp_path, {"vm": vm})
    imager, container = imager_of(settings), Container(settings)
    imager.begin(1, NOWHERE)
    protect_all(imager, container)
    theirs = {"type": "unix", "data": {"path": str(tmp_path / "theirs.sock")}}
    vm.ask("nbd-server-start", addr=theirs)
    vm.write_some(dice, 5)
    imager.image()
    assert "already running" in imager.vms[0].problem
    assert (tmp_path / "theirs.sock").exists()
    assert vm.left_over() == []
    vm.ask("nbd-server-stop")
    imager.vms[0].again_ns = 0
    protect_all(imager, container)
    assert [container.spaces[space_of(0, n)] for n in range(2)] == vm.disks
    imager.close()


def test_a_vm_that_migrated_away_is_not_called_whole(vm: Written, tmp_path: Path) -> None:
    """The QEMU that it left goes on to answer; once it is let go on there, all is read and compared."""
    settings = settings_of(tmp_path, {"vm": vm})
    imager, container = imager_of(settings), Container(settings)
    imager.begin(1, NOWHERE)
    protect_all(imager, container)
    vm.ask("migrate", uri="exec:cat >/dev/null")
    wait_until(lambda: vm.ask("query-status")["status"] == "postmigrate", "it migrated away", 60.0)
    for number in range(len(SIZES)):  # the other QEMU does
        (vm.folder / f"{number}.raw").write_bytes(bytes([number + 1]) * SIZES[number])
        vm.disks[number][:] = bytes([number + 1]) * SIZES[number]
    imager.sweep(1, 0)
    assert "in another QEMU" in imager.vms[0].problem
    assert len(imager.take(1, 0, False, SystemClock().boottime_ns()).not_whole) == 2
    assert (vm.bitmaps(), vm.left_over()) == ([], [])
    vm.ask("cont")
    imager.vms[0].again_ns = 0
    protect_all(imager, container)
    assert [container.spaces[space_of(0, n)] for n in range(2)] == vm.disks
    imager.close()


def test_disks_whose_devices_have_no_id_are_told_apart(tmp_path: Path) -> None:
    """By their nodes, as `describe` names them: not the last one for all."""
    arguments: list[str] = []
    for number, name in enumerate(("root", "log")):
        with (tmp_path / name).open("wb") as file:
            file.truncate((number + 1) * MIB)
        node = f"driver=raw,node-name={name},file.driver=file,file.filename={tmp_path / name}"
        arguments += ["-blockdev", node, "-device", f"virtio-blk-pci,drive={name}"]
    with stopped_qemu(tmp_path / "own.sock", arguments):
        qmp = Commanding(str(tmp_path / "own.sock"), lambda: 60.0)
        told = parse_answers(ask_all(qmp.ask, "asking"), "asking").description
        found = hypervisor.disks_of(qmp)
        qmp.close()
    assert {name: (one.node, one.size_bytes) for name, one in found.items()} == {
        "root": ("root", MIB),
        "log": ("log", 2 * MIB),
    }
    assert {disk.name for disk in told.disks} == {*found}
