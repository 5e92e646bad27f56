"""Does this store keep its word? Asked before a store is trusted with the only copy of anything.

Everything above rests on create-only and compare-and-swap writes and on reads that show the last
write. Some stores ignore the conditions and answer 200, some want an ETag spelled in their own
way, some caches answer for the store. `probe` asks one after the other, quickly, at every start;
`race` asks from many connections at once. Neither needs anything of a container's content.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, runtime_checkable

from cdp_container.errors import (
    CdpError,
    Contention,
    NotFound,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)
from cdp_container.store.api import Store
from cdp_container.store.s3_settings import SpellsTags, TagSpelling

Entropy = Callable[[int], bytes]
"""Gives that many fresh random bytes, like `os.urandom`."""

PROBE_PREFIX = "domain/probe/"
PROBE_OBJECT_BYTES = 1024
RACE_CONNECTIONS_MAX = 256
RACE_ROUNDS_MAX = 10_000
VERSION_WITHOUT_VERSIONS: Final = "null"
"""What S3 calls the one version of an object where versioning is suspended."""


@runtime_checkable
class TellsVersions(Protocol):
    """A store that may keep the old versions of objects."""

    def version_of(self, key: str) -> str:
        """The version of an object: "" in a bucket that never kept any, "null" where it stopped to."""
        ...


@runtime_checkable
class HasDataPlace(Protocol):
    """A container in two places, of which the store itself shows the one of `domain/`."""

    @property
    def data(self) -> Store:
        """The other place."""
        ...


@runtime_checkable
class KeepsOldest(Protocol):
    """A store whose objects are the oldest versions of their keys."""

    def check_versions(self) -> None:
        """Raises StoreRefused where its bucket keeps no versions."""
        ...


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found out.

    Attributes:
        tag_spelling: how `put_if` must spell tags on this store (`etag` in an address remembers it).
    """

    tag_spelling: TagSpelling


@dataclass(frozen=True, slots=True)
class Raced:
    """What the race counted: conditional writes by their outcome."""

    won: int
    lost: int
    unknown: int


def probe(store: Store, entropy: Entropy) -> Probed:
    """Test every promise once, with two small objects that are deleted again; about 30 requests.

    The store is told how to spell tags (`SpellsTags`); its `address` then says so too.

    Raises:
        StoreRefused: the store broke a promise; `why` says which.
    """
    if isinstance(store, HasDataPlace):
        probe_data(store.data, entropy)
    name = PROBE_PREFIX + entropy(16).hex()
    key, absent = f"{name}-a", f"{name}-b"
    with _deleted_after(store, key, absent):
        spelling = _probe_writes(store, key, absent, entropy)
        _probe_reads(store, name, key)
    with _deleted_after(store, key):
        _probe_gone(store, key, entropy)
    return Probed(spelling)


def probe_data(data: Store, entropy: Entropy) -> None:
    """Test a data place; one with versions is only asked whether it keeps them: probes could be locked.

    Raises StoreRefused, and AccessDenied where we may not ask.
    """
    if isinstance(data, KeepsOldest):
        data.check_versions()
    else:
        probe(data, entropy)


def race(store: Store, entropy: Entropy, connections: int, rounds: int) -> Raced:
    """Race create-only and compare-and-swap writes: each round, many try at once and one at most may win.

    A store may answer some losers with an error of its own: those are unknown, and judged by what
    the store then holds. Leaves nothing behind.

    Raises:
        StoreRefused: two won, or what is stored is not what the winner wrote.
    """
    assert 2 <= connections <= RACE_CONNECTIONS_MAX, connections
    assert 1 <= rounds <= RACE_ROUNDS_MAX, rounds
    counted = Raced(0, 0, 0)
    with ThreadPoolExecutor(connections) as threads:
        for _ in range(rounds):
            key = PROBE_PREFIX + entropy(16).hex()
            with _deleted_after(store, key):
                counted = _race_round(store, key, entropy, connections, threads, counted)
    return counted


@contextmanager
def _deleted_after(store: Store, *keys: str) -> Iterator[None]:
    try:
        yield
    except CdpError:
        # What went wrong matters more than an object left behind: it must not be hidden by a failing delete.
        with suppress(CdpError):
            for key in keys:
                store.delete(key)
        raise
    for key in keys:
        store.delete(key)


# --- the probe --------------------------------------------------------------------------------


def _probe_writes(store: Store, key: str, absent: str, entropy: Entropy) -> TagSpelling:
    first, second, other = (entropy(PROBE_OBJECT_BYTES) for _ in range(3))
    first_tag = store.put_new(key, first)
    refuse_versions(store, key)
    _must_show(store, key, first, first_tag)
    _must_refuse(store, "create-only writes", lambda: store.put_new(key, other))
    _must_show(store, key, first, first_tag)
    spelling = _swap(store, key, second, first_tag)
    second_tag = store.get(key).found.tag
    _must_show(store, key, second, second_tag)
    _must_refuse(store, "the old tag of a replaced object", lambda: store.put_if(key, other, first_tag))
    _must_show(store, key, second, second_tag)
    _must_refuse(store, "a tag where there is no object", lambda: store.put_if(absent, other, second_tag))
    _must_be_absent(store, absent)
    return spelling


