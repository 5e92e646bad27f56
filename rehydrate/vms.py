"""The VMs of a domain as they were at a point: which there are, and what their configurations were.

How they are printed does not belong here (`cdp_container.domain.machine_text`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdp_container.console import printable
from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Cut, volumes_of
from cdp_container.domain.machine_records import Member, members_at
from cdp_container.errors import NoSuchVm, UsageError
from rehydrate.container import Container
from rehydrate.plan import Choice
from rehydrate.points import sound_cut
from rehydrate.wanted import Wanted


@dataclass(frozen=True, slots=True)
class VmsAt:
    """The VMs of a cut, by name; names and sizes in bytes of its volumes by the ids of their spaces."""

    cut: Cut
    members: tuple[Member, ...]
    volumes: Mapping[bytes, str]
    sizes: Mapping[bytes, int]


def vms_at(container: Container, contents: Contents, choice: Choice) -> VmsAt:
    """What the domain's VMs were at the point that was asked for.

    Raises:
        NoSuchPoint: there is no such point.
        KeyMissing: the container is sealed and there is no key.
        MissingObject, DamagedObject and their kin: something that leads there cannot be read, and may have
            said something of them; or a configuration makes no sense.
        NewerFormat: a configuration was written by a later release.
    """
    container.require_key()
    cut = sound_cut(container.history, contents, choice, Wanted())
    branch = container.history.branch_of(cut.place)
    volumes = volumes_of(contents, branch, cut)
    names = {volume.space: volume.name for volume in volumes}
    sizes = {volume.space: volume.size_bytes for volume in volumes}
    return VmsAt(cut, tuple(members_at(contents.vm_records, branch)), names, sizes)


def member_called(seen: VmsAt, wanted: str) -> Member:
    """The VM with an id, else that with a name.

    Raises NoSuchVm: there is none; UsageError: several have this name.
    """
    with_id = [member for member in seen.members if member.vm.hex() == wanted]
    found = with_id or [member for member in seen.members if member.configuration.name == wanted]
    if len(found) > 1:
        why = f"{len(found)} VMs are called so at this point: {', '.join(one.vm.hex() for one in found)}"
        raise UsageError(f"VM {wanted!r}", why, "name one by its id")
    if not found:
        names = ", ".join(printable(one.configuration.name) for one in seen.members) or "none"
        raise NoSuchVm(f"VM {wanted!r}", f"there is no such VM at this point; there are: {names}")
    return found[0]
