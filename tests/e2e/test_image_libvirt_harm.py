"""What libvirt does with a VM whose disks are captured: snapshots, copies, backups, its end and its restart.

Whatever it is, it harms neither the guest nor what is in the container: a cycle fails, is tried again, or
all is read anew. The guest never runs; QEMU itself writes as a guest does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_agent.imager import cycle
from cdp_agent.imager.core import Imager
from cdp_agent.imager.cycle import read_extents
from cdp_agent.imager.settings import DiskSettings, ImagerSettings, VmSettings
from cdp_container.clock import SystemClock
from cdp_container.format.place import NOWHERE
from cdp_container.format.segment import NewExtent
from tests.e2e.hypervisors import LIBVIRT
from tests.e2e.imaged import Container, Written, imager_of, protect_all, space_of
from tests.e2e.libvirt_domain import NAME, Domain, folder_for_qemu, libvirt_domain
from tests.e2e.site import MIB
from tests.e2e.system_libvirt import SYSTEM_LIBVIRT, system_libvirtd
from tests.tiny_vm import NEEDS
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*NEEDS, *LIBVIRT, *SYSTEM_LIBVIRT)]

SIZES = (8 * MIB, 4 * MIB)
DEVICES = ("virtio-disk0", "scsi0-0-0-0")


class WrittenDomain(Written):
    """One whose disks libvirt's QEMU writes, by whatever node they have now."""

    def write(self, disk: int, offset: int, length: int, pattern: int) -> None:
        """See `Written.write`."""
        order = f"write -P {pattern} {offset} {length}" if pattern else f"write -z {offset} {length}"
        device = "/machine/peripheral/virtio-disk0/virtio-backend" if disk == 0 else DEVICES[1]
        said = self.ask("human-monitor-command", **{"command-line": f'qemu-io -d {device} "{order}"'})
        assert not said.strip(), said
        self.disks[disk][offset : offset + length] = bytes([pattern]) * length


