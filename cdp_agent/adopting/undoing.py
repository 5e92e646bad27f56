"""Taking away what is ours in a QEMU: jobs, then nodes. What a guest's disk lies on is left alone.

It goes by what QEMU says it has, so it also takes away what a killed run left. When that is done does not
belong here (`work`, `cutover`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cdp_agent.adopting import words
from cdp_agent.adopting.link import LinkLost, Qemu, Refused
from cdp_agent.adopting.seen import CONCLUDED, Seen, look
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
    failed: set[str] = set()
    while True:
        try:
            left = list(_one_round(qemu, look(qemu.do), keep_jobs, failed))
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


def _one_round(qemu: Qemu, seen: Seen, keep_jobs: frozenset[str], failed: set[str]) -> Iterator[str]:
    """Do what can be done now; tells what is left then.

    `failed`: nodes of jobs that never cut over: no guest has one, and none will.
    """
    jobs = [job for job in seen.jobs.values() if job.name.startswith(PREFIX) and job.name not in keep_jobs]
    for job in jobs:
        top = job.name.rpartition("-")[0]
        try:
            if job.status == CONCLUDED:
                if job.error:
                    failed.add(top)
                qemu.do("job-dismiss", {"id": job.name})
            elif not job.is_ended:
                qemu.do("block-job-cancel", {"device": job.name, "force": True})
                # What waits at its connections would hold up its end, and the guest.
                failed.add(top)
                cut(qemu, [node for node in (f"{top}-s", f"{top}-d") if node in seen.nodes])
        except Refused as error:
            yield f"the job {job.name}: {error.why}"
        else:
            yield f"the job {job.name}"
    if jobs:
        return
    nodes = unneeded(seen, keep_jobs)
    # QEMU flushes what it lets go of, and does nothing else until that is answered.
    cut(qemu, [node for node in nodes if node.endswith("-s") or _top_of(node) in failed])
    for node in nodes:
        try:
            qemu.do("blockdev-del", {"node-name": node})
        except Refused as error:
            if node.endswith("-s") or _top_of(node) in failed:
                yield f"the node {node}: {error.why}"
            # Else somebody uses it, as an overlay above it does: it stays.


def _top_of(node: str) -> str:
    return node.removesuffix("-s").removesuffix("-d")


def cut(qemu: Qemu, nodes: Sequence[str]) -> None:
    """Have every request of these connections fail. Never of one that a guest's disk may lie on."""
    for node in nodes:
        try:
            qemu.do_past_all("yank", words.yank([node]))
        except Refused:
            continue  # it has no connection


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
