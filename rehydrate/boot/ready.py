"""VMs of a point made ready to be started: rendered for this site, each with its place. No I/O but entropy.

What a rendering is does not belong here (rehydrate.render), nor how it is written (files).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cdp_container.domain.machine import DiskKind, unpack_variables
from cdp_container.domain.machine_records import Member
from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, RenderRefused
from rehydrate.boot.machines import Known, Ready
from rehydrate.render.addresses import agent_commands
from rehydrate.render.documents import Documents, Target, documents_of
from rehydrate.render.recovered import Place, Recovered, recovered_of
from rehydrate.runbook.changes import CLOUD_INIT, addresses_of, changes_of
from rehydrate.runbook.model import RunbookSettings

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Rendering:
    """How VMs are rendered: by which runbook, into which directory, for a rehearsal or not."""

    runbook: RunbookSettings
    directory: str
    rehearsal: bool
    entropy: Entropy


def started_of(runbook: RunbookSettings, members: Sequence[Member]) -> list[Member]:
    """The VMs that a runbook starts."""
    return [member for member in members if member.configuration.name not in runbook.leave_out]


def ready_of(member: Member, volumes: Mapping[bytes, Place], by: Rendering) -> Ready:
    """A VM rendered, its disks at the places of their volumes; one that cannot be is `refused`."""
    try:
        return _rendered(member, volumes, by)
    except (RenderRefused, DamagedObject, LimitExceeded) as error:
        name = member.configuration.name
        run, vm = by.runbook.of(name), member.vm.hex()
        nothing = Documents("", "", {}, ())
        known = Known(name, "", by.directory, vm)
        return Ready(name, known, nothing, run.start, tuple(run.checks), refused=_refused(error))


def _refused(error: CdpError) -> str:
    """Why, and what to do where that is known: it is told amid other lines, where no hint follows."""
    return str(error) if error.hint == error.default_hint else f"{error} ({error.hint})"


def _rendered(member: Member, volumes: Mapping[bytes, Place], by: Rendering) -> Ready:
    name, runbook = member.configuration.name, by.runbook
    vm = recovered_for(member, places_of(member, volumes, runbook), by)
    addresses = addresses_of(runbook, name)
    documents = documents_of(vm, Target(runbook.target), addresses)
    run = runbook.of(name)
    is_asked = bool(addresses) and run.handed_over != CLOUD_INIT
    commands = agent_commands(vm.one.nics, addresses) if is_asked else []
    return Ready(
        name,
        Known(vm.one.name, vm.one.uuid or "", by.directory, vm.file_name),
        documents,
        run.start,
        tuple(run.checks),
        tuple(map(tuple, commands)),
    )


def recovered_for(member: Member, places: Mapping[str, Place], by: Rendering) -> Recovered:
    """A VM as it is to run. libvirt finds it by its UUID, so there it has one: else the id of the member."""
    configuration = member.configuration
    one, name = configuration.description, configuration.name
    seed = f"{by.directory}/{member.vm.hex()}.seed.iso"
    changes = changes_of(by.runbook, name, one, places, by.directory, seed, by.rehearsal)
    packed = one.firmware.variables
    variables = None if packed is None else unpack_variables(packed, f"VM {name}")
    vm = recovered_of(name, member.vm, one, configuration.native, changes, variables, by.entropy)
    if vm.one.uuid is None and Target(by.runbook.target) is Target.LIBVIRT:
        vm = replace(vm, one=replace(vm.one, uuid=str(uuid.UUID(bytes=member.vm, version=4))))
    return vm


def places_of(member: Member, volumes: Mapping[bytes, Place], runbook: RunbookSettings) -> dict[str, Place]:
    """Where the disks of a VM are. Raises RenderRefused: one is no volume of the point."""
    name = member.configuration.name
    without = runbook.of(name).without
    places = {}
    for disk in member.configuration.description.disks:
        if disk.kind is not DiskKind.DISK or disk.name in without:
            continue
        place = None if disk.volume is None else volumes.get(disk.volume)
        if place is None:
            hint = "say it in `without` of the runbook, if it is not needed"
            raise RenderRefused(f"VM {name!r}", f"its disk {disk.name} is no volume of this point", hint)
        places[disk.name] = place
    return places


def not_rendered_of(vms: Sequence[Ready]) -> list[str]:
    """What of the VMs' descriptions is in no document."""
    return [f"{vm.name}: {word}" for vm in vms for word in vm.documents.not_rendered]
