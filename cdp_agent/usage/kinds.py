"""Every byte of a place by what it is there for: from what stands there and what is known of it. PURE.

Each item is told by the first of these that fits, so that no byte is counted twice:

1. what no reader sees: an upload that nobody ended, what a write left behind, a version that is not the
   object, a delete marker;
2. a name that is none of ours, or that does not belong into this place, or content that is none of this
   domain: *foreign*;
3. `domain/`, ledgers in force, catalogs: *information*;
4. a segment or pack in force is parted: what of it the newest point of the main line needs is *live*; what
   the cuts need that the rules keep (young, not yet proven, newest whole, bases) and the newest does not;
   then in the same way window, thinned terms, markers, holds; what is left is dead, in an object that is all
   dead, or that is partly live, or (of one that would be packed) in frames that only the private key splits;
5. one that nothing names is dead, or kept for the hold of a reader who may still look for it;
6. what is dead is *locked* while the bucket's lock keeps it;
7. what the look at the container could not tell: *not told apart*.

What lives where does not belong here (levels), nor reading any of it (look).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cdp_agent.collector.alive_types import OBJECTS
from cdp_container.domain.retention_policy import TERM_SECONDS_MAX
from cdp_container.extents.intervals import Ints
from cdp_container.extents.tables import Table
from cdp_container.format.keys import KeyKind, ParsedKey, parse_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.inventory import Standing, Taken

DAY_NS: Final = 86400 * 1_000_000_000
PROBES: Final = "domain/probe/"
"""What a look whether the store keeps its word leaves where it is killed; no key that a reader knows."""
LOCK_DAYS_MAX: Final = TERM_SECONDS_MAX // 86400
"""A lock beyond it is for ever: in nanoseconds a time and a term still fit into an i64."""


class Kind(enum.Enum):
    """What bytes are there for, in the order of attribution."""

    LIVE = "live"
    RULES = "rules"
    WINDOW = "window"
    THINNED = "thinned"
    MARKERS = "markers"
    HOLDS = "holds"
    LOCK = "lock"
    DEAD = "dead"
    SHARED = "dead_in_live_objects"
    UNSPLIT = "dead_for_want_of_key"
    INFORMATION = "information"
    OTHER = "other_versions"
    DELETE_MARKERS = "delete_markers"
    UPLOADS = "abandoned_uploads"
    LEFT = "left_behind"
    FOREIGN = "foreign"
    UNTOLD = "not_told_apart"


DEAD_KINDS: Final = (Kind.DEAD, Kind.SHARED, Kind.UNSPLIT)
SPLIT: Final = (
    Kind.LIVE, Kind.RULES, Kind.WINDOW, Kind.THINNED, Kind.MARKERS, Kind.HOLDS,
    Kind.DEAD, Kind.SHARED, Kind.UNSPLIT,
)  # fmt: skip
"""What one segment or pack may be parted into: the columns of `Known.shares`."""

_UNSEEN: Final = {
    Standing.UPLOAD: Kind.UPLOADS,
    Standing.LEFT: Kind.LEFT,
    Standing.OTHER: Kind.OTHER,
    Standing.MARKER: Kind.DELETE_MARKERS,
}
_IN_FORCE: Final = {KeyKind.SEGMENT: ObjectKind.SEGMENT, KeyKind.PACK: ObjectKind.PACK}


@dataclass(frozen=True, slots=True)
class Known:
    """What one look at the container tells of its objects.

    Attributes:
        objects: those in force (OBJECTS), sorted by (kind, epoch, number).
        shares: a row of bytes for each of them, a column for each of SPLIT; the sum of a row is its size.
        whole: others, each of one kind.
        newest: the newest segment that the look took in; what is newer was written since.
    """

    objects: Table
    shares: Ints
    whole: Mapping[str, Kind] = field(default_factory=dict)
    newest: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class Lock:
    """What is locked in a bucket, and until when.

    Attributes:
        days: of each new object; None: there is no such rule, or it is not known.
        now_ns: the store's clock.
        noted: for single objects until when they are known to be locked.
    """

    days: int | None
    now_ns: int
    noted: Mapping[str, int] = field(default_factory=dict)

    def until_ns(self, item: Taken) -> int:
        """Until when something is locked, at least; 0 where it is not any more."""
        until = 0
        if self.days is not None:
            until = item.modified_ns + min(self.days, LOCK_DAYS_MAX) * DAY_NS
        if item.standing is Standing.CURRENT:
            until = max(until, self.noted.get(item.name, 0))
        return until if until > self.now_ns else 0


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes, and objects, each counted for the first kind of which it has any."""

    bytes: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The account of one place.

    Attributes:
        amounts: by kind; their sums are what the place holds.
        newest_ns: the newest time that the store told of anything.
        oldest_upload_ns: when the oldest upload that nobody ended began, 0 for none.
        locked_until_ns: when the last lock of dead bytes ends, 0 for none.
        locked_other_bytes: of other versions, what a lock keeps.
        collection: the key and the time of the newest final list of a collection, if any.
        small_objects: segments and packs below `small_bytes`.
    """

    amounts: Mapping[Kind, Amount]
    newest_ns: int
    oldest_upload_ns: int
    locked_until_ns: int
    locked_other_bytes: int
    collection: tuple[str, int] | None
    small_objects: int

    @property
    def total(self) -> Amount:
        """Everything."""
        return Amount(
            sum(amount.bytes for amount in self.amounts.values()),
            sum(amount.objects for amount in self.amounts.values()),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What takes space at one place of a container, which may be in two.

    Attributes:
        items: all of it, in any order.
        lock: of the place's bucket.
        belongs: whether an object of this name is looked for in this place.
    """

    items: Iterable[Taken]
    lock: Lock
    belongs: Callable[[str], bool] = field(default=lambda _: True)


