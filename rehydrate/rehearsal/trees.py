"""File trees on their way through a rehearsal: names, content, and both compared again.

Each goes into a directory of its own below the one that is given, whatever it is called. How a tree is
restored stands in rehydrate.tree_restore.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from cdp_container.clock import Clock
from cdp_container.domain.blocks import UNKNOWN, WINDOW_BYTES, blocks_of
from cdp_container.domain.file_runs import FileRuns
from cdp_container.domain.image import Branch
from cdp_container.domain.namespace import Entry, Tree
from cdp_container.errors import AccessDenied, counted
from cdp_container.extents.intervals import common, intervals
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.names import NameType, shown
from rehydrate.delta import differing, in_blocks, without
from rehydrate.file_names import TREE_SUFFIX, file_names
from rehydrate.localio import os_errors
from rehydrate.plan import Totals
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Restored, Sampling, Verdict
from rehydrate.rehearsal.tally import Tally
from rehydrate.restore import Report, Source
from rehydrate.tree_restore import Filling, TreePlan, fill, finish, lay_out, plan_content, plan_tree
from rehydrate.tree_target import KEPT, Laid, TreeTarget, Ways, open_tree_target

_TYPES: Final = {
    NameType.FILE: stat.S_ISREG,
    NameType.DIRECTORY: stat.S_ISDIR,
    NameType.SYMLINK: stat.S_ISLNK,
    NameType.FIFO: stat.S_ISFIFO,
    NameType.CHAR: stat.S_ISCHR,
    NameType.BLOCK: stat.S_ISBLK,
    NameType.SOCKET: stat.S_ISSOCK,
}


@dataclass(slots=True)
class _Under:
    """One tree under way; what is None was not reached."""

    plan: TreePlan
    path: Path
    target: TreeTarget | None = None
    laid: Laid | None = None
    filling: Filling | None = None
    skipped: set[bytes] = field(default_factory=set)


class TreesPart:
    """See `parts.Part`; to be used as a context, which closes what is open.

    Args:
        source: the container, gathered with names and sums.
        branch: what the cut is made of.
        trees: whole at it.
        directory: where they go.
        clock: of this machine.
    """

    def __init__(
        self, source: Source, branch: Branch, trees: Sequence[Tree], directory: Path, clock: Clock
    ) -> None:
        self._source = source
        self._clock = clock
        self._stack = ExitStack()
        self._sampling = Sampling(0.0)
        files = file_names([(tree.name, tree.tree) for tree in trees], TREE_SUFFIX)
        try:
            self._under = [
                _Under(self._stack.enter_context(plan_tree(source.contents, branch, tree)), directory / file)
                for tree, file in zip(trees, files, strict=True)
            ]
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def sources(self) -> list[Restored]:
        """See `Part.sources`; how large a tree is is known once its names are made."""
        return [
            Restored("tree", one.plan.tree.name, sum(one.laid.sizes) if one.laid else 0, one.path)
            for one in self._under
        ]

    @property
    def names(self) -> int:
        """See `Part.names`; a tree's own directory is one of them."""
        return sum(one.plan.names for one in self._under)

    def totals(self, sampling: Sampling) -> Totals:
        """See `Part.totals`; of a sample, files are drawn."""
        for number, one in enumerate(self._under):
            laid = one.laid
            assert laid is not None, "names come first"
            if not sampling.is_all:
                rng = np.random.default_rng((sampling.seed, number))
                for at in np.flatnonzero(rng.random(len(laid.states)) >= sampling.share).tolist():
                    laid.states[at] = KEPT
                    one.skipped.add(laid.spaces[at])
            one.filling = plan_content(self._source, one.plan, laid)
        return sum((one.filling.totals for one in self._under if one.filling is not None), Totals())

    def make_names(self, told: Callable[[int], None]) -> None:
        """See `Part.make_names`. Raises as `tree_restore.lay_out`."""
        for one in self._under:
            one.target = self._stack.enter_context(open_tree_target(one.path, Ways()))
            told(1)
            one.laid = lay_out(one.plan, one.target, told)

    def fetch(self, sampling: Sampling, report: Report) -> None:
        """See `Part.fetch`; `totals` of the same sampling was asked for before."""
        self._sampling = sampling
        for one in self._under:
            assert one.target is not None, "names come first"
            assert one.laid is not None, "names come first"
            assert one.filling is not None, "totals come first"
            if sampling.share:
                fill(self._source, one.plan, one.target, one.laid, one.filling, report)
            finish(one.plan, one.target)

    def compared(self, told: Callable[[int], None]) -> Iterator[Verdict]:
        """See `Part.compared`: what names are there, what could not be set, and all content."""
        for one in self._under:
            yield self._names(one)
            yield from self._attributes(one)
            yield self._content(one, told)

    # --- one tree --------------------------------------------------------------------------------

    def _names(self, one: _Under) -> Verdict:
        began_ns, wrong, first = self._clock.boottime_ns(), 0, ""
        for entry in one.plan.entries():
            if not _is_there(os.fsencode(one.path), entry):
                wrong += 1
                first = first or shown(entry.path)
        seconds = (self._clock.boottime_ns() - began_ns) / 1e9
        name = one.plan.tree.name
        if wrong:
            why = f"{counted(wrong, 'name')} missing, of another type or size, the first: {first}"
            return Verdict("names", name, FAILED, why, seconds)
        why = f"{counted(one.plan.names, 'name')} there, each of its type and size"
        return Verdict("names", name, PASSED, why, seconds)

    def _attributes(self, one: _Under) -> Iterator[Verdict]:
        assert one.target is not None, "restored"
        not_set = one.target.not_set
        if not_set:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(not_set.counts.items()))
            why = f"what could not be set here: {kinds}"
            yield Verdict("attributes", one.plan.tree.name, NOT_CHECKED, why)

    def _content(self, one: _Under, told: Callable[[int], None]) -> Verdict:
        began_ns, tally = self._clock.boottime_ns(), Tally()
        assert one.filling is not None, "restored"
        assert one.laid is not None, "restored"
        assert one.target is not None, "restored"
        if self._sampling.share:
            for number, entry in enumerate(one.plan.files()):
                if one.laid.states[number] == KEPT:
                    continue
                if not _is_there(os.fsencode(one.path), entry):
                    tally.differs(0, entry.what.size_bytes, shown(entry.path))
                    continue
                try:
                    with os_errors(f"read {one.path}"), one.target.file(entry, os.O_RDONLY) as fd:
                        self._file(fd, entry, one.filling.runs, number, tally, told)
                except AccessDenied:  # its mode keeps even its owner out, who is not root
                    tally.unknown_bytes += entry.what.size_bytes
        seconds = (self._clock.boottime_ns() - began_ns) / 1e9
        return tally.verdict(one.plan.tree.name, seconds)

    def _file(
        self, fd: int, entry: Entry, runs: FileRuns, number: int, tally: Tally, told: Callable[[int], None]
    ) -> None:
        size_bytes = entry.what.size_bytes
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for start in range(0, size_bytes, WINDOW_BYTES):
            end = -(-min(start + WINDOW_BYTES, size_bytes) // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
            blocks = blocks_of(self._source.contents, runs.of(number), start, end)
            starts = (np.flatnonzero(blocks.kinds == UNKNOWN) + blocks.first) * SUM_BLOCK_BYTES
            unknown = in_blocks(starts, starts + SUM_BLOCK_BYTES, size_bytes)
            mine = intervals([(start, min(end, size_bytes))])
            wanted = without(mine, common(unknown, mine)[1])
            tally.unknown_bytes += unknown.total_bytes
            for wrong in differing(lambda at, length: os.pread(fd, length, at), wanted, blocks):
                tally.differs(*wrong, shown(entry.path))
            tally.read_bytes += wanted.total_bytes
            told(wanted.total_bytes)


def _is_there(root: bytes, entry: Entry) -> bool:
    """Whether a name is what it should be; links are not followed: the tree is ours, and nobody else's."""
    name = entry.what
    try:
        status = os.lstat(os.path.join(root, entry.path) if entry.name else root)
    except OSError:
        return False
    if not _TYPES[name.type](status.st_mode):
        return False
    return name.type is not NameType.FILE or status.st_size == name.size_bytes