def refuse_versions(store: Store, key: str) -> None:
    """Raises StoreRefused if the bucket keeps old versions of objects; `key` is of one that is there.

    It is asked of an object: whoever may write one need not be allowed to ask how the bucket is configured.
    """
    if isinstance(store, TellsVersions) and store.version_of(key) not in ("", VERSION_WITHOUT_VERSIONS):
        raise StoreRefused(
            f"trust the store {store.address}",
            "the bucket keeps old versions: some stores ignore conditions there, and nothing is ever freed",
            "take a bucket that never kept versions and has no object lock; to suspend them may be enough"
            " (it may be a data place: ?versions=oldest)",
        )


def _swap(store: Store, key: str, data: bytes, tag: str) -> TagSpelling:
    """Replace the object under its right tag, in the spelling that this store understands."""
    spellings: tuple[TagSpelling, ...] = (
        ("as-given", "unquoted") if isinstance(store, SpellsTags) else ("as-given",)
    )
    for spelling in spellings:
        if isinstance(store, SpellsTags):
            store.spell_tags(spelling)
        try:
            store.put_if(key, data, tag)
        except PreconditionFailed:
            continue
        return spelling
    return _refuse(store, "it refuses a conditional replacement under the right tag, quoted and unquoted")


def _probe_reads(store: Store, name: str, key: str) -> None:
    blob = store.get(key)
    if store.get_unless(key, blob.found.tag) is not None:
        _refuse(
            store, "it does not recognise the tag that it gave (a read unless unchanged gives everything)"
        )
    changed = store.get_unless(key, '"00000000000000000000000000000000"')
    if changed is None or changed.data != blob.data:
        _refuse(store, "a read unless unchanged does not give a changed object")
    if store.get_range(key, 100, 200) != blob.data[100:300]:
        _refuse(store, "a ranged read gives other bytes")
    if store.get_range(key, PROBE_OBJECT_BYTES, 1) != b"":
        _refuse(store, "a ranged read past the end gives bytes")
    listed = [(found.key, found.size) for found in store.list(name)]
    if listed != [(key, PROBE_OBJECT_BYTES)]:
        _refuse(store, "a listing right after a write does not show what is there")
    if list(store.list(name, start_after=key)):
        _refuse(store, "a listing after a key gives keys before it")


def _probe_gone(store: Store, key: str, entropy: Entropy) -> None:
    _must_be_absent(store, key)
    if list(store.list(key)):
        _refuse(store, "a listing right after a delete still shows the object")
    try:
        store.put_new(key, entropy(PROBE_OBJECT_BYTES))
    except PreconditionFailed:  # Ceph 16 where versions are suspended
        _refuse(store, "a key whose object was deleted cannot be written again")


def _must_refuse(store: Store, promise: str, write: Callable[[], str]) -> None:
    try:
        write()
    except PreconditionFailed:
        return
    _refuse(store, f"it does not honour {promise}: a write went through that must not")


def _must_show(store: Store, key: str, data: bytes, tag: str) -> None:
    blob, found = store.get(key), store.head(key)
    if blob.data != data:
        _refuse(store, "a read right after a write does not show what was written")
    if blob.found.tag != tag or (found.size, found.tag) != (len(data), tag):
        _refuse(store, "what it says of an object right after a write is not what was written")


def _must_be_absent(store: Store, key: str) -> None:
    for look in (store.get, store.head):
        try:
            look(key)
        except NotFound:
            continue
        _refuse(store, "it shows an object that was deleted or never written")


def _refuse(store: Store, why: str) -> NoReturn:
    raise StoreRefused(f"trust the store {store.address}", why)


# --- the race ---------------------------------------------------------------------------------


def _race_round(
    store: Store, key: str, entropy: Entropy, connections: int, threads: ThreadPoolExecutor, before: Raced
) -> Raced:
    def bodies() -> list[bytes]:
        return [entropy(PROBE_OBJECT_BYTES) for _ in range(connections)]

    created = _all_at_once(threads, bodies(), lambda data: store.put_new(key, data))
    tag = _judge(store, key, "create-only writes", created)
    swapped = []
    if tag is not None:
        swapped = _all_at_once(threads, bodies(), lambda data: store.put_if(key, data, tag))
        _judge(store, key, "compare-and-swap writes", swapped)
    outcomes = [outcome for _, outcome in created + swapped]
    return Raced(
        won=before.won + outcomes.count(True),
        lost=before.lost + outcomes.count(False),
        unknown=before.unknown + outcomes.count(None),
    )


def _all_at_once(
    threads: ThreadPoolExecutor, bodies: list[bytes], write: Callable[[bytes], str]
) -> list[tuple[bytes, bool | None]]:
    """Each body with whether its write took place (None: the store did not say)."""
    start = threading.Barrier(len(bodies))

    def attempt(data: bytes) -> tuple[bytes, bool | None]:
        start.wait()
        try:
            write(data)
        except (PreconditionFailed, Contention):
            return data, False
        except StoreUnavailable:
            return data, None
        return data, True

    return list(threads.map(attempt, bodies))


def _judge(store: Store, key: str, promise: str, outcomes: list[tuple[bytes, bool | None]]) -> str | None:
    """Whether one at most won and is what the store holds; gives the object's tag (None: all lost)."""
    winners = [data for data, won in outcomes if won]
    possible = winners or [data for data, won in outcomes if won is None]
    if len(winners) > 1:
        _refuse(store, f"{len(winners)} of {len(outcomes)} simultaneous {promise} of one object succeeded")
    if not possible:
        return None  # a store may tell everybody to try again (409)
    blob = store.get(key)
    if blob.data not in possible:
        _refuse(store, f"after simultaneous {promise} of one object it holds what no winner wrote")
    return blob.found.tag
