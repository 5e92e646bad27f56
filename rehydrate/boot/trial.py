"""Whether the VMs of a point can be rendered by a runbook at all: tried, and thrown away. No I/O.

So what a rendering refuses is known before the day. What does not fit for another reason is told by
rehydrate.runbook.check, and not here once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdp_container.domain.machine_records import Member
from rehydrate.boot.ready import Rendering, ready_of, started_of
from rehydrate.render.recovered import FilePlace
from rehydrate.runbook.check import Finding
from rehydrate.runbook.model import RunbookSettings

_EPOCH_DIGITS: Final = 5
"""Of the epoch in the name of a failover's directory, where nobody knows it yet: sockets want short paths."""
_DISK: Final = FilePlace("/volume")


def directory_to_be(runbook: RunbookSettings, epoch: int | None = None) -> str:
    """One as long as that of the documents of a failover will be (`cli.booting.directory_of`).

    `epoch`: that it will have; where nobody knows it yet, as before the day, one that is long.
    """
    return f"{runbook.directory}/{'0' * 8}-{'0' * _EPOCH_DIGITS if epoch is None else epoch}"


def refused_findings_of(
    runbook: RunbookSettings,
    members: Sequence[Member],
    directory: str,
    rehearsal: bool,
    told: Sequence[Finding],
) -> list[Finding]:
    """VMs that a rendering would refuse, but those of which `told` has a fault already.

    directory: where their documents are to lie.
    """
    known = {one.vm for one in told if one.is_fault}
    by = Rendering(runbook, directory, rehearsal, bytes)
    found = []
    for member in started_of(runbook, members):
        name = member.configuration.name
        if name in known:
            continue
        volumes = {disk.volume: _DISK for disk in member.configuration.description.disks if disk.volume}
        refused = ready_of(member, volumes, by).refused
        if refused:
            found.append(Finding(("vms", name), refused, vm=name))
    return found
