"""Opening a container by its index key alone, as an agent has it: history and heads, and no content.

What a passphrase or private key opens does not belong here (rehydrate.container).
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Final

from cdp_container.domain.ends import Collected, is_by_name
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import History, read_domain, read_history
from cdp_container.domain.ledgers import Ledger, read_ledger, read_named
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    KeyMissing,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
)
from cdp_container.format.domain import ObjectName, Owner, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store

_UNREADABLE: Final = (
    MissingObject,
    DamagedObject,
    ForeignObject,
    NewerFormat,
    LimitExceeded,
    KeyMissing,
)
"""What is wrong with a ledger, not with the store."""


@dataclass(frozen=True, slots=True)
class ByIndex:
    """A container that was opened so. `sealed`: its frames cannot be opened."""

    store: Store
    history: History
    keys: ReaderKeys
    sealed: bool
    ledger: Ledger


def open_by_index(store: Store, domain: bytes, index_key: bytes) -> ByIndex:
    """Read history and ledger; `index_key` is empty where the domain is not encrypted.

    Raises DamagedObject where another domain is there; MissingObject and their kin, as `read_domain`.
    """
    facts = read_domain(store)
    if facts.owner.domain != domain:
        raise DamagedObject(OWNER_KEY, "it is of another domain than this agent's")
    keys = ReaderKeys(index_key or None)
    ledger = read_ledger(store, facts.owner, keys)
    collected = collected_of(store, facts.owner, keys, ledger)
    return ByIndex(store, read_history(store, facts, collected), keys, bool(index_key), ledger)


def collected_of(store: Store, owner: Owner, keys: ReaderKeys, ledger: Ledger) -> Collected:
    """What the end of the newest epoch depends on, where anything of it was collected."""
    if not ledger.reaches_into(owner.epoch_in_force):
        return Collected(ledger)
    return all_collected(store, owner.domain, keys, ledger)


def collected_by(
    store: Store, domain: bytes, name: ObjectName | None, epoch: int, protected: Place, keys: ReaderKeys
) -> Collected:
    """What the end of `epoch`, looked for from `protected` on, depends on by the ledger of this name.

    A ledger that cannot be read keeps nobody out where the end can be told by names (`is_by_name`).

    Raises MissingObject, DamagedObject, KeyMissing and their kin: it cannot be read, and elsewhere nobody can
    tell what was collected from what is lost.
    """
    try:
        ledger = read_named(store, domain, name, keys)
    except _UNREADABLE as error:
        if not is_by_name(store, domain, epoch, protected):
            raise
        return Collected(unread=str(error))
    first = protected.seq if protected.epoch == epoch else 1
    is_packed = ledger.is_collected(protected.epoch, protected.seq) or ledger.reaches_beyond(epoch, first)
    if protected and not is_packed:
        return Collected(ledger)
    return all_collected(store, domain, keys, ledger)


def all_collected(store: Store, domain: bytes, keys: ReaderKeys, ledger: Ledger) -> Collected:
    """The same with every cut that a pack remembers: any may be the end where a proven one is lost."""
    if not ledger.packs:
        return Collected(ledger)
    with closing(gather(store, domain, keys, {}, ledger)) as packed:
        found = {name: segment for name, segment in packed.segments.items() if segment.complete}
    places = {name: segment.place for name, segment in found.items()}
    return Collected(ledger, places, {name: segment.cut_time_ns for name, segment in found.items()})


def is_superseded(store: Store, owner: Owner) -> bool:
    """Whether another ledger is in force than this owner names: what it leaves out may be gone since."""
    try:
        return parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, owner.domain).ledger != owner.ledger
    except (NotFound, DamagedObject, NewerFormat, ForeignObject, LimitExceeded):
        return False
