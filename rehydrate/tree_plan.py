"""What restoring the files of trees takes: how their content is fetched. PURE, numpy.

Files are planned together, thousands at once: every frame is fetched once in a window, whatever files it
belongs to. Reading and writing do not belong here (tree_restore, tree_target).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from cdp_container.domain.file_runs import FileRuns
from cdp_container.extents.intervals import Ints
from cdp_container.extents.many import (
    PLACED_PIECES,
    TOGETHER_BYTES_MAX,
    TOGETHER_EXTENTS_MAX,
    resolve_many,
)
from cdp_container.extents.resolve import resolve, windows
from cdp_container.extents.tables import PIECES, Table
from cdp_container.format.head import Head
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import SPACE_BYTES_MAX
from rehydrate.plan import GAP_SHARE, Totals, fetches_of

FILES_TOGETHER_MAX: Final = 1 << 16
"""Files of one window: what is known of each takes about 600 bytes of memory."""


@dataclass(frozen=True, slots=True)
class FileWindow:
    """Some neighbouring files, or a part of a large one.

    Attributes:
        first: the number of its first file.
        beyond: the number after its last.
        pieces: of type PLACED_PIECES, data alone, sorted by (object, frame, position); `space` is the number
            of the file, counted from `first`.
        fetches: of type FETCHES; name stretches of the pieces.
        start: of a large file, the first byte that it is about; else 0.
        end: of a large file, the byte after its last one; else beyond all.
        is_last: whether its files are complete with it.
    """

    first: int
    beyond: int
    pieces: Table
    fetches: Table
    start: int = 0
    end: int = SPACE_BYTES_MAX
    is_last: bool = True

    @property
    def totals(self) -> Totals:
        """What it takes."""
        fetch_bytes, write_bytes = int(self.fetches["length"].sum()), int(self.pieces["length"].sum())
        return Totals(gets=len(self.fetches), fetch_bytes=fetch_bytes, write_bytes=write_bytes)


def file_windows(
    extents: Table, runs: FileRuns, sizes: Ints, wanted: Table, objects: Sequence[Head]
) -> Iterator[FileWindow]:
    """The windows of many files, in their order.

    Args:
        extents: of type EXTENTS.
        runs: of the files' spaces, by their numbers.
        sizes: of the files, in bytes.
        wanted: of each file, whether its content is to be fetched.
        objects: heads by the numbers that runs name.
    """
    for first, beyond in together(runs, sizes):
        if not wanted[first:beyond].any():
            continue
        if is_large(runs, sizes, first):
            yield from _large(extents, runs, first, int(sizes[first]), objects)
            continue
        pieces = resolve_many(extents, runs.together(first, beyond), sizes[first:beyond])
        pieces = pieces[wanted[first:beyond][pieces["space"]]]
        yield window_of(FileWindow(first, beyond, pieces, pieces), pieces, objects)


def is_large(runs: FileRuns, sizes: Ints, number: int) -> bool:
    """Whether a file is resolved by itself, window by window."""
    return int(runs.extents[number]) > TOGETHER_EXTENTS_MAX or int(sizes[number]) > TOGETHER_BYTES_MAX


def together(runs: FileRuns, sizes: Ints) -> Iterator[tuple[int, int]]:
    """Stretches of files that are resolved at once; a large one is a stretch of its own."""
    extents_before = np.concatenate((np.array([0]), np.cumsum(runs.extents)))
    first = 0
    while first < len(sizes):
        upto = int(
            np.searchsorted(extents_before, extents_before[first] + TOGETHER_EXTENTS_MAX, side="right")
        )
        beyond = min(max(upto - 1, first + 1), first + FILES_TOGETHER_MAX, len(sizes))
        bytes_before = np.cumsum(sizes[first:beyond].astype(np.float64))
        beyond = first + max(1, int(np.searchsorted(bytes_before, float(TOGETHER_BYTES_MAX))))
        yield first, min(beyond, len(sizes))
        first = beyond


def _large(
    extents: Table, runs: FileRuns, number: int, size_bytes: int, objects: Sequence[Head]
) -> Iterator[FileWindow]:
    """One file window by window, as a volume is."""
    mine = runs.of(number)
    for start, end in windows(extents, mine, size_bytes):
        found = resolve(extents, mine, start, end)
        pieces = np.zeros(len(found), dtype=PLACED_PIECES)
        for name in PIECES.names or ():
            pieces[name] = found[name]
        window = FileWindow(number, number + 1, pieces, pieces, start, end, is_last=end == size_bytes)
        yield window_of(window, pieces, objects)


def window_of(window: FileWindow, pieces: Table, objects: Sequence[Head]) -> FileWindow:
    """The same window with these pieces, in any order, and the requests for what is data of them."""
    data = pieces[pieces["kind"] == ExtentKind.DATA]
    data = data[np.lexsort((data["position"], data["frame"], data["object"]))]
    return replace(window, pieces=data, fetches=fetches_of(data, objects, GAP_SHARE))
