"""Restoring a tree: its names first, then the content of its files, then what closes directories.

    with plan_tree(source, branch, tree, selection) as plan, open_tree_target(path, ways) as target:
        laid = lay_out(plan, target, told)
        totals = content_totals(source, plan, laid)
        fill(source, plan, target, laid, report)
        finish(plan, target, told)

Choosing the cut does not belong here (points), nor telling people (cli).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final

import numpy as np

from cdp_container.domain.contents import Contents
from cdp_container.domain.file_runs import FileRuns, file_runs
from cdp_container.domain.image import Branch
from cdp_container.domain.namespace import Entry, Namespace, Tree
from cdp_container.errors import DamagedObject, MissingObject, NotFound
from cdp_container.extents.many import PLACED_PIECES
from cdp_container.extents.tables import Table
from cdp_container.format.frames import FrameReader
from cdp_container.format.names import NameType
from rehydrate.file_target import check_room
from rehydrate.localio import os_errors, write_all
from rehydrate.plan import Totals, part_of
from rehydrate.restore import Report, Source
from rehydrate.tree_compare import READ_BYTES, different
from rehydrate.tree_plan import FileWindow, file_windows, window_of
from rehydrate.tree_select import Selection
from rehydrate.tree_target import COMPARED, KEPT, Laid, Told, TreeTarget, Twins

_FRAME_OF: Final = itemgetter((PLACED_PIECES.names or ()).index("frame"))
_SPACE_OF: Final = itemgetter((PLACED_PIECES.names or ()).index("space"))
"""Columns of a piece as a tuple."""


@dataclass(frozen=True, slots=True)
class TreePlan:
    """A tree at a cut, its names checked whole. `names`: how many will be there; `twins`: its hard links."""

    tree: Tree
    branch: Branch
    namespace: Namespace
    selection: Selection
    names: int
    twins: Twins

    def entries(self) -> Iterator[Entry]:
        """The names that are wanted, parents first."""
        return self.selection.take(self.namespace.walk(self.tree))

    def files(self) -> Iterator[Entry]:
        """Those that have content, each content once: as `Laid` numbers them."""
        seen: set[bytes] = set()
        for entry in self.entries():
            name = entry.what
            if name.type is not NameType.FILE or not name.size_bytes or name.space is None:
                continue
            if name.space in self.twins:
                if name.space in seen:
                    continue
                seen.add(name.space)
            yield entry


@contextmanager
def plan_tree(
    contents: Contents, branch: Branch, tree: Tree, selection: Selection | None = None
) -> Iterator[TreePlan]:
    """The names of a tree at a cut, checked whole before anything is written.

    Args:
        contents: gathered with names.
        branch: what the cut is made of.
        tree: whole at the cut.
        selection: which names; None: all.

    Raises:
        DamagedObject: see `Namespace`.
        LocalDiskFull, DeviceError: the temporary directory fails.
    """
    chosen = Selection() if selection is None else selection
    with closing(Namespace(contents, branch, [tree])) as namespace:
        names = sum(namespace.counts(tree).values()) if chosen.is_all else chosen.learn(namespace.walk(tree))
        yield TreePlan(tree, branch, namespace, chosen, names, namespace.twins(tree))


def lay_out(plan: TreePlan, target: TreeTarget, told: Told = lambda names: None) -> Laid:
    """The second stage: the tree can be browsed then. See `TreeTarget.lay_out` for what it raises."""

    def stays(path: bytes) -> bool:
        return not plan.selection.fits(path) or plan.namespace.find(plan.tree, path) is not None

    return target.lay_out(plan.entries(), plan.twins, stays, told)


@dataclass(frozen=True, slots=True)
class Filling:
    """What the third stage takes: the files' runs, and the totals (at most, where files are compared)."""

    runs: FileRuns
    sizes: np.ndarray[tuple[int], np.dtype[np.int64]]
    totals: Totals


def plan_content(source: Source, plan: TreePlan, laid: Laid) -> Filling:
    """What is to be fetched for what was laid out."""
    runs = file_runs(source.contents, plan.branch, laid.spaces)
    sizes = np.array(laid.sizes, dtype=np.int64)
    extents, objects = source.contents.extents(), source.contents.objects
    totals = Totals()
    for window in file_windows(extents, runs, sizes, laid.wanted, objects):
        totals += window.totals
    return Filling(runs, sizes, totals)


def check_fits(target: TreeTarget, laid: Laid, filling: Filling) -> None:
    """Raises LocalDiskFull where there is no room for what will be written.

    What files that are there lack is not known before they are compared; of them nothing is asked.
    """
    if COMPARED not in laid.states:
        check_room(target.path, filling.totals.write_bytes, f"restore into {target.path}")


def fill(
    source: Source, plan: TreePlan, target: TreeTarget, laid: Laid, filling: Filling, report: Report
) -> Totals:
    """The third stage: fetch the content of files and write it; each is complete once all of it is there.

    Raises:
        DamagedObject, MissingObject: a frame is not what was written, or gone.
        LocalDiskFull, DeviceError: as the file system says.
        KeyMissing: frames are sealed and we hold no private key.
    """
    extents, objects = source.contents.extents(), source.contents.objects
    done = Totals()
    files = plan.files()
    at = 0
    entries: list[Entry] = []
    for window in file_windows(extents, filling.runs, filling.sizes, laid.wanted, objects):
        if window.first != at - len(entries) or not entries:
            for _ in islice(files, window.first - at):
                pass
            entries = list(islice(files, window.beyond - window.first))
            at = window.beyond
        states = laid.states[window.first : window.beyond]
        done += _Filler(source, target, filling.runs, window, entries, states).run(report)
    return done


