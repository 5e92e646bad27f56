"""A container by its segments, packs and ledgers alone, whatever is missing, moved or damaged. Only reads.

Each object says in its preamble what it is, so neither `domain/` nor catalogs nor the names of keys are
needed: what is found is shown as a store in which every sound object stands where it belongs, and nothing
else does. Which cut can be restored from that is decided elsewhere (replica), as is what to do with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_container.domain.heads import BROKEN
from cdp_container.domain.parallel import in_parallel
from cdp_container.errors import CdpError, ForeignObject, NoSuchDomain, NotFound, StoreRefused, counted
from cdp_container.format.head import check_object, object_digest
from cdp_container.format.keys import KeyKind, ledger_key, pack_key, parse_key, segment_key
from cdp_container.format.layout import OBJECT_MAGIC, ObjectKind
from cdp_container.format.limits import PREAMBLE_BYTES_MAX
from cdp_container.format.preamble import Preamble, parse_preamble
from cdp_container.store.api import Blob, Found, Store

AT_ONCE: Final = 32
"""Requests in flight: the beginnings of objects are small."""
NOTES_MAX: Final = 50
"""Objects that are named one by one; more are counted."""
_PLACES: Final = {ObjectKind.SEGMENT: segment_key, ObjectKind.PACK: pack_key, ObjectKind.LEDGER: ledger_key}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One object that was looked at: what it says it is, or what is wrong with it (both None: not ours)."""

    found: Found
    preamble: Preamble | None = None
    error: CdpError | None = None


