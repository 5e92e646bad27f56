"""Which hypervisor a runbook means. How each is asked stands in qemu and libvirt."""

from __future__ import annotations

from cdp_container.errors import RenderRefused
from rehydrate.boot.libvirt import LibvirtMachines
from rehydrate.boot.machines import Machines
from rehydrate.boot.qemu import QemuMachines
from rehydrate.render.documents import Target


def machines_for(target: str, uri: str) -> Machines:
    """The hypervisor of a target; `uri`: of libvirt. Raises RenderRefused: VMs are not started there."""
    match target:
        case Target.QEMU:
            return QemuMachines()
        case Target.LIBVIRT:
            return LibvirtMachines(uri)
        case _:
            why, hint = "VMs are rendered for it, and not started", "`rehydrate render` writes its documents"
            raise RenderRefused(f"start VMs on {target}", why, hint)
