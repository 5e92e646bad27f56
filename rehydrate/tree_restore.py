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
from cdp_container.errors import DamagedObject, MissingObject, counted
from cdp_container.extents.many import PLACED_PIECES
from cdp_container.extents.tables import Table
from cdp_container.format.frames import FrameReader
from cdp_container.format.names import NameType, shown
from rehydrate.file_target import check_room
from rehydrate.localio import os_errors, write_all
from rehydrate.plan import Totals, part_of
from rehydrate.restore import Report, Source, fetched, opened
from rehydrate.resume import Lost
from rehydrate.tree_compare import READ_BYTES, different
from rehydrate.tree_damage import Losses
from rehydrate.tree_plan import FileWindow, file_windows, window_of
from rehydrate.tree_select import Selection
from rehydrate.tree_target import COMPARED, KEPT, NEW, Laid, Told, TreeTarget, Twins
from rehydrate.turns import Turns

_FRAME_OF: Final = itemgetter((PLACED_PIECES.names or ()).index("frame"))
_SPACE_OF: Final = itemgetter((PLACED_PIECES.names or ()).index("space"))
"""Columns of a piece as a tuple."""
NAMED_MAX: Final = 5
"""Files that an error names whose content is damaged."""


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
    contents: Contents, branch: Branch, tree: Tree, selection: Selection | None = None, mends: bool = False
) -> Iterator[TreePlan]:
    """The names of a tree at a cut, checked whole before anything is written.

    Args:
        contents: gathered with names.
        branch: what the cut is made of.
        tree: whole at the cut.
        selection: which names; None: all.
        mends: segments of the branch cannot be read, see `Namespace`.

    Raises:
        DamagedObject: see `Namespace`.
        LocalDiskFull, DeviceError: the temporary directory fails.
    """
    chosen = Selection() if selection is None else selection
    with closing(Namespace(contents, branch, [tree], mends)) as namespace:
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
    source: Source,
    plan: TreePlan,
    target: TreeTarget,
    laid: Laid,
    filling: Filling,
    report: Report,
    losses: Losses | None = None,
) -> Totals:
    """The third stage: fetch the content of files and write it; each is complete once all of it is there.

    Damage ends it, unless there are `losses`: then what is damaged reads as zeros and is noted there.

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
        done += _Filler(source, target, filling.runs, window, entries, states, losses).run(report)
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
        losses: Losses | None,
    ) -> None:
        self._source = source
        self._losses = losses
        self._target = target
        self._entries = entries
        self._lock = threading.Lock()
        self._turns = Turns()
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
                            self._complete(number, fd)
            results = self._source.flow.run(
                self._fetch, self._window.fetches, lambda fetch: int(fetch["length"])
            )
            for got, lost in results:
                report(got)
                done += got
                if self._losses is not None:
                    self._losses.add(lost)
        return done

    def _complete(self, number: int, fd: int) -> None:
        losses = self._losses
        is_sound = losses is None or self._window.first + number not in losses.unsound
        self._target.complete(self._entries[number], fd, is_sound)

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

    def _fetch(self, fetch: Table) -> tuple[Totals, list[tuple[int, Lost]]]:
        """One request: its frames verified, its pieces written, and files completed that lacked no more.

        Gives what was done, and what was lost of which file.
        """
        source = self._source
        head = source.contents.objects[int(fetch["object"])]
        start, length = int(fetch["start"]), int(fetch["length"])
        mine = self._window.pieces[int(fetch["first_piece"]) : int(fetch["beyond_piece"])]
        reader = FrameReader(head, source.keys)
        lost: list[tuple[int, Lost]] = []
        try:
            data = fetched(source.store, head.key, start, length, tolerant=self._losses is not None)
            for frame, of_frame in groupby(mine.tolist(), key=_FRAME_OF):
                try:
                    raw = opened(head, reader, frame, data, start)
                except (DamagedObject, MissingObject) as error:
                    if self._losses is None:
                        raise
                    lost += self._lose(head.key, f"frame {frame}: {error.why}", list(of_frame))
                    continue
                pieces = list(of_frame)
                with self._turns.turn(len(pieces)):
                    for number, of_file in groupby(pieces, key=_SPACE_OF):
                        self._write(number, list(of_file), raw)
        except (DamagedObject, MissingObject) as error:
            raise type(error)(error.what, f"{error.why}; {self._named(mine)}", error.hint) from error
        lost_bytes = sum(part.length for _, part in lost)
        write_bytes = int(mine["length"].sum()) - lost_bytes
        return Totals(gets=1, fetch_bytes=length, write_bytes=write_bytes, lost_bytes=lost_bytes), lost

    def _named(self, pieces: Table) -> str:
        numbers = np.unique(pieces["space"]).tolist()
        named = ", ".join(shown(self._entries[number].path) for number in numbers[:NAMED_MAX])
        more = f" and {counted(len(numbers) - NAMED_MAX, 'more file')}" if len(numbers) > NAMED_MAX else ""
        return f"content of {named}{more} is in what was asked for"

    def _lose(self, key: str, why: str, pieces: list[tuple[Any, ...]]) -> list[tuple[int, Lost]]:
        """Leave a frame's pieces as zeros; gives what was lost of which file."""
        assert self._losses is not None, "tolerant"
        lost = []
        for number, of_file in groupby(pieces, key=_SPACE_OF):
            mine = list(of_file)
            self._losses.unsound.add(self._window.first + number)  # before the file can be complete
            lost += [(self._window.first + number, Lost(piece[1], piece[2], key, why)) for piece in mine]
            self._write(number, mine, None)
        return lost

    def _write(self, number: int, pieces: list[tuple[Any, ...]], raw: memoryview | None) -> None:
        """Write a file's pieces of one frame, zeros where there is none, and complete it with the last."""
        fd = self._target.open_file(self._entries[number])
        try:
            for _, offset, length, _, _, position, _ in pieces:
                if raw is not None:
                    write_all(fd, offset, raw[position : position + length])
                elif self._states[number] != NEW:  # a new one is zeros already
                    _write_zeros(fd, offset, offset + length)
            with self._lock:
                self._left[number] -= len(pieces)
                is_complete = not self._left[number]
            if is_complete and self._window.is_last:
                self._complete(number, fd)
        finally:
            os.close(fd)


def _write_zeros(fd: int, start: int, end: int) -> None:
    zeros = memoryview(bytes(min(end - start, READ_BYTES)))
    while start < end:
        length = min(end - start, len(zeros))
        write_all(fd, start, zeros[:length])
        start += length
