"""Asking all VMs at once: one that hangs, is missing or lies takes nothing from the others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_agent.vms import asking
from cdp_agent.vms.asking import ask_vm, ask_vms, read_variables, volumes_served
from cdp_agent.vms.qmp_asked import Qmp
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import AgentIdentity, SourceIdentity, VmIdentity
from cdp_container.domain.machine import unpack_variables
from cdp_container.errors import HypervisorFailed

GOLDEN = Path(__file__).parents[2] / "golden" / "vms"
CLOCK = SystemClock()


def identity(*vms: VmIdentity, path: str = "/none") -> AgentIdentity:
    sources = (SourceIdentity("root", path, b"r" * 16, 4096),)
    return AgentIdentity(b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), sources, vms=vms)


@contextmanager
def listening(path: Path, *answers: bytes) -> Iterator[None]:
    """A socket that says this to whoever comes, and then nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        kept: list[socket.socket] = []

        def serve() -> None:
            try:
                peer, _ = listener.accept()
                kept.append(peer)
                peer.sendall(b"".join(answers))
            except OSError:
                return  # it was told to end

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for peer in kept:
                peer.close()


def vm(name: str, kind: str, at: object, **disks: str | None) -> VmIdentity:
    return VmIdentity(name, name.encode().ljust(16), kind, str(at), disks=tuple(disks.items()))


def test_one_that_hangs_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ROUND_SECONDS", 1.0)
    monkeypatch.setattr(asking, "VM_SECONDS", 60.0)
    vms = (
        vm("hangs", "qmp", tmp_path / "hangs"),
        vm("hand", "description", GOLDEN / "by-hand.yaml", vda="root", vdb=None),
        vm("pve", "proxmox", tmp_path / "none.conf"),
        vm("other", "xen", "/x"),
        VmIdentity("far", b"f" * 16),
        VmIdentity("gone", b"g" * 16, "qmp", "/x", removed=True),
    )
    found = identity(*vms)
    with listening(tmp_path / "hangs"):
        told = {one.vm.name: one for one in ask_vms(found, volumes_served(found, "/s", None), CLOCK)}
    assert told.keys() == {"hangs", "hand", "pve", "other"}
    assert "did not answer within 1 s" in told["hangs"].problem
    assert "No such file" in told["pve"].problem
    assert "no hypervisor that this release knows" in told["other"].problem
    hand = told["hand"].configuration
    assert hand is not None
    assert [disk.volume for disk in hand.description.disks] == [b"r" * 16, None]
    assert hand.name == "hand"


def test_a_file_of_proxmox_with_what_lies_beside_it(tmp_path: Path) -> None:
    """As /etc/pve has it; the disk is found through a link, as LVM's are."""
    node = tmp_path / "nodes" / "one" / "qemu-server"
    node.mkdir(parents=True)
    (tmp_path / "qemu-server").symlink_to(node)
    (tmp_path / "user.cfg").write_text((GOLDEN / "user.cfg").read_text())
    images = tmp_path / "files"
    (images / "images" / "101").mkdir(parents=True)
    disk = images / "images" / "101" / "vm-101-disk-2.raw"
    disk.symlink_to(tmp_path / "real.raw")
    (tmp_path / "real.raw").write_bytes(bytes(4096))
    (images / "images" / "101" / "vm-101-disk-0.raw").write_bytes(bytes(0x28) + b"_FVH" + bytes(500_000))
    (tmp_path / "storage.cfg").write_text(f"dir: files\n\tpath {images}\n")
    (node / "101.conf").write_text((GOLDEN / "pve7.conf").read_text())
    one = vm("db", "proxmox", tmp_path / "qemu-server" / "101.conf", scsi0=None)
    found = identity(one, path=str(tmp_path / "real.raw"))
    told = ask_vm(one, volumes_served(found, "/s", None), CLOCK)
    assert told.configuration is not None, told.problem
    description = told.configuration.description
    assert {disk.name: disk.volume for disk in description.disks}["scsi1"] == b"r" * 16
    assert told.unprotected == ("scsi2",)
    assert description.permissions == ("ute@pve: PVEVMAdmin", "@ops: PVEVMAdmin")
    assert description.firmware.variables is not None
    assert unpack_variables(description.firmware.variables, "it")[0x28:0x2C] == b"_FVH"


@pytest.mark.parametrize("data", [b"", b"root:x:0:0", b"QFI\xfb" + bytes(100), bytes(4096)])
def test_what_is_no_variable_store_is_never_taken_for_one(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vars").write_bytes(data)
    assert read_variables(tmp_path / "vars") is None
    assert read_variables(tmp_path / "none") is None


def test_a_page_that_is_too_long_or_no_text(tmp_path: Path) -> None:
    for data in (b"name: a\nnote: " + b"x" * 200_000, b"\xff\xfe"):
        (tmp_path / "page").write_bytes(data)
        one = vm("old", "description", tmp_path / "page")
        assert ask_vm(one, volumes_served(identity(one), "/s", None), CLOCK).problem


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ((b"hello\n",), "does not speak QMP"),
        ((b'{"no": 1}\n',), "does not speak QMP"),
        ((b"[]\n",), "does not speak QMP"),
        ((b'{"QMP": {}}\n', b'{"event": 1}\n' * 10_001), "events without end"),
        ((b'{"QMP": {}}\n', b"x" * (5 << 20)), "more than a QEMU does"),
        ((), "not answer in time"),
    ],
)
def test_what_is_no_qemu(tmp_path: Path, answers: tuple[bytes, ...], why: str) -> None:
    with listening(tmp_path / "s", *answers), pytest.raises(HypervisorFailed, match=why):
        Qmp(str(tmp_path / "s"), lambda: 1.0 if not answers else 30.0).close()


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HypervisorFailed, match="No such file"):
        Qmp(str(tmp_path / "s"), lambda: 1.0)
