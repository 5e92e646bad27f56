"""Whether disks of a site that was overtaken are what its journal makes of them, or somebody changed them.

Only a look before the first byte changes can tell. What the journal itself leaves in doubt stands in
diverged, and what is done about a doubt in failback.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cdp_container.domain.carried import CarriedVolume
from cdp_container.journal.read_back import MTIME_SLACK_SECONDS
from cdp_container.journal.served import disk_of, disks_served
from rehydrate.diverged import Diverged
from rehydrate.here import Here
from rehydrate.inplace import Disk

SLACK_NS: Final = int(MTIME_SLACK_SECONDS * 1e9)
"""A disk may be so much younger than its journal's last write."""


def doubts_of(here: Here, by_space: Mapping[bytes, Disk], diverged: Diverged) -> dict[bytes, str]:
    """By space id, why nothing is known of a disk; those of which all is known are left out."""
    sources = here.identity.sources
    disks = {
        index: by_space[source.space] for index, source in enumerate(sources) if source.space in by_space
    }
    changed = diverged.changed_sources(
        lambda source, offset, length: disks[source].read(offset, length) if source in disks else None
    )
    found: dict[bytes, str] = {}
    stopped = diverged.stopped()
    for index, disk in disks.items():
        if sources[index].removed:
            found[disk.space] = "it was not protected for a while"
        elif index in changed:
            found[disk.space] = "it does not hold what was written to it last"
        elif disk.size_bytes != sources[index].size_bytes:
            found[disk.space] = "its size was changed"
        elif disk.mtime_ns is None:
            found[disk.space] = "a device does not tell who wrote to it since"
        elif disk.mtime_ns > diverged.last_write_ns + SLACK_NS:
            found[disk.space] = "it was changed after its journal's last write"
        elif _was_used(disk, stopped.get(disk.space)):
            found[disk.space] = "it was changed after its agent's stop"
    if not _were_served(here, disks, diverged.page.disks):
        for index in here.identity.active.keys() & disks.keys():
            found[disks[index].space] = "it is another file or device than was served"
    return found


def _was_used(disk: Disk, stopped: CarriedVolume | None) -> bool:
    """Whether a file is not as it was at a clean stop, where one was noted: no clock has a part in that."""
    if stopped is None or disk.is_device:
        return False
    return replace(disk.look(), path=stopped.path) != stopped


def _were_served(here: Here, disks: Mapping[int, Disk], digest: int) -> bool:
    """Whether the splitter opened just these; of a volume that was removed there it lies where it lay."""
    active = here.identity.active
    statuses = {index: disk.status for index, disk in disks.items()}
    for index in active.keys() - statuses.keys():
        try:
            statuses[index] = os.stat(active[index].path)
        except OSError:
            return False  # there is one digest of them all: without that disk it tells of none
    return digest == disks_served((index, disk_of(statuses[index])) for index in active)
