"""The runs of extents that the contents of files are made of at a cut, for all of them at once.

What `image.runs_of` tells of one space this tells of a million, sorted once. Resolving is in
`extents.many` for many small files, in `extents.resolve` for a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdp_container.domain.contents import Contents
from cdp_container.domain.image import Branch, on_branch
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.many import MANY_RUNS
from cdp_container.extents.tables import COVER, RUNS, Table
from cdp_container.format.place import Place


@dataclass(frozen=True, slots=True)
class FileRuns:
    """The runs of some spaces on a branch.

    Attributes:
        runs: of type RUNS, by space, the newest of each first.
        ages: of each run, 0 for the newest of all.
        firsts: for each space the number of its first run, and after the last the number of all.
        extents: for each space how many extents its runs have.
    """

    runs: Table
    ages: Ints
    firsts: Ints
    extents: Ints

    def of(self, number: int) -> Table:
        """The runs of one space, as `image.runs_of` gives them."""
        return self.runs[int(self.firsts[number]) : int(self.firsts[number + 1])]

    def together(self, first: int, beyond: int) -> Table:
        """The runs of some neighbouring spaces as `extents.many` takes them (MANY_RUNS)."""
        low, high = int(self.firsts[first]), int(self.firsts[beyond])
        counts = self.firsts[first + 1 : beyond + 1] - self.firsts[first:beyond]
        found = np.zeros(high - low, dtype=MANY_RUNS)
        for name in RUNS.names or ():
            found[name] = self.runs[name][low:high]
        found["space"] = np.repeat(np.arange(beyond - first, dtype=np.int64), counts)
        return found[np.argsort(self.ages[low:high], kind="stable")]


def file_runs(
    contents: Contents, branch: Branch, spaces: Sequence[bytes], after: tuple[int, int] = (0, 0)
) -> FileRuns:
    """The runs of these spaces, by their numbers in the list; each space at most once in it.

    `after`: only what segments after this one (epoch, seq) say.
    """
    placed = contents.all_runs()
    known = np.array([contents.space_number(space) for space in spaces], dtype=np.int64)
    wanted = np.full(int(max(placed["space"].max(initial=-1), known.max(initial=-1))) + 2, -1, dtype=np.int64)
    wanted[known] = np.arange(len(spaces), dtype=np.int64)
    wanted[-1] = -1  # where a space that has no runs was noted
    is_newer = (placed["epoch"] > after[0]) | ((placed["epoch"] == after[0]) & (placed["seq"] > after[1]))
    counting = (wanted[placed["space"]] >= 0) & _on_branch(placed, branch) & is_newer
    placed = placed[counting]
    placed["space"] = wanted[placed["space"]]
    placed = placed[~_removed(contents, branch, placed, spaces)]
    # As in `image.runs_of`: covers of a cut below its extents, and of one place what was read later first.
    is_extent = placed["object"] != COVER
    order = np.lexsort((placed["object"], placed["seq"], is_extent, placed["cut"], placed["epoch"]))[::-1]
    ages = np.empty(len(placed), dtype=np.int64)
    ages[order] = np.arange(len(placed), dtype=np.int64)
    by_space = np.lexsort((ages, placed["space"]))
    placed, ages = placed[by_space], ages[by_space]
    runs = np.zeros(len(placed), dtype=RUNS)
    for name in RUNS.names or ():
        runs[name] = placed[name]
    firsts = np.searchsorted(placed["space"], np.arange(len(spaces) + 1))
    before = np.concatenate((np.array([0], dtype=np.int64), np.cumsum(runs["count"])))
    return FileRuns(runs, ages, firsts, before[firsts[1:]] - before[firsts[:-1]])


def _on_branch(placed: Table, branch: Branch) -> Flags:
    counting: Flags = np.zeros(len(placed), dtype=np.bool_)
    for epoch, last in branch.items():
        counting |= (placed["epoch"] == epoch) & (placed["seq"] <= last)
    return counting


def _removed(contents: Contents, branch: Branch, placed: Table, spaces: Sequence[bytes]) -> Flags:
    """Which runs a `space-` of their own or of a newer cut covers."""
    numbers = {space: number for number, space in enumerate(spaces)}
    gone: dict[int, Place] = {}
    for record in contents.space_records:
        number = numbers.get(record.space, -1) if record.name == "space-" else -1
        if number >= 0 and on_branch(record.place, branch):
            gone[number] = max(record.place, gone.get(number, record.place))
    epochs = np.zeros(len(spaces) + 1, dtype=np.int64)
    cuts = np.zeros(len(spaces) + 1, dtype=np.int64)
    for number, place in gone.items():
        epochs[number], cuts[number] = place.epoch, place.cut
    epoch, cut = epochs[placed["space"]], cuts[placed["space"]]
    removed: Flags = (placed["epoch"] < epoch) | ((placed["epoch"] == epoch) & (placed["cut"] <= cut))
    return removed
