"""What is wrong with the objects that images are made of: missing, damaged, or no part of its chain. PURE.

Follows docs/container-format.md, section 4. Reading objects does not belong here (contents), nor what an
image holds (image).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cdp_container.domain.contents import Contents, Segment
from cdp_container.domain.image import Branch
from cdp_container.errors import CdpError, DamagedObject, MissingObject
from cdp_container.format.keys import epoch_key, segment_key
from cdp_container.format.place import Place
from cdp_container.format.preamble import NO_DIGEST

Origins = Mapping[int, tuple[Place, Place]]
"""For each epoch its base and the end of the epoch before it, as its record says."""

KEYS_NAMED_MAX: Final = 5
"""Missing objects that a message names before it only counts them."""

_WHY_MISSING: Final = "this point needs it, and it is neither there nor collected"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and the segment of an epoch from which on no image can be made; 0, 0: none at all."""

    error: CdpError
    epoch: int = 0
    seq: int = 0


class Soundness:
    """Which cuts can be restored, of all that faults were looked for in."""

    def __init__(self, faults: Iterable[Fault], origins: Origins) -> None:
        self._firsts: dict[int, Fault] = {}
        for fault in faults:
            first = self._firsts.setdefault(fault.epoch, fault)
            if fault.seq < first.seq:
                self._firsts[fault.epoch] = fault
        self._inherited: dict[int, CdpError] = {}
        for epoch in sorted(origins):  # a base lies in an older epoch
            inherited = self.fault_at(origins[epoch][0])
            if inherited is not None:
                self._inherited[epoch] = inherited

    def fault_at(self, place: Place) -> CdpError | None:
        """Why the image of a cut cannot be made; None where it can."""
        if 0 in self._firsts:
            return self._firsts[0].error
        if place.epoch in self._inherited:
            return self._inherited[place.epoch]
        first = self._firsts.get(place.epoch)
        return first.error if first is not None and first.seq <= place.seq else None


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
        if not isinstance(fault.error, MissingObject):
            raise fault.error
        missing.append(fault.error.what)
    if missing:
        named = ", ".join(missing[:KEYS_NAMED_MAX])
        more = f" and {len(missing) - KEYS_NAMED_MAX} more" if len(missing) > KEYS_NAMED_MAX else ""
        raise MissingObject(named + more, _WHY_MISSING)


def faults_of(contents: Contents, branch: Branch, origins: Origins) -> Iterator[Fault]:
    """All that is wrong with what a branch is made of; see `check_branch`."""
    for epoch in sorted(branch):
        yield from _base_faults(contents, epoch, origins[epoch][0])
        yield from _chain_faults(contents, epoch, branch[epoch], origins[epoch])
    for key in sorted(contents.ledger.packs):
        if key in contents.broken:
            yield Fault(contents.broken[key].error)
        elif key not in contents.packs:
            yield Fault(MissingObject(key, "the ledger lists this pack as in force, and it is not there"))


def _base_faults(contents: Contents, epoch: int, base: Place) -> Iterator[Fault]:
    """A base must be a whole cut: half of one is an image that never was."""
    segment = contents.segments.get((base.epoch, base.seq))
    if segment is not None and not (segment.complete and segment.place == base):
        why = f"its base {base.epoch}.{base.cut} does not end a cut"
        yield Fault(DamagedObject(epoch_key(epoch), why), epoch)


def _chain_faults(contents: Contents, epoch: int, last: int, origin: tuple[Place, Place]) -> Iterator[Fault]:
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
            error = MissingObject(key, _WHY_MISSING) if broken is None else broken.error
            yield Fault(error, epoch, seq)
            before, cut = b"", None
        else:
            for fault in _link_faults(segment, key, before, cut, origin):
                yield Fault(fault, epoch, seq)
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
