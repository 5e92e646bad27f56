"""`rehydrate restore --tree`: from options to restored trees, stage by stage, and what is said of them.

How a tree is restored stands one package above (tree_restore); volumes in targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdp_container.console import printable
from cdp_container.errors import Incomplete, UsageError, counted
from cdp_container.format.names import shown
from rehydrate.plan import Totals
from rehydrate.points import RestorePlan
from rehydrate.rehearsal.stages import CONTENT, METADATA, NAMESPACE, Stages
from rehydrate.restore import Source
from rehydrate.tree_attributes import NotSet
from rehydrate.tree_restore import TreePlan, check_fits, fill, finish, lay_out, plan_content, plan_tree
from rehydrate.tree_select import Selection
from rehydrate.tree_target import TreeTarget, Ways, open_tree_target


@dataclass(frozen=True, slots=True)
class TreesTo:
    """Which trees go into which directories, which paths of them, and what is done about what is there.

    `best_effort`: that something could not be set is no failure.
    """

    targets: tuple[tuple[str, Path], ...] = ()
    patterns: tuple[str, ...] = ()
    ways: Ways = field(default_factory=Ways)
    best_effort: bool = False

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
    """What a restore did for one tree."""

    name: str
    path: Path
    names: int
    files: int
    removed: int
    totals: Totals
    not_set: NotSet

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


def restore_trees(
    source: Source, made: RestorePlan, wanted: TreesTo, stages: Stages, check: Callable[[], None]
) -> list[TreeRestored]:
    """Restore every tree. All names are checked whole, and all targets opened, before anything is written.

    `check` is called all the time; it raises where another reading is due. Raises what `tree_restore` does.
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
                plan = stack.enter_context(plan_tree(source.contents, made.branch, tree, selection))
                opened.append((name, path, plan))
                check()
                stage.advance()
        for name, path, plan in opened:
            with open_tree_target(path, wanted.ways) as target:
                done.append(_restore_one(source, name, plan, target, stages, check))
    return done


def _restore_one(
    source: Source,
    name: str,
    plan: TreePlan,
    target: TreeTarget,
    stages: Stages,
    check: Callable[[], None],
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

        totals = fill(source, plan, target, laid, filling, report)
        finish(plan, target, lambda _: check())
        stage.expect(stage.done, stage.done_bytes)  # what was compared took less
    names, files = laid.names + 1, len(laid.sizes)
    return TreeRestored(name, target.path, names, files, laid.removed, totals, target.not_set)


def raise_if_not_set(done: Sequence[TreeRestored], wanted: TreesTo) -> None:
    """Raises Incomplete where not everything could be set, and nobody said that this is well."""
    counts = sum((one.not_set.counts for one in done), start=NotSet().counts)
    if counts and not wanted.best_effort:
        named = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
        hint = "run it as root, or say --best-effort"
        raise Incomplete("restored, but not everything could be set", named, hint)