def finish(plan: TreePlan, target: TreeTarget, told: Told = lambda names: None) -> None:
    """Directories get theirs, and everything is made durable. Raises as the file system says."""
    above = plan.selection.take(plan.namespace.directories(plan.tree))
    target.settle(above, told)
    with os_errors(f"restore into {target.path}"):
        _sync(target.directories.root)


def _sync(fd: int) -> None:
    """Make everything durable that stands in the file system of a descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _Filler:
    """The files of one window."""

    def __init__(
        self,
        source: Source,
        target: TreeTarget,
        runs: FileRuns,
        window: FileWindow,
        entries: list[Entry],
        states: bytearray,
    ) -> None:
        self._source = source
        self._target = target
        self._entries = entries
        self._lock = threading.Lock()
        self._window = self._changed(runs, window, states)
        pieces = self._window.pieces["space"]
        self._left = np.bincount(pieces, minlength=len(entries)).tolist()
        self._states = states

    def run(self, report: Report) -> Totals:
        """Fetch and write it all."""
        done = Totals()
        with os_errors(f"restore into {self._target.path}"):
            if self._window.is_last:
                for number, left in enumerate(self._left):
                    if not left and self._states[number] != KEPT:
                        with self._target.file(self._entries[number]) as fd:
                            self._target.complete(self._entries[number], fd)
            results = self._source.flow.run(
                self._fetch, self._window.fetches, lambda fetch: int(fetch["length"])
            )
            for fetched in results:
                report(fetched)
                done += fetched
        return done

    def _changed(self, runs: FileRuns, window: FileWindow, states: bytearray) -> FileWindow:
        """The window without what files that are there have already; they get their length here."""
        numbers = [number for number, state in enumerate(states) if state == COMPARED]
        if not numbers:
            return window
        kept = [window.pieces[~np.isin(window.pieces["space"], numbers)]]
        with os_errors(f"restore into {self._target.path}"):
            for number in numbers:
                mine = window.pieces[window.pieces["space"] == number]
                kept.append(self._changed_of(window, runs.of(window.first + number), number, mine))
        return window_of(window, np.concatenate(kept), self._source.contents.objects)

    def _changed_of(self, window: FileWindow, runs: Table, number: int, pieces: Table) -> Table:
        """Of a file's pieces what differs; what must become zeros becomes it here."""
        entry = self._entries[number]
        size_bytes = entry.what.size_bytes
        with self._target.file(entry, os.O_RDWR) as fd:
            if not self._source.contents.keeps_sums:
                os.ftruncate(fd, window.start)
            os.ftruncate(fd, size_bytes)
            if not self._source.contents.keeps_sums:
                return pieces
            end = min(window.end, size_bytes)
            wanted = different(self._source.contents, runs, fd, window.start, end)
            if not len(wanted):
                return pieces[:0]
            data, zeros = part_of(pieces[np.argsort(pieces["offset"])], wanted)
            for low, high in zip(zeros.starts.tolist(), zeros.ends.tolist(), strict=True):
                _write_zeros(fd, low, high)
            return data

    def _fetch(self, fetch: Table) -> Totals:
        """One request: its frames verified, its pieces written, and files completed that lacked no more."""
        source = self._source
        head = source.contents.objects[int(fetch["object"])]
        start, length = int(fetch["start"]), int(fetch["length"])
        mine = self._window.pieces[int(fetch["first_piece"]) : int(fetch["beyond_piece"])]
        reader = FrameReader(head, source.keys)
        try:
            data = memoryview(source.store.get_range(head.key, start, length))
        except NotFound as error:
            raise MissingObject(head.key, "it was there when the plan was made, and is gone") from error
        if len(data) != length:
            raise DamagedObject(head.key, f"it ends {length - len(data)} bytes before its frames do")
        for frame, of_frame in groupby(mine.tolist(), key=_FRAME_OF):
            low, high = head.frame_range(frame)
            raw = memoryview(reader.open(frame, data[low - start : high - start]))
            for number, of_file in groupby(of_frame, key=_SPACE_OF):
                self._write(number, list(of_file), raw)
        return Totals(gets=1, fetch_bytes=length, write_bytes=int(mine["length"].sum()))

    def _write(self, number: int, pieces: list[tuple[Any, ...]], raw: memoryview) -> None:
        entry = self._entries[number]
        with self._target.file(entry) as fd:
            for _, offset, length, _, _, position, _ in pieces:
                write_all(fd, offset, raw[position : position + length])
            with self._lock:
                self._left[number] -= len(pieces)
                is_complete = not self._left[number]
            if is_complete and self._window.is_last:
                self._target.complete(entry, fd)


def _write_zeros(fd: int, start: int, end: int) -> None:
    zeros = memoryview(bytes(min(end - start, READ_BYTES)))
    while start < end:
        length = min(end - start, len(zeros))
        write_all(fd, start, zeros[:length])
        start += length
