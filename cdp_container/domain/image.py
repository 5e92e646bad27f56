"""The domain as it was at one cut: its volumes, and for each the runs of extents that it is made of. PURE.

Follows docs/container-format.md, section 4, steps 3 to 5. Reading objects does not belong here (contents),
nor does which epochs count (history).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.domain.contents import Contents, SpaceRecord
from cdp_container.errors import DamagedObject
from cdp_container.extents.tables import COVER, RUNS, Table
from cdp_container.format.limits import SPACE_BYTES_MAX
from cdp_container.format.place import NOWHERE, Place

Branch = Mapping[int, int]
"""What an image is made of: for each epoch the last seq that counts."""

_WHY_NO_VOLUME: Final = "its record has no name or no size that makes sense"


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as it was at a cut. `whole` says whether everything that it held is in the container."""

    space: bytes
    name: str
    size_bytes: int
    block_bytes: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """A consistent instant: a complete cut, its last segment's place, and the names that it has."""

    place: Place
    time_ns: int
    not_whole: tuple[bytes, ...]
    markers: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether every source is whole at it."""
        return not self.not_whole


def on_branch(place: Place, branch: Branch) -> bool:
    """Whether what stands at this place is part of the branch."""
    return place.seq <= branch.get(place.epoch, 0)


def cuts_of(contents: Contents, branch: Branch) -> list[Cut]:
    """The complete cuts of a branch that are not retired, oldest first."""
    names: dict[tuple[int, int], list[str]] = {}
    for marker in sorted(contents.markers, key=lambda marker: marker.name):
        names.setdefault((marker.place.epoch, marker.place.cut), []).append(marker.name)
    complete = [
        segment
        for segment in contents.segments.values()
        if segment.complete
        and on_branch(segment.place, branch)
        and not contents.ledger.is_retired(segment.epoch, segment.seq)
    ]
    return [
        Cut(
            segment.place,
            segment.cut_time_ns,
            segment.not_whole,
            tuple(dict.fromkeys(names.get((segment.epoch, segment.cut), []))),
        )
        for segment in sorted(complete, key=lambda segment: segment.place)
    ]


class Volumes:
    """The volumes at one cut after another: asked for oldest first, it applies each record but once."""

    def __init__(self, contents: Contents) -> None:
        self._records: dict[int, list[SpaceRecord]] = {}
        for record in sorted(contents.space_records, key=lambda record: record.place):
            self._records.setdefault(record.place.epoch, []).append(record)
        self._place = NOWHERE
        self._applied = 0
        self._found: dict[bytes, dict[str, object]] = {}

    def at(self, branch: Branch, cut: Cut) -> list[Volume]:
        """The volumes that exist at a cut, by name. Raises DamagedObject where a record makes no sense."""
        epoch, seq = cut.place.epoch, cut.place.seq
        if epoch != self._place.epoch or seq < self._place.seq:
            self._found, self._applied = {}, 0
            for older in sorted(set(branch) - {epoch}):
                self._apply(older, 0, branch[older])
        self._applied = self._apply(epoch, self._applied, branch.get(epoch, 0))
        self._place = cut.place
        volumes = [
            _volume(space, value, cut)
            for space, value in self._found.items()
            if value.get("kind") == "volume"
        ]
        return sorted(volumes, key=lambda volume: volume.name)

    def _apply(self, epoch: int, first: int, last_seq: int) -> int:
        """Apply an epoch's records from number `first` on up to a segment; gives the next one's number."""
        records = self._records.get(epoch, [])
        while first < len(records) and records[first].place.seq <= last_seq:
            record = records[first]
            if record.name == "space+":
                self._found[record.space] = dict(record.value)
            elif record.name == "space=" and record.space in self._found:
                self._found[record.space] |= {"size_bytes": record.value.get("size_bytes")}
            elif record.name == "space-":
                self._found.pop(record.space, None)
            first += 1
        return first


def volumes_of(contents: Contents, branch: Branch, cut: Cut) -> list[Volume]:
    """The volumes that exist at one cut; see `Volumes`."""
    return Volumes(contents).at(branch, cut)


def _volume(space: bytes, value: Mapping[str, object], cut: Cut) -> Volume:
    name, size_bytes, block_bytes = value.get("name"), value.get("size_bytes"), value.get("block_bytes", 512)
    # type(), because true is an int to Python.
    if not isinstance(name, str) or type(size_bytes) is not int or type(block_bytes) is not int:
        raise DamagedObject(f"the volume {space.hex()}", _WHY_NO_VOLUME)
    if not 0 <= size_bytes <= SPACE_BYTES_MAX:
        raise DamagedObject(f"the volume {space.hex()}", _WHY_NO_VOLUME)
    return Volume(space, name, size_bytes, block_bytes, space not in cut.not_whole)


def runs_of(contents: Contents, branch: Branch, space: bytes, after: tuple[int, int] = (0, 0)) -> Table:
    """The runs of a space on a branch, of type RUNS, newest first: what `extents.resolve` takes.

    A removal ends the list: it covers everything of its own and of older cuts. `after`: only what segments
    after this one (epoch, seq) say.
    """
    placed = contents.runs(space)
    placed = placed[
        (placed["epoch"] > after[0]) | ((placed["epoch"] == after[0]) & (placed["seq"] > after[1]))
    ]
    lasts = np.array([branch.get(int(epoch), 0) for epoch in placed["epoch"]], dtype=np.int64)
    placed = placed[placed["seq"] <= lasts]
    for record in contents.space_records:
        if record.name == "space-" and record.space == space and on_branch(record.place, branch):
            placed = placed[_is_newer(placed, record.place)]
    # Within a cut all records apply before all extents: a cover stands below the extents of its own cut.
    # Where a pack heals a segment both have one place: what was read later, the pack, stands first.
    is_extent = placed["object"] != COVER
    order = np.lexsort((placed["object"], placed["seq"], is_extent, placed["cut"], placed["epoch"]))[::-1]
    runs = np.zeros(len(placed), dtype=RUNS)
    for name in RUNS.names or ():
        runs[name] = placed[name][order]
    return runs


def _is_newer(placed: Table, place: Place) -> NDArray[np.bool_]:
    later_cut = (placed["epoch"] == place.epoch) & (placed["cut"] > place.cut)
    newer: NDArray[np.bool_] = (placed["epoch"] > place.epoch) | later_cut
    return newer
