"""One pass of a failback: candidates of every disk compared with a cut, and what differs fetched and written.

Nothing is synced or noted here, and nothing is known of journals and owners (failback, diverged). A pass may
be interrupted anywhere: the same candidates, or more, make the disks the cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np

from cdp_container.domain.blocks import WINDOW_BYTES, blocks_of
from cdp_container.domain.contents import Contents
from cdp_container.domain.history import History
from cdp_container.domain.image import Volume, cuts_of, runs_of, volumes_of
from cdp_container.extents.intervals import Intervals, common, intervals
from cdp_container.extents.resolve import resolve
from cdp_container.extents.tables import Table
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.place import Place
from rehydrate.delta import NONE, changed_since, differing, union
from rehydrate.inplace import Disk
from rehydrate.plan import part_of, plan_pieces
from rehydrate.points import Chosen
from rehydrate.restore import Source, write_window

PIECES_MAX: Final = 1 << 20
"""Pieces that are fetched together: about 100 MiB of memory. The more, the fewer frames are fetched twice."""

OnProgress = Callable[[], None]
"""Called now and then, before and after bytes are written."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was done: bytes `compared` with checksums, of those `changed`, and for them `fetched`; GETs."""

    compared_bytes: int = 0
    changed_bytes: int = 0
    fetched_bytes: int = 0
    gets: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.compared_bytes + other.compared_bytes,
            self.changed_bytes + other.changed_bytes,
            self.fetched_bytes + other.fetched_bytes,
            self.gets + other.gets,
        )

    @property
    def ratio(self) -> float | None:
        """Bytes fetched over bytes changed; None where nothing was."""
        return self.fetched_bytes / self.changed_bytes if self.changed_bytes else None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a disk: it was the cut `since` (NOWHERE: unknown), but for these `own` blocks."""

    since: Place
    own: Intervals = NONE


class Sizes:
    """The volumes at a cut, by their space: how large each was, if it was whole."""

    def __init__(self, history: History, contents: Contents, chosen: Chosen) -> None:
        self._history = history
        self._contents = contents
        self._branch = chosen.branch
        self._found: dict[Place, Mapping[bytes, int]] = {}

    def at(self, place: Place, space: bytes) -> int | None:
        """Its size in bytes at a cut of the branch; None where it was not there, or not whole."""
        if place not in self._found:
            self._found[place] = self._read(place)
        return self._found[place].get(space)

    def _read(self, place: Place) -> Mapping[bytes, int]:
        cut = next((cut for cut in cuts_of(self._contents, self._branch) if cut.place == place), None)
        if cut is None:
            return {}
        volumes = volumes_of(self._contents, self._history.branch_of(place), cut)
        return {volume.space: volume.size_bytes for volume in volumes if volume.whole}


def candidates(
    contents: Contents, chosen: Chosen, sizes: Sizes, volume: Volume, known: Known
) -> Intervals | None:
    """Where a disk may differ from the chosen cut, in whole blocks; None where nothing is known."""
    size_bytes = volume.size_bytes
    size_then = sizes.at(known.since, volume.space) if known.since else None
    if size_then is None:
        return None
    changed = changed_since(contents, chosen.branch, volume.space, known.since, size_bytes)
    if changed is None:
        return None
    # What a disk has beyond its size of then is in no record: it may have grown to hold anything.
    grown = intervals([(size_then, size_bytes)] if size_then < size_bytes else [])
    return union([changed, known.own, grown], size_bytes)


def bring(
    source: Source,
    chosen: Chosen,
    wanted: Mapping[bytes, Intervals],
    disks: Mapping[bytes, Disk],
    on_progress: OnProgress,
) -> Figures:
    """Make the disks the chosen cut, given all blocks in which they may differ from it.

    Args:
        source: the container, gathered with sums.
        chosen: the cut.
        wanted: by space, the candidates.
        disks: by space, each with the size of its volume.
        on_progress: see `OnProgress`.

    Raises:
        DamagedObject, MissingObject, KeyMissing: a frame cannot be had.
        LocalDiskFull, DeviceError: of a disk.
    """
    fetching = _Fetching(source, [disks[volume.space] for volume in chosen.volumes], on_progress)
    for number, volume in enumerate(chosen.volumes):
        runs = runs_of(source.contents, chosen.branch, volume.space)
        for start in range(0, volume.size_bytes, WINDOW_BYTES):
            mine = common(wanted[volume.space], intervals([(start, start + WINDOW_BYTES)]))[1]
            if len(mine):
                on_progress()
                _compare(fetching, number, runs, mine)
    fetching.flush()
    return fetching.figures


def _compare(fetching: _Fetching, number: int, runs: Table, mine: Intervals) -> None:
    contents, disk = fetching.source.contents, fetching.disks[number]
    # No wider than it has to be: every run that touches it is looked at.
    end = -(-int(mine.ends[-1]) // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
    blocks = blocks_of(contents, runs, int(mine.starts[0]), end)
    found = intervals(list(differing(disk.read, mine, blocks)))
    fetching.figures += Figures(compared_bytes=mine.total_bytes, changed_bytes=found.total_bytes)
    if len(found):
        low, high = int(found.starts[0]), int(found.ends[-1])
        fetching.add(number, *part_of(resolve(contents.extents(), runs, low, high), found))


class _Fetching:
    """What is to be fetched for all disks together: a frame may hold pieces of several, and is fetched once.

    The disks stand one behind the other in one space of addresses, so that one plan serves them all.
    """

    def __init__(self, source: Source, disks: Sequence[Disk], on_progress: OnProgress) -> None:
        self.source = source
        self.disks = disks
        self.figures = Figures()
        self._bases = list(accumulate((disk.size_bytes for disk in disks), initial=0))
        self._on_progress = on_progress
        self._pieces: list[Table] = []
        self._count = 0

    def add(self, number: int, data: Table, zeros: Intervals) -> None:
        """Pieces of a disk: what is zeros is written at once, what is data when there is enough."""
        for start, end in zip(zeros.starts.tolist(), zeros.ends.tolist(), strict=True):
            self._on_progress()
            self.disks[number].zero(start, end - start)
        data["offset"] += self._bases[number]
        self._pieces.append(data)
        self._count += len(data)
        if self._count >= PIECES_MAX:
            self.flush()

    def flush(self) -> None:
        """Fetch and write what was added."""
        if self._count:
            window = plan_pieces(np.concatenate(self._pieces), self.source.contents.objects)
            self._on_progress()
            done = write_window(self.source, window, self, lambda _: self._on_progress())
            self.figures += Figures(fetched_bytes=done.fetch_bytes, gets=done.gets)
        self._pieces, self._count = [], 0

    def write(self, offset: int, data: memoryview) -> None:
        """See `Writable`."""
        number = bisect_right(self._bases, offset) - 1
        self.disks[number].write(offset - self._bases[number], data)

    def zero(self, offset: int, length: int) -> None:
        """See `Writable`: zeros were written before."""
        raise AssertionError((offset, length))
