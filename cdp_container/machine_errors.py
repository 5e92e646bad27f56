"""What may fail with VMs: recovered ones (80..89), and those that run. All else about errors: errors."""

from __future__ import annotations

from cdp_container.errors import CdpError


class VmsNotRunning(CdpError):
    """The domain was taken over and is protected from here, and VMs of it did not come up."""

    exit_code = 80
    default_hint = (
        "look at what is told of each VM and at its console, mend it, and run the same command again: "
        "what runs is left alone"
    )


class MachineFailed(CdpError):
    """A hypervisor could not define, start, ask or stop a recovered VM."""

    exit_code = 81
    default_hint = "look at the hypervisor's log and the VM's console, then run the same command again"


# --- 90..99: those that run --------------------------------------------------------------------


class AdoptionRefused(CdpError):
    """The disks of a VM cannot be adopted as they are; nothing was done, and all faults are named."""

    exit_code = 90
    default_hint = "mend what is named; --dry-run checks again and copies nothing (docs/adopting.md)"


class AdoptionUndone(CdpError):
    """The disks of a VM were not adopted: what was begun is undone, and the VM has its disks as before."""

    exit_code = 91
    default_hint = "the guest goes on with its old disks; mend what it names, and run the same command again"


class AdoptionPartly(CdpError):
    """Some disks of a VM are volumes now and others are not, or nobody knows."""

    exit_code = 92
    default_hint = "run the same command again: it goes on with the others"
