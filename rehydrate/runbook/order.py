"""In which order VMs are started: each after those that it needs. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def start_order(after: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Names in groups: all of a group can start once those before have passed. Raises CycleError.

    Args:
        after: of every VM those that it waits for; those that are not started count not.
    """
    sorter = TopologicalSorter(
        {name: [one for one in names if one in after] for name, names in after.items()}
    )
    sorter.prepare()
    groups = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        groups.append(ready)
        sorter.done(*ready)
    return groups


def cycle_in(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Names that wait for each other, in their order, the first again at the end; empty where none do."""
    try:
        start_order(after)
    except CycleError as error:
        found: list[str] = list(reversed(error.args[1]))
        return found
    return []
