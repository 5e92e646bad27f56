"""Opening what is left of a container: without `domain/`, without catalogs, from any subset of its objects.

The newest cut that is complete among what was found counts, by whichever ledger gives it. What cannot be
proven so is said: whether there were newer cuts, and whether an epoch ended earlier than it looks. Finding
objects does not belong here (salvage), nor what is restored from them (points, restore).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.history import DomainFacts, History, owner_of_record
from cdp_container.domain.ledgers import Ledger, read_ledger
from cdp_container.domain.replica import read_replica, stand_ins
from cdp_container.domain.salvage import Salvaged, salvage
from cdp_container.errors import KeyMissing, MissingObject, WrongPassphrase, counted
from cdp_container.format.domain import EpochRecord, ObjectName, Owner
from cdp_container.format.seal import NO_KEYS, ReaderKeys
from cdp_container.store.api import Store
from rehydrate.container import Container, Secret, open_key
from rehydrate.copies import LEDGERS_TRIED_MAX, collected_by_packs

ROUNDS_MAX: Final = 100
"""Damaged heads come to light as they are opened; each round goes on without those of the last one."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """A container to restore from, and what it says; `contents` is to be closed."""

    container: Container
    contents: Contents


def open_rescued(
    store: Store, secret: Secret, domain: bytes | None = None, keeps_names: bool = False
) -> Rescued:
    """Find the newest cut that is complete among the sound objects of a place.

    Args:
        store: the place; only read.
        secret: opens the domain's keys, which every object carries.
        domain: the id of the wanted domain, where objects of several are there.
        keeps_names: see `Contents`.

    Raises:
        NoSuchDomain, ForeignObject: see `salvage`.
        KeyMissing, WrongPassphrase: the objects are sealed, and the secret does not open them.
        MissingObject: no cut is complete.
    """
    found = salvage(store, domain)
    view, notes = found.store, list(found.notes)
    keys = _keys(found, secret)
    for _ in range(ROUNDS_MAX):
        rescued = _best(replace(found, store=view), keys, bool(found.key_blocks), notes, keeps_names)
        broken = set(rescued.contents.broken)
        if not broken:
            return rescued
        rescued.contents.close()
        notes += [f"{key} is not used: {rescued.contents.broken[key].error.why}" for key in sorted(broken)]
        view = view.without(broken)
    raise MissingObject(f"rescue from {store.address}", "more and more objects turn out to be damaged")


def _keys(found: Salvaged, secret: Secret) -> ReaderKeys:
    """By whichever key block the secret opens: older objects carry those of older passphrases."""
    what = f"rescue from {found.store.address}"
    if not secret and found.key_blocks:
        raise KeyMissing(what, "its objects are sealed, and no passphrase or key was given")
    if not secret:
        return NO_KEYS
    wrong = WrongPassphrase(what, "a passphrase or key was given, and no object that was found is sealed")
    for block in found.key_blocks:
        try:
            private_key = open_key(block, secret, found.domain, found.store.address)
        except WrongPassphrase as error:
            wrong = error
        else:
            return ReaderKeys.of_private_key(private_key, found.domain)
    raise wrong


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What one ledger gives."""

    history: History
    ledger: Ledger


def _best(found: Salvaged, keys: ReaderKeys, sealed: bool, notes: list[str], keeps_names: bool) -> Rescued:
    """The newest cut that any ledger gives, or none; of equal ones that of the newest ledger."""
    best: _Candidate | None = None
    tried: list[str] = []
    for key in (*found.ledgers[:LEDGERS_TRIED_MAX], None):
        candidate = _candidate(found, keys, key, tried)
        if candidate is None or not candidate.history.newest:
            continue
        if best is None or candidate.history.newest > best.history.newest:
            best = candidate
    if best is None:
        hint = "\n".join([*tried, *notes]) or "look for more of its objects: replicas, versions, copies"
        raise MissingObject(f"rescue from {found.store.address}", "no cut is complete there", hint)
    history = replace(best.history, notes=(*best.history.notes, *tried, *notes))
    container = Container(found.store, history, keys, sealed, best.ledger)
    return Rescued(container, container.gather(history.everything(), keeps_names=keeps_names))


def _candidate(found: Salvaged, keys: ReaderKeys, key: str | None, tried: list[str]) -> _Candidate | None:
    """What is complete by a ledger (None: as if nothing was ever collected)."""
    store = found.store
    try:
        name = None if key is None else ObjectName(key, store.get(key).data[-32:])
        ledger = read_ledger(store, _owner(found, None, name), keys)
        missing = [pack for pack in ledger.packs if pack not in store.places]
        if missing:
            raise MissingObject(str(key), f"{counted(len(missing), 'pack')} that it names are not there")
        collected, packed = collected_by_packs(store, found.domain, keys, ledger)
    except BROKEN as error:
        tried.append(f"the ledger {error.what} is not used: {error.why}")
        return None
    records = {record.epoch: record for record in packed}
    records |= {record.epoch: record for record in stand_ins(store, found.domain, ())}
    if not records:
        return None
    newest = max(records.values(), key=lambda record: record.epoch)
    note = "nothing under domain/ was used: there may have been newer points, and later ends of epochs"
    facts = DomainFacts(_owner(found, newest, name), None, tuple(records.values()), (note,))
    return _Candidate(read_replica(store, facts, collected), ledger)


def _owner(found: Salvaged, newest: EpochRecord | None, ledger: ObjectName | None) -> Owner:
    """What stands in for `domain/owner`."""
    record = newest or EpochRecord(found.domain, 1, 0, "", bytes(16), 0)
    return replace(owner_of_record(record), ledger=ledger)
