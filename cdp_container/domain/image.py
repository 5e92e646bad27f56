"""The domain as it was at one cut: its volumes, and for each the runs of extents that it is made of. PURE.

Follows docs/container-format.md, section 4, steps 3 to 5. Reading objects does not belong here (contents),
nor does which epochs count (history).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.domain.contents import Contents, Segment, SpaceRecord
from cdp_container.errors import CdpError, DamagedObject, MissingObject
from cdp_container.extents.tables import COVER, RUNS, Table
from cdp_container.format.keys import epoch_key, segment_key
from cdp_container.format.limits import SPACE_BYTES_MAX
from cdp_container.format.place import Place
from cdp_container.format.preamble import NO_DIGEST

Branch = Mapping[int, int]
"""What an image is made of: for each epoch the last seq that counts."""

_WHY_MISSING: Final = "this point needs it, and it is neither there nor collected"

Origins = Mapping[int, tuple[Place, Place]]
"""For each epoch its base and the end of the epoch before it, as its record says."""

KEYS_NAMED_MAX: Final = 5
"""Missing objects that a message names before it only counts them."""


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
    """The complete cuts of a branch, oldest first."""
    names: dict[tuple[int, int], list[str]] = {}
    for marker in sorted(contents.markers, key=lambda marker: marker.name):
        names.setdefault((marker.place.epoch, marker.place.cut), []).append(marker.name)
    complete = [
        segment
        for segment in contents.segments.values()
        if segment.complete and on_branch(segment.place, branch)
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


def volumes_of(contents: Contents, branch: Branch, cut: Cut) -> list[Volume]:
    """The volumes that exist at a cut, by name."""
    found: dict[bytes, dict[str, object]] = {}
    for record in _space_records(contents, branch):
        if record.name == "space+":
            found[record.space] = dict(record.value)
        elif record.name == "space=" and record.space in found:
            found[record.space] |= {"size_bytes": record.value.get("size_bytes")}
        elif record.name == "space-":
            found.pop(record.space, None)
    volumes = [_volume(space, value, cut) for space, value in found.items() if value.get("kind") == "volume"]
    return sorted(volumes, key=lambda volume: volume.name)


def _volume(space: bytes, value: Mapping[str, object], cut: Cut) -> Volume:
    name, size_bytes, block_bytes = value.get("name"), value.get("size_bytes"), value.get("block_bytes", 512)
    numbers_fit = isinstance(size_bytes, int) and 0 <= size_bytes <= SPACE_BYTES_MAX
    if not isinstance(name, str) or not numbers_fit or not isinstance(block_bytes, int):
        raise DamagedObject(f"the volume {space.hex()}", "its record has no name or no size that makes sense")
    assert isinstance(size_bytes, int)
    return Volume(space, name, size_bytes, block_bytes, space not in cut.not_whole)


def _space_records(contents: Contents, branch: Branch) -> list[SpaceRecord]:
    """Those of the branch in the order in which they apply; within one segment in its own order."""
    on_it = [record for record in contents.space_records if on_branch(record.place, branch)]
    return sorted(on_it, key=lambda record: record.place)


def runs_of(contents: Contents, branch: Branch, space: bytes) -> Table:
    """The runs of a space on a branch, of type RUNS, newest first: what `extents.resolve` takes.

    A removal ends the list: it covers everything of its own and of older cuts.
    """
    placed = contents.runs(space)
    lasts = np.array([branch.get(int(epoch), 0) for epoch in placed["epoch"]], dtype=np.int64)
    placed = placed[placed["seq"] <= lasts]
    for record in _space_records(contents, branch):
        if record.name == "space-" and record.space == space:
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


def check_branch(contents: Contents, branch: Branch, origins: Origins) -> None:
    """Everything that an image needs is there, each segment of its epoch, and each naming the one before.

    Args:
        contents: read for at least this branch.
        branch: see `Branch`.
        origins: see `Origins`.

    Raises:
        MissingObject: names what is neither there nor collected.
        DamagedObject, NewerFormat, ForeignObject, LimitExceeded: an object is not what it should be.
    """
    missing = []
    for fault in faults_of(contents, branch, origins):
        if not isinstance(fault, MissingObject):
            raise fault
        missing.append(fault.what)
    if missing:
        named = ", ".join(missing[:KEYS_NAMED_MAX])
        more = f" and {len(missing) - KEYS_NAMED_MAX} more" if len(missing) > KEYS_NAMED_MAX else ""
        raise MissingObject(named + more, _WHY_MISSING)


def faults_of(contents: Contents, branch: Branch, origins: Origins) -> Iterator[CdpError]:
    """All that is wrong with what a branch is made of; see `check_branch`."""
    for epoch in sorted(branch):
        yield from _base_faults(contents, epoch, origins[epoch][0])
        yield from _chain_faults(contents, epoch, branch[epoch], origins[epoch])
    for key in sorted(contents.ledger.packs):
        if key in contents.broken:
            yield contents.broken[key].error
        elif key not in contents.packs:
            yield MissingObject(key, "the ledger lists this pack as in force, and it is not there")


def _base_faults(contents: Contents, epoch: int, base: Place) -> Iterator[CdpError]:
    """A base must be a whole cut: half of one is an image that never was."""
    segment = contents.segments.get((base.epoch, base.seq))
    if segment is not None and not (segment.complete and segment.place == base):
        yield DamagedObject(epoch_key(epoch), f"its base {base.epoch}.{base.cut} does not end a cut")


def _chain_faults(
    contents: Contents, epoch: int, last: int, origin: tuple[Place, Place]
) -> Iterator[CdpError]:
    """What is wrong with the segments of one epoch; `before` is empty and `cut` None where unknown."""
    before = _digest_at(contents, origin[0])
    cut: int | None = 1
    for seq in range(1, last + 1):
        key = segment_key(epoch, seq)
        segment = contents.segments.get((epoch, seq))
        if contents.ledger.is_collected(epoch, seq):
            before = contents.ledger.digest(epoch, seq)
            cut = segment.cut + 1 if segment is not None and segment.complete else None
        elif segment is None or key in contents.broken:
            broken = contents.broken.get(key)
            yield MissingObject(key, _WHY_MISSING) if broken is None else broken.error
            before, cut = b"", None
        else:
            yield from _link_faults(segment, key, before, cut, origin)
            before, cut = segment.digest, segment.cut + segment.complete


def _link_faults(
    segment: Segment, key: str, before: bytes, cut: int | None, origin: tuple[Place, Place]
) -> Iterator[CdpError]:
    if (segment.base, segment.end) != origin:
        yield DamagedObject(key, "it names another base or end than the record of its epoch")
    if before and segment.previous_digest != before:
        base = origin[0]
        earlier = (
            segment_key(segment.epoch, segment.seq - 1)
            if segment.seq > 1
            else segment_key(base.epoch, base.seq)
        )
        # One of the two is damaged; which, only reading them whole can tell.
        yield DamagedObject(key, f"the digest that it names is not that of {earlier}")
    if cut is not None and segment.cut != cut:
        yield DamagedObject(key, f"it is of cut {segment.cut}, and cut {cut} was due")


def _digest_at(contents: Contents, place: Place) -> bytes:
    """The digest of a base's last segment; empty where that cannot be known any more."""
    if not place:
        return NO_DIGEST
    if contents.ledger.is_collected(place.epoch, place.seq):
        return contents.ledger.digest(place.epoch, place.seq)
    segment = contents.segments.get((place.epoch, place.seq))
    return b"" if segment is None else segment.digest