def account(parts: Iterable[Part], known: Known | None, small_bytes: int) -> Usage:
    """The account of all that takes space. `known`: None where nothing is."""
    counting = _Counting(known, small_bytes)
    for part in parts:
        for item in part.items:
            counting.take(item, part)
    return counting.usage()


class _Counting:
    """Sums, item by item: nothing is kept of one that was counted."""

    def __init__(self, known: Known | None, small_bytes: int) -> None:
        self._known = known
        self._rows = _Rows(known.objects if known is not None else np.zeros(0, dtype=OBJECTS))
        self._small_bytes = small_bytes
        self._bytes = dict.fromkeys(Kind, 0)
        self._objects = dict.fromkeys(Kind, 0)
        self._total_bytes = self._newest_ns = self._locked_until_ns = self._locked_other_bytes = 0
        self._oldest_upload_ns = self._small_objects = 0
        self._collection: tuple[str, int] | None = None

    def take(self, item: Taken, part: Part) -> None:
        """Count one item of a place."""
        self._total_bytes += item.size_bytes
        self._newest_ns = max(self._newest_ns, item.modified_ns)
        belongs = item.standing is Standing.CURRENT and part.belongs(item.name)
        parsed = parse_key(item.name) if belongs else None
        self._note(item, parsed, part.lock)
        counted = False
        for kind, size_bytes in self._parts(item, parsed, part.lock):
            self._bytes[kind] += size_bytes
            self._objects[kind] += not counted
            counted = True

    def _note(self, item: Taken, parsed: ParsedKey | None, lock: Lock) -> None:
        if item.standing is Standing.UPLOAD:
            self._oldest_upload_ns = min(self._oldest_upload_ns or item.modified_ns, item.modified_ns)
        elif item.standing is Standing.OTHER and lock.until_ns(item):
            self._locked_other_bytes += item.size_bytes
        if parsed is None:
            return
        if parsed.kind is KeyKind.GC_FINAL:
            newest = 0 if self._collection is None else self._collection[1]
            self._collection = (
                (item.name, item.modified_ns) if item.modified_ns > newest else self._collection
            )
        self._small_objects += parsed.kind in _IN_FORCE and item.size_bytes < self._small_bytes

    def _parts(self, item: Taken, parsed: ParsedKey | None, lock: Lock) -> Sequence[tuple[Kind, int]]:
        """At least one, in the order of kinds; only a part that is all may be empty."""
        if item.standing is not Standing.CURRENT:
            return [(_UNSEEN[item.standing], item.size_bytes)]
        parts = self._split(item, parsed)
        until_ns = lock.until_ns(item)
        if not until_ns or parts[-1][0] not in DEAD_KINDS:
            return parts
        self._locked_until_ns = max(self._locked_until_ns, until_ns)
        alive = [part for part in parts if part[0] not in DEAD_KINDS]
        return [*alive, (Kind.LOCK, item.size_bytes - sum(size for _, size in alive))]

    def _split(self, item: Taken, parsed: ParsedKey | None) -> Sequence[tuple[Kind, int]]:
        if parsed is None:
            ours = item.name.startswith(PROBES)
            return [(Kind.INFORMATION if ours else Kind.FOREIGN, item.size_bytes)]
        known = self._known
        whole = None if known is None else known.whole.get(item.name)
        if whole is not None:
            return [(whole, item.size_bytes)]
        if parsed.kind not in _IN_FORCE:
            return [(Kind.INFORMATION, item.size_bytes)]
        row = self._rows.of(_IN_FORCE[parsed.kind], parsed, item.size_bytes)
        if known is not None and row is not None:
            shares = known.shares[row].tolist()
            return [(kind, share) for kind, share in zip(SPLIT, shares, strict=True) if share]
        newer = known is not None and _is_newer(parsed, known.newest)
        return [(Kind.RULES if newer else Kind.UNTOLD, item.size_bytes)]

    def usage(self) -> Usage:
        """What was counted."""
        assert sum(self._bytes.values()) == self._total_bytes, "every byte is counted once"
        amounts = {kind: Amount(self._bytes[kind], self._objects[kind]) for kind in Kind}
        return Usage(
            amounts,
            self._newest_ns,
            self._oldest_upload_ns,
            self._locked_until_ns,
            self._locked_other_bytes,
            self._collection,
            self._small_objects,
        )


class _Rows:
    """Where the object of a key stands among OBJECTS; columns of their own, as a search copies others."""

    def __init__(self, objects: Table) -> None:
        self._numbers = np.ascontiguousarray(objects["number"])
        self._sizes = np.ascontiguousarray(objects["stored_bytes"])
        same = (objects["kind"][1:] == objects["kind"][:-1]) & (objects["epoch"][1:] == objects["epoch"][:-1])
        begins = np.flatnonzero(np.concatenate((np.array([len(objects) > 0]), ~same))).tolist()
        self._spans = {
            (int(objects["kind"][low]), int(objects["epoch"][low])): (low, high)
            for low, high in zip(begins, [*begins[1:], len(objects)], strict=False)
        }

    def of(self, kind: ObjectKind, parsed: ParsedKey, size_bytes: int) -> int | None:
        """Its row; None where there is no such object, or it has another size."""
        low, high = self._spans.get((kind, parsed.epoch), (0, 0))
        row = low + int(np.searchsorted(self._numbers[low:high], parsed.number))
        found = row < high and self._numbers[row] == parsed.number and self._sizes[row] == size_bytes
        return row if found else None


def _is_newer(parsed: ParsedKey, newest: Place) -> bool:
    if parsed.kind is not KeyKind.SEGMENT:
        return False
    return (parsed.epoch, parsed.number) > (newest.epoch, newest.seq)
