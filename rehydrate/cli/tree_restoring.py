"""`rehydrate restore --tree`: from options to restored trees, stage by stage, and what is said of them.

How a tree is restored stands one package above (tree_restore); volumes in targets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdp_container.console import printable
from cdp_container.errors import (
    AccessDenied,
    DamagedObject,
    Incomplete,
    MissingObject,
    TargetUnsuitable,
    UsageError,
    counted,
)
from cdp_container.format.names import shown
from rehydrate.cli.targets import drop_stale_map
from rehydrate.damage import map_path, with_map_hint
from rehydrate.plan import Totals
from rehydrate.points import RestorePlan
from rehydrate.rehearsal.stages import CONTENT, METADATA, NAMESPACE, Stages
from rehydrate.restore import Source
from rehydrate.tree_attributes import NotSet
from rehydrate.tree_damage import InDoubt, Losses, TreeFindings, examined_tree, in_doubt, write_tree_map
from rehydrate.tree_damage import Restored as Mapped
from rehydrate.tree_restore import (
    Filling,
    TreePlan,
    check_fits,
    fill,
    finish,
    lay_out,
    plan_content,
    plan_tree,
)
from rehydrate.tree_select import Selection
from rehydrate.tree_target import Laid, TreeTarget, Ways, open_tree_target


@dataclass(frozen=True, slots=True)
class TreesTo:
    """Which trees go into which directories, which paths of them, and what is done about what is there.

    `best_effort`: that something could not be set is no failure. `tolerant`: what is damaged is mapped.
    """

    targets: tuple[tuple[str, Path], ...] = ()
    patterns: tuple[str, ...] = ()
    ways: Ways = field(default_factory=Ways)
    best_effort: bool = False
    tolerant: bool = False

    @property
    def names(self) -> list[str]:
        """Of the trees."""
        return [name for name, _ in self.targets]

    @property
    def compares(self) -> bool:
        """Whether any directory holds something that may serve."""
        return any(path.is_dir() and any(path.iterdir()) for _, path in self.targets)


def trees_to(
    options: Sequence[str], patterns: Sequence[str], delete: bool, checksum: bool, best_effort: bool
) -> TreesTo:
    """From options of the form NAME=DIRECTORY. Raises UsageError."""
    targets = []
    for option in options:
        name, equals, directory = option.partition("=")
        if not (name and equals and directory):
            raise UsageError("restore a tree", f"{option!r} is not NAME=DIRECTORY")
        targets.append((name, Path(directory)))
    if len({name for name, _ in targets}) < len(targets):
        raise UsageError("restore trees", "one of them is named twice")
    if not targets and (patterns or delete or checksum or best_effort):
        raise UsageError("restore", "--path, --delete, --checksum and --best-effort go with --tree")
    Selection(patterns)  # raises here rather than after everything was read
    return TreesTo(tuple(targets), tuple(patterns), Ways(delete, checksum), best_effort)


@dataclass(frozen=True, slots=True)
class TreeRestored:
    """What a restore did for one tree. `damage_map`: where the map of its damage is, if there is any."""

    name: str
    path: Path
    names: int
    files: int
    removed: int
    totals: Totals
    not_set: NotSet
    damage_map: Path | None = None
    found: TreeFindings | None = None

    def members(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "target": str(self.path),
            "names": self.names,
            "files_with_content": self.files,
            "removed": self.removed,
            "gets": self.totals.gets,
            "fetched_bytes": self.totals.fetch_bytes,
            "written_bytes": self.totals.write_bytes,
            "not_set": dict(self.not_set.counts),
            "not_set_first": [
                {"path": path.hex(), "shown": shown(path), "what": what, "why": why}
                for path, what, why in self.not_set.listed
            ],
        }

    def text(self) -> list[str]:
        """For people."""
        lines = [printable(f"restored {self.name} to {self.path}: {counted(self.names, 'name')}")]
        lines += [f"not set: {what} of {shown(path)}: {why}" for path, what, why in self.not_set.listed]
        left = self.not_set.counts.total() - len(self.not_set.listed)
        return lines + ([f"not set: {left} more"] if left else [])


def check_maps(wanted: TreesTo) -> None:
    """Raises where maps of damage could not stand beside their targets, before anything is read.

    UsageError: also where `--delete` would remove what only damage hides.
    """
    if not (wanted.tolerant and wanted.targets):
        return
    if wanted.ways.delete:
        why = "--delete removes what the container does not name, and damage may hide names"
        raise UsageError("restore trees despite damage", why)
    for _, path in wanted.targets:
        what = f"restore into {path}"
        if not path.name:
            raise TargetUnsuitable(
                what, "a map of damage could not stand beside it", "name a directory in it"
            )
        beside = map_path(path)
        if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
            raise AccessDenied(what, f"the map of damage, {beside}, could not be written")
        if wanted.patterns and beside.exists():
            why = f"{beside} is there, and may tell of more than the paths that are wanted"
            raise TargetUnsuitable(what, why, "move the map of the earlier restore away")


def restore_trees(
    source: Source,
    made: RestorePlan,
    wanted: TreesTo,
    stages: Stages,
    check: Callable[[], None],
    be_sure: Callable[[], None] = lambda: None,
) -> list[TreeRestored]:
    """Restore every tree. All names are checked whole, and all targets opened, before anything is written.

    `check` is called all the time, `be_sure` before content is taken for damaged; both raise where another
    reading is due. Raises what `tree_restore` does.
    """
    if not wanted.targets:
        return []
    done = []
    with ExitStack() as stack:
        opened = []
        with stages.stage(METADATA, "trees") as stage:
            stage.expect(len(made.trees))
            for tree, (name, path) in zip(made.trees, wanted.targets, strict=True):
                selection = Selection(wanted.patterns)
                mends = bool(made.faults)
                plan = stack.enter_context(plan_tree(source.contents, made.branch, tree, selection, mends))
                opened.append((name, path, plan))
                check()
                stage.advance()
        _check_paths([plan.selection for _, _, plan in opened])
        for name, path, plan in opened:
            with open_tree_target(path, wanted.ways) as target:
                mapper = _Mapper(source, made, wanted, name, plan, be_sure) if wanted.tolerant else None
                try:
                    done.append(_restore_one(source, name, plan, target, stages, check, mapper))
                except (DamagedObject, MissingObject) as error:  # none comes where damage is mapped
                    raise with_map_hint(error) from error
            if plan.selection.is_all and done[-1].damage_map is None:
                drop_stale_map(path, {})
    return done


def _check_paths(selections: Sequence[Selection]) -> None:
    """Raises UsageError where a path is asked for that no tree has: nothing restored would look like done."""
    unmet = frozenset.intersection(*(selection.unmet for selection in selections))
    if unmet:
        named = ", ".join(shown(os.fsencode(pattern)) for pattern in sorted(unmet))
        hint = "look with `rehydrate mount`; a pattern is relative to the tree, and `[`, `?`, `*` mean more"
        raise UsageError("restore paths of trees", f"nothing there fits --path {named}", hint)


@dataclass(slots=True)
class _Mapper:
    """Notes what damage leaves out of one tree, and makes the map of it."""

    source: Source
    made: RestorePlan
    wanted: TreesTo
    name: str
    plan: TreePlan
    be_sure: Callable[[], None]
    losses: Losses = field(default_factory=Losses)
    doubt: InDoubt | None = None

    def begin(self, laid: Laid, filling: Filling) -> None:
        """Find out what is in doubt, before any file is complete."""
        contents, branch, faults = self.source.contents, self.made.branch, self.made.faults
        self.doubt = in_doubt(contents, branch, laid.spaces, filling.sizes, filling.runs, faults)
        self.losses.unsound.update(np.flatnonzero(self.doubt.files).tolist())

    def write(self, target: Path) -> tuple[Path | None, TreeFindings | None]:
        """The map, if there is anything to tell: where it is, and what it says."""
        assert self.doubt is not None, "begun"
        made, plan = self.made, self.plan
        self.be_sure()
        found = examined_tree(
            plan.files(),
            plan.twins,
            self.losses,
            self.doubt,
            made.faults,
            made.doubts,
            plan.namespace.made_up,
        )
        if not (found.parts or found.doubts):
            return None, None
        point = f"{made.cut.place.epoch}.{made.cut.place.cut}"
        domain, tree = self.source.contents.domain.hex(), plan.tree.tree.hex()
        what = Mapped(domain, point, tree, self.name, self.wanted.patterns)
        return write_tree_map(target, what, found), found


def _restore_one(
    source: Source,
    name: str,
    plan: TreePlan,
    target: TreeTarget,
    stages: Stages,
    check: Callable[[], None],
    mapper: _Mapper | None,
) -> TreeRestored:
    with stages.stage(NAMESPACE, "names") as stage:
        stage.expect(plan.names)

        def told(names: int) -> None:
            check()
            stage.advance(names)

        laid = lay_out(plan, target, told)
        stage.advance()  # the root, which was there first
    with stages.stage(CONTENT, "requests") as stage:
        filling = plan_content(source, plan, laid)
        check_fits(target, laid, filling)
        stage.expect(filling.totals.gets, filling.totals.fetch_bytes)

        def report(done: Totals) -> None:
            check()
            stage.advance(done.gets, done.fetch_bytes)

        if mapper is not None:
            mapper.begin(laid, filling)
        losses = None if mapper is None else mapper.losses
        totals = fill(source, plan, target, laid, filling, report, losses)
        mapped = (None, None) if mapper is None else mapper.write(target.path)
        finish(plan, target, lambda _: check())
        stage.expect(stage.done, stage.done_bytes)  # what was compared took less
    names, files = laid.names + 1, len(laid.sizes)
    return TreeRestored(name, target.path, names, files, laid.removed, totals, target.not_set, *mapped)


def raise_if_not_set(done: Sequence[TreeRestored], wanted: TreesTo) -> None:
    """Raises Incomplete where not everything could be set, and nobody said that this is well."""
    counts = sum((one.not_set.counts for one in done), start=NotSet().counts)
    if counts and not wanted.best_effort:
        named = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
        hint = "run it as root, or say --best-effort"
        raise Incomplete("restored, but not everything could be set", named, hint)
