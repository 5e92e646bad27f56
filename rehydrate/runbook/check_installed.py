"""Whether the hypervisor of this machine has what a runbook and the VMs of a point need. PURE.

It is asked through `Installed`. What needs no hypervisor to be asked is `check`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from cdp_container.domain.machine import Description, DiskKind, FirmwareKind, unpack_variables
from cdp_container.domain.machine_records import Member
from cdp_container.errors import DamagedObject, LimitExceeded
from rehydrate.render.qemu import ARCHITECTURES, firmware_codes
from rehydrate.render.recovered import NetworkKind
from rehydrate.runbook.check import Finding
from rehydrate.runbook.installed import Installed
from rehydrate.runbook.model import RunbookSettings, rehearsed

MEBIBYTE: Final = 1 << 20


def installed_findings_of(
    runbook: RunbookSettings, members: Sequence[Member], sizes: Mapping[bytes, int], installed: Installed
) -> list[Finding]:
    """All that does not fit, of a recovery and of a rehearsal; each once. `sizes`: of volumes, in bytes."""
    silent = _silent(runbook, installed)  # asked once: one that hangs takes its time
    answers = not silent
    found = [*silent, *_findings(runbook, members, sizes, installed, answers)]
    rehearsal = rehearsed(runbook)
    if rehearsal is None:
        return found
    told = {one.words for one in found}
    return found + [
        replace(one, place=("test", *one.place))
        for one in _findings(rehearsal, members, sizes, installed, answers)
        if one.words not in told
    ]


def _silent(runbook: RunbookSettings, installed: Installed) -> list[Finding]:
    """A libvirt that does not answer starts nothing. Of one elsewhere it may be the way there alone."""
    if runbook.target != "libvirt":
        return []
    why = installed.silence(runbook.uri)
    words = f"libvirt at {runbook.uri} does not answer, so no VM can be started there: {why}"
    return [Finding(("uri",), words, is_fault=not _is_elsewhere(runbook))] if why else []


def _is_elsewhere(runbook: RunbookSettings) -> bool:
    return bool(urlsplit(runbook.uri).netloc)


def _findings(
    runbook: RunbookSettings,
    members: Sequence[Member],
    sizes: Mapping[bytes, int],
    installed: Installed,
    answers: bool,
) -> Iterator[Finding]:
    """`answers`: whether libvirt does."""
    names = (one.configuration.name for one in members)
    started = {
        name: one.configuration.description
        for name, one in zip(names, members, strict=True)
        if name not in runbook.leave_out
    }
    yield from _room(runbook, started, sizes, installed)
    if runbook.target == "proxmox" or (runbook.target == "libvirt" and _is_elsewhere(runbook)):
        return  # its machines run elsewhere, or it is asked by hand
    yield from _machines(started, installed)
    if runbook.target == "libvirt":
        if answers:
            yield from _networks(runbook, started, installed)
        yield from _described_firmware(started, installed)
    else:
        yield from _firmware(started, installed)


def _room(
    runbook: RunbookSettings,
    started: Mapping[str, Description],
    sizes: Mapping[bytes, int],
    installed: Installed,
) -> Iterator[Finding]:
    free_bytes = installed.free_bytes(runbook.directory)
    wanted = {
        disk.volume
        for name, one in started.items()
        for disk in one.disks
        if disk.kind is DiskKind.DISK
        and disk.volume is not None
        and disk.name not in runbook.of(name).without
    }
    wanted_bytes = sum(sizes.get(volume, 0) for volume in wanted)
    if free_bytes is not None and wanted_bytes > free_bytes:
        why = f"the disks have {wanted_bytes // MEBIBYTE} MiB together, and {runbook.directory} has room for"
        yield Finding(("directory",), f"{why} {free_bytes // MEBIBYTE} MiB", is_fault=False)


def _machines(started: Mapping[str, Description], installed: Installed) -> Iterator[Finding]:
    known: dict[str, Collection[str] | None] = {}
    for name, one in started.items():
        architecture = ARCHITECTURES.get(one.architecture)
        if architecture is None or one.machine is None:
            continue
        program = architecture.program
        if program not in known:
            known[program] = installed.machine_types(program)
        types, wanted = known[program], one.machine.partition("+")[0]
        if types is not None and wanted not in types:
            why = f"VM {name} is a machine of type {wanted}, which {program} does not know here"
            yield Finding(("vms", name), f"{why}: another release of QEMU has it", vm=name)


def _networks(
    runbook: RunbookSettings, started: Mapping[str, Description], installed: Installed
) -> Iterator[Finding]:
    wanted = {
        found.network
        for name, one in started.items()
        for nic in one.nics
        if (found := runbook.network_of(name, nic.network)) is not None
        and found.network is not None
        and found.as_network().kind is NetworkKind.NETWORK
    }
    if not wanted:
        return
    there = installed.networks(runbook.uri)
    if there is None:
        why = f"libvirt at {runbook.uri} could not be asked for its networks"
        yield Finding(("uri",), why, is_fault=False)
        return
    for network in sorted(wanted):
        if network not in there:
            yield Finding(("networks",), f"libvirt has no network {network} here")
        elif not there[network]:
            why = f"network {network} of libvirt is not started: virsh net-start {network}"
            yield Finding(("networks",), why)


def _described_firmware(started: Mapping[str, Description], installed: Installed) -> Iterator[Finding]:
    """Libvirt chooses a UEFI by what descriptors say."""
    wanted = {name: one for name, one in started.items() if one.firmware.kind is FirmwareKind.UEFI}
    described = installed.firmware() if wanted else ()
    for name, one in wanted.items():
        if not any(
            one.architecture in firmware.architectures
            and (firmware.secure_boot or not one.firmware.secure_boot)
            for firmware in described
        ):
            yield _not_installed(name, one)


def _firmware(started: Mapping[str, Description], installed: Installed) -> Iterator[Finding]:
    """A plain QEMU is started with code that lies where distributions put it."""
    for name, one in started.items():
        if one.firmware.kind is not FirmwareKind.UEFI:
            continue
        size: int | None = None
        if one.firmware.variables is not None:
            try:
                size = len(unpack_variables(one.firmware.variables, f"VM {name}"))
            except (DamagedObject, LimitExceeded) as error:
                yield Finding(("vms", name), f"{error.what}: {error.why}", vm=name)
                continue
        codes = firmware_codes(one.architecture, one.firmware.secure_boot, size)
        if not installed.has_any(codes):
            yield _not_installed(name, one)


def _not_installed(name: str, one: Description) -> Finding:
    kind = "UEFI with secure boot" if one.firmware.secure_boot else "UEFI"
    why = f"VM {name} starts by {kind}, and none for {one.architecture} is installed here"
    return Finding(("vms", name), f"{why}: package ovmf, qemu-efi-aarch64 or edk2", vm=name)
