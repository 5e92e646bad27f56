"""Taking away what is ours in a QEMU: jobs, then nodes. What a guest's disk lies on is left alone.

It goes by what QEMU says it has, so it also takes away what a killed run left. When that is done does not
belong here (`work`, `cutover`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cdp_agent.adopting.link import LinkLost, Qemu, Refused
from cdp_agent.adopting.seen import Seen, look
from cdp_agent.adopting.words import PREFIX
from cdp_container.clock import Clock
from cdp_container.errors import HypervisorFailed

UNDO_SECONDS_MAX: Final = 30.0
UNDO_EVERY_SECONDS: Final = 0.1
LEFT_HINT: Final = (
    "the guest goes on with the disk that it has; `cdp-agent adopt` of this VM takes away what is left, "
    "or goes on with it"
)


def clean_up(qemu: Qemu, clock: Clock, keep_jobs: frozenset[str] = frozenset()) -> None:
    """Cancel every job of ours but these, and take away every node that nothing needs.

    Raises HypervisorFailed: something is left (it is named), or QEMU is gone.
    """
    until_ns = clock.boottime_ns() + int(UNDO_SECONDS_MAX * 1e9)
    while True:
        try:
            left = list(_one_round(qemu, look(qemu.do), keep_jobs))
        except LinkLost as error:
            _again(qemu, error)
            left = [str(error)]
        if not left:
            return
        if clock.boottime_ns() >= until_ns:
            raise HypervisorFailed("undoing what was begun", "; ".join(left), LEFT_HINT)
        clock.sleep(UNDO_EVERY_SECONDS)


def _again(qemu: Qemu, error: LinkLost) -> None:
    try:
        qemu.connect_again()
    except LinkLost:
        why = f"{error.why}, and it cannot be reached again: what was begun may be left in it"
        raise HypervisorFailed("undoing what was begun", why, LEFT_HINT) from error


def _one_round(qemu: Qemu, seen: Seen, keep_jobs: frozenset[str]) -> Iterator[str]:
    """Do what can be done now; tells what is left then."""
    jobs = [job for job in seen.jobs.values() if job.name.startswith(PREFIX) and job.name not in keep_jobs]
    for job in jobs:
        try:
            if job.status == "concluded":
                qemu.do("job-dismiss", {"id": job.name})
            elif not job.is_ended:
                qemu.do("block-job-cancel", {"device": job.name, "force": True})
        except Refused as error:
            yield f"the job {job.name}: {error.why}"
        else:
            yield f"the job {job.name}"
    if jobs:
        return
    for node in unneeded(seen, keep_jobs):
        try:
            qemu.do("blockdev-del", {"node-name": node})
        except Refused as error:
            yield f"the node {node}: {error.why}"


def unneeded(seen: Seen, keep_jobs: frozenset[str]) -> list[str]:
    """Nodes of ours that no disk and none of these jobs needs, in the order in which they can go. PURE."""
    needed: set[str] = set()
    for disk in seen.disks.values():
        needed |= {disk.node, f"{disk.node}-d"}
    for job in keep_jobs:
        top = job.rpartition("-")[0]
        needed |= {top, f"{top}-s"}
    ours = [node for node in seen.nodes if node.startswith(PREFIX) and node not in needed]
    return sorted(ours, key=lambda node: (node.endswith(("-s", "-d")), node))
