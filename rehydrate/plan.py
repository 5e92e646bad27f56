"""What a restore will do, exactly, before it does anything: which cut, which frames, how many bytes. PURE.

The same `plan_window` serves the totals and the restore itself, so progress counts against exactly the plan.
Reading and writing do not belong here (restore, target).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_container.domain.image import Cut, Volume
from cdp_container.errors import NoSuchPoint, NoSuchVolume
from cdp_container.extents.intervals import Intervals, common, gaps
from cdp_container.extents.resolve import resolve, windows
from cdp_container.extents.tables import Table, frame_rows
from cdp_container.format.head import Head
from cdp_container.format.layout import ExtentKind

GAP_BYTES_MAX: Final = 64 << 10
"""Unneeded bytes between two frames that are fetched along: cheaper than a request of their own."""

GAP_SHARE: Final = 8
"""Of what a window needs, at most one in so many bytes is fetched along in gaps: the narrowest ones first."""

PART_GAP_SHARE: Final = 64
"""The same where only what has changed is fetched: a failback is to fetch little more than that."""

FETCH_BYTES_MAX: Final = 4 << 20
"""One request asks for little more: bounds the memory of what is in flight."""

ASSUMED_BYTES_PER_SECOND: Final = 100_000_000
ASSUMED_GETS_PER_SECOND: Final = 200
"""What an estimate of the time rests on where nothing better is known."""

_NEEDED: Final = np.dtype([("object", "<i8"), ("frame", "<i8"), ("start", "<i8"), ("end", "<i8")])

FETCHES: Final = np.dtype(
    [
        ("object", "<i8"),
        ("first_frame", "<i8"),
        ("beyond_frame", "<i8"),
        ("start", "<i8"),
        ("length", "<i8"),
        ("first_piece", "<i8"),
        ("beyond_piece", "<i8"),
    ]
)
"""One ranged request: `length` bytes from `start` of an object, which hold frames for some of the pieces."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which point an administrator asked for; all None: the newest."""

    at: tuple[int, int] | None = None
    time_ns: int | None = None
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What is to be done, or was done. `lost_bytes` could not be written for damage."""

    gets: int = 0
    fetch_bytes: int = 0
    write_bytes: int = 0
    zero_bytes: int = 0
    lost_bytes: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.gets + other.gets,
            self.fetch_bytes + other.fetch_bytes,
            self.write_bytes + other.write_bytes,
            self.zero_bytes + other.zero_bytes,
            self.lost_bytes + other.lost_bytes,
        )

    @property
    def planned(self) -> Totals:
        """The same as it was planned: nothing lost."""
        return Totals(self.gets, self.fetch_bytes, self.write_bytes + self.lost_bytes, self.zero_bytes)

    def seconds(self, bytes_per_second: int, gets_per_second: int) -> float:
        """How long it takes at these rates: bytes and requests go side by side, the slower decides."""
        return max(self.fetch_bytes / bytes_per_second, self.gets / gets_per_second)


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What restoring one volume takes. `objects` are the numbers of the objects that are read."""

    volume: Volume
    runs: Table
    totals: Totals
    objects: frozenset[int]


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a volume: its fetches, its data pieces in their order, and what reads as zeros.

    `pieces` is of type PIECES, sorted by (object, frame, offset); `fetches` of type FETCHES names stretches
    of it.
    """

    start: int
    end: int
    pieces: Table
    fetches: Table
    zeros: Intervals

    @property
    def totals(self) -> Totals:
        """What this window takes."""
        return Totals(
            gets=len(self.fetches),
            fetch_bytes=int(self.fetches["length"].sum()),
            write_bytes=int(self.pieces["length"].sum()),
            zero_bytes=self.zeros.total_bytes,
        )

    def totals_of(self, fetches: int) -> Totals:
        """What its first so many fetches take."""
        first = self.fetches[:fetches]
        pieces = self.pieces[: int(first["beyond_piece"][-1]) if len(first) else 0]
        return Totals(len(first), int(first["length"].sum()), int(pieces["length"].sum()))


def digest_of(window: Window, objects: Sequence[Head]) -> str:
    """What a window fetches and writes, in order, as hexadecimal SHA-256: the same only for the same plan."""
    digest = hashlib.sha256(f"{window.start} {window.end}".encode())
    for number in np.unique(window.fetches["object"]).tolist():
        digest.update(f" {number} {objects[number].key}".encode())
    digest.update(window.fetches.tobytes())
    digest.update(window.pieces.tobytes())
    return digest.hexdigest()


def choose_cut(
    cuts: Sequence[Cut], choice: Choice, fits: Callable[[Cut], bool], side: Sequence[Cut] = ()
) -> Cut:
    """The cut that was asked for.

    Args:
        cuts: the main line, oldest first.
        choice: what was asked for; a time means the newest cut at or before it, a marker its newest cut.
        fits: whether the wanted volumes exist and are whole at a cut. One named by (epoch, number) is taken
        as it is.
        side: cuts of side branches, which only (epoch, number) reaches.

    Raises:
        NoSuchPoint: there is none; the message names the nearest.
    """
    if choice.at is not None:
        for cut in (*cuts, *side):
            if (cut.place.epoch, cut.place.cut) == choice.at:
                return cut
        raise NoSuchPoint(f"find the point {choice.at[0]}.{choice.at[1]}", "there is no such complete cut")
    wanted = candidates(cuts, choice)
    for cut in reversed(wanted):
        if fits(cut):
            return cut
    raise NoSuchPoint("find a point to restore", _why_none(choice, cuts, wanted))


def candidates(cuts: Sequence[Cut], choice: Choice) -> list[Cut]:
    """The cuts, in their order, of which a choice means the newest that fits; all for an (epoch, number)."""
    wanted = [cut for cut in cuts if choice.marker is None or choice.marker in cut.markers]
    if choice.time_ns is not None:
        wanted = [cut for cut in wanted if cut.time_ns <= choice.time_ns]
    return wanted


def _why_none(choice: Choice, cuts: Sequence[Cut], wanted: Sequence[Cut]) -> str:
    if not cuts:
        return "the container holds no complete cut yet"
    if wanted:
        return "the wanted volumes are whole at none of them"
    if choice.marker is not None:
        return f"no cut has the marker {choice.marker!r}"
    return "no cut is as old as that"


def pick_volumes(volumes: Sequence[Volume], names: Sequence[str], cut: Cut) -> list[Volume]:
    """The volumes of these names or ids, or all. Raises NoSuchVolume; NoSuchPoint where one is not whole."""
    point = f"{cut.place.epoch}.{cut.place.cut}"
    if not volumes:
        raise NoSuchVolume(f"restore {point}", "there is no volume at this point")
    picked = [_pick(volumes, name, point) for name in dict.fromkeys(names)] if names else list(volumes)
    partial = [volume.name for volume in picked if not volume.whole]
    if partial:
        why = "not everything that it held is in the container at this point"
        raise NoSuchPoint(f"restore {', '.join(partial)} at {point}", why, "choose a later point")
    return picked


def _pick(volumes: Sequence[Volume], name: str, point: str) -> Volume:
    what = f"find the volume {name!r} at {point}"
    found = [volume for volume in volumes if name in (volume.name, volume.space.hex())]
    if not found:
        raise NoSuchVolume(what, f"there are: {', '.join(volume.name for volume in volumes) or 'none'}")
    if len(found) > 1:
        ids = ", ".join(volume.space.hex() for volume in found)
        raise NoSuchVolume(what, f"several have this name; their ids are {ids}", "name one by its id")
    return found[0]


def plan_volume(volume: Volume, extents: Table, runs: Table, objects: Sequence[Head]) -> VolumePlan:
    """Exact totals of one volume; `runs` as `image.runs_of` gives them."""
    totals = Totals()
    read: set[int] = set()
    for window in volume_windows(volume, extents, runs, objects):
        totals += window.totals
        read.update(np.unique(window.fetches["object"]).tolist())
    return VolumePlan(volume, runs, totals, frozenset(read))


def volume_windows(volume: Volume, extents: Table, runs: Table, objects: Sequence[Head]) -> Iterator[Window]:
    """The windows of a volume, in order, each resolved and planned."""
    for start, end in windows(extents, runs, volume.size_bytes):
        yield plan_window(resolve(extents, runs, start, end), start, end, objects)


def plan_window(pieces: Table, start: int, end: int, objects: Sequence[Head]) -> Window:
    """How to fetch what was resolved: runs of neighbouring frames, each frame once.

    Args:
        pieces: of type PIECES, sorted by offset.
        start: first byte of the window.
        end: the byte after its last.
        objects: heads by the numbers that pieces name.
    """
    data = pieces[pieces["kind"] == ExtentKind.DATA]
    zeros = gaps(Intervals(data["offset"], data["offset"] + data["length"]), start, end)
    data = data[np.lexsort((data["offset"], data["frame"], data["object"]))]
    return Window(start, end, data, fetches_of(data, objects, GAP_SHARE), zeros)


def part_of(pieces: Table, wanted: Intervals) -> tuple[Table, Intervals]:
    """Of what was resolved only what is wanted: the data, and what reads as zeros.

    Args:
        pieces: of type PIECES, sorted by offset.
        wanted: sorted, disjoint, at least one.
    """
    data = pieces[pieces["kind"] == ExtentKind.DATA]
    numbers, where = common(Intervals(data["offset"], data["offset"] + data["length"]), wanted)
    data = data[numbers]
    data["position"] += (where.starts - data["offset"]).astype(np.uint32)
    data["offset"], data["length"] = where.starts, where.ends - where.starts
    holes = gaps(where, int(wanted.starts[0]), int(wanted.ends[-1]))
    return data, common(holes, wanted)[1]


def plan_pieces(data: Table, objects: Sequence[Head]) -> Window:
    """How to fetch pieces of data, in any order, with hardly a byte in gaps. Its bounds mean nothing."""
    data = data[np.lexsort((data["offset"], data["frame"], data["object"]))]
    none = np.zeros(0, dtype=np.int64)
    return Window(0, 0, data, fetches_of(data, objects, PART_GAP_SHARE), Intervals(none, none))


def fetches_of(data: Table, objects: Sequence[Head], gap_share: int) -> Table:
    """Requests for the frames of data pieces that are sorted by (object, frame)."""
    if len(data) == 0:
        return np.zeros(0, dtype=FETCHES)
    new_frame = _changes(data["object"]) | _changes(data["frame"])
    first_pieces = np.flatnonzero(new_frame)
    needed = _locate(data["object"][first_pieces], data["frame"][first_pieces], objects)
    firsts = np.flatnonzero(_begins_fetch(needed, gap_share))
    beyonds = np.append(firsts[1:], len(needed))
    fetches = np.zeros(len(firsts), dtype=FETCHES)
    fetches["object"] = needed["object"][firsts]
    fetches["first_frame"] = needed["frame"][firsts]
    fetches["beyond_frame"] = needed["frame"][beyonds - 1] + 1
    fetches["start"] = needed["start"][firsts]
    fetches["length"] = needed["end"][beyonds - 1] - needed["start"][firsts]
    fetches["first_piece"] = first_pieces[firsts]
    fetches["beyond_piece"] = np.append(first_pieces[firsts[1:]], len(data))
    return fetches


def _changes(column: Table) -> Table:
    return np.concatenate((np.array([True]), column[1:] != column[:-1]))


def _begins_fetch(needed: Table, gap_share: int) -> Table:
    """Where another request begins: another object, a gap that is not fetched along, or enough bytes."""
    begins = _changes(needed["object"])
    begins[1:] |= ~_joined(
        needed["start"][1:] - needed["end"][:-1], ~begins[1:], _bytes_of(needed), gap_share
    )
    run_starts = needed["start"][begins][np.cumsum(begins) - 1]
    share = (needed["start"] - run_starts) // FETCH_BYTES_MAX
    return begins | _changes(share)


def _joined(gaps_bytes: Table, within: Table, needed_bytes: int, gap_share: int) -> Table:
    """Which gaps are fetched along.

    Each saves one request and costs its bytes, so the narrowest come first, until the share is spent.
    """
    costs = np.where(within & (gaps_bytes <= GAP_BYTES_MAX), gaps_bytes, needed_bytes)
    order = np.argsort(costs, kind="stable")
    joined = np.zeros(len(costs), dtype=np.bool_)
    joined[order] = np.cumsum(costs[order]) * gap_share <= needed_bytes
    return joined


def _bytes_of(needed: Table) -> int:
    return int((needed["end"] - needed["start"]).sum())


def _locate(numbers: Table, frames: Table, objects: Sequence[Head]) -> Table:
    """Where frames lie in their objects; sorted as they are given, by (object, frame)."""
    needed = np.zeros(len(numbers), dtype=_NEEDED)
    needed["object"], needed["frame"] = numbers, frames
    bounds = np.append(np.flatnonzero(_changes(numbers)), len(numbers))
    for first, beyond in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        head = objects[int(numbers[first])]
        rows = frame_rows(head.index.frame_table)[frames[first:beyond]]
        starts = rows["offset"].astype(np.int64) + head.preamble.head_length
        needed["start"][first:beyond] = starts
        needed["end"][first:beyond] = starts + rows["stored_length"]
    return needed
