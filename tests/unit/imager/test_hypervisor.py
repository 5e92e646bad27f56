"""What is said to a QEMU, and what is made of its answers: by one that is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.imager import cycle, hypervisor
from cdp_agent.imager.hypervisor import FDSETS_FROM, Hypervisor, disks_of
from cdp_agent.imager.memory import memory_of
from cdp_agent.imager.process import socket_of
from cdp_agent.imager.settings import DiskSettings, VmSettings
from cdp_agent.watcher.wire import listen_at
from cdp_container.clock import SystemClock
from cdp_container.errors import HypervisorFailed


class Qemu:
    """Answers as it is told to; `said`: all commands, with their arguments."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.said: list[tuple[str, Mapping[str, Any]]] = []

    def do(self, command: str, arguments: Mapping[str, Any] | None = None, fd: int | None = None) -> object:
        self.said.append((command, arguments or {}))
        return self.answers.get(command.replace("-", "_"), {})

    def close(self) -> None:
        """Nothing is open."""


def hypervisor_of(qemu: Qemu, folder: Path) -> Hypervisor:
    return Hypervisor(qemu, "run", folder, "read.sock", lambda: 1.0, time.sleep)  # type: ignore[arg-type]


def test_what_is_kept_for_a_cycle_is_never_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the guest stands still at the cycle's end until all that it overwrote is on the journal's disk."""
    monkeypatch.setattr(hypervisor, "FLEECE_BYTES_MAX", 1 << 20)
    fdsets = [{"fdset-id": 3}, {"fdset-id": FDSETS_FROM + 7}]
    qemu = Qemu(query_fdsets=fdsets, add_fd={"fdset-id": FDSETS_FROM + 8})
    connected = hypervisor_of(qemu, tmp_path)
    connected.instant({"node": 1 << 20}, "old", "new")
    connected.close()
    (overlay,) = [arguments for command, arguments in qemu.said if command == "blockdev-add"]
    assert overlay["cache"] == overlay["file"]["cache"] == {"no-flush": True}
    assert overlay["file"]["filename"] == f"/dev/fdset/{FDSETS_FROM + 8}"
    (added,) = [arguments for command, arguments in qemu.said if command == "add-fd"]
    assert added["fdset-id"] == FDSETS_FROM + 8  # beyond those that libvirt counts, and nobody has it


def test_a_socket_that_cannot_be_made_is_an_error_of_this_vm(tmp_path: Path) -> None:
    """Which is told; and what is read of the others is not lost by it."""
    (tmp_path / "read.sock").mkdir()
    connected = hypervisor_of(Qemu(), tmp_path)
    with pytest.raises(HypervisorFailed, match=r"read\.sock: "):
        connected.export(["node"], "bitmap", live=True)
    with pytest.raises(HypervisorFailed, match=r"read\.sock: "):
        connected.clean()


def test_a_server_that_does_not_greet_yet_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its socket alone it is known: without it no other could ever be started in that QEMU."""
    monkeypatch.setattr(hypervisor, "PROBE_SECONDS", 0.05)
    qemu = Qemu()
    with listen_at(tmp_path, "read.sock", 4) as listener:
        with pytest.raises(HypervisorFailed, match="cannot be told"):
            hypervisor_of(qemu, tmp_path).clean()
        assert "query-jobs" in [command for command, _ in qemu.said], "jobs go first"
        assert (tmp_path / "read.sock").exists()
        monkeypatch.setattr(hypervisor, "PROBE_SECONDS", 30.0)

        def greet() -> None:
            for _ in range(2):  # the first one went
                listener.accept()[0].close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        hypervisor_of(qemu, tmp_path).clean()
        thread.join(30)
    assert qemu.said[-3][0] == "nbd-server-stop"
    assert not (tmp_path / "read.sock").exists()


STATES = [
    ("running", True, False),
    ("paused", False, False),
    ("shutdown", False, False),
    ("suspended", True, False),
    ("postmigrate", True, True),
    ("finish-migrate", True, True),
    ("inmigrate", True, True),
]


