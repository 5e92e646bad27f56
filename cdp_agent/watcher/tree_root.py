"""Whether the directory that is there is the tree: an empty mount point must never look like a deletion.

A tree whose directory is gone, or another one than it was, is not whole, and nothing is said of it to the
container, until the right one is back or an operator accepts what is there.
"""

from __future__ import annotations

import os

from cdp_agent.watcher.dirty import Dirty
from cdp_agent.watcher.events import Events
from cdp_agent.watcher.index import Index, TreeRow
from cdp_agent.watcher.mounts import Mounts
from cdp_agent.watcher.rooted import Root
from cdp_agent.watcher.tree import Tree

_ACCEPT = "mount what belongs there, or accept what is there"


def open_root(tree: Tree, index: Index, dirty: Dirty, events: Events) -> bool:
    """Open a tree's directory, if it is the one that it was; `root_fault` says why it is not open."""
    before = tree.root_fault
    tree.root_fault = _opened(tree, index)
    if tree.root_fault:
        tree.reset()
    elif before:
        # Whatever happened while it was not there was not heard of.
        with events.lock:
            dirty.doubt(tree.number)
    return not tree.root_fault


def _opened(tree: Tree, index: Index) -> str:
    """Why it is not open; empty where it is."""
    path = tree.settings.path
    tree.root_found = b""
    try:
        if tree.root is not None:
            now = os.stat(path)
            is_it = (now.st_dev, now.st_ino) == (tree.root.stat.st_dev, tree.root.stat.st_ino)
            if is_it and not tree.accept_root:
                return ""
            tree.reset()
        mounts = Mounts(index, tree.row, tree.accepted_mounts, tree.accepts_mounts)
        root = Root(path, tree.settings.one_file_system, mounts)
    except OSError as error:
        return f"{path} cannot be opened: {error.strerror or 'unreadable'}"
    identity = root.identity()
    known = next((row for row in index.trees() if row.number == tree.row), None)
    is_accepted, tree.accept_root = tree.accept_root == identity, b""
    fault = "" if is_accepted else _fault(tree, index, root, identity, known)
    if fault:
        root.close()
        tree.root_found = identity
        return fault
    if is_accepted:
        tree.accepts_mounts = mounts.accepts_all = True
    if is_accepted or known is None or known.root != identity:
        index.set_tree(tree.row, root=identity)
    tree.root = root
    return ""


def _fault(tree: Tree, index: Index, root: Root, identity: bytes, known: TreeRow | None) -> str:
    path = tree.settings.path
    if known is not None and known.root:
        if identity != known.root:
            return f"{path} is another directory than it was: {_ACCEPT}"
        return ""
    if not index.children(tree.row, b"", b""):
        return ""
    fd = root.open_listing(b"")
    try:
        is_empty = not os.listdir(fd)
    finally:
        os.close(fd)
    return f"{path} is empty, and the container's tree is not: {_ACCEPT}" if is_empty else ""