@dataclass(frozen=True, slots=True)
class SalvagedStore:
    """What can be used of a store, each object under the key where it belongs. See `Store`; it only reads."""

    store: Store
    places: Mapping[str, Found]

    @property
    def address(self) -> str:
        """See `Store`."""
        return self.store.address

    def get(self, key: str) -> Blob:
        """See `Store`."""
        found = self.head(key)
        return Blob(found, self.store.get(self.places[key].key).data)

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store`."""
        blob = self.get(key)
        return None if blob.found.tag == tag else blob

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store`."""
        self.head(key)
        return self.store.get_range(self.places[key].key, start, length)

    def head(self, key: str) -> Found:
        """See `Store`; as it was when it was found."""
        if key not in self.places:
            raise NotFound(f"read {key} in {self.address}", "no sound object that was found belongs there")
        return replace(self.places[key], key=key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store`."""
        for key in sorted(self.places):
            if key.startswith(prefix) and key > start_after:
                yield replace(self.places[key], key=key)

    def put_new(self, key: str, data: bytes) -> str:
        """Always refused: whoever rescues changes nothing."""
        raise self._refused(key)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """Always refused."""
        raise self._refused(key)

    def delete(self, key: str) -> None:
        """Always refused."""
        raise self._refused(key)

    def close(self) -> None:
        """See `Store`."""
        self.store.close()

    def without(self, keys: Iterable[str]) -> SalvagedStore:
        """The same without some objects."""
        gone = frozenset(keys)
        return SalvagedStore(self.store, {key: at for key, at in self.places.items() if key not in gone})

    def _refused(self, key: str) -> StoreRefused:
        return StoreRefused(f"write {key} in {self.address}", "what is rescued from is only read")


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was found.

    Attributes:
        ledgers: the keys of all ledgers, the newest first.
        key_blocks: the key blocks that objects carry, the newest first; none where they are not sealed.
        notes: what people should know.
    """

    store: SalvagedStore
    domain: bytes
    ledgers: tuple[str, ...]
    key_blocks: tuple[bytes, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Sorting:
    """Objects on their way to their places, by domain."""

    places: dict[bytes, dict[str, tuple[Found, Preamble]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def salvage(store: Store, domain: bytes | None = None) -> Salvaged:
    """Look at every object of a place, under whatever key.

    Args:
        store: the place.
        domain: the id of the domain that is wanted; None where only one is there.

    Raises:
        NoSuchDomain: nothing that is there belongs to it, or to any.
        ForeignObject: several domains are there, and none was named.
    """
    sorting = _Sorting()
    wanted = (found for found in store.list("") if not _is_passed_over(found.key))
    for seen in in_parallel(lambda found: _look(store, found), wanted, AT_ONCE):
        _sort(store, sorting, seen)
    if domain is None and len(sorting.places) > 1:
        named = ", ".join(f"{name.hex()} ({len(items)} objects)" for name, items in sorting.places.items())
        raise ForeignObject(
            f"rescue from {store.address}", f"several domains are there: {named}", "--domain ID"
        )
    chosen = domain if domain is not None else next(iter(sorting.places), None)
    if chosen is None or chosen not in sorting.places:
        why = "no object of such a domain is there" if domain else "no object that can be read is there"
        raise NoSuchDomain(f"rescue from {store.address}", why, "\n".join(_named(sorting.notes)) or None)
    items = sorting.places[chosen]
    preambles = sorted(
        (found[1] for found in items.values()), key=lambda one: (one.epoch, one.seq), reverse=True
    )
    return Salvaged(
        SalvagedStore(store, {key: found for key, (found, _) in items.items()}),
        chosen,
        tuple(ledger_key(one.epoch, one.seq) for one in preambles if one.kind is ObjectKind.LEDGER),
        tuple(dict.fromkeys(one.key_block for one in preambles if one.key_block)),
        tuple(_named(sorting.notes)),
    )


def _is_passed_over(key: str) -> bool:
    """What tells nothing that is needed: words under domain/, and catalogs, which only repeat."""
    parsed = parse_key(key)
    return key.startswith("domain/") or (parsed is not None and parsed.kind is KeyKind.CATALOG)


def _look(store: Store, found: Found) -> _Seen:
    try:
        data = store.get_range(found.key, 0, min(found.size, PREAMBLE_BYTES_MAX))
        if not data.startswith(OBJECT_MAGIC):
            if parse_key(found.key) is None:
                return _Seen(found)
            parse_preamble(data, found.key)  # says what is wrong with it
        preamble = parse_preamble(data, found.key)
        if preamble.object_length != found.size:
            why = f"it has {found.size} bytes instead of {preamble.object_length}"
            return _Seen(found, error=NotFound(found.key, why))
        return _Seen(found, preamble)
    except (NotFound, *BROKEN) as error:
        return _Seen(found, error=error)


def _sort(store: Store, sorting: _Sorting, seen: _Seen) -> None:
    if seen.error is not None:
        sorting.notes.append(f"{seen.found.key} is not used: {seen.error.why}")
    if seen.preamble is None or seen.preamble.kind not in _PLACES:
        return
    preamble = seen.preamble
    key = _PLACES[preamble.kind](preamble.epoch, preamble.seq)
    if key != seen.found.key:
        sorting.notes.append(f"{seen.found.key} is {key}")
    places = sorting.places.setdefault(preamble.domain, {})
    other = places.get(key)
    if other is None:
        places[key] = (seen.found, preamble)
        return
    # Whole objects tell which is sound; where both are, the one that stands where it belongs.
    trailers = {
        one: trailer for one in (other[0], seen.found) if (trailer := _sound_trailer(store, one, key))
    }
    if len(set(trailers.values())) > 1:
        sorting.notes.append(f"{seen.found.key} and {other[0].key} both are {key}, and differ")
    best = next((one for one in trailers if one.key == key), next(iter(trailers), other[0]))
    places[key] = (best, preamble if best is seen.found else other[1])


def _sound_trailer(store: Store, found: Found, key: str) -> bytes:
    """The trailer of an object that is sound as a whole; else empty."""
    try:
        data = store.get(found.key).data
        check_object(data, key, None)
    except (NotFound, *BROKEN):
        return b""
    return object_digest(data)


def _named(notes: list[str]) -> list[str]:
    beyond = len(notes) - NOTES_MAX
    return notes if beyond <= 0 else [*notes[:NOTES_MAX], f"and {counted(beyond, 'more object')} like these"]
