"""One look at a container: what collection knows of its objects, and what each reason to keep cuts needs.

Reads only; what it learns of heads is remembered where the collector remembers it, under the collector's
lock. What is made of it does not belong here (levels, kinds).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cdp_agent.collector.alive import objects_if
from cdp_agent.collector.cache import CacheDamaged
from cdp_agent.collector.collect import look_around
from cdp_agent.collector.counting import past_of
from cdp_agent.collector.pass_types import Around, Found, Wishes
from cdp_agent.collector.past import spared_by_history, unnamed_of
from cdp_agent.collector.process import LOCK_NAME, Site, around_of
from cdp_agent.collector.remembered import Remembered
from cdp_agent.collector.whole_frames import LIVE_SHARE_WHOLE, copied_whole
from cdp_agent.supervisor import is_locked, take_lock
from cdp_agent.usage.kinds import Kind, Known
from cdp_agent.usage.levels import levels_of, shares_of
from cdp_container.clock import Clock
from cdp_container.domain.heads import BROKEN, Broken, read_heads
from cdp_container.domain.history import read_domain
from cdp_container.domain.retention_policy import Retention, parse_retention
from cdp_container.domain.roster import UNREADABLE, read_roster
from cdp_container.errors import (
    CollectionStopped,
    ForeignObject,
    KeyMissing,
    MissingObject,
    NotFound,
)
from cdp_container.extents.intervals import Ints
from cdp_container.format.domain import Owner
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY, config_key
from cdp_container.format.layout import OBJECT_MAGIC
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store

LOOKS_MAX: Final = 3
"""At a container whose owner changes its plan meanwhile, or over a memory that turns out to be damaged."""
LOCK_WAIT_SECONDS: Final = 600.0
"""For a pass of collection that is under way: it ends, and waits a grace of its own before it does."""
DOUBTS: Final = (*BROKEN, CollectionStopped, KeyMissing)
"""What keeps liveness from being told; what takes space is told all the same."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Look:
    """What was found out.

    Attributes:
        owner: as `domain/owner` says; None where it cannot be read.
        retention: the policy in force; None as well.
        known: None where nobody can tell what is live: `doubts` say why.
        found: what a pass would go by, None as well.
        holds: the roster.
        now_ns: the store's clock, as the newest write of the owner shows it; 0 where it is gone.
        doubts: what is not known, in words.
    """

    owner: Owner | None
    retention: Retention | None
    known: Known | None
    found: Found | None
    holds: Mapping[str, Hold]
    now_ns: int
    doubts: tuple[str, ...] = field(default=())


def look(site: Site, wishes: Wishes, clock: Clock, report: Report) -> Look:
    """Look at the container of a site.

    Raises AlreadyRunning where a pass of collection does not end, NoSuchDomain, StoreUnavailable,
    AccessDenied and their kin, LocalDiskFull.
    """
    path = site.journal / LOCK_NAME
    if is_locked(path):
        report("a pass of collection is under way; waiting until it ends")
    lock = take_lock(path, clock, LOCK_WAIT_SECONDS)
    try:
        return look_at(around_of(site, clock, report, 0), wishes)
    except DOUBTS as error:
        return Look(None, None, None, None, {}, 0, (f"what is live is not known: {error}",))
    finally:
        os.close(lock)


def look_at(around: Around, wishes: Wishes) -> Look:
    """The same, under the lock of whoever calls."""
    store = around.store
    holds, doubts = _holds(store, around.identity.domain)
    now_ns = _store_ns(store)
    owner, retention = None, None
    try:
        facts = read_domain(store)
        owner = facts.owner
        if facts.config is not None:
            retention = parse_retention(facts.config.retention, config_key(facts.owner.config))
        known, found = _tried(around, wishes, holds, now_ns)
    except DOUBTS as error:
        doubts.append(f"what is live is not known: {error}")
        return Look(owner, retention, None, None, holds, now_ns, tuple(doubts))
    return Look(owner, retention, known, found, holds, now_ns, tuple(doubts))


