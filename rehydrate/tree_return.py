"""Trees of a site that was overtaken, brought to a cut of the other site by what differs.

A file that has the size and time that the cut says, and whose content nobody wrote since a cut that it may be
of, is taken for the same; of others the blocks are compared. What is here and in no cut is kept (evidence).
Which cut it is, and what is noted when, does not belong here (failback).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cdp_container.domain.contents import Contents
from cdp_container.domain.file_runs import file_runs
from cdp_container.domain.history import History
from cdp_container.domain.identity import TreeIdentity
from cdp_container.domain.image import Branch, Cut, cuts_of, on_branch
from cdp_container.domain.namespace import Namespace, Tree, trees_of
from cdp_container.domain.tree_patterns import Patterns
from cdp_container.format.names import Name
from cdp_container.format.place import NOWHERE, Place
from rehydrate.mounted import mount_above, mounts_in
from rehydrate.points import Chosen
from rehydrate.restore import Source
from rehydrate.tree_attributes import NotSet
from rehydrate.tree_evidence import Evidence, KnownTree, in_the_way
from rehydrate.tree_restore import TreePlan, fill, finish, plan_content, plan_tree
from rehydrate.tree_target import TreeTarget, Ways, open_tree_target


@dataclass(frozen=True, slots=True)
class TreeHere:
    """A tree at this site: its directory, and which paths are not of the tree."""

    tree: TreeIdentity
    patterns: Patterns

    @property
    def path(self) -> Path:
        """Its directory."""
        return Path(self.tree.path)


def tree_here(tree: TreeIdentity) -> TreeHere:
    """A tree of agent.json."""
    return TreeHere(tree, Patterns(tree.include, tree.exclude))


@dataclass(frozen=True, slots=True)
class Since:
    """What a directory may be: the trees of these cuts, but for what was written here since.

    Attributes:
        cuts: of the branch; none where nothing is known: then all is compared.
        ours_ns: see `Evidence`.
        compare_all: no size and time is believed.
    """

    cuts: tuple[Cut, ...] = ()
    ours_ns: tuple[int, int] | None = None
    compare_all: bool = False


@dataclass(slots=True)
class TreeFigures:
    """What was done: bytes `fetched`; names `removed`, and `kept` in a folder, of which some are `listed`."""

    folder: Path
    fetched_bytes: int = 0
    gets: int = 0
    removed: int = 0
    kept: int = 0
    listed: list[bytes] = field(default_factory=list)
    not_set: NotSet = field(default_factory=NotSet)


def fork_of(contents: Contents, history: History, branch: Branch, site: str) -> Cut | None:
    """The newest cut of a site on a branch: what its trees have in common with what others wrote since."""
    ours = {span.record.epoch for span in history.spans.values() if span.record.site == site}
    cuts = [cut for cut in cuts_of(contents, branch) if cut.place.epoch in ours]
    return max(cuts, key=lambda cut: cut.place, default=None)


def cut_at(contents: Contents, branch: Branch, place: Place) -> Cut | None:
    """The cut of a branch that is at a place, if it is there still."""
    if place == NOWHERE or not on_branch(place, branch):
        return None
    return next((cut for cut in cuts_of(contents, branch) if cut.place == place), None)


def bring_tree(
    source: Source,
    history: History,
    chosen: Chosen,
    here: TreeHere,
    tree: Tree,
    since: Since,
    folder: Path,
    on_progress: Callable[[], None],
) -> TreeFigures:
    """Make a directory a tree at a cut, durably.

    Args:
        source: the container, gathered with sums and names.
        history: of the domain.
        chosen: the cut.
        here: the directory.
        tree: at the cut.
        since: what it is known to be.
        folder: below this what is only here is kept, each time in a directory of its own.
        on_progress: called now and then.

    Raises:
        DamagedObject, MissingObject, KeyMissing: names or content cannot be had.
        LocalDiskFull, DeviceError, AccessDenied, TargetUnsuitable, AlreadyRunning: of the directory.
    """
    with ExitStack() as stack:
        plan = stack.enter_context(plan_tree(source.contents, chosen.branch, tree))
        known = [
            found
            for cut in since.cuts
            if (found := _known(source.contents, history, cut, tree, stack)) is not None
        ]
        earlier, free = _folders(folder)
        keeper = _Keeper(
            Evidence(free, [*known, KnownTree(plan.namespace, tree)], since.ours_ns, earlier),
            _written_since(source.contents, plan, since),
            here,
        )
        ways = Ways(delete=True, checksum=since.compare_all or not known)
        target = stack.enter_context(open_tree_target(here.path, ways, keeper))
        keeper.find_mounts(target.directories.root, lambda path: plan.namespace.find(tree, path) is not None)
        return _bring(source, plan, target, keeper, on_progress)


def _bring(
    source: Source, plan: TreePlan, target: TreeTarget, keeper: _Keeper, on_progress: Callable[[], None]
) -> TreeFigures:
    def stays(path: bytes) -> bool:
        return plan.namespace.find(plan.tree, path) is not None

    laid = target.lay_out(plan.entries(), plan.twins, stays, lambda _: on_progress())
    filling = plan_content(source, plan, laid)
    done = fill(source, plan, target, laid, filling, lambda _: on_progress())
    finish(plan, target, lambda _: on_progress())
    kept = keeper.evidence
    return TreeFigures(
        kept.folder, done.fetch_bytes, done.gets, laid.removed, kept.kept, kept.listed, target.not_set
    )


def _known(contents: Contents, history: History, cut: Cut, tree: Tree, stack: ExitStack) -> KnownTree | None:
    """The tree at a cut, where it was there and whole."""
    branch = history.branch_of(cut.place)
    for found in trees_of(contents, branch, cut):
        if found.tree == tree.tree and found.whole:
            namespace = stack.enter_context(closing(Namespace(contents, branch, [found])))
            return KnownTree(namespace, found)
    return None


def _written_since(contents: Contents, plan: TreePlan, since: Since) -> frozenset[bytes]:
    """Contents that were written after the oldest cut that the directory may be: no size and time tells."""
    if not since.cuts:
        return frozenset()
    oldest = min(cut.place for cut in since.cuts)
    spaces = [entry.what.space for entry in plan.files() if entry.what.space is not None]
    runs = file_runs(contents, plan.branch, spaces, (oldest.epoch, oldest.seq))
    return frozenset(spaces[number] for number in np.flatnonzero(runs.extents).tolist())


def _folders(folder: Path) -> tuple[list[Path], Path]:
    """What earlier passes kept, which is never written over, and a directory that is not there yet."""
    earlier: list[Path] = []
    free = folder
    while os.path.lexists(free):
        earlier.append(free)
        free = folder.with_name(f"{folder.name}-{len(earlier) + 1}")
    return earlier, free


class _Keeper:
    """See `tree_target.Keeper`."""

    def __init__(self, evidence: Evidence, written: frozenset[bytes], here: TreeHere) -> None:
        self.evidence = evidence
        self._mounts: frozenset[bytes] = frozenset()
        self._written = written
        self._here = here

    def find_mounts(self, root: int, stays: Callable[[bytes], bool]) -> None:
        """Look at what is mounted below the open directory of the tree, before anything is changed.

        Raises TargetUnsuitable: in a directory that would go, or in its place; `stays`: what would not.
        """
        self._mounts = self.evidence.mounts = mounts_in(root)
        for mount in sorted(self._mounts):
            parts = mount.split(b"/")
            for count in range(1, len(parts) + 1):
                path = b"/".join(parts[:count])
                if self._is_left_alone(path, is_directory=True):
                    break
                if not stays(path):
                    raise in_the_way(self.evidence.folder, mount)

    def spares(self, directory: int, path: bytes, status: os.stat_result) -> bool:
        """What is left out of the tree stays, and what is mounted there."""
        return self._is_left_alone(path, stat.S_ISDIR(status.st_mode))

    def enters(self, path: bytes) -> bool:
        """What is mounted below the tree is none of it, unless the tree goes into mounts."""
        return not self._is_foreign(path)

    def compares(self, name: Name) -> bool:
        """Whether the content may be another one though size and time are the same."""
        return name.space in self._written

    def removes(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        """See `Evidence.removes`."""
        self.evidence.removes(directory, path, base, status)

    def changes(self, directory: int, path: bytes, base: bytes, status: os.stat_result) -> None:
        """See `Evidence.changes`."""
        self.evidence.changes(directory, path, base, status)

    def _is_left_alone(self, path: bytes, is_directory: bool) -> bool:
        return self._here.patterns.excludes(path, is_directory) or self._is_foreign(path)

    def _is_foreign(self, path: bytes) -> bool:
        return self._here.tree.one_file_system and mount_above(path, self._mounts) is not None
