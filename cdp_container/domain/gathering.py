"""Finding and reading the objects that a reader needs: by listings, by name, out of catalogs, by their heads.

What they say together is kept in `contents.py`; which epochs count, and up to where, is decided in
`history.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.heads import HEADS_AT_ONCE, Broken, Seen, read_catalogs, read_heads, rescue_head
from cdp_container.domain.ledgers import NO_LEDGER, Ledger
from cdp_container.domain.parallel import ManyAtOnce
from cdp_container.errors import DamagedObject, NotFound
from cdp_container.format.keys import (
    CATALOG_PREFIX,
    PACKS_PREFIX,
    KeyKind,
    log_prefix,
    parse_key,
    segment_key,
)
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Found, Store

HOLE_MAX: Final = 1_000
"""The longest hole in a listing whose keys are asked for one by one."""

Told = Callable[[int, int], None]
"""Told how many objects were taken in, and how many there are in all."""


def gather(
    store: Store,
    domain: bytes,
    keys: ReaderKeys,
    scope: Mapping[int, int],
    ledger: Ledger = NO_LEDGER,
    keeps_sums: bool = False,
    at_once: ManyAtOnce = HEADS_AT_ONCE,
    told: Told = lambda done, total: None,
    keeps_names: bool = False,
) -> Contents:
    """Read what the segments of some epochs, and all packs in force, say.

    Args:
        store: the container.
        domain: the id that every object must carry.
        keys: with an index key, or only preambles of a sealed container are read.
        scope: for each epoch the last seq that counts; later segments are ignored whatever they say.
        ledger: what was collected, and which packs are in force.
        keeps_sums: see `Contents`.
        at_once: how many heads are asked for at once.
        told: from when all are listed on.
        keeps_names: see `Contents`.

    Errors of the store come through; objects that are not what they should be are in `Contents.broken`.
    """
    contents = Contents(domain, ledger=ledger, keeps_sums=keeps_sums, keeps_names=keeps_names)
    try:
        wanted = {found.key: found for found in _listed(store, scope, ledger)}
        packs = list(_packs(store, ledger))
        total = len(wanted) + len(packs)
        told(0, total)
        for done, seen in enumerate(_seen(store, domain, keys, wanted, packs, contents, at_once), 1):
            if isinstance(seen, Broken):
                contents.broken[seen.key] = seen
            else:
                try:
                    contents.add(seen)
                except DamagedObject as error:
                    contents.broken[seen.key] = Broken(seen.key, error)
            told(done, total)
    except BaseException:
        contents.close()
        raise
    return contents


def rescue(store: Store, keys: ReaderKeys, contents: Contents) -> None:
    """Take in what damaged segments say whose heads are sound, for who restores what is left of them.

    They are not in `Contents.broken` any more: each of their frames tells by itself whether it is damaged.
    """
    for key in sorted(contents.broken):
        parsed = parse_key(key)
        if parsed is None or parsed.kind is not KeyKind.SEGMENT:
            continue
        if (parsed.epoch, parsed.number) in contents.segments:
            continue  # its head was read, and is what makes no sense
        seen = rescue_head(store, key, contents.domain, keys)
        if seen is None:
            continue
        try:
            contents.add(seen)
        except DamagedObject as error:
            contents.broken[key] = Broken(key, error)
        else:
            contents.notes.append(f"{key} is damaged, and its head is not: what is left of it is used")
            del contents.broken[key]


def _seen(
    store: Store,
    domain: bytes,
    keys: ReaderKeys,
    wanted: dict[str, Found],
    packs: list[Found],
    contents: Contents,
    at_once: ManyAtOnce,
) -> Iterator[Seen | Broken]:
    for seen in read_catalogs(store, CATALOG_PREFIX, domain, keys, wanted):
        if isinstance(seen, Seen):
            yield seen
        else:
            contents.notes.append(f"the catalog {seen.key} was not used: {seen.error.why}")
    # Packs are read themselves: the ledger names each by its trailer, which a catalog only repeats.
    yield from read_heads(store, [*wanted.values(), *packs], domain, keys, at_once)


def _listed(store: Store, scope: Mapping[int, int], ledger: Ledger) -> Iterator[Found]:
    """The segments in scope that were not collected.

    A listing may omit fresh keys: a hole is asked for by name.
    """
    for epoch, last in sorted(scope.items()):
        expected = 1
        for found in store.list(log_prefix(epoch)):
            parsed = parse_key(found.key)
            if parsed is None or parsed.kind is not KeyKind.SEGMENT or parsed.number > last:
                continue
            yield from _asked(store, epoch, range(expected, parsed.number), ledger)
            expected = parsed.number + 1
            if not ledger.is_collected(epoch, parsed.number):
                yield found
        yield from _asked(store, epoch, range(expected, last + 1), ledger)


def _packs(store: Store, ledger: Ledger) -> Iterator[Found]:
    """The packs in force, as far as they are there; `faults_of` misses the others."""
    if not ledger.packs:
        return
    listed = {found.key: found for found in store.list(PACKS_PREFIX) if found.key in ledger.packs}
    for key in ledger.packs:
        try:
            yield listed[key] if key in listed else store.head(key)
        except NotFound:
            continue


def _asked(store: Store, epoch: int, hole: range, ledger: Ledger) -> Iterator[Found]:
    """Those segments of a hole that are there after all and were not collected."""
    if len(hole) > HOLE_MAX:
        return
    for seq in hole:
        if ledger.is_collected(epoch, seq):
            continue
        try:
            yield store.head(segment_key(epoch, seq))
        except NotFound:
            continue
