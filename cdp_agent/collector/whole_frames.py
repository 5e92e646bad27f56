"""What packing costs where frames cannot be read: one that is live in part is copied whole.

Else an object that is half dead would be copied again in every pass, for nothing. What is packed does not
belong here (choose).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cdp_agent.collector.alive_types import Alive
from cdp_agent.collector.choose import key_of
from cdp_agent.collector.remembered import Remembered
from cdp_container.extents.tables import Table
from cdp_container.format.layout import NONE_U32

LIVE_SHARE_WHOLE: Final = 2 / 3
"""Objects of which more lives are not looked at: what is dead in them is most likely in frames that live."""


def copied_whole(remembered: Remembered, alive: Alive, live_share: float) -> Table:
    """The objects (OBJECTS), with what a pack of each would take for `live_bytes`, where it may be packed.

    Frames of one object are taken for alike: writers fill them.
    """
    objects = alive.objects.copy()
    tables = remembered.tables()
    rows = {key: row for row, key in enumerate(tables.keys)}
    # They are sorted by object; a search in the table itself would copy the column each time.
    bounds = np.searchsorted(
        np.ascontiguousarray(tables.runs["object"]), np.arange(len(tables.keys) + 1)
    ).tolist()
    share = objects["live_bytes"] / np.maximum(objects["stored_bytes"], 1)
    for at in np.flatnonzero(~objects["dead"] & (share < live_share)).tolist():
        key = key_of(objects[at])
        row = rows[key]
        runs = tables.runs[bounds[row] : bounds[row + 1]]
        frames = _frames(remembered.extents_of(runs[runs["count"] > 0])["frame"])
        if frames:
            frame_bytes = int(tables.facts["frame_bytes"][row])
            touched = frame_bytes * _frames(alive.pieces(key)["frame"]) // frames
            head_bytes = int(objects["stored_bytes"][at]) - frame_bytes
            rows_share = int(objects["live_rows"][at]) / max(1, int(objects["rows"][at]))
            objects["live_bytes"][at] = max(
                int(objects["live_bytes"][at]), touched + int(head_bytes * rows_share)
            )
    return objects


def _frames(numbers: Table) -> int:
    """How many different ones."""
    return int(np.count_nonzero(np.unique(numbers) != NONE_U32))
