"""What is there: every object of a container, listed, and the heads of those that are new read.

A listing may omit keys, so what must be there is asked for by name, and what is not there after all ends the
pass. What counts of it does not belong here (counting), nor what of it nobody needs (past).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cdp_agent.collector.counting import Past
from cdp_agent.collector.facts import facts_of
from cdp_agent.collector.remembered import Remembered
from cdp_container.domain.heads import FIRST_READ_BYTES, Broken, Seen, read_catalogs, read_heads
from cdp_container.domain.ledgers import Ledger
from cdp_container.domain.parallel import Fixed
from cdp_container.errors import MissingObject, NotFound
from cdp_container.format.keys import (
    CATALOG_PREFIX,
    LOG_PREFIX,
    PACKS_PREFIX,
    KeyKind,
    ParsedKey,
    parse_key,
    segment_key,
)
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Found, Store

CATALOGS_WORTH: Final = 256
"""New heads from which on catalogs are read for them: fewer are asked for one by one."""
LARGE_AT_ONCE: Final = Fixed(8)
"""Heads of large objects in flight: of many files' names one may take 10 MiB."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every segment, pack, ledger and catalog, by key; `damaged`: those whose heads tell nothing."""

    found: Mapping[str, Found]
    parsed: Mapping[str, ParsedKey]
    damaged: frozenset[str]


def take_inventory(
    store: Store, domain: bytes, keys: ReaderKeys, remembered: Remembered, past: Past, ledger: Ledger
) -> Inventory:
    """List everything, and remember the facts of segments and packs.

    Raises:
        MissingObject: a segment or pack that counts is not there.
        DamagedObject and its kin: one that counts tells nothing.
    """
    found: dict[str, Found] = {}
    parsed: dict[str, ParsedKey] = {}
    # What was not listed is asked for once all that was is known.
    for source in (_listed(store), _asked(store, found, past, ledger)):
        for one in source:
            key = parse_key(one.key)
            if key is not None:
                found[one.key], parsed[one.key] = one, key
    wanted = {key: one for key, one in found.items() if _tells(parsed[key], past)}
    tables = remembered.tables()
    known = {
        key: (size, stored_ns)
        for key, size, stored_ns in zip(
            tables.keys,
            tables.facts["stored_bytes"].tolist(),
            tables.facts["stored_ns"].tolist(),
            strict=True,
        )
    }
    remembered.forget(key for key in known if key not in wanted)
    fresh = {key: one for key, one in wanted.items() if known.get(key) != (one.size, one.modified_ns)}
    damaged = set()
    for seen in _heads(store, domain, keys, fresh):
        if isinstance(seen, Seen):
            remembered.add(seen.key, *facts_of(wanted[seen.key], seen))
        elif _counts(seen.key, past, ledger):
            raise seen.error
        else:
            damaged.add(seen.key)
    return Inventory(found, parsed, frozenset(damaged))


def _listed(store: Store) -> Iterator[Found]:
    for prefix in (LOG_PREFIX, PACKS_PREFIX, CATALOG_PREFIX):
        yield from store.list(prefix)


def _asked(store: Store, found: Mapping[str, Found], past: Past, ledger: Ledger) -> Iterator[Found]:
    """What must be there and was not listed."""
    for key in _needed(past, ledger):
        if key not in found:
            try:
                yield store.head(key)
            except NotFound as error:
                raise MissingObject(key, "it counts, and it is gone") from error


def _needed(past: Past, ledger: Ledger) -> Iterator[str]:
    yield from ledger.packs
    for epoch, last in past.lasts.items():
        for seq in range(1, last + 1):
            if not ledger.is_collected(epoch, seq):
                yield segment_key(epoch, seq)


def counted_keys(past: Past, ledger: Ledger, protected: Place) -> Iterator[str]:
    """Segments up to `protected` that were not collected, and the packs in force: what readers count on."""
    yield from ledger.packs
    for epoch, last in past.lasts.items():
        for seq in range(1, last + 1):
            if not ledger.is_collected(epoch, seq) and (epoch, seq) <= (protected.epoch, protected.seq):
                yield segment_key(epoch, seq)


def _tells(parsed: ParsedKey, past: Past) -> bool:
    """Whether its facts are wanted: those of segments and packs, but not of what is still being written."""
    if parsed.kind is not KeyKind.SEGMENT:
        return parsed.kind is KeyKind.PACK
    newest = max(past.bases, default=0)
    return parsed.epoch < newest or parsed.number <= past.lasts.get(parsed.epoch, 0)


def _counts(key: str, past: Past, ledger: Ledger) -> bool:
    parsed = parse_key(key)
    assert parsed is not None, key
    if parsed.kind is KeyKind.PACK:
        return key in ledger.packs
    within = parsed.number <= past.lasts.get(parsed.epoch, 0)
    return within and not ledger.is_collected(parsed.epoch, parsed.number)


def _heads(
    store: Store, domain: bytes, keys: ReaderKeys, fresh: Mapping[str, Found]
) -> Iterable[Seen | Broken]:
    left = dict(fresh)
    if len(left) >= CATALOGS_WORTH:
        # One that is damaged tells nothing and does no harm: what it bundles is read itself.
        for seen in read_catalogs(store, CATALOG_PREFIX, domain, keys, left):
            if isinstance(seen, Seen):
                yield seen
    small = [one for one in left.values() if one.size <= FIRST_READ_BYTES]
    large = [one for one in left.values() if one.size > FIRST_READ_BYTES]
    yield from read_heads(store, small, domain, keys)
    yield from read_heads(store, large, domain, keys, LARGE_AT_ONCE)
