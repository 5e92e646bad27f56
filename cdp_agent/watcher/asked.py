"""What an operator asks of trees: to accept what is there, to scan.

What is accepted is what he was shown: a root, and mount points with what was found at each. What came since
is told of again. How trees are looked at does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdp_agent.watcher.tree import Tree
from cdp_container.errors import WatcherFailed


def accept(trees: Sequence[Tree], tree: bytes, root: bytes, mounts: Mapping[bytes, bytes]) -> None:
    """Take what is there for the tree: its directory (empty: not that), and mount points, by what they are.

    Raises WatcherFailed: there is no such tree, or nothing (any more) that could be accepted.
    """
    found = _tree(trees, tree, "the tree is not accepted as it is")
    still = {
        path: identity
        for path, identity in mounts.items()
        if path in found.mount_faults and found.mount_faults[path].found == identity
    }
    is_root = bool(root) and found.root_found == root
    if not is_root and not still:
        why = "nothing of what was shown is so any more"
        raise WatcherFailed("the tree is not accepted as it is", why, "see what is now: cdp-agent trees")
    if is_root:
        found.accept_root = root
    found.accepted_mounts.update(still)
    found.retry_ns = 0


def ask_scan(trees: Sequence[Tree], tree: bytes, read_all: bool) -> int:
    """A scan that begins later than now; gives its number, `read_all`: which compares all content.

    Raises WatcherFailed: there is no such tree, or it cannot be looked at.
    """
    found = _tree(trees, tree, "no scan was begun")
    if found.root_fault and found.scans_begun:
        raise WatcherFailed("no scan was begun", found.root_fault)
    found.scan_wanted = True
    found.read_all = found.read_all or read_all
    return found.scans_begun + 1


def _tree(trees: Sequence[Tree], tree: bytes, what: str) -> Tree:
    for known in trees:
        if known.id == tree:
            return known
    raise WatcherFailed(what, "the watcher knows no such tree (yet)")
