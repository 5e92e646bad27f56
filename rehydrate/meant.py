"""Which volumes and trees are meant where nobody names any: all that the newest such point has.

Whether a point has them whole does not belong here (points, wanted).
"""

from __future__ import annotations

from collections.abc import Sequence

from cdp_container.domain.contents import Contents
from cdp_container.domain.image import cuts_of, volumes_of
from cdp_container.domain.namespace import trees_of
from rehydrate.container import Container
from rehydrate.plan import Choice, candidates
from rehydrate.points import scope_of
from rehydrate.wanted import Wanted


def meant(
    container: Container, contents: Contents, choice: Choice, names: Sequence[str], trees: Sequence[str]
) -> Wanted:
    """What was named, volumes and trees; else all that the newest cut has that could be meant."""
    if names or trees:
        return Wanted(tuple(names), tuple(trees), volumes=bool(names))
    history = container.history
    cuts = cuts_of(contents, scope_of(history, choice))
    could = [cut for cut in candidates(cuts, choice) if choice.at in (None, (cut.place.epoch, cut.place.cut))]
    if not could:
        return Wanted()  # who chooses the cut says so
    branch = history.branch_of(could[-1].place)
    found = tuple(tree.tree.hex() for tree in trees_of(contents, branch, could[-1]))
    return Wanted((), found, volumes=not found or bool(volumes_of(contents, branch, could[-1])))
