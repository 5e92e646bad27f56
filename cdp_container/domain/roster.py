"""Reading the roster of holds, and changing it by compare-and-swap: readers, operators and the collector.

What a hold means, who refreshes it and when it is dead does not belong here (holding, held).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cdp_container.clock import Clock
from cdp_container.errors import (
    Contention,
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from cdp_container.format.holds import Hold, Holds, build_holds, parse_holds
from cdp_container.format.keys import HOLDS_KEY
from cdp_container.format.layout import ID_BYTES
from cdp_container.store.api import Store
from cdp_container.store.s3_settings import SpellsTags, TagSpelling

TRIES_MAX: Final = 20
"""How often a change is tried while others change the roster, or the store does not answer."""
PAUSE_FIRST_SECONDS: Final = 0.05
PAUSE_SECONDS_MAX: Final = 2.0
SPELLINGS: Final[tuple[TagSpelling, ...]] = ("unquoted", "as-given")
"""Tried in turn where a store refuses the very tag that it gave: a reader has no right to probe."""
UNREADABLE: Final = (MissingObject, DamagedObject, ForeignObject, NewerFormat, LimitExceeded)

_MEND: Final = (
    "nothing is collected without it; once no reader is left that it may have named: "
    "`rehydrate unhold ADDRESS all --force` writes an empty one"
)

Change = Callable[[Mapping[str, Hold]], Mapping[str, Hold] | None]
"""From the holds that stand to those that should; None where they do already. May raise, which ends it."""
Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Roster:
    """The roster as it stands; `stored_ns` is the store's Last-Modified."""

    holds: Holds
    tag: str
    stored_ns: int


def read_roster(store: Store, domain: bytes | None) -> Roster:
    """The roster of a domain (None: of whichever it is).

    Raises:
        MissingObject: there is none.
        DamagedObject, ForeignObject, NewerFormat, LimitExceeded: nobody can tell what it holds.
        StoreUnavailable and its kin: see the store.
    """
    try:
        blob = store.get(HOLDS_KEY)
    except NotFound as error:
        raise MissingObject(HOLDS_KEY, "the container has no roster of holds", _MEND) from error
    try:
        holds = parse_holds(blob.data, HOLDS_KEY, domain)
    except DamagedObject as error:
        raise DamagedObject(error.what, error.why, _MEND) from error
    return Roster(holds, blob.found.tag, blob.found.modified_ns)


def change_roster(
    store: Store, domain: bytes | None, change: Change, clock: Clock, entropy: Entropy
) -> Mapping[str, Hold]:
    """Change the roster, whoever else does; gives the holds as they are then. Safe to repeat.

    Whether a write whose reply was lost took place is seen in the roster itself: `change` finds it done.

    Raises:
        PreconditionFailed, Contention, StoreUnavailable: after TRIES_MAX; whether it took place is not known.
        AccessDenied: it may not be written.
        LimitExceeded: it is full, or has too many words.
        MissingObject, DamagedObject and their kin: see `read_roster`.
    """
    roster = read_roster(store, domain)
    misspelled = 0
    for tries in range(1, TRIES_MAX + 1):
        wanted = change(roster.holds.holds)
        if wanted is None:
            return roster.holds.holds
        fresh = replace(
            roster.holds, version=roster.holds.version + 1, nonce=entropy(ID_BYTES), holds=dict(wanted)
        )
        try:
            store.put_if(HOLDS_KEY, build_holds(fresh), roster.tag)
            return fresh.holds
        except (PreconditionFailed, Contention, StoreUnavailable) as error:
            if tries == TRIES_MAX:
                raise
            found = read_roster(store, domain)
            refused = isinstance(error, PreconditionFailed) and found.tag == roster.tag
            if refused and isinstance(store, SpellsTags):
                store.spell_tags(SPELLINGS[misspelled % len(SPELLINGS)])
                misspelled += 1
            roster = found
            clock.sleep(pause_seconds(tries, entropy))
    raise AssertionError("the last try returns or raises")


def pause_seconds(tries: int, entropy: Entropy) -> float:
    """Before the next try: doubling, shortened by up to half at random, so that readers do not keep step."""
    longest = min(PAUSE_SECONDS_MAX, PAUSE_FIRST_SECONDS * 2.0 ** (tries - 1))
    return longest * (0.5 + int.from_bytes(entropy(2)) / 2**17)


def renew_roster(store: Store, domain: bytes, entropy: Entropy) -> None:
    """Write an empty roster, whatever stands there: an operator says that no reader needs it.

    Raises PreconditionFailed, Contention where somebody else wrote it meanwhile, and what a store raises.
    """
    version = 0
    try:
        blob = store.get(HOLDS_KEY)
    except NotFound:
        store.put_new(HOLDS_KEY, build_holds(Holds(domain, 1, entropy(ID_BYTES))))
        return
    try:
        version = parse_holds(blob.data, HOLDS_KEY, domain).version
    except UNREADABLE:
        version = 0  # nobody can tell which it was; the nonce tells them apart
    data = build_holds(Holds(domain, version + 1, entropy(ID_BYTES)))
    for spelling in (None, *SPELLINGS):
        if spelling is not None and isinstance(store, SpellsTags):
            store.spell_tags(spelling)
        try:
            store.put_if(HOLDS_KEY, data, blob.found.tag)
            return
        except PreconditionFailed:
            if spelling == SPELLINGS[-1] or store.head(HOLDS_KEY).tag != blob.found.tag:
                raise