@pytest.mark.parametrize(("state", "may_write", "is_elsewhere"), STATES)
def test_a_guest_that_migrates_may_write_and_not_here(
    tmp_path: Path, state: str, may_write: bool, is_elsewhere: bool
) -> None:
    """So a release does not take it for stopped, and a cycle does not take its disks for what they were."""
    connected = hypervisor_of(Qemu(query_status={"running": state == "running", "status": state}), tmp_path)
    assert (connected.is_running(), connected.is_elsewhere()) == (may_write, is_elsewhere)


class Elsewhere:
    """A VM's QEMU that is migrated away at the N-th question. `cleaned`: with what was to be kept."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.cleaned: list[Sequence[str]] = []

    def is_elsewhere(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def is_running(self) -> bool:
        return False

    def bitmap(self, number: int) -> str:
        return f"b{number}"

    def instant(self, nodes: Mapping[str, int], old: str, new: str) -> None:
        """It is made."""

    def clean(self, keep: Sequence[str] = ()) -> None:
        self.cleaned.append(keep)
        raise HypervisorFailed("cleaning", "as it was told to")


@pytest.mark.parametrize("step", ["attend", "instant"])
def test_nothing_is_known_any_more_of_a_vm_that_migrated(step: str) -> None:
    """Its bitmap is there and records, as before; amid a cycle, too."""
    vm = memory_of(VmSettings("vm", "", (DiskSettings(b"d" * 16, "disk", "d0", 4096),)))
    vm.bitmap = vm.last_bitmap = 3
    vm.is_clean = True
    vm.disks[0].node, vm.disks[0].read_to = "node", 4096
    qemu: Any = Elsewhere(1)
    with pytest.raises(HypervisorFailed, match="another QEMU"):
        cycle.attend(qemu, vm) if step == "attend" else cycle.take_instant(qemu, vm, SystemClock())
    assert (vm.bitmap, vm.next_bitmap, vm.is_read, qemu.cleaned) == (0, 0, False, [()])


def block_of(
    node: str, device: str = "", qdev: str = "/machine/peripheral-anon/device[0]/virtio-backend"
) -> object:
    inserted = {"node-name": node, "image": {"virtual-size": 4096}}
    return {"device": device, "qdev": qdev, "inserted": inserted}


@pytest.mark.parametrize(
    ("blocks", "nodes", "twice"),
    [
        ([block_of("root"), block_of("log")], {"root": "root", "log": "log"}, set()),
        ([block_of("#block3", "drive"), block_of("log")], {"drive": "#block3", "log": "log"}, set()),
        (
            [block_of("#b1"), block_of("#b2"), block_of("#b3"), block_of("log")],
            {"log": "log"},
            {"virtio-backend"},
        ),
        ([block_of("n", qdev="/machine/peripheral/log/virtio-backend"), block_of("log")], {}, {"log"}),
        ([block_of("libvirt-1-format", qdev="scsi0-0-0-0")], {"scsi0-0-0-0": "libvirt-1-format"}, set()),
        ([block_of("n", "drive-scsi0", "scsi0")], {"scsi0": "n"}, set()),
    ],
)
def test_a_name_that_two_disks_have_is_no_name(
    blocks: list[object], nodes: dict[str, str], twice: set[str]
) -> None:
    """Else one of them is captured as the other."""
    found = disks_of(Qemu(query_block=blocks))  # type: ignore[arg-type]
    assert {name: one.node for name, one in found.items()} == nodes
    assert found.twice == twice
    for name in twice:
        why, hint = found.without(name)
        assert "more than one" in why
        assert "an id" in hint


def test_a_socket_for_reading_is_named_by_its_vm_alone() -> None:
    """By it what a killed imager left is known, though VMs were put in or taken out since."""
    long = "v" * 300
    assert len({socket_of("a"), socket_of("b"), socket_of(long), socket_of(f"{long}w")}) == 4
    assert len(socket_of(long)) == len(socket_of("a")) < 40
    assert socket_of("a") == "read-ca978112ca1bbdca.sock"
