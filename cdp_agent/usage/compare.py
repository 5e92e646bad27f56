"""What two places of one container differ in, and why: a zone beside another, or a copy. PURE.

What readers see is compared, key by key; what they do not (versions, uploads) is only added up. Listing does
not belong here, nor reading the plans that tell what was deleted (deleted).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdp_agent.usage.kinds import PROBES, Amount
from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN
from cdp_container.format.keys import KeyKind, parse_key
from cdp_container.store.inventory import Standing, Taken

EXAMPLES_MAX: Final = 5
"""Keys that are named for each cause."""
LAG_NS: Final = COLLECT_AGE_SECONDS_MIN * 1_000_000_000
"""Zones replicate in no strict order: before the newest that both have, something may still be on its way."""
_MUTABLE: Final = (KeyKind.OWNER, KeyKind.HOLDS)
_COMES_AND_GOES: Final = (KeyKind.REQUEST,)
_COLLECTED: Final = (KeyKind.SEGMENT, KeyKind.PACK, KeyKind.LEDGER, KeyKind.CATALOG)


class Cause(enum.Enum):
    """Why a key is at one place alone, or not the same at both."""

    NOT_THERE_YET = "here only, and young: not replicated yet"
    MISSING_THERE = "here only, though far newer ones are there: not replicated, or lost there"
    COLLECTED = "there only: collection deleted it here, and not there yet"
    NOT_HERE_YET = "there only, and young: not replicated to here yet"
    GONE_HERE = "there only, and no plan of collection names it: lost or deleted here"
    REWRITTEN = "rewritten all the time: one is a moment older"
    DIFFERS = "not of the same size: one of them is damaged, or not ours"
    PASSING = "requests and probes, which come and go"
    FOREIGN_HERE = "here only, and none of this system"
    FOREIGN_THERE = "there only, and none of this system"


UNEXPLAINED: Final = frozenset({Cause.MISSING_THERE, Cause.GONE_HERE, Cause.DIFFERS})
"""What somebody should look into."""


@dataclass(slots=True)
class Group:
    """The keys of one cause: how many, their bytes (where they are; here, of those at both), some of them."""

    objects: int = 0
    bytes: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, key: str, size_bytes: int) -> None:
        """Count one more."""
        self.objects += 1
        self.bytes += size_bytes
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(key)


@dataclass(frozen=True, slots=True)
class Side:
    """What stands on one side: what readers see by key (bytes, time), and sums of all by standing."""

    current: dict[str, tuple[int, int]]
    sums: Mapping[Standing, Amount]


def side_of(items: Iterable[tuple[Taken, bool]]) -> Side:
    """One side, from all that takes space there, and whether an object of that name is looked for there."""
    current: dict[str, tuple[int, int]] = {}
    sums = dict.fromkeys(Standing, Amount())
    for item, belongs in items:
        before = sums[item.standing]
        sums[item.standing] = Amount(before.bytes + item.size_bytes, before.objects + 1)
        if item.standing is Standing.CURRENT and belongs:
            current[item.name] = item.size_bytes, item.modified_ns
    return Side(current, sums)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two places beside each other.

    Attributes:
        same: keys that are at both, with one size.
        young_ns: what was stored here later may still be on its way; 0 where nothing is at both.
        groups: the others by cause; only causes that have any.
    """

    same: Amount
    young_ns: int
    groups: Mapping[Cause, Group]

    @property
    def is_explained(self) -> bool:
        """Whether nothing is left that somebody should look into."""
        return not UNEXPLAINED & self.groups.keys()


def only_there(here: Side, there: Side) -> list[str]:
    """The keys of what collection may have deleted here and is still there."""
    return [key for key in sorted(there.current.keys() - here.current.keys()) if _is_collected(key)]


def _is_collected(key: str) -> bool:
    parsed = parse_key(key)
    return parsed is not None and parsed.kind in _COLLECTED


def compare(here: Side, there: Side, deleted: Mapping[str, str]) -> Compared:
    """Every key of either, told by its cause.

    Args:
        here: the agent's place.
        there: the other one; it was listed before, so that what collection deletes is missed here at most.
        deleted: what tells (a plan, the ledger) that collection deleted a key here, by key.
    """
    both = here.current.keys() & there.current.keys()
    lasting = [key for key in both if _is_lasting(key)]
    young_here = _young(here, lasting)
    young_there = _young(there, lasting)
    groups: dict[Cause, Group] = {}
    same_objects = same_bytes = 0
    for key in sorted(here.current.keys() | there.current.keys()):
        size_bytes, stored_ns = (here if key in here.current else there).current[key]
        name = key
        if key not in there.current:
            cause = _only_here(key, stored_ns > young_here)
        elif key not in here.current:
            cause = _only_there(key, stored_ns > young_there, key in deleted)
            name = f"{key} ({deleted[key]})" if cause is Cause.COLLECTED else key
        elif size_bytes != there.current[key][0]:
            cause = Cause.REWRITTEN if _is_mutable(key) else Cause.DIFFERS
        else:
            same_objects, same_bytes = same_objects + 1, same_bytes + size_bytes
            continue
        groups.setdefault(cause, Group()).add(name, size_bytes)
    ordered = {cause: groups[cause] for cause in Cause if cause in groups}
    return Compared(Amount(same_bytes, same_objects), young_here, ordered)


def _young(side: Side, common: Iterable[str]) -> int:
    """What was stored later than this at a place may still be on its way to the other one."""
    newest = max((side.current[key][1] for key in common), default=0)
    return max(0, newest - LAG_NS)


def _only_here(key: str, is_young: bool) -> Cause:
    if _is_passing(key):
        return Cause.PASSING
    if parse_key(key) is None:
        return Cause.FOREIGN_HERE
    return Cause.NOT_THERE_YET if is_young else Cause.MISSING_THERE


def _only_there(key: str, is_young: bool, is_deleted: bool) -> Cause:
    if _is_passing(key):
        return Cause.PASSING
    if parse_key(key) is None:
        return Cause.FOREIGN_THERE
    if is_deleted:
        return Cause.COLLECTED
    return Cause.NOT_HERE_YET if is_young else Cause.GONE_HERE


def _is_mutable(key: str) -> bool:
    parsed = parse_key(key)
    return parsed is not None and parsed.kind in _MUTABLE


def _is_passing(key: str) -> bool:
    parsed = parse_key(key)
    return key.startswith(PROBES) if parsed is None else parsed.kind in _COMES_AND_GOES


def _is_lasting(key: str) -> bool:
    """Whether it is written once and stays, so that its time says how far replication is."""
    return parse_key(key) is not None and not _is_mutable(key) and not _is_passing(key)
