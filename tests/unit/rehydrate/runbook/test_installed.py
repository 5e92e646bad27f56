"""What a hypervisor lacks is told before the day; what cannot be asked is no fault."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cdp_container.domain.machine import Description, Disk, Firmware, FirmwareKind, Nic
from cdp_container.domain.machine_records import Configuration, Member, Native
from rehydrate.runbook import installed as probes
from rehydrate.runbook.check_installed import installed_findings_of
from rehydrate.runbook.installed import Firmware as Described
from rehydrate.runbook.installed import ThisInstallation, firmware_in, machine_types_in
from rehydrate.runbook.model import RunbookSettings, parse_runbook

DISK = b"D" * 16
GIB = 1 << 30
PAGE = """\
target: {target}
directory: /srv/recovered
networks: {{prod: {{{network}}}}}
vms: {{web: {{}}}}
test: {{directory: /srv/test, networks: {{"*": {{{test}}}}}}}
"""
VIRTUAL = Description(
    "web", machine="pc-q35-7.2+pve0", disks=(Disk("vda", DISK),), nics=(Nic("net0", network="prod"),),
    memory_bytes=GIB,
)  # fmt: skip


@dataclass
class Machine:
    """A machine that has all but what is taken from it."""

    types: Collection[str] | None = ("pc", "pc-q35-7.2")
    there: Mapping[str, bool] | None = field(default_factory=lambda: {"dr": True, "test": True})
    described: Sequence[Described] = (Described(frozenset({"x86_64"}), True),)
    codes: Sequence[str] = ("/usr/share/OVMF/OVMF_CODE_4M.fd",)
    free: int | None = 64 * GIB
    why: str = ""
    asked: list[str] = field(default_factory=list)

    def silence(self, uri: str) -> str:
        self.asked.append(uri)
        return self.why

    def machine_types(self, program: str) -> Collection[str] | None:
        assert program == "qemu-system-x86_64"
        return self.types

    def networks(self, uri: str) -> Mapping[str, bool] | None:
        return self.there

    def firmware(self) -> Sequence[Described]:
        return self.described

    def has_any(self, paths: Iterable[str]) -> bool:
        return any(path in self.codes for path in paths)

    def free_bytes(self, directory: str) -> int | None:
        return self.free


def runbook(target: str, network: str = "network: dr", test: str = "network: test") -> RunbookSettings:
    if target != "libvirt":
        network = test = "user: true"
    return parse_runbook(PAGE.format(target=target, network=network, test=test).encode(), "runbook.yaml")[0]


def told(page: RunbookSettings, here: Machine, one: Description = VIRTUAL, size: int = GIB) -> list[str]:
    member = Member(b"V" * 16, Configuration("web", one, Native("qmp", "")))
    findings = installed_findings_of(page, [member], {DISK: size}, here)
    return [f"{'' if found.is_fault else 'warning: '}{found.words}" for found in findings]


@pytest.mark.parametrize("target", ["qemu", "libvirt", "proxmox"])
def test_a_machine_that_has_all_is_told_nothing_of(target: str) -> None:
    uefi = replace(VIRTUAL, firmware=Firmware(FirmwareKind.UEFI))
    for one in (VIRTUAL, uefi):
        assert told(runbook(target), Machine(), one) == []


@pytest.mark.parametrize("target", ["qemu", "libvirt"])
def test_a_type_of_machine_that_qemu_does_not_know(target: str) -> None:
    (word,) = told(runbook(target), Machine(types=("pc",)))
    assert "pc-q35-7.2, which qemu-system-x86_64 does not know" in word
    assert told(runbook(target), Machine(types=None)) == []
    assert told(runbook("proxmox"), Machine(types=())) == []


def test_networks_of_libvirt_that_are_not_there_or_not_started() -> None:
    assert told(runbook("libvirt"), Machine(there={"dr": False})) == [
        "network dr of libvirt is not started: virsh net-start dr",
        "libvirt has no network test here",
    ]
    (word,) = told(runbook("libvirt"), Machine(there=None))
    assert word.startswith("warning: libvirt at")
    assert told(runbook("libvirt", "bridge: br0", "none: true"), Machine(there=None)) == []


@pytest.mark.parametrize("network", ["network: dr", "bridge: br0"])
def test_a_libvirt_that_does_not_answer_is_told_whatever_the_networks(network: str) -> None:
    dead = Machine(there=None, why="no libvirtd")
    (word,) = told(runbook("libvirt", network, "none: true"), dead)
    assert word == "libvirt at qemu:///system does not answer, so no VM can be started there: no libvirtd"
    assert dead.asked == ["qemu:///system"], "once, for both"
    for target in ("qemu", "proxmox"):
        assert told(runbook(target), dead) == []


def test_a_libvirt_elsewhere_is_asked_for_nothing_but_an_answer() -> None:
    page = runbook("libvirt").model_copy(update={"uri": "qemu+ssh://other/system"})
    assert told(page, Machine(types=(), there={}, described=())) == []
    (word,) = told(page, Machine(types=(), there={}, described=(), why="Permission denied"))
    assert word.startswith("warning: libvirt at qemu+ssh://other/system does not answer")


@pytest.mark.parametrize("target", ["qemu", "libvirt"])
def test_uefi_that_is_not_installed(target: str) -> None:
    uefi = replace(VIRTUAL, firmware=Firmware(FirmwareKind.UEFI))
    secure = replace(VIRTUAL, firmware=Firmware(FirmwareKind.UEFI, secure_boot=True))
    assert (
        "starts by UEFI, and none for x86_64"
        in told(runbook(target), Machine(codes=(), described=()), uefi)[0]
    )
    lacking = Machine(described=(Described(frozenset({"x86_64"}), False),))
    assert "UEFI with secure boot" in told(runbook(target), lacking, secure)[0]
    assert told(runbook(target), lacking, uefi) == []


def test_variables_decide_which_uefi_fits() -> None:
    small = base64.b64encode(zlib.compress(bytes(128 << 10))).decode()
    one = replace(VIRTUAL, firmware=Firmware(FirmwareKind.UEFI, variables=small))
    assert "none for x86_64" in told(runbook("qemu"), Machine(), one)[0]
    assert told(runbook("qemu"), Machine(codes=("/usr/share/OVMF/OVMF_CODE.fd",)), one) == []
    broken = replace(VIRTUAL, firmware=Firmware(FirmwareKind.UEFI, variables="!"))
    assert "make no sense" in told(runbook("qemu"), Machine(), broken)[0]


def test_room_for_the_disks_is_a_warning_as_they_are_sparse() -> None:
    found = told(runbook("qemu"), Machine(free=GIB - 1))
    assert found == [
        "warning: the disks have 1024 MiB together, and /srv/recovered has room for 1023 MiB",
        "warning: the disks have 1024 MiB together, and /srv/test has room for 1023 MiB",
    ]
    assert told(runbook("qemu"), Machine(free=None)) == []


def test_what_programs_and_descriptors_say() -> None:
    text = "Supported machines are:\nmicrovm     microvm (i386)\npc   Standard (alias of pc-i440fx-7.2)\n\n"
    assert machine_types_in(text) == {"microvm", "pc"}
    members = {
        "interface-types": ["uefi"], "features": ["secure-boot"],
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
    }  # fmt: skip
    assert firmware_in(members) == Described(frozenset({"x86_64"}), True)
    assert firmware_in({"interface-types": ["bios"]}) is None


def test_descriptors_that_make_no_sense_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(
        ('{"interface-types": ["uefi"], "targets": []}', "[]", "{", '{"targets": 3}')
    ):
        (tmp_path / f"{number}.json").write_text(text)
    monkeypatch.setattr(probes, "_DESCRIPTORS", (str(tmp_path), str(tmp_path / "none")))
    assert ThisInstallation().firmware() == [Described(frozenset(), False)]


def test_a_program_that_is_not_here_or_fails_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ThisInstallation().machine_types("qemu-system-x86_64") is None
    assert ThisInstallation().silence("qemu:///system") == "there is no program virsh here"
    (tmp_path / "virsh").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "virsh").chmod(0o755)
    assert ThisInstallation().networks("qemu:///system") is None
    assert ThisInstallation().silence("qemu:///system") == "exit code 1"
    (tmp_path / "virsh").write_text('#!/bin/sh\n[ "$5" = --all ] && echo off\necho default\necho\n')
    assert ThisInstallation().networks("qemu:///system") == {"off": False, "default": True}


def test_how_a_libvirt_is_asked_whether_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("CDP_PASSPHRASE", "secret")
    virsh = tmp_path / "virsh"
    virsh.write_text(
        "#!/bin/sh\n"
        'echo "error: failed to connect" >&2\n'
        'echo "error: $2 $XDG_RUNTIME_DIR ${CDP_PASSPHRASE-none}" >&2\n'
        "exit 1\n"
    )
    virsh.chmod(0o755)
    assert ThisInstallation().silence("qemu:///session") == "qemu:///session /run/user/7 none"
    virsh.write_text('#!/bin/sh\n[ "$3" = list ]\n')
    assert ThisInstallation().silence("qemu:///session") == ""
    virsh.write_text("#!/bin/sh\nwhile :; do :; done\n")
    monkeypatch.setattr(probes, "PROBE_SECONDS_MAX", 0.1)
    assert ThisInstallation().silence("qemu:///session") == "no answer within 0.1 s"


@pytest.mark.needs("qemu-system-x86_64")
def test_the_real_qemu_knows_what_it_lists() -> None:
    found = ThisInstallation().machine_types("qemu-system-x86_64")
    assert found is not None
    assert {"pc", "q35"} <= set(found)
    assert ThisInstallation().free_bytes("/nowhere/at/all") is not None
