"""Whether a runbook fits the VMs of a point and a machine: all faults at once, each with its place. PURE.

The machine is asked through `Here`. That the page says what a runbook may say is taken for granted (model).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdp_container.domain.machine import Bus, Description, Disk, DiskKind
from cdp_container.domain.machine_records import Member
from cdp_container.domain.yaml_page import PagePlace
from rehydrate.render.qemu import ARCHITECTURES
from rehydrate.render.recovered import NetworkKind
from rehydrate.runbook.here import Here
from rehydrate.runbook.model import EVERY_OTHER, NetworkSettings, RunbookSettings, VmRunSettings, rehearsed
from rehydrate.runbook.order import cycle_in

MEMORY_LEFT_BYTES: Final = 1 << 30
"""What the machine itself wants beside its VMs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit.

    `place`: in the runbook; `is_fault`: it is no mere warning; `vm`: whose it is, if it is of one alone.
    """

    place: PagePlace
    words: str
    is_fault: bool = True
    vm: str = ""


@dataclass(frozen=True, slots=True)
class AtPoint:
    """What a point has: its VMs, the names of its volumes by their ids, and which of these are not whole."""

    members: Sequence[Member]
    volumes: Mapping[bytes, str]
    not_whole: Collection[bytes]


_NO_TEST: Final = "is missing: no rehearsal can start machines, as it would have no networks of its own"
_NOT_STARTED: Final = "VMs are rendered for proxmox, and not started: that is done by hand"


def findings_of(runbook: RunbookSettings, point: AtPoint, here: Here) -> list[Finding]:
    """All that does not fit, of a recovery and of a rehearsal; each once."""
    found = list(_findings(runbook, point, here))
    told = {one.words for one in found}
    if runbook.test is None:
        return [*found, Finding(("test",), _NO_TEST, is_fault=False)]
    return found + [one for one in _rehearsal(runbook, point, here) if one.words not in told]


def boot_findings_of(runbook: RunbookSettings, point: AtPoint, here: Here, rehearsal: bool) -> list[Finding]:
    """All that does not fit where VMs are to be started now: of a recovery alone, or of a rehearsal alone."""
    found = list(_rehearsal(runbook, point, here) if rehearsal else _findings(runbook, point, here))
    if runbook.target == "proxmox":
        found.append(Finding(("target",), _NOT_STARTED))
    return found


def _rehearsal(runbook: RunbookSettings, point: AtPoint, here: Here) -> Iterator[Finding]:
    rehearsal = rehearsed(runbook)
    if rehearsal is None:
        yield Finding(("test",), _NO_TEST)
        return
    for one in _findings(rehearsal, point, here):
        yield replace(one, place=("test", *one.place))
    yield from _shared(runbook, rehearsal, point.members)
    if rehearsal.target == "libvirt" and any(one.user for one in _all_networks(rehearsal)):
        why = "QEMU's own network reaches all that this host reaches, and libvirt has no option against it"
        yield Finding(("test", "networks"), f"{why}: machines of a rehearsal could reach production")
    for member in point.members:
        if member.configuration.name not in rehearsal.leave_out:
            yield from _answered(runbook, rehearsal, member)


def _answered(runbook: RunbookSettings, rehearsal: RunbookSettings, member: Member) -> Iterator[Finding]:
    """Checks of production that a rehearsal would make: it might pass by machines that are not its own."""
    name = member.configuration.name
    own = runbook.test.vms.get(name) if runbook.test is not None else None
    if own is not None and "checks" in own.model_fields_set:
        return
    nics = member.configuration.description.nics
    found = [rehearsal.network_of(name, nic.network) for nic in nics]
    # Nobody reaches a guest from outside on QEMU's own network either.
    is_alone = all(one is not None and (one.none or one.user) for one in found)
    for number, check in enumerate(rehearsal.of(name).checks):
        place: PagePlace = ("vms", name, "checks", number)
        asked = check.tcp or check.http
        if asked is not None and is_alone:
            why = (
                f"VM {name} has no network in a rehearsal that {asked} could be asked on: others would answer"
            )
            yield Finding(place, f"{why}; say its own checks in test.vms.{name}.checks")
        elif check.console is None:
            what = asked or (check.command or [""])[0]
            why = f"a rehearsal of VM {name} has production's check {what}, and may ask production by it"
            yield Finding(place, f"{why}: test.vms.{name}.checks says others", is_fault=False)


def _findings(runbook: RunbookSettings, point: AtPoint, here: Here) -> Iterator[Finding]:
    yield from _named_twice(runbook, point.members)
    names = {member.configuration.name: member for member in point.members}
    for key, place in (("vms", list(runbook.vms)), ("leave_out", runbook.leave_out)):
        for name in place:
            if name not in names:
                yield Finding((key, name), f"there is no VM {name} at this point")
    for name in names:
        if name not in runbook.vms and name not in runbook.leave_out:
            why = f"VM {name} is neither here nor in `leave_out`: nobody said whether it is to run"
            yield Finding(("vms",), why)
    started = {name: one for name, one in names.items() if name not in runbook.leave_out}
    if not started:
        yield Finding((), "no VM would be started")
    yield from _order(runbook, names, started)
    for name, member in started.items():
        one = member.configuration.description
        for found in (
            *_disks(name, one, runbook.of(name), point),
            *_networks(name, one, runbook),
            *_boot(name, one, runbook.of(name), here),
            *_addresses(name, one, runbook.of(name)),
        ):
            yield replace(found, vm=name)
    yield from _twice(runbook, started)
    yield from _disks_twice(runbook, started, point)
    yield from _machine(runbook, started, here)


def _named_twice(runbook: RunbookSettings, members: Sequence[Member]) -> Iterator[Finding]:
    """VMs that nobody could tell apart: by their names, or by those of their files."""
    often = Counter(member.configuration.name for member in members)
    ids = {member.vm.hex() for member in members}
    for name in sorted(often.keys() - {*runbook.leave_out}):
        if often[name] > 1:
            yield Finding(("vms", name), f"{often[name]} VMs of this point are called {name}")
        elif name in ids:
            yield Finding(("vms", name), f"VM {name} is called as the id of a VM")


def _disks_twice(
    runbook: RunbookSettings, started: Mapping[str, Member], point: AtPoint
) -> Iterator[Finding]:
    """Volumes that several disks are: two machines would write on one."""
    holders: dict[bytes, list[tuple[str, Disk]]] = {}
    for name, member in started.items():
        for disk in member.configuration.description.disks:
            if disk.volume is not None and disk.name not in runbook.of(name).without:
                holders.setdefault(disk.volume, []).append((name, disk))
    for volume, found in holders.items():
        is_meant = all(_is_read_only(disk) or disk.name in runbook.of(name).shared for name, disk in found)
        if len(found) > 1 and not is_meant:
            where = " and ".join(f"disk {disk.name} of VM {name}" for name, disk in found)
            why = f"volume {point.volumes.get(volume, volume.hex())} is {where}: both would write on it"
            hint = "say one of them in `without`, or all in `shared`"
            yield Finding(("vms", found[1][0]), f"{why}; {hint}")


def _is_read_only(disk: Disk) -> bool:
    """Also as it is rendered: none on ATA is (render.recovered)."""
    return disk.read_only and disk.bus not in (Bus.IDE, Bus.SATA)


def _order(
    runbook: RunbookSettings, names: Mapping[str, Member], started: Mapping[str, Member]
) -> Iterator[Finding]:
    after = {name: runbook.of(name).start.after for name in started}
    for name, others in after.items():
        for other in others:
            place: PagePlace = ("vms", name, "start", "after")
            if other not in names:
                yield Finding(place, f"VM {name} waits for {other}, which is no VM at this point")
            elif other not in started:
                yield Finding(place, f"VM {name} waits for {other}, which is left out")
    cycle = cycle_in(after)
    if cycle:
        why = f"these wait for each other: {' for '.join(cycle)}"
        yield Finding(("vms", cycle[0], "start", "after"), why)


def _disks(name: str, one: Description, run: VmRunSettings, point: AtPoint) -> Iterator[Finding]:
    known = {disk.name for disk in one.disks}
    for key, disk_names in (("without", run.without), ("shared", run.shared)):
        for disk_name in disk_names:
            if disk_name not in known:
                yield Finding(("vms", name, key), f"VM {name} has no disk {disk_name}")
    for disk in one.disks:
        if disk.kind is not DiskKind.DISK or disk.name in run.without:
            continue
        if disk.volume is None or disk.volume not in point.volumes:
            why = f"disk {disk.name} of VM {name} is no volume of this point"
            yield Finding(("vms", name), f"{why}: say it in `without`, if it is not needed")
        elif disk.volume in point.not_whole:
            volume = point.volumes[disk.volume]
            why = f"disk {disk.name} of VM {name}: volume {volume} is not whole at this point"
            yield Finding(("vms", name), why)


def _networks(name: str, one: Description, runbook: RunbookSettings) -> Iterator[Finding]:
    known = {nic.network or "" for nic in one.nics}
    for network in runbook.of(name).networks:
        if network != EVERY_OTHER and network not in known:
            yield Finding(("vms", name, "networks", network), f"VM {name} has no network {network}")
    for nic in one.nics:
        found = runbook.network_of(name, nic.network)
        if found is None:
            why = f"nobody said what network {nic.network!r} of VM {name} is here"
            yield Finding(("networks",), why)
            continue
        kind = found.as_network().kind
        if kind is NetworkKind.NETWORK and runbook.target != "libvirt":
            why = f"network {found.network!r} is one of libvirt's, and the target is {runbook.target}"
            yield Finding(("networks",), why)
        if found.vlan is not None and runbook.target == "qemu":
            why = f"VLAN {found.vlan}: a plain QEMU has none; name a bridge of that VLAN"
            yield Finding(("networks",), why)
        if nic.vlan is not None and found.vlan is None and kind is NetworkKind.BRIDGE:
            why = f"VM {name} was on VLAN {nic.vlan} of {nic.network!r}, and here it is on none"
            yield Finding(("networks",), why, is_fault=False)


def _boot(name: str, one: Description, run: VmRunSettings, here: Here) -> Iterator[Finding]:
    place: PagePlace = ("vms", name, "direct_boot")
    if run.direct_boot is None:
        if one.direct_boot is not None:
            why = f"VM {name} boots from {one.direct_boot.kernel}, which is not protected"
            yield Finding(place, f"{why}: name files of this site")
        return
    for path in (run.direct_boot.kernel, run.direct_boot.initrd):
        if path is not None and not here.has_file(path):
            yield Finding(place, f"there is no file {path} here")


def _addresses(name: str, one: Description, run: VmRunSettings) -> Iterator[Finding]:
    place: PagePlace = ("vms", name, "addresses")
    for entry in run.addresses:
        if entry.nic >= len(one.nics):
            yield Finding(place, f"VM {name} has no network card {entry.nic}")
        interface = ipaddress.ip_interface(entry.address)
        if entry.gateway is not None and ipaddress.ip_address(entry.gateway) not in interface.network:
            yield Finding(place, f"gateway {entry.gateway} is not in the network of {entry.address}")
    if run.addresses and run.handed_over == "guest-agent" and not one.guest_agent:
        yield Finding(("vms", name, "handed_over"), f"VM {name} has no guest agent")
    if run.handed_over == "guest-agent" and any(entry.dns for entry in run.addresses):
        why = (
            f"VM {name} keeps its name servers: by its guest agent it is handed addresses and gateways alone"
        )
        yield Finding(place, why, is_fault=False)


def _twice(runbook: RunbookSettings, started: Mapping[str, Member]) -> Iterator[Finding]:
    """Addresses and MACs that two VMs would have."""
    holders: dict[str, list[str]] = {}
    for name, member in started.items():
        for entry in runbook.of(name).addresses:
            holders.setdefault(str(ipaddress.ip_interface(entry.address).ip), []).append(name)
        if runbook.mac == "keep":
            for nic in member.configuration.description.nics:
                if nic.mac is not None:
                    holders.setdefault(nic.mac.lower(), []).append(name)
    for address, names in holders.items():
        if len(names) > 1:
            yield Finding(("vms", names[1]), f"{address} is given twice: to {' and to '.join(names)}")
    if runbook.target == "libvirt":
        yield from _called_alike(started)


def _called_alike(started: Mapping[str, Member]) -> Iterator[Finding]:
    """Libvirt takes one machine of a name, and one of a UUID."""
    holders: dict[str, list[str]] = {}
    for name, member in started.items():
        one = member.configuration.description
        holders.setdefault(f"the name {one.name!r}", []).append(name)
        if one.uuid is not None:
            holders.setdefault(f"the UUID {one.uuid.lower()}", []).append(name)
    for what, names in holders.items():
        if len(names) > 1:
            why = f"VMs {' and '.join(names)} have {what}, and libvirt takes one of them alone"
            yield Finding(("vms", names[1]), why)


def _machine(runbook: RunbookSettings, started: Mapping[str, Member], here: Here) -> Iterator[Finding]:
    """What this machine lacks."""
    if not here.can_make(runbook.directory):
        yield Finding(("directory",), f"{runbook.directory} cannot be written to")
    descriptions = [member.configuration.description for member in started.values()]
    for program in sorted(_programs(runbook, descriptions)):
        if not here.has_program(program):
            yield Finding(("target",), f"there is no program {program} here")
    for name in started:
        for number, check in enumerate(runbook.of(name).checks):
            if check.command is not None and not here.has_program(check.command[0]):
                yield Finding(("vms", name, "checks", number), f"there is no program {check.command[0]} here")
    bridges = {
        found.bridge
        for name, member in started.items()
        for nic in member.configuration.description.nics
        if (found := runbook.network_of(name, nic.network)) is not None and found.bridge is not None
    }
    for bridge in sorted(bridges):
        if not here.has_bridge(bridge):
            yield Finding(("networks",), f"there is no bridge {bridge} here")
    if not runbook.emulate and runbook.target == "libvirt" and not here.has_kvm():
        yield Finding(("emulate",), "this machine has no KVM: say emulate: true", is_fault=False)
    wanted = sum(
        runbook.of(name).memory or member.configuration.description.memory_bytes
        for name, member in started.items()
    )
    if wanted + MEMORY_LEFT_BYTES > here.memory_bytes():
        mebibytes, have = wanted >> 20, here.memory_bytes() >> 20
        why = f"the VMs want {mebibytes} MiB of memory together, and this machine has {have} MiB"
        yield Finding(("vms",), why, is_fault=False)


def _programs(runbook: RunbookSettings, descriptions: Sequence[Description]) -> set[str]:
    if runbook.target == "proxmox":
        return {"qm"}
    if runbook.target == "libvirt" and not runbook.uri.endswith(("///system", "///session")):
        return set()
    known = {one.architecture for one in descriptions} & {*ARCHITECTURES}
    return {ARCHITECTURES[one].program for one in known}


def _shared(
    runbook: RunbookSettings, rehearsal: RunbookSettings, members: Sequence[Member]
) -> Iterator[Finding]:
    """What a rehearsal would have together with production: as this site names it, or the protected one."""
    ours = {one.bridge or one.network for one in _all_networks(runbook)} - {None}
    holders: dict[str, str] = {}
    for member in members:
        for nic in member.configuration.description.nics:
            holders.setdefault(nic.network or "", member.configuration.name)
    for one in _all_networks(rehearsal):
        name = one.bridge or one.network
        if name is None:
            continue
        if name in ours:
            why = f"{name} is a network of production too: machines of a rehearsal could reach it"
            yield Finding(("test", "networks"), why)
        elif name in holders:
            why = f"{name} is what VM {holders[name]} is connected to in production"
            yield Finding(("test", "networks"), f"{why}: machines of a rehearsal could reach it")


def _all_networks(runbook: RunbookSettings) -> list[NetworkSettings]:
    own = (one for run in runbook.vms.values() for one in run.networks.values())
    return [*runbook.networks.values(), *own]
