"""Where an epoch ends: the newest complete cut of its contiguous run of segments, found key by key.

Listings are never trusted with this, as a store may show a key late. What does not belong here: who may ask
(the owner's step machine), and which branch an image is made of (the index of what exists).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_container.domain.end import End
from cdp_container.domain.ledgers import NO_LEDGER, Ledger
from cdp_container.domain.parallel import in_parallel
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
)
from cdp_container.format.domain import parse_epoch_record
from cdp_container.format.keys import EPOCHS_PREFIX, LOG_PREFIX, NUMBER_MAX, epoch_key, parse_key, segment_key
from cdp_container.format.layout import DIGEST_BYTES
from cdp_container.format.place import Place
from cdp_container.format.preamble import Preamble, check_key, parse_preamble, preamble_need
from cdp_container.store.api import Found, Store

FIRST_READ_BYTES: Final = 4096
"""Holds nearly every preamble: one request for each segment."""
SEGMENTS_MAX: Final = 10_000_000
"""Of one epoch, behind what is proven: a stop for a store that answers nonsense."""
_UNREADABLE: Final = (DamagedObject, ForeignObject, NewerFormat, LimitExceeded)
"""What is wrong with one segment alone; errors of the store come through."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What is not there as segments any more, for those who can tell it from lost ones.

    Attributes:
        ledger: what was collected.
        cuts: the complete cuts among that of which a pack holds a record, by (epoch, seq).
        times_ns: when they were taken, likewise.
        unread: why the ledger could not be read, where the end is looked for without it.
    """

    ledger: Ledger = NO_LEDGER
    cuts: Mapping[tuple[int, int], Place] = field(default_factory=dict)
    times_ns: Mapping[tuple[int, int], int] = field(default_factory=dict)
    unread: str = ""

    def end_at(self, place: Place) -> End:
        """A cut of which the last segment was collected, as an end."""
        told_ns = self.times_ns.get((place.epoch, place.seq), 0)
        return End(place, self.ledger.digest(place.epoch, place.seq), packed_ns=told_ns)


NOTHING_COLLECTED: Final = Collected()


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment by its preamble and trailer."""

    preamble: Preamble
    digest: bytes


def find_end(
    store: Store,
    domain: bytes,
    epoch: int,
    protected: Place,
    collected: Collected = NOTHING_COLLECTED,
    read_ahead: int = 1,
) -> End:
    """The end of `epoch`, looked for from `protected` on if that is in it, else from its first segment.

    An epoch without a complete cut ends at its base; `epoch` 0 is the time before the first. Where
    `protected` is NOWHERE a base that is gone is no fault: what is left then ends before it. No cut that is
    retired is an end: what only it needed may be gone. With a `read_ahead` above 1 that many segments are
    asked for at once where many were there before.

    Raises:
        MissingObject: a segment that was proven to be there, or the epoch's record, is not; or what was
            proven is retired.
        DamagedObject, ForeignObject: such a one is not what it was.
        StoreUnavailable and its kin: see the store.
    """
    if epoch == 0:
        return End()
    if protected.epoch == epoch:
        if _is_forgotten(protected, collected):
            why = "it is retired, or was collected and no pack in force tells of its cut"
            raise MissingObject(segment_key(epoch, protected.seq), why)
        start = _end_at(store, domain, protected, collected)
        ahead = _ahead(store, domain, epoch, protected.seq, collected, read_ahead)
        return _follow(start, protected.seq, epoch, collected, ahead)
    last = NUMBER_MAX
    while True:
        base = _base_of(store, domain, epoch)
        start, is_left = _base_at(store, domain, base, collected, is_needed=bool(protected))
        ahead = _ahead(store, domain, epoch, 0, collected, read_ahead)
        end = _follow(start, 0, epoch, collected, ahead, last)
        if is_left or end.place != base:
            return end
        # What lies beyond a base counts on no branch that goes on from it.
        epoch, last = base.epoch, base.seq


def highest_epoch(store: Store) -> int:
    """The highest epoch that any key in domain/epochs/ or log/ names; 0 where there is none."""
    keys = [found.key for found in (*store.list(EPOCHS_PREFIX), *first_segments(store))]
    return max((parsed.epoch for key in keys if (parsed := parse_key(key)) is not None), default=0)


def first_segments(store: Store) -> Iterator[Found]:
    """The first segment of every epoch that is there.

    Skips from epoch to epoch: a listing of every segment would be far too long.
    """
    start_after = ""
    while True:
        found = next(iter(store.list(LOG_PREFIX, start_after)), None)
        if found is None:
            return
        parsed = parse_key(found.key)
        start_after = found.key
        if parsed is not None and parsed.epoch:
            start_after = segment_key(parsed.epoch, NUMBER_MAX)
            yield found


def _ahead(
    store: Store, domain: bytes, epoch: int, seq: int, collected: Collected, most: int
) -> Iterator[StoredSegment | CdpError]:
    """The segments behind `seq` that were not collected, one by one, or why one cannot be had.

    It asks for as many at once as it has asked for before, so that a short run costs few requests in vain.
    """

    def read(number: int) -> StoredSegment | CdpError:
        if number > NUMBER_MAX:
            return NotFound(f"read segment {number}", "no key holds such a number")
        try:
            return read_segment(store, domain, epoch, number)
        except (NotFound, *_UNREADABLE) as error:
            return error

    many = 1
    while True:
        numbers = range(seq + 1, seq + 1 + many)
        wanted = [number for number in numbers if not collected.ledger.is_collected(epoch, number)]
        yield from map(read, wanted) if most == 1 else in_parallel(read, wanted, many)
        seq, many = seq + many, min(2 * many, most)