@contextmanager
def written(domain: Domain, before: Written | None = None) -> Iterator[WrittenDomain]:
    """Talk to the domain's QEMU; `before`: the one that knows what is on the disks."""
    vm = WrittenDomain(domain.sockets, SIZES, 0)
    if before is not None:
        vm.disks = before.disks
    try:
        yield vm
    finally:
        vm.close()


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    """One for all: libvirt asks QEMU what it can do at each definition, which takes long."""
    with folder_for_qemu() as folder, system_libvirtd(user="libvirt-qemu") as (uri, _):
        disks = {"vda": folder / "qmp" / "0.raw", "sda": folder / "qmp" / "1.raw"}
        for path, size_bytes in zip(disks.values(), SIZES, strict=True):
            path.write_bytes(random.Random(size_bytes).randbytes(size_bytes // 2) + bytes(size_bytes // 2))
        with libvirt_domain(uri, folder, disks) as made:
            yield made


class Captured:
    """An imager over a domain, and what is in the container."""

    def __init__(self, domain: Domain, folder: Path) -> None:
        disks = tuple(
            DiskSettings(space_of(0, number), f"disk-{number}", device, SIZES[number])
            for number, device in enumerate(DEVICES)
        )
        settings = ImagerSettings(folder, (VmSettings("vm", str(domain.qmp), disks),), 0.2)
        self.imager: Imager = imager_of(settings)
        self.container = Container(settings)
        self.imager.begin(1, NOWHERE)

    @property
    def problem(self) -> str:
        return self.imager.vms[0].problem

    def look(self) -> str:
        """One round, as a streamer asks for it; what keeps its volumes from being whole."""
        self.imager.vms[0].again_ns = 0
        now_ns = SystemClock().boottime_ns()
        for taken in (self.imager.sweep(1, 0), self.imager.take(1, 0, False, now_ns)):
            self.container.cut += 1
            self.container.put(taken)
            if taken.batch:
                self.imager.place(taken.batch, 1, self.container.cut)
            self.imager.protected(1, self.container.cut)
        assert len(taken.not_whole) == 2
        return self.problem

    def assert_comes_back(self, vm: Written) -> None:
        """Everything is whole again, by itself, and is what the disks hold."""
        self.imager.vms[0].again_ns = 0
        protect_all(self.imager, self.container)
        assert [self.container.spaces[space_of(0, number)] for number in range(2)] == vm.disks
        assert vm.left_over() == []
        assert self.problem == ""


def test_snapshots_and_what_they_are_merged_into(domain: Domain, tmp_path: Path) -> None:
    """Each puts another node on top: all is read and compared, and goes on."""
    dice = random.Random(21)
    captured = Captured(domain, tmp_path)
    with written(domain) as vm:
        vm.write_some(dice, 10)
        captured.assert_comes_back(vm)
        domain.virsh(*snapshot(domain, "overlay-1"))
        vm.write_some(dice, 10)
        captured.assert_comes_back(vm)
        domain.virsh("blockcommit", NAME, "vda", "--active", "--pivot", "--wait")
        vm.write_some(dice, 10)
        captured.assert_comes_back(vm)
    captured.imager.close()


def test_while_libvirt_copies_or_backs_up_a_disk_it_is_not_whole(domain: Domain, tmp_path: Path) -> None:
    dice = random.Random(22)
    captured = Captured(domain, tmp_path)
    with written(domain) as vm:
        vm.write_some(dice, 10)
        captured.assert_comes_back(vm)
        domain.virsh(*copy(domain, "copy-1"), "--wait")
        vm.write_some(dice, 10)
        assert "in use by block job: mirror" in captured.look()
        domain.virsh("blockjob", NAME, "vda", "--abort")
        captured.assert_comes_back(vm)

        page = domain.folder / "backup.xml"
        page.write_text(
            f"<domainbackup mode='pull'><server transport='unix' socket='{domain.sockets}/nbd.sock'/>"
            f"<disks><disk name='vda' backup='yes' type='file'><scratch file='{domain.sockets}/scratch'/>"
            "</disk><disk name='sda' backup='no'/></disks></domainbackup>"
        )
        domain.virsh("backup-begin", NAME, str(page))
        vm.write_some(dice, 10)
        assert "already running" in captured.look()
        assert [one["id"] for one in vm.ask("query-block-exports")] != [], "libvirt's server goes on"
        domain.virsh("domjobabort", NAME)
        captured.assert_comes_back(vm)
    captured.imager.close()


def test_what_libvirt_begins_amid_a_cycle_is_refused_to_it(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may be said again; the cycle goes on."""
    dice = random.Random(23)
    captured = Captured(domain, tmp_path)
    said: list[str] = []
    acts: list[tuple[str, ...]] = []

    def amid(*args: object) -> Iterator[NewExtent]:
        """While a cycle reads."""
        if acts:
            said.append(domain.refused(*acts.pop()))
        return read_extents(*args)  # type: ignore[arg-type]

    with written(domain) as vm:
        vm.write_some(dice, 10)
        captured.assert_comes_back(vm)
        monkeypatch.setattr(cycle, "read_extents", amid)
        for words in (snapshot(domain, "overlay-2"), copy(domain, "copy-2")):
            vm.write_some(dice, 10)
            acts.append(words)
            captured.imager.image()
            assert (acts, captured.problem) == ([], "")
            captured.assert_comes_back(vm)
        domain.virsh(*snapshot(domain, "overlay-2"))
        domain.virsh("blockcommit", NAME, "vda", "--active", "--pivot", "--wait")
        captured.assert_comes_back(vm)
    assert "is busy: node is used as backing hd of 'cdp-image-" in said[0]
    assert "Need a root block node" in said[1]
    captured.imager.close()


def test_a_domain_that_is_destroyed_amid_a_cycle_and_started_again(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(24)
    captured = Captured(domain, tmp_path)
    acts = [("destroy", NAME)]

    def amid(*args: object) -> Iterator[NewExtent]:
        if acts:
            domain.virsh(*acts.pop())
        return read_extents(*args)  # type: ignore[arg-type]

    with written(domain) as vm:
        vm.write_some(dice, 10)
        captured.assert_comes_back(vm)
        monkeypatch.setattr(cycle, "read_extents", amid)
        vm.write_some(dice, 10)
        captured.imager.image()
        assert not acts
        assert captured.problem
    assert "the VM does not run" in captured.look()
    domain.virsh("start", "--paused", NAME)
    wait_until(domain.own.exists, "QEMU is there", 60.0)
    with written(domain, vm) as again:
        again.write_some(dice, 10)
        captured.assert_comes_back(again)
    captured.imager.close()


def snapshot(domain: Domain, name: str) -> tuple[str, ...]:
    """Of one disk, to a file that is made."""
    spec = f"vda,file={domain.sockets}/{name}.qcow2"
    words = ("snapshot-create-as", NAME, "--disk-only", "--no-metadata", "--diskspec", spec)
    return (*words, "--diskspec", "sda,snapshot=no")


def copy(domain: Domain, name: str) -> tuple[str, ...]:
    """Of one disk, without an end."""
    return ("blockcopy", NAME, "vda", f"{domain.sockets}/{name}.raw", "--format", "raw", "--transient-job")
