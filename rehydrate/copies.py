"""By which ledger to read a copy, where what a collection wrote and deleted, and `domain/owner`, come anyhow.

The one that `domain/owner` names, as long as all is there by it that was proven, and no newer one is there;
else whichever gives the newest point: a ledger whose packs are there tells the truth of all that it does not
retire. What an image is
made of by a ledger does not belong here (domain.replica), nor a place without `domain/` (rescue).
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from cdp_container.domain.ends import Collected
from cdp_container.domain.gathering import gather
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.history import DomainFacts, History
from cdp_container.domain.ledgers import NO_LEDGER, Ledger, read_ledger
from cdp_container.domain.replica import read_replica
from cdp_container.errors import MissingObject, NotFound
from cdp_container.format.domain import EpochRecord, ObjectName
from cdp_container.format.keys import OWNER_KEY, PACKS_PREFIX, KeyKind, parse_key
from cdp_container.format.layout import DIGEST_BYTES
from cdp_container.format.place import NOWHERE
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store

LEDGERS_TRIED_MAX: Final = 32
"""Ledgers that are tried, the newest first; each is complete in itself."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one ledger gives."""

    history: History
    ledger: Ledger


def read_copy(store: Store, facts: DomainFacts, keys: ReaderKeys) -> Reading:
    """The newest complete cut of a copy, and by which ledger; a note tells where that is not the owner's.

    Raises what the owner's ledger raises, where it gives nothing and no other one gives more: MissingObject,
    DamagedObject and their kin.
    """
    there = {found.key for found in store.list(PACKS_PREFIX)}
    named = facts.owner.ledger
    best, lack = None, None
    try:
        best = _by_ledger(store, facts, keys, named, there)
    except MissingObject as error:  # damage is no lag
        lack = error
    others = _others(named, there)
    if best is not None and best.history.newest >= facts.owner.protected:
        # An owner that is old or not there says little of what was proven: newer ledgers tell of more.
        others = [key for key in others if key is not None and (named is None or key > named.key)]
    for key in others:
        try:
            name = None if key is None else ObjectName(key, store.get(key).data[-DIGEST_BYTES:])
            found = _by_ledger(store, facts, keys, name, there)
        except (NotFound, *BROKEN):
            continue  # it never came into force, or what it names is not there
        if found.history.newest > (NOWHERE if best is None else best.history.newest):
            best = Reading(_noted(found.history, named, name), found.ledger)
    if best is None:
        assert lack is not None
        raise lack
    return best


def _noted(history: History, named: ObjectName | None, name: ObjectName | None) -> History:
    words = [f"the ledger {one.key}" if one is not None else "no ledger" for one in (named, name)]
    note = f"{OWNER_KEY} names {words[0]}, by which less is complete here: read by {words[1]}"
    return replace(history, notes=(*history.notes, note))


def _by_ledger(
    store: Store, facts: DomainFacts, keys: ReaderKeys, name: ObjectName | None, there: Collection[str]
) -> Reading:
    ledger = read_ledger(store, replace(facts.owner, ledger=name), keys)
    missing = [pack for pack in ledger.packs if pack not in there]
    if missing:
        raise MissingObject(missing[0], f"of the packs that the ledger names {len(missing)} are not there")
    # Of a damaged pack in force restores tell what it is needed for; by another ledger there may be none.
    is_named = name == facts.owner.ledger
    collected, packed = collected_by_packs(store, facts.owner.domain, keys, ledger, tolerant=is_named)
    known = {record.epoch for record in facts.records}
    records = [*facts.records, *(record for record in packed if record.epoch not in known)]
    records.sort(key=lambda record: record.epoch, reverse=True)
    return Reading(read_replica(store, replace(facts, records=tuple(records)), collected), ledger)


def _others(named: ObjectName | None, there: Collection[str]) -> list[str | None]:
    """The keys of the other ledgers that are there, the newest first, and in the end that of none."""
    parsed = ((key, parse_key(key)) for key in there)
    found = {key for key, one in parsed if one is not None and one.kind is KeyKind.LEDGER}
    if named is not None:
        found.discard(named.key)
    newest = sorted(found, reverse=True)[:LEDGERS_TRIED_MAX]  # keys of ledgers sort as their numbers do
    return [*newest, *([] if named is None else [None])]


def collected_by_packs(
    store: Store, domain: bytes, keys: ReaderKeys, ledger: Ledger, tolerant: bool = False
) -> tuple[Collected, tuple[EpochRecord, ...]]:
    """What packs tell of collected cuts and epochs. Raises what is wrong with one, unless `tolerant`."""
    if ledger is NO_LEDGER:
        return Collected(), ()
    with closing(gather(store, domain, keys, {}, ledger)) as packed:
        for broken in () if tolerant else packed.broken.values():
            raise broken.error
        cuts = {name: segment.place for name, segment in packed.segments.items() if segment.complete}
        return Collected(ledger, cuts), tuple(packed.epochs.values())
