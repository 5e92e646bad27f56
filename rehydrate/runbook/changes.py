"""What a runbook changes of a VM, for a rendering. PURE."""

from __future__ import annotations

from collections.abc import Mapping

from cdp_container.domain.machine import Description
from cdp_container.errors import RenderRefused
from rehydrate.render.addresses import Address
from rehydrate.render.recovered import Changes, Place
from rehydrate.runbook.model import RunbookSettings

CLOUD_INIT = "cloud-init"


def changes_of(
    runbook: RunbookSettings,
    name: str,
    one: Description,
    places: Mapping[str, Place],
    directory: str,
    seed: str,
    rehearsal: bool,
) -> Changes:
    """See `Changes`; `seed`: where cloud-init's image is, if the VM gets one.

    Raises RenderRefused: a network of the VM is not in the runbook, or addresses of a card that it has not.
    """
    run = runbook.of(name)
    networks = {}
    for nic in one.nics:
        found = runbook.network_of(name, nic.network)
        if found is None:
            why = f"the runbook does not say what network {nic.network!r} is here"
            raise RenderRefused(f"VM {name!r}", why, "name it, or '*' for all others, in `networks`")
        networks[nic.name] = found.as_network()
    if any(entry.nic >= len(one.nics) for entry in run.addresses):
        raise RenderRefused(f"VM {name!r}", "the runbook gives an address to a network card that it has not")
    boot = run.direct_boot
    return Changes(
        directory=directory,
        places=places,
        networks=networks,
        cpus=run.cpus,
        memory_bytes=run.memory,
        without=frozenset(run.without),
        direct_boot=None if boot is None else (boot.kernel, boot.initrd, boot.command_line),
        new_macs=runbook.mac == "new",
        emulate=runbook.emulate,
        seed=seed if run.addresses and run.handed_over == CLOUD_INIT else None,
        rehearsal=rehearsal,
    )


def addresses_of(runbook: RunbookSettings, name: str) -> tuple[Address, ...]:
    """The static addresses that a runbook gives to a VM."""
    return tuple(
        Address(entry.nic, entry.address, entry.gateway, tuple(entry.dns))
        for entry in runbook.of(name).addresses
    )
