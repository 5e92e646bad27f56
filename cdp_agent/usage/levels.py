"""Which cuts need which bytes of an object: the newest point, then those that are kept, by reason. PURE.

What is live for a set of cuts is found elsewhere (collector.alive), how bytes are added up in `kinds`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from cdp_agent.collector.choose import key_of
from cdp_agent.usage.kinds import SPLIT, Kind
from cdp_container.domain.retention import Kept, Why
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.place import Place

REASONS: Final = (
    (Kind.RULES, Why.NEWEST | Why.WHOLE | Why.BASE | Why.YOUNG | Why.UNPROTECTED),
    (Kind.WINDOW, Why.WINDOW),
    (Kind.THINNED, Why.HOURLY | Why.DAILY | Why.WEEKLY | Why.MONTHLY),
    (Kind.MARKERS, Why.MARKER),
    (Kind.HOLDS, Why.HELD),
)
"""In the order of attribution: what an earlier one needs no later one is told to keep."""


def levels_of(newest: Place, kept: Mapping[Place, Kept]) -> list[frozenset[Place]]:
    """The newest point alone, then with what each of REASONS keeps; the last one are all that are kept."""
    cuts = {newest} & kept.keys()
    levels = [frozenset(cuts)]
    for _, why in REASONS:
        cuts |= {place for place, found in kept.items() if found.why & why}
        levels.append(frozenset(cuts))
    return levels


def shares_of(
    objects: Table, levels: Sequence[Ints], whole_frames: Ints, ruled: Collection[str], held: Collection[str]
) -> Ints:
    """What every object is to be parted into: bytes, a column for each of SPLIT.

    Args:
        objects: those in force (OBJECTS).
        levels: for each of `levels_of` what of each object would be live.
        whole_frames: what a pack of each would take without the private key.
        ruled: keys of what the rules keep even if nothing shows it (ends, bases).
        held: keys of what holds keep even so.
    """
    stored = objects["stored_bytes"]
    shares = np.zeros((len(objects), len(SPLIT)), dtype=np.int64)
    finer = np.minimum(levels[-1], stored)
    shares[:, SPLIT.index(Kind.SHARED)] = stored - finer
    unsplit = np.clip(whole_frames - finer, 0, stored - finer)
    shares[:, SPLIT.index(Kind.SHARED)] -= unsplit
    shares[:, SPLIT.index(Kind.UNSPLIT)] = unsplit
    for (kind, _), level in zip(reversed(REASONS), reversed(levels[:-1]), strict=True):
        # Shares are rounded, and a wide void may count more than once: a coarser set needs no more bytes.
        coarser = np.minimum(level, finer)
        shares[:, SPLIT.index(kind)] = finer - coarser
        finer = coarser
    shares[:, SPLIT.index(Kind.LIVE)] = finer
    for row in np.flatnonzero(objects["dead"] | (objects["rows"] == 0)).tolist():
        kind = _kind_of_whole(objects[row], ruled, held)
        shares[row] = 0
        shares[row, SPLIT.index(kind)] = stored[row]
    return shares


def _kind_of_whole(row: Table, ruled: Collection[str], held: Collection[str]) -> Kind:
    """Of an object without any extent, or of which nothing lives."""
    key = key_of(row)
    if not row["dead"] or key in ruled:
        return Kind.RULES
    return Kind.HOLDS if key in held else Kind.DEAD
