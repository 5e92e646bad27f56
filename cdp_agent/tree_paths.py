"""The directories of trees as they are on this machine: there, and apart from what they must be apart from.

What the configuration says of them does not belong here (`cdp_container.domain.tree_settings`), nor what is
in them (the watcher).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from cdp_container.domain.settings import AgentSettings
from cdp_container.domain.tree_settings import Apart, tree_faults
from cdp_container.errors import BackingUnreadable


def inspect_tree(name: str, path: str) -> None:
    """See that a tree can be read, at its top at least. Raises BackingUnreadable."""
    what = f"cannot protect tree {name}"
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except NotADirectoryError as error:
        raise BackingUnreadable(what, f"{path} is no directory") from error
    except OSError as error:
        raise BackingUnreadable(what, f"{path}: {error.strerror or 'it cannot be read'}") from error


def refuse_trees(settings: AgentSettings) -> None:
    """Raises BackingUnreadable where a tree cannot be protected, with all faults."""
    faults = list(faults_of(settings))
    if faults:
        raise BackingUnreadable("cannot protect the file trees", "; ".join(faults))


def faults_of(settings: AgentSettings) -> Iterator[str]:
    """What is wrong with the trees of a configuration, with links followed."""
    for tree in settings.trees:
        try:
            inspect_tree(tree.name, tree.path)
        except BackingUnreadable as error:
            yield error.why
    yield from tree_faults(
        [(tree.name, os.path.realpath(tree.path)) for tree in settings.trees],
        _real(settings.apart_from_trees),
    )


def _real(apart: Sequence[Apart]) -> list[Apart]:
    return [Apart(one.what, os.path.realpath(one.path)) for one in apart]
