"""What `rehydrate failover` answers, as JSON members and as text. PURE.

Apart from the other views: they do not need what a configuration is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdp_container.console import printable
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.settings import AgentSettings
from cdp_container.telling import Members, point_name, time_text
from rehydrate.boot.run import Result
from rehydrate.boot.telling import result_line, result_members
from rehydrate.cli.text import seconds_text
from rehydrate.cli.tree_restoring import TreeRestored
from rehydrate.failover import LEASE_SECONDS, Outcome


def failover_members(
    outcome: Outcome,
    identity: AgentIdentity,
    settings: AgentSettings,
    config: str,
    runs: bool,
    process: int | None,
    restored: Sequence[TreeRestored] = (),
    booted: Sequence[Result] | None = None,
) -> Members:
    """What a failover came to, and where things are now; `booted`: VMs, None without --boot."""
    base, side = outcome.base, outcome.side_end
    return {
        "domain": identity.name,
        "site": identity.site,
        "epoch": outcome.epoch,
        "point": point_name(base.epoch, base.cut),
        "time": time_text(outcome.cut_time_ns),
        "cut_time_ns": outcome.cut_time_ns,
        "lost_seconds_max": round(outcome.lost_seconds, 3),
        "cut_age_seconds": round(outcome.cut_age_seconds, 3),
        "without_owner_seconds": round(outcome.without_owner_seconds, 3),
        "elapsed_seconds": round(outcome.elapsed_seconds, 3),
        "side_branch": point_name(side.epoch, side.cut) if side else None,
        "store": settings.store,
        "journal": settings.journal.directory,
        "config": config,
        "socket": settings.socket_path,
        "running": runs,
        "unrenewed_lease_seconds": None if runs else LEASE_SECONDS,
        "pid": process,
        "volumes": [
            {"name": source.name, "size_bytes": source.size_bytes, "path": source.path}
            for source in identity.sources
        ],
        "trees": [
            {"name": tree.name, "path": tree.path, "exclude": list(tree.exclude)}
            for tree in identity.active_trees
        ],
        "vms": None if booted is None else [result_members(one) for one in booted],
        "vm_lines": [] if booted is None else [result_line(one) for one in booted],
        "trees_without_protection": [tree.name for tree in identity.trees if tree.removed],
        "trees_restored": [tree.members() for tree in restored],
        "not_set": [line for tree in restored for line in tree.text()[1:]],
    }


def unrenewed_text(config: str) -> str:
    """What to do where a domain was claimed, and no agent started."""
    return (
        f"nobody renews the claim now: in {LEASE_SECONDS} s any site may take the domain over; everything is "
        f"ready, start the agent at once: cdp-agent run --config {config}"
    )


def failover_text(members: Mapping[str, Any]) -> str:
    """The same for people, with what comes next."""
    store, config = members["store"], members["config"]
    owned = f"{members['domain']} is owned by {members['site']}: epoch {members['epoch']}"
    lost, took = members["lost_seconds_max"], seconds_text(members["elapsed_seconds"])
    written = f"lost at most {seconds_text(lost)}: what was written after that cut (RPO)"
    alone = seconds_text(members["without_owner_seconds"])
    lines = [
        f"{owned}, from the cut {members['point']} of {members['time']}",
        written if lost else "nothing was lost: the domain was released with everything in it (RPO)",
        f"restored and served after {took} (RTO), {alone} without an owner",
        *(f"{volume['name']}: {volume['path']}" for volume in members["volumes"]),
        *(f"{tree['name']}/: {tree['path']}" for tree in members["trees"]),
        *(f"{name}/: not protected any more, as was said" for name in members["trees_without_protection"]),
        *members["not_set"],
        *members["vm_lines"],
    ]
    if members["side_branch"] is not None:
        newest = members["side_branch"]
        lines.append(
            f"left on a side branch: the cuts up to {newest}: rehydrate restore {store} --at {newest}"
        )
    if members["running"]:
        lines.append(f"exports: {members['socket']}; cdp-agent status --config {config}")
    else:
        lines.append(unrenewed_text(config))
    lines.append(
        "next: keep the agent running as a service; to go back, run `rehydrate failback` at the first site, "
        f"and `cdp-agent release --config {config} --to SITE` here once it follows"
    )
    return printable("\n".join(lines), lines=True)
