"""The trees of a domain that is taken over: at which point, into which directories, and what may stand there.

How a tree is restored stands one package above (tree_restore), what is said of it in tree_restoring; which
directory each gets in places.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.domain.contents import Contents
from cdp_container.domain.settings import AgentSettings
from cdp_container.domain.tree_settings import Apart, tree_faults
from cdp_container.errors import ConfigInvalid, NoSuchPoint, TargetNotEmpty, TargetUnsuitable
from rehydrate.cli.stage_lines import StageLines
from rehydrate.cli.tree_restoring import TreeRestored, TreesTo, restore_trees
from rehydrate.container import Container
from rehydrate.file_target import check_room
from rehydrate.plan import Choice
from rehydrate.points import RestorePlan, find_cut, plan_restore
from rehydrate.rehearsal.counting import Counts
from rehydrate.rehearsal.stages import Stages
from rehydrate.restore import Source
from rehydrate.tree_sources import TreePlace
from rehydrate.tree_target import Ways
from rehydrate.tree_totals import TreeTotals, totals_of
from rehydrate.wanted import Wanted

TREES_BEHIND_SECONDS_MAX: Final = 60.0
"""So much older a point may be for the sake of trees that nobody has to say so."""

Begun = tuple[tuple[str, str], ...]
"""Ids and directories of trees that an interrupted failover began to write."""


def plan_domain(
    container: Container, contents: Contents, choice: Choice, without: Sequence[str]
) -> RestorePlan:
    """All volumes, and all trees but those `without`, at the newest point at which they are whole.

    Raises NoSuchPoint where volumes would have to go back far for the sake of trees; else as `plan_restore`.
    """
    volumes_at = None
    if choice == Choice():
        volumes_at = _newest_of_volumes(container, contents, choice)
    try:
        made = plan_restore(
            container, contents, choice, wanted=Wanted(whole_domain=True, without=tuple(without))
        )
    except NoSuchPoint as error:
        if volumes_at is None:
            raise
        hint = "--without-tree NAME leaves a tree out that is not wholly in the container"
        raise NoSuchPoint(error.what, error.why, hint) from error
    if volumes_at is None or not made.volumes:
        return made
    newest, newest_ns = volumes_at
    behind_seconds = (newest_ns - made.cut.time_ns) / 1e9
    if behind_seconds > TREES_BEHIND_SECONDS_MAX:
        point = f"{made.cut.place.epoch}.{made.cut.place.cut}"
        why = f"{point} is the newest point at which trees are whole, {behind_seconds:.0f} s before {newest}"
        hint = (
            f"--at {point} goes back to it with all; --without-tree NAME leaves a tree out, for a newer one"
        )
        raise NoSuchPoint("take the newest point", why, hint)
    return made


def _newest_of_volumes(container: Container, contents: Contents, choice: Choice) -> tuple[str, int] | None:
    """The newest point at which volumes are whole, and its time; None where there is none."""
    trees = tuple({record.tree.hex() for record in contents.tree_records})
    wanted = Wanted(whole_domain=True, without=trees)
    try:
        cut = find_cut(container.history, contents, choice, wanted)
    except NoSuchPoint:
        return None
    return f"{cut.place.epoch}.{cut.place.cut}", cut.time_ns


def check_trees(
    source: Source,
    made: RestorePlan,
    places: Sequence[TreePlace],
    settings: AgentSettings,
    begun: Begun,
    delete: bool,
) -> list[TreeTotals]:
    """What can be known before anything is claimed: that directories are free, apart, and have room.

    All names are read, and checked whole. Gives what each tree takes. Raises TargetNotEmpty,
    TargetUnsuitable, ConfigInvalid, LocalDiskFull, DamagedObject.
    """
    _check_apart(places, settings)
    found = []
    for place in places:
        what = f"restore the tree {place.tree.name} into {place.path}"
        holds = _holds(place, what)
        if holds and not delete and (place.tree.tree.hex(), str(place.path)) not in begun:
            why = f"it holds {holds!r}, and what the tree lacks would be protected as if it were new"
            raise TargetNotEmpty(
                what, why, "choose another; --delete makes it the tree, and removes the rest"
            )
        found.append(totals_of(source, made.branch, place.tree))
        if not holds:
            check_room(
                place.path if place.path.is_dir() else place.path.parent, found[-1].totals.write_bytes, what
            )
    return found


def _holds(place: TreePlace, what: str) -> str:
    """The name of something that is in the directory; empty where nothing is, or it is still to be made."""
    path = place.path
    if not os.path.lexists(path):
        if not path.parent.is_dir():
            raise TargetUnsuitable(what, f"there is no directory {path.parent}")
        return ""
    if not path.is_dir():
        raise TargetUnsuitable(what, "it is no directory")
    with os.scandir(path) as found:
        return next((entry.name for entry in found), "")


def _check_apart(places: Sequence[TreePlace], settings: AgentSettings) -> None:
    apart = [Apart(one.what, os.path.realpath(one.path)) for one in settings.apart_from_trees]
    faults = list(tree_faults([(one.tree.name, os.path.realpath(one.path)) for one in places], apart))
    if faults:
        raise ConfigInvalid(
            "the trees cannot be protected there", "; ".join(faults), "choose other directories"
        )


def write_trees(
    source: Source,
    made: RestorePlan,
    places: Sequence[TreePlace],
    clock: Clock,
    as_json: bool,
    check: Callable[[], None],
) -> list[TreeRestored]:
    """Make each directory the tree, exactly; `check` is called all the time.

    What stands there was found to be ours, or was said to go: so it is compared by content, and what the
    tree lacks is removed. An interrupted run is gone on with like that, over a power loss too.
    """
    wanted = TreesTo(tuple((one.tree.name, Path(one.path)) for one in places), (), Ways(True, True))
    stages = Stages(clock, Counts, StageLines(clock, as_json, stages=3))
    return restore_trees(source, made, wanted, stages, check)
