"""`cdp-agent trees`: what file trees are like, an operator's word that what is there is right, and scans.

The watcher of the running agent is asked; what makes a tree whole is decided there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from cdp_agent.cli.accepted import load_running
from cdp_agent.watcher.client import WatcherClient
from cdp_container.clock import Clock
from cdp_container.console import answer, say
from cdp_container.domain.identity import TreeIdentity
from cdp_container.errors import UsageError, WatcherFailed, counted

POLL_SECONDS: Final = 0.5
TELL_SECONDS: Final = 5.0
"""Between two lines of progress."""


def show_trees(config: Path, name: str | None, *, as_json: bool) -> int:
    """Every tree, or one, and what keeps it from being whole. Raises UsageError, WatcherFailed."""
    client, trees = _asked(config)
    wanted = [_named(trees, name, "show the tree")] if name is not None else trees
    known = _known(client)
    found = [known[tree.tree] for tree in wanted if tree.tree in known]
    late = [tree.name for tree in wanted if tree.tree not in known]
    if as_json:
        answer(json.dumps({"trees": found}, indent=2))
        return 0
    for tree in found:
        answer("\n".join(_lines(tree)))
    for missing in late:
        answer(f"{missing}: the watcher begins anew, and does not know it yet")
    if not wanted:
        say("no file tree is protected")
    return 0


def _lines(tree: dict[str, Any]) -> list[str]:
    parts = [f"{counted(tree['names'], 'name')} at the last scan", tree["path"]]
    if tree["scanning"]:
        parts.append(f"is being scanned: {tree['scanned_names']} names so far")
    if not tree["watched"]:
        parts.append("is not watched, scanned from time to time")
    lines = [f"{tree['name']}: {', '.join(parts)}"]
    lines += [f"  not whole: {why}" for why in tree["why_not_whole"]]
    lines += [f"  cannot be read: {one['path']}: {one['why']}" for one in tree["troubles"]]
    if tree["troubles_more"]:
        lines.append(f"  cannot be read: {tree['troubles_more']} others")
    return lines


def accept_tree(config: Path, name: str | None, *, is_sure: bool) -> int:
    """Take what is there for the tree, if the operator is sure.

    Raises:
        UsageError: there is no such tree, or nothing to accept; or he did not say that he is sure, then what
            it is about was told.
        WatcherFailed: it is not there, or what was told is not so any more.
    """
    client, trees = _asked(config)
    what = "accept a tree as it is"
    tree = _named(trees, name, what)
    found = _known(client).get(tree.tree)
    if found is None:
        raise WatcherFailed(what, "the watcher does not know it yet")
    root = bytes.fromhex(found["root_found"])
    mounts = {bytes.fromhex(one["path"]): bytes.fromhex(one["found"]) for one in found["mount_faults"]}
    if not root and not mounts:
        why = found["root_fault"] or "its directory and what is mounted in it are what they were"
        raise UsageError(what, why, "`cdp-agent trees` shows what is wrong with which tree")
    whys = [found["root_fault"]] if root else []
    for why in whys + [one["why"] for one in found["mount_faults"]]:
        say(f"{tree.name}: {why}")
    if not is_sure:
        why = "from the next recovery point on it has what is there now, and no more what is not"
        raise UsageError(what, why, "say it with --yes; earlier recovery points keep what they have")
    client.accept(tree.tree, root, mounts)
    say(f"{tree.name}: accepted; it is looked at, and whole at a recovery point soon")
    return 0


def scan_tree(config: Path, name: str | None, clock: Clock, *, read_all: bool, waits: bool) -> int:
    """Have all of a tree looked at, `read_all`: and read. Raises UsageError, WatcherFailed."""
    client, trees = _asked(config)
    tree = _named(trees, name, "scan a tree")
    generation = client.status()["generation"]
    number = client.scan(tree.tree, read_all)
    if not waits:
        say(f"{tree.name}: is scanned from now on; `cdp-agent trees` shows how far it is")
        return 0
    told_ns = clock.boottime_ns()
    while True:
        status = client.status()
        found = next((one for one in status["trees"] if one["id"] == tree.tree.hex()), None)
        if status["generation"] != generation or found is None:
            raise WatcherFailed(f"scan the tree {tree.name}", "the watcher began anew", "say it again")
        if found["root_fault"]:
            raise WatcherFailed(f"scan the tree {tree.name}", found["root_fault"])
        if found["scans_done"] >= number and not found["reading"]:
            break
        if clock.boottime_ns() - told_ns >= TELL_SECONDS * 1e9:
            told_ns = clock.boottime_ns()
            say(f"{tree.name}: {_progress(found, number)}")
        clock.sleep(POLL_SECONDS)
    answer("\n".join(_lines(found)))
    return 0


def _progress(found: dict[str, Any], number: int) -> str:
    if found["scans_done"] >= number:
        return "all was looked at; what differs is read and goes into recovery points"
    return f"{found['scanned_names']} names looked at; the last scan met {found['names']}"


def _asked(config: Path) -> tuple[WatcherClient, list[TreeIdentity]]:
    agent = load_running(config)
    return WatcherClient(Path(agent.settings.journal.directory)), list(agent.identity.active_trees)


def _known(client: WatcherClient) -> dict[bytes, dict[str, Any]]:
    return {bytes.fromhex(tree["id"]): tree for tree in client.status()["trees"]}


def _named(trees: list[TreeIdentity], name: str | None, what: str) -> TreeIdentity:
    if name is None:
        why = "no tree is named"
    else:
        found = next((tree for tree in trees if tree.name == name), None)
        if found is not None:
            return found
        why = f"the domain has no tree {name!r}"
    raise UsageError(what, why, f"there are: {', '.join(tree.name for tree in trees) or 'none'}")