def _follow(
    end: End,
    seq: int,
    epoch: int,
    collected: Collected,
    segments: Iterator[StoredSegment | CdpError],
    last: int = NUMBER_MAX,
) -> End:
    """From an end (in an older epoch: the base) on to the end of the epoch's run of segments up to `last`."""
    cut: int | None = (end.place.cut if seq else 0) + 1
    previous = end.digest
    for _ in range(SEGMENTS_MAX):
        seq += 1
        if seq > last:
            return end
        retired = collected.ledger.is_retired(epoch, seq)
        if collected.ledger.is_collected(epoch, seq):
            previous, cut = collected.ledger.digest(epoch, seq), None
            place = collected.cuts.get((epoch, seq))
            if place is not None:
                cut = place.cut + 1
                end = end if retired else collected.end_at(place)
            continue
        stored = next(segments)
        if isinstance(stored, NotFound):
            return end
        if isinstance(stored, CdpError):
            # It lies behind everything that was ever called protected; what follows it counts for nobody.
            return replace(end, stopped_by=str(stored))
        preamble = stored.preamble
        if previous and preamble.previous_digest != previous:
            why = f"segment {seq} of epoch {epoch} does not follow the one before it"
            return replace(end, stopped_by=why)
        if cut is not None and preamble.cut != cut:
            why = f"segment {seq} of epoch {epoch} is of cut {preamble.cut} where cut {cut} was due"
            return replace(end, stopped_by=why)
        previous, cut = stored.digest, preamble.cut + preamble.complete
        if preamble.complete and not retired:
            end = End(preamble.place, stored.digest, preamble)
    raise LimitExceeded(f"find the end of epoch {epoch}", f"more than {SEGMENTS_MAX} segments")


def _base_of(store: Store, domain: bytes, epoch: int) -> Place:
    key = epoch_key(epoch)
    try:
        record = parse_epoch_record(store.get(key).data, key, domain)
    except NotFound as error:
        raise MissingObject(f"find the end of epoch {epoch}", f"there is no {key}") from error
    if record.epoch != epoch:
        raise ForeignObject(key, f"it is the record of epoch {record.epoch}")
    return record.base


def _base_at(
    store: Store, domain: bytes, base: Place, collected: Collected, is_needed: bool
) -> tuple[End, bool]:
    """An epoch's base as an end, and whether it is left; cuts that follow a lost one may still count."""
    if is_needed and collected.ledger.is_retired(base.epoch, base.seq):
        why = "an epoch begins at this cut, and it is retired"
        raise MissingObject(segment_key(base.epoch, base.seq), why)
    try:
        is_left = is_needed or not _is_forgotten(base, collected)
        return _end_at(store, domain, base, collected), is_left
    except (MissingObject, *_UNREADABLE):
        if is_needed:
            raise
        return End(base, b""), False


def _end_at(store: Store, domain: bytes, place: Place, collected: Collected) -> End:
    """The cut at `place` as an end."""
    if not place:
        return End()
    if collected.ledger.is_collected(place.epoch, place.seq):
        return collected.end_at(place)
    stored = _proven_segment(store, domain, place)
    return End(place, stored.digest, stored.preamble)


def _is_forgotten(place: Place, collected: Collected) -> bool:
    """Whether the cut at `place` is no recovery point any more."""
    gone = collected.ledger.is_collected(place.epoch, place.seq)
    retired = collected.ledger.is_retired(place.epoch, place.seq)
    return retired or (gone and collected.cuts.get((place.epoch, place.seq)) != place)


def is_by_name(store: Store, domain: bytes, epoch: int, protected: Place) -> bool:
    """Whether the end of `epoch` can be told from what is there by name, whatever was collected.

    Nothing at or beyond `protected` is ever collected or retired: so where the look begins there, or at a
    base that is no older, and that cut's segment is there. Raises what the store raises.
    """
    if not protected:
        return False
    try:
        start = protected if protected.epoch == epoch else _base_of(store, domain, epoch)
        return start >= protected and bool(_proven_segment(store, domain, start))
    except (MissingObject, *_UNREADABLE):
        return False


def _proven_segment(store: Store, domain: bytes, place: Place) -> StoredSegment:
    """The last segment of a cut that somebody recorded as there."""
    try:
        stored = read_segment(store, domain, place.epoch, place.seq)
    except NotFound as error:
        key = segment_key(place.epoch, place.seq)
        raise MissingObject(f"find the end of epoch {place.epoch}", f"{key} is gone") from error
    if stored.preamble.place != place or not stored.preamble.complete:
        raise DamagedObject(segment_key(place.epoch, place.seq), f"it does not complete the cut {place}")
    return stored


def read_segment(store: Store, domain: bytes, epoch: int, seq: int) -> StoredSegment:
    """Preamble and trailer of a segment, by ranged reads. Raises NotFound, DamagedObject and their kin."""
    key = segment_key(epoch, seq)
    start = store.get_range(key, 0, FIRST_READ_BYTES)
    length = preamble_need(start, key)
    if length > len(start):
        start = store.get_range(key, 0, length)
    preamble = parse_preamble(start, key)
    check_key(preamble, key, domain)
    digest = store.get_range(key, preamble.object_length - DIGEST_BYTES, DIGEST_BYTES + 1)
    if len(digest) != DIGEST_BYTES:
        raise DamagedObject(key, "it has not the length that it states")
    return StoredSegment(preamble, digest)
