"""What `status` shows of a tree."""

from __future__ import annotations

import os
from typing import Any

from cdp_agent.watcher.tree import Tree


def shown(tree: Tree, in_doubt: bool) -> dict[str, Any]:
    """One tree: what it is, and in words what keeps it from being whole at the next cut."""
    return {
        "id": tree.id.hex(),
        "name": tree.settings.name,
        "path": os.fspath(tree.settings.path),
        "names": tree.names,
        "scanning": tree.scan is not None,
        "scanned_names": tree.scan.names if tree.scan is not None else tree.names,
        "scans_done": tree.scans_done,
        "watched": not tree.unwatched,
        "why_not_whole": _why(tree, in_doubt),
        "reading": bool(tree.found or tree.deep or tree.suspended or tree.left),
        "root_fault": tree.root_fault,
        "root_found": tree.root_found.hex(),
        "mount_faults": [
            {"path": path.hex(), "found": fault.found.hex(), "why": fault.why}
            for path, fault in tree.mount_faults.items()
        ],
        "troubles": [
            {"path": os.fsdecode(path).encode("utf-8", "backslashreplace").decode(), "why": why}
            for path, why in tree.troubles.items()
        ],
        "troubles_more": tree.troubles_more,
    }


def _why(tree: Tree, in_doubt: bool) -> list[str]:
    said = []
    if tree.root_fault:
        said.append(tree.root_fault)
    if tree.unwatched:
        said.append(f"{tree.unwatched}; until then it is scanned from time to time")
    if in_doubt or not tree.scanned:
        said.append("all of it is to be looked at")
    if tree.found or tree.deep or tree.suspended or tree.left:
        said.append("more is to be read than one cut takes")
    said.extend(fault.why for fault in tree.mount_faults.values())
    if tree.troubles:
        path, why = next(iter(tree.troubles.items()))
        count = len(tree.troubles) + tree.troubles_more
        said.append(f"{count} paths cannot be read, such as {path!r}: {why}")
    return said
