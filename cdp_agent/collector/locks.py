"""Locks of the objects in a data place: extended while the objects are needed, noted where they refuse to go.

A bucket locks what is put there for a time. What is needed for longer is locked anew once half of it is over.
What is needed is a pass's to know (collect). Which objects can be deleted is the store's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

from cdp_agent.collector.choose import key_of
from cdp_agent.collector.lock_note import LockNote
from cdp_agent.collector.pass_types import Found
from cdp_container.errors import NotFound, StoreUnavailable
from cdp_container.store.address import DirectoryPlace, data_place, parse_address
from cdp_container.store.inventory import open_inventory

EXTENDED_MAX: Final = 20_000
"""Objects of one pass whose locks are extended; the soonest first, and the rest by the passes after it."""
_SECOND_NS: Final = 1_000_000_000
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Lock:
    """What a bucket does to each object that is put there: in which mode, and for how long."""

    mode: str
    seconds: int

    @property
    def ns(self) -> int:
        """For how long."""
        return self.seconds * _SECOND_NS


@runtime_checkable
class ExtendsLocks(Protocol):
    """A data place whose objects are locked."""

    def extend(self, key: str, mode: str, until_ns: int) -> None:
        """Lock an object until then at least. Raises NotFound, AccessDenied."""
        ...


def lock_of(address: str) -> Lock | None:
    """The lock of a container's data place, by the address of both; None where there is none.

    Raises AccessDenied where we may not ask, and what stores raise.
    """
    place = parse_address(address)
    data = None if isinstance(place, DirectoryPlace) else data_place(place)
    if data is None or data.versions != "oldest":
        return None
    with closing(open_inventory(data)) as inventory:
        rules = inventory.rules()
    if not rules.locks or not rules.lock_days:
        return None
    return Lock(rules.lock_mode, rules.lock_days * _DAY_SECONDS)


def needed_of(found: Found, is_carried_out: bool) -> dict[str, int]:
    """What stays after a pass, and when it was stored: objects in force with something alive, the ledger.

    `is_carried_out`: it had a plan; without one what was chosen stays as well.
    """
    going = set(found.chosen.victims) if is_carried_out else set()
    objects = found.alive.objects
    keys = [key_of(row) for row in objects[~objects["dead"]]]
    if found.history.owner.ledger is not None:
        keys.append(found.history.owner.ledger.key)
    there = found.inventory.found
    return {key: there[key].modified_ns for key in keys if key in there and key not in going}


def horizon_ns(key: str, stored_ns: int, note: LockNote, lock: Lock) -> int:
    """Until when an object is locked, at least. What was stored under another default keeps that one's."""
    seconds = min(lock.seconds, note.before_seconds) if stored_ns < note.since_ns else lock.seconds
    return max(stored_ns + seconds * _SECOND_NS, note.extended.get(key, 0))


def seen_lock(note: LockNote, lock: Lock, now_ns: int) -> LockNote:
    """With the bucket's default as it is now."""
    if note.lock_seconds in (0, lock.seconds):
        return replace(note, lock_seconds=lock.seconds)
    before = min(note.lock_seconds, note.before_seconds or note.lock_seconds)
    return replace(note, lock_seconds=lock.seconds, since_ns=now_ns, before_seconds=before)


def due(needed: Mapping[str, int], note: LockNote, lock: Lock, now_ns: int) -> list[str]:
    """Which of what is needed is locked for less than half of a lock, the soonest first. PURE."""
    ends = {key: horizon_ns(key, stored_ns, note, lock) for key, stored_ns in needed.items()}
    late = [key for key, end_ns in ends.items() if end_ns - now_ns < lock.ns // 2]
    return sorted(late, key=lambda key: (ends[key], key))[:EXTENDED_MAX]


def extend_locks(
    store: ExtendsLocks,
    needed: Mapping[str, int],
    note: LockNote,
    lock: Lock,
    now_ns: int,
    wait: Callable[[], None] = lambda: None,
) -> LockNote:
    """Lock anew what is due, each until a whole lock from now; gives what is known then.

    `wait` is called before each request. A store that goes away leaves the rest to the next pass. Raises
    AccessDenied and its kin.
    """
    note, until_ns = seen_lock(note, lock, now_ns), now_ns + lock.ns
    extended = {key: end_ns for key, end_ns in note.extended.items() if key in needed}
    for key in due(needed, note, lock, now_ns):
        wait()
        try:
            store.extend(key, lock.mode, until_ns)
        except NotFound:
            continue  # the pass after this one looks for what is missing
        except StoreUnavailable:
            break
        extended[key] = until_ns
    after = replace(note, extended=extended)
    soonest = min((horizon_ns(key, at, after, lock) for key, at in needed.items()), default=0)
    return replace(after, soonest_ns=soonest)


def refused_by(note: LockNote, locked: Mapping[str, int | None], now_ns: int, lock: Lock | None) -> LockNote:
    """With what a pass could not delete; one whose end nobody knows is asked again after a whole lock.

    After a day where the bucket locks nothing by default any more.
    """
    again_ns = _DAY_SECONDS * _SECOND_NS if lock is None else lock.ns
    refused = {key: until_ns for key, until_ns in note.refused.items() if until_ns > now_ns}
    refused |= {key: now_ns + again_ns if until is None else until for key, until in locked.items()}
    return replace(note, refused=refused)
