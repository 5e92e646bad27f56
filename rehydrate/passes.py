"""One pass of a failback: candidates of every disk compared with a cut, and what differs fetched and written.

Nothing is synced or noted here, and nothing is known of journals and owners (failback, diverged). A pass may
be interrupted anywhere: the same candidates, or more, make the disks the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cdp_container.domain.blocks import WINDOW_BYTES, blocks_of
from cdp_container.domain.contents import Contents
from cdp_container.domain.history import History
from cdp_container.domain.image import Volume, cuts_of, runs_of, volumes_of
from cdp_container.extents.intervals import Intervals, common, intervals
from cdp_container.extents.resolve import resolve
from cdp_container.extents.tables import Table
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.place import Place
from rehydrate.delta import NONE, changed_since, differing, everything, union
from rehydrate.inplace import Disk
from rehydrate.plan import Totals, plan_part
from rehydrate.points import Chosen
from rehydrate.restore import Source, write_window

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


def candidates(contents: Contents, chosen: Chosen, sizes: Sizes, volume: Volume, known: Known) -> Intervals:
    """Where a disk may differ from the chosen cut, in whole blocks; all of it where nothing is known."""
    size_bytes = volume.size_bytes
    size_then = sizes.at(known.since, volume.space) if known.since else None
    if size_then is None:
        return everything(size_bytes)
    changed = changed_since(contents, chosen.branch, volume.space, known.since, size_bytes)
    if changed is None:
        return everything(size_bytes)
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
    done = Figures()
    for volume in chosen.volumes:
        done += _bring_volume(source, chosen, volume, wanted[volume.space], disks[volume.space], on_progress)
    return done


def _bring_volume(
    source: Source, chosen: Chosen, volume: Volume, wanted: Intervals, disk: Disk, on_progress: OnProgress
) -> Figures:
    assert disk.size_bytes == volume.size_bytes, "resized before"
    runs = runs_of(source.contents, chosen.branch, volume.space)
    done = Figures()
    for start in range(0, volume.size_bytes, WINDOW_BYTES):
        end = min(start + WINDOW_BYTES, -(-volume.size_bytes // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES)
        mine = common(wanted, intervals([(start, end)]))[1]
        if not len(mine):
            continue
        on_progress()
        found = list(differing(disk.read, mine, blocks_of(source.contents, runs, start, end)))
        done += Figures(compared_bytes=mine.total_bytes)
        if found:
            done += _write(source, runs, intervals(found), disk, on_progress)
    return done


def _write(source: Source, runs: Table, different: Intervals, disk: Disk, on_progress: OnProgress) -> Figures:
    low, high = int(different.starts[0]), int(different.ends[-1])
    pieces = resolve(source.contents.extents(), runs, low, high)
    window = plan_part(pieces, different, source.contents.objects)

    def report(_: Totals) -> None:
        on_progress()

    on_progress()
    totals = write_window(source, window, disk, report)
    return Figures(changed_bytes=different.total_bytes, fetched_bytes=totals.fetch_bytes, gets=totals.gets)
