"""What is live, as those see it who choose victims and pack them: one row per object, pieces on demand. PURE.

How it is found does not belong here (alive, extents.liveness), nor what is done about it (choose, packing).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cdp_container.extents.tables import Table
from cdp_container.format.place import Place

OBJECTS: Final = np.dtype(
    [
        ("kind", "<u1"),
        ("epoch", "<i8"),
        ("number", "<i8"),
        ("cut", "<i8"),
        ("stored_bytes", "<i8"),
        ("stored_ns", "<i8"),
        ("live_bytes", "<i8"),
        ("rows", "<i8"),
        ("live_rows", "<i8"),
        ("live_records", "<i8"),
        ("ends_kept_cut", "?"),
        ("dead", "?"),
    ]
)
"""An object in force, sorted by (kind, epoch, number).

`kind`: an ObjectKind, segment or pack; `number`: its seq or pack number; `cut`: 0 in a pack.
`stored_bytes`: the whole object; `stored_ns`: the store's Last-Modified. `live_bytes`: the stored bytes of
its frames, each by the share of its raw bytes that is visible, and the rest of the object (its head) by the
share of its rows; so of an object that is all live it is `stored_bytes`. `rows`: extents that count
(docs/container-format.md, section 4, step 3). `live_rows`: those of which anything is visible; a wide void
may count more than once. `live_records`: those that must be carried on. `ends_kept_cut`: the last segment
of a retained cut; where it goes, a pack must carry its `cut` record. `dead`: no live rows, no live records,
and the end of no such cut.
"""

LIVE: Final = np.dtype(
    [
        ("row", "<i8"),
        ("start", "<i8"),
        ("end", "<i8"),
        ("frame", "<u4"),
        ("is_void", "?"),
        ("space", "V16"),
        ("epoch", "<i8"),
        ("seq", "<i8"),
        ("cut", "<i8"),
    ]
)
"""A visible piece of an extent of one object, sorted by (row, start).

`row`: of the object's extents part, where its position and kind stand; `[start, end)`: bytes of the space;
`frame`: its frame (NONE_U32 in a void); `epoch, seq, cut`: its place in history (in a pack its order row's).
"""


@dataclass(frozen=True, slots=True)
class Interval:
    """What lies behind one retained cut (NOWHERE: the beginning) and up to the next."""

    after: Place
    upto: Place


class Alive(Protocol):
    """What is live, for one set of retained cuts and one ledger in force."""

    @property
    def objects(self) -> Table:
        """One row of type OBJECTS per object in force."""
        ...

    @property
    def intervals(self) -> Sequence[Interval]:
        """All intervals, by their ends. Forks are ends, too, whether they were given as retained or not."""
        ...

    def pieces(self, key: str) -> Table:
        """The visible pieces (LIVE) of one object in force."""
        ...

    def records(self, key: str) -> list[int]:
        """The rows of its records part that must be carried on, ascending."""
        ...

    def over_data(self, pieces: Table) -> NDArray[np.bool_]:
        """Which of these pieces (LIVE) have older data beneath them in any object that is still there.

        In force or not. A void that has none may be dropped. One call for all of them is cheapest.
        """
        ...

    def needed_by(self, cuts: Collection[Place]) -> set[str]:
        """The keys of all objects that these retained cuts need: any of whose extents is visible at one."""
        ...
