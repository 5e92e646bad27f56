"""Reading the heads of objects: out of catalogs where they have them, else by ranged requests, many at once.

A head that cannot be read does not end the reading: it comes out as `Broken`, and whoever needs it decides.
What the heads say together does not belong here (contents).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cdp_container.domain.parallel import Fixed, ManyAtOnce
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    ForeignObject,
    KeyMissing,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
)
from cdp_container.format.head import (
    Head,
    check_object,
    check_parsed,
    head_need,
    object_digest,
    open_head,
    open_parsed,
)
from cdp_container.format.keys import ledger_key, pack_key, parse_key, segment_key
from cdp_container.format.layout import DIGEST_BYTES, Cipher, ObjectKind
from cdp_container.format.preamble import Preamble, check_key, parse_preamble
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Found, Store

HEADS_AT_ONCE: Final = Fixed(32)
"""Requests for heads in flight where nobody measures: they are small, so it is their latency that counts."""

FIRST_READ_BYTES: Final = 64 << 10
"""What is asked for at first: more than most heads have, and many an object as a whole."""

_ENTRY_KEYS: Final = {
    ObjectKind.SEGMENT: segment_key,
    ObjectKind.PACK: pack_key,
    ObjectKind.LEDGER: ledger_key,
}

BROKEN: Final = (DamagedObject, MissingObject, NewerFormat, ForeignObject, LimitExceeded)
"""Errors that one object gives by itself; all others end the reading."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One object's head; `head` is None where it is sealed and we hold no key. `digest` is its trailer."""

    key: str
    preamble: Preamble
    head: Head | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """An object that is not what it should be, and why."""

    key: str
    error: CdpError


def read_heads(
    store: Store,
    found: Iterable[Found],
    domain: bytes,
    keys: ReaderKeys,
    at_once: ManyAtOnce = HEADS_AT_ONCE,
) -> Iterator[Seen | Broken]:
    """The heads of listed objects, in their order.

    Errors of the store come through; what is wrong with one object alone comes out as `Broken`.
    """
    return at_once.run(
        lambda item: _read_one(store, item, domain, keys),
        found,
        lambda item: min(FIRST_READ_BYTES, item.size),
    )


def _read_one(store: Store, found: Found, domain: bytes, keys: ReaderKeys) -> Seen | Broken:
    try:
        data = _fetch_head(store, found)
        preamble = parse_preamble(data, found.key)
        if len(data) == found.size:
            check_parsed(data, preamble, found.key)
            digest = object_digest(data)
        else:
            digest = store.get_range(found.key, found.size - DIGEST_BYTES, DIGEST_BYTES)
        seen = _open_parsed(data, preamble, found.key, domain, keys, digest)
        if preamble.object_length != found.size:
            why = f"it has {found.size} bytes instead of {preamble.object_length}"
            raise DamagedObject(found.key, why)
        return seen
    except NotFound as error:
        return Broken(found.key, MissingObject(found.key, f"it was listed, but is gone: {error.why}"))
    except BROKEN as error:
        return Broken(found.key, error)


def rescue_head(store: Store, key: str, domain: bytes, keys: ReaderKeys) -> Seen | None:
    """The head of an object that is damaged elsewhere, with an unknown digest; None if the head is, too.

    Errors of the store come through.
    """
    try:
        data = _fetch_head(store, store.head(key))
        return open_seen(data, key, domain, keys, digest=b"")
    except (NotFound, *BROKEN):
        return None


def _fetch_head(store: Store, found: Found) -> bytes:
    """At least the whole head, or the whole object."""
    data = store.get_range(found.key, 0, min(FIRST_READ_BYTES, found.size))
    while len(data) < found.size and (need := head_need(data, found.key)) > len(data):
        more = store.get_range(found.key, len(data), need - len(data))
        if not more:
            raise DamagedObject(found.key, f"it ends after {len(data)} bytes, within its head")
        data += more
    return data


def open_seen(data: bytes, key: str, domain: bytes, keys: ReaderKeys, digest: bytes) -> Seen:
    """A head from its bytes; without an index key, of a sealed object only the preamble. See `open_head`."""
    return _open_parsed(data, parse_preamble(data, key), key, domain, keys, digest)


def _open_parsed(
    data: bytes, preamble: Preamble, key: str, domain: bytes, keys: ReaderKeys, digest: bytes
) -> Seen:
    check_key(preamble, key, domain)
    if preamble.cipher is not Cipher.NONE and keys.index_key is None:
        return Seen(key, preamble, None, digest)
    return Seen(key, preamble, open_parsed(data, preamble, key, keys), digest)


def read_catalogs(
    store: Store, prefix: str, domain: bytes, keys: ReaderKeys, wanted: dict[str, Found]
) -> Iterator[Seen | Broken]:
    """The heads that catalogs have of wanted objects; each at most once, and it is taken out of `wanted`.

    Catalogs are shortcuts: one that is damaged, stale or sealed to us comes out as `Broken` and does no other
    harm. The widest are read first, and of each writer's the newest; one that tells nothing new ends its
    writer's level, because what is older was merged into wider ones.
    """
    groups: dict[tuple[int, int], list[Found]] = {}
    for found in store.list(prefix):
        parsed = parse_key(found.key)
        if parsed is not None:
            groups.setdefault((parsed.level, parsed.epoch), []).append(found)
    for group in sorted(groups, reverse=True):
        for found in reversed(groups[group]):
            if not wanted:
                return
            fresh = 0
            for seen in _read_catalog(store, found, domain, keys, wanted):
                fresh += isinstance(seen, Seen)
                yield seen
            if not fresh:
                break


def _read_catalog(
    store: Store, found: Found, domain: bytes, keys: ReaderKeys, wanted: dict[str, Found]
) -> Iterator[Seen | Broken]:
    try:
        data = store.get(found.key).data
        check_object(data, found.key, domain)
        head = open_head(data, found.key, domain, keys)
        yield from _wanted_entries(head, domain, keys, wanted)
    except NotFound as error:
        yield Broken(found.key, MissingObject(found.key, error.why))
    except (*BROKEN, KeyMissing) as error:
        yield Broken(found.key, error)


def _wanted_entries(
    catalog: Head, domain: bytes, keys: ReaderKeys, wanted: dict[str, Found]
) -> Iterator[Seen]:
    for entry in catalog.index.iter_entries():
        name = _ENTRY_KEYS.get(entry.kind)
        found = wanted.get(name(entry.epoch, entry.seq)) if name is not None else None
        # An object of another length is not the one that the catalog saw: it is read itself.
        if found is None or found.size != entry.object_length:
            continue
        seen = open_seen(entry.head, found.key, domain, keys, entry.digest)
        del wanted[found.key]
        yield seen
