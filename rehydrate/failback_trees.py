"""The trees of a site that gets its domain back: which directory each has, and what was done to them.

How one is brought to a cut stands in tree_return; what is noted when, in failback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.failback_note import FailbackNote
from cdp_container.domain.history import History
from cdp_container.domain.image import Branch
from cdp_container.domain.tree_settings import is_within
from cdp_container.errors import TargetUnsuitable, counted
from cdp_container.format.names import shown
from rehydrate.doubts import SLACK_NS
from rehydrate.here import Here
from rehydrate.points import Chosen
from rehydrate.restore import Source
from rehydrate.tree_return import Since, TreeFigures, bring_tree, cut_at, fork_of, tree_here

FOLDER: Final = "trees"
"""Within the evidence of a failback: a directory for each tree, and for each pass that kept something."""
COARSE_SECONDS: Final = 0.02
"""By so much the times of files may be behind the clock."""
SHOWN_MAX: Final = 5


@dataclass(slots=True)
class Done:
    """What all passes did to one tree. `folders`: where what is in no cut was kept."""

    path: Path
    fetched_bytes: int = 0
    removed: int = 0
    kept: int = 0
    not_set: int = 0
    folders: list[Path] = field(default_factory=list)


class TreesBack:
    """The trees of one failback.

    Args:
        here: this site.
        say: is given lines for people.
    """

    def __init__(self, here: Here, say: Callable[[str], None]) -> None:
        self._here = here
        self._say = say
        self.done: dict[str, Done] = {}

    def faults(self, chosen: Chosen) -> list[str]:
        """What the configuration of this site lacks, or has too much."""
        here, names = self._here, {tree.name for tree in chosen.trees}
        faults = [
            f"{name}/: it was removed at the other site: take it out"
            for name in sorted(here.configured_trees or ())
            if name not in names
        ]
        known = here.trees if here.configured_trees is None else here.configured_trees
        for tree in chosen.trees:
            if tree.name not in known:
                faults.append(f"{tree.name}/: nothing says where it lies here: name a directory for it")
            elif is_within(str(here.directory), here.trees[tree.name].path):
                faults.append(f"{tree.name}/: the journal directory is in it")
        return faults

    def check_there(self, chosen: Chosen) -> None:
        """Raises TargetUnsuitable: what belongs there may not be mounted; another disk would be filled."""
        for tree in chosen.trees:
            path = Path(self._here.trees[tree.name].path)
            if not path.is_dir() or not any(path.iterdir()):
                hint = "mount what belongs there; or --compare-all, which restores all of it there"
                raise TargetUnsuitable(
                    f"bring {tree.name}/ in {path} back", "it is not there, or empty", hint
                )

    def bring(
        self,
        source: Source,
        history: History,
        chosen: Chosen,
        note: FailbackNote,
        compare_all: bool,
        on_progress: Callable[[], None],
    ) -> None:
        """Make every directory its tree at the cut, durably. Raises as `bring_tree`."""
        if not chosen.trees:
            return
        since = self._since(source.contents, history, chosen.branch, note, compare_all)
        for tree in chosen.trees:
            here = tree_here(self._here.trees[tree.name])
            folder = self._here.directory / note.evidence / FOLDER / tree.tree.hex()
            figures = bring_tree(source, history, chosen, here, tree, since, folder, on_progress)
            self._add(tree.name, here.path, figures)

    def _since(
        self, contents: Contents, history: History, branch: Branch, note: FailbackNote, compare_all: bool
    ) -> Since:
        site = self._here.identity.site
        found = cut_at(contents, branch, note.at) or fork_of(contents, history, branch, site)
        cuts = () if found is None else (found,)
        ours_ns = (note.trees_ns, note.touched_ns + SLACK_NS) if note.trees_ns else None
        return Since(cuts, ours_ns, compare_all)

    def _add(self, name: str, path: Path, figures: TreeFigures) -> None:
        done = self.done.setdefault(name, Done(path))
        done.fetched_bytes += figures.fetched_bytes
        done.removed += figures.removed
        done.kept += figures.kept
        done.not_set = figures.not_set.counts.total()
        if figures.kept:
            done.folders.append(figures.folder)
            named = ", ".join(map(shown, figures.listed[:SHOWN_MAX]))
            more = " and more" if figures.kept > SHOWN_MAX else ""
            many = counted(figures.kept, "name") + (" was" if figures.kept == 1 else " were")
            self._say(f"{name}/: {many} here and in no cut, kept in {figures.folder}: {named}{more}")
        for at, what, why in figures.not_set.listed[:SHOWN_MAX]:
            self._say(f"{name}/: not set: {what} of {shown(at)}: {why}")
