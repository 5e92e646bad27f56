"""Which pieces go into packs together: those that are likely to be overwritten at about the same time.

A pack whose content dies together is deleted one day and never copied; one that mixes is copied again and
again for what is cold in it. What was overwritten often lately is told by region: from the extents of the
segments that are still there, live or not. Where that tells nothing (no region is much hotter than another,
because what is hot lies scattered), age does: what has lived long is likely to live on. If all of this errs,
only bytes are lost. How packs are filled does not belong here (packing), nor what is packed (choose).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_agent.collector.alive_types import Alive
from cdp_agent.collector.choose import SMALL_OBJECT_BYTES
from cdp_agent.collector.remembered import Remembered
from cdp_container.domain.history import History
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.layout import NONE_U32, ObjectKind
from cdp_container.format.limits import OBJECT_BYTES_TARGET

REGION_BYTES: Final = 4 << 20
REGIONS_MAX: Final = 1 << 20
"""Regions that are told apart: 4 TiB of them; beyond, some share a number."""
COLD, HOT = 0, 5
"""Groups: regions with less than half of the mean, and those with more than twice as much."""
WARM_AGES: Final = (0.25, 0.5, 1.0)
"""What parts the rest into groups 1 to 4: so often was as much written since as lives."""
GROUPS: Final = 6
PART_BYTES_MIN: Final = GROUPS * SMALL_OBJECT_BYTES
"""Where less is packed, groups would only make small packs of it."""
SEGMENTS_MAX: Final = 4096
"""The newest segments that are looked at: 32 GiB of full ones."""

Floats: TypeAlias = NDArray[np.float64]
Grouping: TypeAlias = Callable[[Table], Ints]
"""Gives for pieces (LIVE) the number of each one's group, below GROUPS."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """What is known of how often what is overwritten.

    Attributes:
        written: bytes written to each region lately, by their mean over those that were written to at all.
        before: by epoch the segments of all epochs before it that count.
        newest: the newest segment, counted so.
        turn: how many segments come to as much as lives.
    """

    written: Floats
    before: Mapping[int, int]
    newest: int
    turn: float

    def groups(self, pieces: Table) -> Ints:
        """The group of each piece (LIVE)."""
        written = self.written[_regions(_numbers(pieces["space"]), pieces["start"])]
        epochs, at = np.unique(pieces["epoch"], return_inverse=True)
        before = np.array([self.before.get(epoch, 0) for epoch in epochs.tolist()], dtype=np.int64)
        ages = (self.newest - before[at] - pieces["seq"]) / self.turn
        groups: Ints = 1 + np.searchsorted(WARM_AGES, ages, side="right").astype(np.int64)
        groups[written < 0.5] = COLD
        groups[written > 2.0] = HOT
        return groups


def groups_of(remembered: Remembered, history: History, alive: Alive, is_enough: bool) -> Grouping:
    """How what lives in victims is to be parted, if that is enough to part. Raises CacheDamaged."""
    if not is_enough:
        return alike
    objects = alive.objects
    segments = objects[objects["kind"] == ObjectKind.SEGMENT]
    tables = remembered.tables()
    newest = np.flatnonzero(tables.facts["kind"] == ObjectKind.SEGMENT)
    newest = newest[np.lexsort((tables.facts["number"][newest], tables.facts["epoch"][newest]))][
        -SEGMENTS_MAX:
    ]
    runs = tables.runs[np.isin(tables.runs["object"], newest) & (tables.runs["count"] > 0)]
    mean_bytes = segments["stored_bytes"].mean() if len(segments) else OBJECT_BYTES_TARGET
    turn = float(objects["live_bytes"].sum() / mean_bytes)
    return warmth_of(tables.spaces, runs, remembered.extents_of(runs), history.everything(), turn).groups


def alike(pieces: Table) -> Ints:
    """One group: what is told where there is too little to part."""
    return np.zeros(len(pieces), dtype=np.int64)


def warmth_of(spaces: Table, runs: Table, extents: Table, lasts: Mapping[int, int], turn: float) -> Warmth:
    """From what was written lately.

    Args:
        spaces: the ids (SPACE) that `runs` number.
        runs: RUNS of segments.
        extents: theirs (EXTENT), one after another.
        lasts: for every epoch that counts the last seq.
        turn: see `Warmth`.
    """
    numbers = _numbers(spaces)
    of = np.repeat(runs["space"], runs["count"])
    data = extents["frame"] != NONE_U32
    regions = _regions(numbers[of[data]], extents["start"][data])
    lengths = extents["length"][data].astype(np.float64)
    written = np.bincount(regions, weights=lengths, minlength=REGIONS_MAX).astype(np.float64)
    touched = written > 0
    mean = written[touched].mean() if touched.any() else 1.0
    before, newest = {}, 0
    for epoch in sorted(lasts):
        before[epoch] = newest
        newest += lasts[epoch]
    return Warmth(written / mean, before, newest, max(turn, 1.0))


def _numbers(spaces: Table) -> NDArray[np.uint64]:
    found = np.frombuffer(spaces.tobytes(), dtype="<u8").reshape(-1, 2)
    numbers: NDArray[np.uint64] = found[:, 0].astype(np.uint64)
    return numbers


def _regions(spaces: NDArray[np.uint64], starts: Ints) -> Ints:
    """The numbers of the regions where pieces begin; a space's id, which is random, is where it begins."""
    numbers = spaces + starts.astype(np.uint64) // np.uint64(REGION_BYTES)
    return (numbers % np.uint64(REGIONS_MAX)).astype(np.int64)
