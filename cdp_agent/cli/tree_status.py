"""What `status` tells of file trees: what the watcher says of itself, and what was in the newest cut.

What keeps a tree from being whole is told by the watcher; nothing of that is decided here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdp_agent.watcher.client import WatcherClient
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes
from cdp_container.errors import WatcherFailed, counted


def tree_members(
    directory: Path, identity: AgentIdentity, facts: dict[str, Any], notes: Notes
) -> dict[str, Any] | None:
    """For `status`: the watcher's word, and the streamer's; None where no tree is protected.

    `given_up`: why nothing of them goes into the container from here, whatever the watcher sees; else "".
    """
    if not identity.active_trees:
        return None
    try:
        members = {name: value for name, value in WatcherClient(directory).status().items() if name != "ok"}
    except WatcherFailed as error:
        members = {"trees": [], "error": str(error)}
    return {**members, "newest_cut": facts.get("trees"), "given_up": _given_up(notes)}


def _given_up(notes: Notes) -> str:
    if notes.fenced:
        return "this site is fenced"
    return f"the domain is released to site {notes.released_to!r}" if notes.released_to else ""


def tree_problems(members: dict[str, Any] | None, running: bool) -> list[str]:
    """What keeps trees from being protected as was asked for."""
    if members is None:
        return []
    if members["given_up"]:
        return [_unprotected(members)]
    if not running:
        return []
    problems = [f"file trees are not protected just now: {members['error']}"] if members.get("error") else []
    newest = members["newest_cut"] or {}
    if newest.get("trouble") and not problems:
        problems.append(f"file trees are not protected just now: {newest['trouble']}")
    whys = {tree["name"]: tree["why_not_whole"] for tree in members["trees"]}
    for name in newest.get("not_whole", []):
        why = "; ".join(whys.get(name, ()))
        problems.append(f"tree {name} is not wholly in the container yet" + (f": {why}" if why else ""))
    return problems


def _unprotected(members: dict[str, Any]) -> str:
    """What becomes of changes where the domain is another site's."""
    changed = members.get("dirty", 0) if members.get("ready") else 0
    seen = f"; paths that changed since the last cut: {changed} at least" if changed else ""
    return (
        f"file trees are not protected, as {members['given_up']}: what is written into them is on this "
        f"site's disks alone, and `rehydrate failback` keeps it as evidence{seen}"
    )


def tree_lines(members: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Lines to print: a name, and what is said of it."""
    if members is None:
        return []
    skewed = (members["newest_cut"] or {}).get("skewed")
    note = f"; {skewed} files changed while the newest cut was taken (skewed)" if skewed else ""
    lines = [("trees", f"{members.get('dirty', 0)} paths are to be looked at{note}")]
    for tree in members["trees"]:
        parts = [f"{counted(tree['names'], 'name')} at the last scan", tree["path"]]
        parts += ["is not protected from here"] if members["given_up"] else []
        parts += ["is being scanned"] if tree["scanning"] else []
        parts += [] if tree["watched"] else ["is not watched, scanned from time to time"]
        lines.append((f"  {tree['name']}", ", ".join(parts)))
    return lines
