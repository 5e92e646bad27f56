"""VMs for renderings: those of tests/golden/vms, with a place for each disk, and hostile ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from cdp_agent.vms.found import Found
from cdp_container.domain.machine import Description, DiskKind
from cdp_container.domain.machine_records import Native
from rehydrate.render.recovered import (
    Changes,
    FilePlace,
    Network,
    NetworkKind,
    Recovered,
    recovered_of,
)

VM = b"V" * 16
NO_DOCUMENT = Native("description", "")


def entropy() -> Callable[[int], bytes]:
    """The same bytes each time, and others with each call."""
    calls = itertools.count(1)
    return lambda count: bytes(next(calls) for _ in range(count))


def changes_for(one: Description, directory: str = "/srv/recovered/web") -> Changes:
    """A place for each disk, a bridge for each card."""
    return Changes(
        directory,
        places={
            disk.name: FilePlace(f"{directory}/disk{number}.raw")
            for number, disk in enumerate(one.disks)
            if disk.kind is DiskKind.DISK
        },
        networks={nic.name: Network(NetworkKind.BRIDGE, "br-dr") for nic in one.nics},
        direct_boot=None if one.direct_boot is None else ("/srv/vmlinuz", "/srv/initrd", "quiet"),
    )


def recovered(found: Found, **changed: object) -> Recovered:
    """A VM of a golden document; `changed`: what else the recovery changes."""
    changes = replace(changes_for(found.description), **changed)  # type: ignore[arg-type]
    return recovered_of("web", VM, found.description, found.native, changes, None, entropy())


def described(one: Description, native: Native = NO_DOCUMENT, **changed: object) -> Recovered:
    """A VM of which there is a description."""
    changes = replace(changes_for(one), **changed)  # type: ignore[arg-type]
    return recovered_of("web", VM, one, native, changes, None, entropy())
