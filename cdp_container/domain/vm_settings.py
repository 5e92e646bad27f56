"""The VMs of a configuration: where each one's own is asked for, and what agent.json says of them then.

How a hypervisor is asked does not belong here (`cdp_agent.vms`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from cdp_container.domain.identity import AgentIdentity, VmIdentity
from cdp_container.domain.setting_types import AbsolutePath, Name, Strict

VMS_MAX: Final = 256
"""VMs of one domain: all of them are asked within one round."""
DISKS_MAX: Final = 256
SOCKET_BYTES_MAX: Final = 107
"""The kernel's limit for the path of a unix socket (sun_path less its zero)."""

DiskName = Annotated[str, Field(min_length=1, max_length=255)]


def _is_printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("is not a printable text")
    return text


def _fits_socket(path: str) -> str:
    if len(path.encode()) > SOCKET_BYTES_MAX:
        raise ValueError(f"is longer than {SOCKET_BYTES_MAX} bytes")
    return path


Text = Annotated[str, Field(max_length=1024), AfterValidator(_is_printable)]


class LibvirtSettings(Strict):
    """A domain of libvirt: its name or UUID, and where libvirt is."""

    domain: Text
    uri: Text = "qemu:///system"


class VmSettings(Strict):
    """One VM: its name in the domain, and who knows its configuration, one of four.

    `proxmox`: its file; `qmp`: the socket of a plain QEMU; `description`: a page that was written by hand.
    Beside one of the others `qmp` is the socket by which disks are captured, and nothing else.
    `disks`: volumes by the names of disks, where that is not found out; None: not protected, and meant so.
    """

    name: Name
    libvirt: LibvirtSettings | None = None
    proxmox: AbsolutePath | None = None
    qmp: Annotated[AbsolutePath, AfterValidator(_fits_socket)] | None = None
    description: AbsolutePath | None = None
    disks: dict[DiskName, Name | None] = Field(default={}, max_length=DISKS_MAX)

    @model_validator(mode="after")
    def _is_one(self) -> VmSettings:
        others = sum(one is not None for one in (self.libvirt, self.proxmox, self.description))
        if others > 1 or (not others and self.qmp is None):
            raise ValueError(
                "needs one of libvirt, proxmox, qmp and description (and qmp beside one of the others, where"
                " disks are captured)"
            )
        return self


def vm_faults(vms: Sequence[VmSettings], volumes: Sequence[str]) -> list[str]:
    """What of these VMs does not go together; volumes by their names."""
    names = [vm.name for vm in vms]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults = [f"vms: two have the same name: {name}" for name in twice]
    for vm in vms:
        unknown = sorted({volume for volume in vm.disks.values() if volume is not None} - {*volumes})
        faults += [f"vms: {vm.name}: disks: there is no volume {volume}" for volume in unknown]
    return faults


def changed_vms(
    identity: AgentIdentity, wanted: Sequence[VmSettings], entropy: Callable[[int], bytes]
) -> AgentIdentity:
    """agent.json with these VMs. A VM keeps its id, whoever knows its configuration; what goes is marked.

    One that nobody here knows, as a failover brought it, stays until it was configured.
    """
    by_name = {vm.name: vm for vm in wanted}
    vms = [vm if vm.removed else _changed_vm(vm, by_name.pop(vm.name, None)) for vm in identity.vms]
    vms += [_changed_vm(VmIdentity(name, entropy(16)), new) for name, new in by_name.items()]
    return replace(identity, vms=tuple(vms))


def _changed_vm(vm: VmIdentity, wanted: VmSettings | None) -> VmIdentity:
    if wanted is None:
        return replace(vm, removed=True) if vm.kind else vm
    ways = {"proxmox": wanted.proxmox, "description": wanted.description, "qmp": wanted.qmp}
    kind, at, domain = next(((kind, at, "") for kind, at in ways.items() if at is not None), ("", "", ""))
    if wanted.libvirt is not None:
        kind, at, domain = "libvirt", wanted.libvirt.uri, wanted.libvirt.domain
    disks = tuple(wanted.disks.items())
    return replace(vm, kind=kind, at=at, domain=domain, qmp=wanted.qmp or "", disks=disks)