def _store_ns(store: Store) -> int:
    """When the owner last wrote: a lease ago at most while it lives, and never later than now."""
    try:
        return store.head(OWNER_KEY).modified_ns
    except NotFound:
        return 0


def _holds(store: Store, domain: bytes) -> tuple[Mapping[str, Hold], list[str]]:
    try:
        return read_roster(store, domain).holds.holds, []
    except UNREADABLE as error:
        return {}, [f"what is held is not known: {error}"]


def _tried(around: Around, wishes: Wishes, holds: Mapping[str, Hold], now_ns: int) -> tuple[Known, Found]:
    for left in reversed(range(LOOKS_MAX)):
        owner = read_domain(around.store).owner
        try:
            return _look(around, wishes, owner, holds, now_ns)
        except CollectionStopped:
            if not left or _stands(around.store, owner):
                raise
        except CacheDamaged as error:
            if not left:
                why = f"what is remembered of objects is damaged: {error}"
                raise CollectionStopped("look at the container", why) from error
    raise AssertionError("the last look returns or raises")


def _stands(store: Store, before: Owner) -> bool:
    """Whether the owner still says what it did; else another look may fare better."""
    now = read_domain(store).owner
    return (now.epoch, now.ledger, now.plan) == (before.epoch, before.ledger, before.plan)


def _look(
    around: Around, wishes: Wishes, owner: Owner, holds: Mapping[str, Hold], now_ns: int
) -> tuple[Known, Found]:
    remembered = Remembered(around.directory, around.identity.domain)
    try:
        _, found = look_around(around, wishes, remembered, owner, holds, now_ns)
        return known_of(around, wishes, remembered, found), found
    except CacheDamaged:
        remembered.cache.throw_away()
        raise
    finally:
        remembered.close()


def known_of(around: Around, wishes: Wishes, remembered: Remembered, found: Found) -> Known:
    """What is told of objects, from what a pass goes by. Raises CacheDamaged, LocalDiskFull."""
    objects = found.alive.objects
    past = past_of(found.history)
    around.report("telling apart what keeps it")
    levels = levels_of(found.history.newest, found.kept)
    live: dict[frozenset[Place], Ints] = {levels[-1]: objects["live_bytes"]}
    for cuts in levels:
        if cuts not in live:  # each is a look at everything
            live[cuts] = objects_if(remembered, past, found.ledger, cuts)["live_bytes"]
    sealed = bool(around.identity.key_block)
    whole = copied_whole(remembered, found.alive, LIVE_SHARE_WHOLE) if sealed else objects
    ruled = spared_by_history(found.history, [place for place, why in found.kept.items() if why.whole])
    held = found.spared - ruled
    shares = shares_of(objects, [live[cuts] for cuts in levels], whole["live_bytes"], ruled, held)
    return Known(objects, shares, _others(around, found, ruled, held), found.history.newest)


def _others(around: Around, found: Found, ruled: set[str], held: set[str]) -> dict[str, Kind]:
    """What nothing names, and what is not this domain's."""
    others = {}
    for one in unnamed_of(found.inventory, found.history, found.ledger, set(found.superseded)):
        others[one.key] = Kind.RULES if one.key in ruled else Kind.HOLDS if one.key in held else Kind.DEAD
    for key in _foreign(around, found, sorted(found.inventory.damaged)):
        others[key] = Kind.FOREIGN
    return others


def _foreign(around: Around, found: Found, damaged: Sequence[str]) -> list[str]:
    """Of objects whose heads tell nothing those that are another domain's, or none of ours at all."""
    keys = ReaderKeys(around.identity.index_key or None)
    listed = [found.inventory.found[key] for key in damaged]
    return [
        seen.key
        for seen in read_heads(around.store, listed, around.identity.domain, keys)
        if isinstance(seen, Broken) and (isinstance(seen.error, ForeignObject) or _is_alien(around, seen))
    ]


def _is_alien(around: Around, broken: Broken) -> bool:
    if isinstance(broken.error, MissingObject):
        return False
    try:
        return around.store.get_range(broken.key, 0, len(OBJECT_MAGIC)) != OBJECT_MAGIC
    except NotFound:
        return False
