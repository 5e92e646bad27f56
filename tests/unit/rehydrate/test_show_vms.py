"""`rehydrate show ADDRESS vms`: what the VMs were at a point, for people and for programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.domain.machine import Description, Disk, DiskKind, Firmware, FirmwareKind, Nic
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.format.index import Record
from cdp_container.format.keys import segment_key
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site
from tests.unit.rehydrate.conftest import Run, answer
from tests.unit.rehydrate.test_cli import refused

VM = b"V" * 16


@pytest.fixture
def protected(place: Path) -> Site:
    site = Site(DirectoryStore(place), seed=3)
    disk = site.add_volume("root", 4096)
    site.begin_epoch()
    for cpus in (2, 4):
        web = Description(
            "web",
            cpus=cpus,
            memory_bytes=3 << 29,
            firmware=Firmware(FirmwareKind.UEFI, True),
            disks=(Disk("vda", disk, boot=1), Disk("vdb"), Disk("sda", kind=DiskKind.CDROM)),
            nics=(Nic("net0", "52:54:00:00:00:01", "prod\x1b[31m", vlan=7),),
            left_out=("a TPM and its state",),
        )
        site.say(vm_record(VM, Configuration("shop-web", web, Native("libvirt", "<domain/>"))))
        site.cut([], marker=f"with-{cpus}")
    site.protect(max(site.images))
    return site


def test_people_see_what_there_is_and_what_is_not_described(run: Run, protected: Site, place: Path) -> None:
    code, stdout, _ = run("show", place, "vms", "--marker", "with-2")
    assert code == 0
    assert "shop-web: 2 CPUs, 1.5 GiB, x86_64 machine, UEFI with secure boot (libvirt, called web)" in stdout
    assert "disk vda: volume root, virtio, boot 1" in stdout
    assert "disk vdb: not protected" in stdout
    assert "VLAN 7" in stdout
    assert "not described: a TPM and its state" in stdout
    assert "\x1b" not in stdout
    assert "4 CPUs" in run("show", place, "vms")[1]


def test_programs_get_all_of_it(run: Run, protected: Site, place: Path) -> None:
    found = answer(run, "show", place, "vms", "--at", "1.1")
    (web,) = found["vms"]
    assert (found["point"], web["name"], web["vm"]) == ("1.1", "shop-web", VM.hex())
    assert web["description"]["cpus"] == 2
    assert web["native"] == {"kind": "libvirt", "document": "<domain/>"}
    assert web["volumes"] == {"vda": "root"}


def test_a_point_without_vms(run: Run, protected: Site, place: Path) -> None:
    protected.say(vm_record(VM, None))
    protected.cut([])
    assert "no VM is described" in run("show", place, "vms")[1]


def test_a_configuration_that_makes_no_sense_is_damage_of_its_own(
    run: Run, protected: Site, place: Path
) -> None:
    protected.say(Record("vm", VM, b'{"name":"web"}', critical=False))
    protected.cut([])
    assert VM.hex() in refused(run, 20, "show", place, "vms")
    assert run("plan", place)[0] == 0
    assert run("show", place, "vms", "--at", "1.2")[0] == 0


def test_what_may_be_in_a_segment_that_is_gone_is_not_made_up(run: Run, protected: Site, place: Path) -> None:
    (place / segment_key(1, 2)).unlink()
    assert run("show", place, "vms", "--at", "1.1")[0] == 0
    refused(run, 21, "show", place, "vms")


def test_a_point_is_for_vms_alone(run: Run, protected: Site, place: Path) -> None:
    refused(run, 2, "show", place, "owner", "--at", "1.1")
    refused(run, 13, "show", place, "vms", "--at", "9.9")


def test_verify_names_a_configuration_that_makes_no_sense(run: Run, protected: Site, place: Path) -> None:
    assert run("verify", place)[0] == 0
    protected.say(Record("vm", VM, b'{"name":"web"}', critical=False))
    protected.protect(protected.cut([]))
    code, stdout, _ = run("verify", place)
    assert code != 0
    assert f"VM {VM.hex()} at 1.3" in stdout
    protected.say(vm_record(VM, None))
    protected.protect(protected.cut([]))
    assert run("verify", place)[0] == 0
