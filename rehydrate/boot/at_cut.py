"""The VMs that a cut has, and what a runbook is held against. What a runbook says does not belong here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Cut, volumes_of
from cdp_container.domain.machine_records import Member, members_known
from rehydrate.container import Container
from rehydrate.runbook.check import AtPoint


@dataclass(frozen=True, slots=True)
class AtCut:
    """The VMs that a cut has, and the same with its volumes, as a runbook's check wants them."""

    members: tuple[Member, ...]
    point: AtPoint


def vms_at_cut(container: Container, contents: Contents, cut: Cut, told: Callable[[str], None]) -> AtCut:
    """The VMs of a cut; those whose configuration makes no sense are told, and are none."""
    branch = container.history.branch_of(cut.place)
    members = tuple(members_known(contents.vm_records, branch, told))
    names = {volume.space: volume.name for volume in volumes_of(contents, branch, cut)}
    return AtCut(members, AtPoint(members, names, frozenset(cut.not_whole)))
