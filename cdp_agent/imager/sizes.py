"""How large the disks of VMs are, as their QEMUs say: for `init` and `reload`. Nothing is changed in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdp_agent.imager.hypervisor import Disks, disks_of
from cdp_agent.imager.qmp import Commanding
from cdp_agent.vms.qmp_asked import ABSENT_HINT
from cdp_container.clock import Clock
from cdp_container.domain.disk_settings import DiskSettings, device_of
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.settings import AgentSettings
from cdp_container.domain.vm_settings import VmSettings
from cdp_container.errors import HypervisorFailed

ASK_SECONDS: Final = 10.0
"""Of one VM."""
SECTOR_BYTES: Final = 512


def disk_sizes(
    settings: AgentSettings, clock: Clock, identity: AgentIdentity | None = None
) -> dict[str, int]:
    """Sizes in bytes by the names of volumes.

    A VM that does not answer has the disks that it had by `identity`, if they are the same.

    Raises HypervisorFailed: a disk is not there, or nobody can tell.
    """
    known = {} if identity is None else {disk.name: disk for disk in identity.active_disks}
    sizes: dict[str, int] = {}
    for vm in settings.vms:
        wanted = [disk for disk in settings.disks if disk.vm == vm.name]
        if not wanted or vm.qmp is None:
            continue
        try:
            found = _found(vm.qmp, clock)
        except HypervisorFailed as error:
            old = [known.get(disk.name) for disk in wanted]
            if any(
                one is None or (one.vm, one.disk) != (new.vm, new.disk)
                for one, new in zip(old, wanted, strict=True)
            ):
                raise _unanswered(vm, wanted, error) from error
            sizes |= {one.name: one.size_bytes for one in old if one is not None}
            continue
        sizes |= _sizes(vm, wanted, found)
    return sizes


def _found(path: str, clock: Clock) -> Disks:
    until_ns = clock.boottime_ns() + int(ASK_SECONDS * 1e9)
    qmp = Commanding(path, lambda: (until_ns - clock.boottime_ns()) / 1e9)
    try:
        return disks_of(qmp)
    finally:
        qmp.close()


def _unanswered(vm: VmSettings, wanted: Sequence[DiskSettings], error: HypervisorFailed) -> HypervisorFailed:
    """Which VM, and whose volumes wait for it. That what was known stays helps nobody here: nothing was."""
    disks = ", ".join(f"{disk.name} (disk {disk.disk})" for disk in wanted)
    hint = ABSENT_HINT if error.hint == HypervisorFailed.default_hint else error.hint
    return HypervisorFailed(f"VM {vm.name}, which has {disks}", str(error), hint)


def _sizes(vm: VmSettings, wanted: Sequence[DiskSettings], found: Disks) -> dict[str, int]:
    sizes = {}
    for disk in wanted:
        device = device_of(disk.disk, vm.libvirt is not None)
        one = found.get(device)
        if one is None:
            why, hint = found.without(device)
            raise HypervisorFailed(f"volume {disk.name}", f"VM {vm.name}: {why}", hint)
        if not one.size_bytes or one.size_bytes % SECTOR_BYTES:
            why = (
                f"disk {disk.disk} of VM {vm.name} has {one.size_bytes} bytes: a volume has whole "
                f"sectors only (of {SECTOR_BYTES} bytes), and one at least"
            )
            hint = "its image must end at a whole sector: grow it (`qemu-img resize`, while the VM is off)"
            raise HypervisorFailed(f"volume {disk.name}", why, hint)
        sizes[disk.name] = one.size_bytes
    return sizes
