"""What `status` tells of volumes that `cdp-agent adopt` fills, or left half filled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from cdp_agent.adopting.progress import LOCK_NAME, load_progress
from cdp_agent.streamer.filling_words import filling_members
from cdp_agent.supervisor import is_locked
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes


def adopting_members(directory: Path, identity: AgentIdentity, notes: Notes) -> list[dict[str, Any]]:
    """For each volume: the VM, since when, whether the copy is over, and (`progress`) how far each disk is.

    `progress` is None where no `adopt` of that VM copies just now.
    """
    members = filling_members(notes, identity)
    runs = bool(members) and is_locked(directory / LOCK_NAME)
    progress = load_progress(directory) if runs else {}
    return [{**one, "progress": progress if progress.get("vm") == one["vm"] else None} for one in members]


def adopting_problems(members: list[dict[str, Any]]) -> list[str]:
    """Which volumes are in no recovery point, and what ends that."""
    by_vm = groupby(members, key=lambda one: (one["vm"], one["ended"], one["progress"]))
    return [line for key, found in by_vm for line in _problems(*key, list(found))]


def _problems(
    vm: str, ended: bool, progress: dict[str, Any] | None, members: list[dict[str, Any]]
) -> Iterator[str]:
    names = ", ".join(one["volume"] for one in members)
    since = datetime.fromtimestamp(min(one["began_ns"] for one in members) / 1e9, UTC)
    began = f"{since:%Y-%m-%d %H:%M:%S} UTC"
    if ended:
        yield f"the copy of VM {vm} is over, and no recovery point has all of it yet: {names}"
    elif progress is not None:
        yield f"VM {vm} is being adopted since {began} ({_far(progress)}); not whole until then: {names}"
    else:
        yield f"not whole, as they hold a part of a copy of VM {vm} (begun {began}, nobody copies): {names}"
        yield f"hint: adopt VM {vm} again, or `cdp-agent adopt {vm} --accept VOLUME` if one is right as it is"


def _far(progress: dict[str, Any]) -> str:
    parts = [
        f"{name} {100 * disk['done_bytes'] // disk['total_bytes'] if disk['total_bytes'] else 0} %"
        for name, disk in progress["disks"].items()
    ]
    return ", ".join([*parts, *([progress["why"]] if progress["why"] else [])])
