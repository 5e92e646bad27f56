"""Volumes of a configuration that are captured from their VMs by QMP, and what agent.json says of them then.

They stand under `volumes` among those with a `path`. How a VM is captured does not belong here
(`cdp_agent.imager`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cdp_container.domain.disk_names import device_of_target
from cdp_container.domain.identity import AgentIdentity, DiskIdentity
from cdp_container.domain.setting_types import Name, Strict
from cdp_container.domain.vm_settings import DiskName, VmSettings
from cdp_container.errors import BackingUnreadable

KEY: Final = "disks"
"""Where they are kept once read; nobody writes that."""


class DiskSettings(Strict):
    """One such volume: its name in the domain, its VM (of `vms`, with `qmp`), and the disk's name there."""

    name: Name
    vm: Name
    disk: DiskName


def parted(values: object) -> object:
    """A page of which volumes with `vm` stand under KEY. What is no page is left for others to refuse."""
    if not isinstance(values, dict) or not isinstance(values.get("volumes"), list):
        return values
    if KEY in values:
        raise ValueError(f"{KEY}: is no key of the configuration (write vm and disk under volumes)")
    volumes = values["volumes"]
    of_vms = [one for one in volumes if isinstance(one, dict) and "vm" in one]
    if not of_vms:
        return values
    return {**values, "volumes": [one for one in volumes if one not in of_vms], KEY: of_vms}


def whole(document: dict[str, Any]) -> dict[str, Any]:
    """The page again, of what was parted."""
    of_vms = document.pop(KEY, [])
    if of_vms:
        document["volumes"] = [*document.get("volumes", []), *of_vms]
    return document


def disk_faults(
    disks: Sequence[DiskSettings], vms: Sequence[VmSettings], volumes: Sequence[str]
) -> list[str]:
    """What of these does not go together; other volumes by their names."""
    names = [*volumes, *(disk.name for disk in disks)]
    twice = sorted({disk.name for disk in disks if names.count(disk.name) > 1})
    faults = [f"volumes: two have the same name: {name}" for name in twice]
    libvirts = {vm.name for vm in vms if vm.libvirt is not None}
    places = [(disk.vm, device_of(disk.disk, disk.vm in libvirts)) for disk in disks]
    faults += [
        f"volumes: {disk.name}: disk {disk.disk} of VM {disk.vm} is another volume, too"
        for number, disk in enumerate(disks)
        if places.index(places[number]) < number
    ]
    qmp = {vm.name for vm in vms if vm.qmp is not None}
    faults += [
        f"volumes: {disk.name}: vm: there is no VM {disk.vm} with a socket (qmp) under vms"
        for disk in disks
        if disk.vm not in qmp
    ]
    for vm in vms:
        said = {disk.disk for disk in disks if disk.vm == vm.name} & {*vm.disks}
        faults += [f"vms: {vm.name}: disks: {name} stands under volumes, too" for name in sorted(said)]
    return faults


def device_of(disk: str, is_libvirts: bool) -> str:
    """What QEMU calls a disk; `is_libvirts`: of a VM whose configuration libvirt knows."""
    return device_of_target(disk) if is_libvirts else disk


def named_disks(disks: Sequence[DiskSettings]) -> set[tuple[str, str, str]]:
    """Which volumes are which disks of which VMs."""
    return {(disk.name, disk.vm, disk.disk) for disk in disks}


def known_disks(identity: AgentIdentity) -> set[tuple[str, str, str]]:
    """The same, of agent.json."""
    return {(disk.name, disk.vm, disk.disk) for disk in identity.active_disks}


def changed_disks(
    identity: AgentIdentity,
    wanted: Sequence[DiskSettings],
    sizes: Mapping[str, int],
    entropy: Callable[[int], bytes],
) -> AgentIdentity:
    """agent.json with these. A volume keeps its id while its name is the same; what goes is marked.

    `sizes`: in bytes, by the volumes' names. Raises BackingUnreadable where one would shrink.
    """
    by_name = {disk.name: disk for disk in wanted}
    disks = [
        disk if disk.removed else _changed(disk, by_name.pop(disk.name, None), sizes)
        for disk in identity.disks
    ]
    disks += [
        DiskIdentity(new.name, new.vm, new.disk, entropy(16), sizes[new.name]) for new in by_name.values()
    ]
    return replace(identity, disks=tuple(disks))


def _changed(disk: DiskIdentity, wanted: DiskSettings | None, sizes: Mapping[str, int]) -> DiskIdentity:
    if wanted is None:
        return replace(disk, removed=True)
    size_bytes = sizes[disk.name]
    if size_bytes < disk.size_bytes:
        raise BackingUnreadable(
            f"cannot take over volume {disk.name}",
            f"its disk has {size_bytes} bytes, but had {disk.size_bytes}: a protected volume cannot shrink",
            "put it back to its size, or protect a smaller disk under another name",
        )
    return replace(disk, vm=wanted.vm, disk=wanted.disk, size_bytes=size_bytes)
