"""Which records of files' contents cover nothing any more: that they got shorter, or are gone. PURE.

Of volumes such records say how large they are, and whether they exist, so none of theirs is idle. How extents
hide one another does not belong here (extents.liveness).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cdp_agent.collector.remembered import SPACE, Tables
from cdp_container.extents.intervals import Flags, Ints
from cdp_container.extents.tables import Table

_NEVER: Final = np.iinfo(np.int64).max


def idle_covers(tables: Tables) -> set[tuple[int, int]]:
    """Records `space=` and `space-` (object's row, record's row) of contents of which nothing older is there.

    In any object, in force or not, as of voids. One is told by its space alone: where something older lies
    in front of what it covers, and something newer in it, it is kept.
    """
    runs = tables.runs
    at = np.flatnonzero(runs["count"] == 0)
    at = at[~_is_volume(tables)[runs["space"][at]]]
    if not len(at):
        return set()
    wanted = np.zeros(len(tables.spaces), dtype=np.bool_)
    wanted[runs["space"][at]] = True
    of_extents = np.flatnonzero(wanted[runs["space"]] & (runs["count"] > 0))
    ordinals = _ordinals(runs, np.concatenate((at, of_extents)))
    oldest = np.full(len(tables.spaces), _NEVER, dtype=np.int64)
    np.minimum.at(oldest, runs["space"][of_extents], ordinals[len(at) :])
    # What leaves nothing hides what its own cut wrote, too.
    limits = ordinals[: len(at)] + (runs["start"][at] == 0)
    beyond = np.zeros(len(tables.spaces), dtype=np.int64)
    np.maximum.at(beyond, runs["space"][of_extents], runs["end"][of_extents])
    spaces = runs["space"][at]
    idle = at[(oldest[spaces] >= limits) | (beyond[spaces] <= runs["start"][at])]
    return set(zip(runs["object"][idle].tolist(), runs["first"][idle].tolist(), strict=True))


def _is_volume(tables: Tables) -> Flags:
    """Which spaces were ever said to be a volume's."""
    said = {
        record.key for records in tables.records.values() for record in records if record.name == "space+"
    }
    volumes = np.frombuffer(b"".join(said), dtype=SPACE)
    is_volume = np.zeros(len(tables.spaces), dtype=np.bool_)
    maybe = np.flatnonzero(np.isin(_halves(tables.spaces), _halves(volumes)))
    is_volume[[row for row in maybe.tolist() if tables.spaces[row].tobytes() in said]] = True
    return is_volume


def _halves(spaces: Table) -> Ints:
    halves: Ints = np.ascontiguousarray(spaces).view("<u8").reshape(-1, 2)[:, 0]
    return halves


def _ordinals(runs: Table, at: Ints) -> Ints:
    """Numbers that order cuts; of one cut the records apply before the extents, so none covers those."""
    epochs, cuts = runs["epoch"][at], runs["cut"][at]
    order = np.lexsort((cuts, epochs))
    changed = np.ones(len(at), dtype=np.bool_)
    changed[1:] = (np.diff(epochs[order]) != 0) | (np.diff(cuts[order]) != 0)
    ordinals = np.empty(len(at), dtype=np.int64)
    ordinals[order] = np.cumsum(changed)
    return ordinals
