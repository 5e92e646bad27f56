"""The whole table of what a store promises and keeps, for people who choose one (`cdp-agent attest`).

Every row is asked by itself, so that one broken promise hides no other. `attest.probe`, which each start
runs, stops at the first; what it asks is among these rows. What does not belong here: printing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NoReturn, Protocol, runtime_checkable

from cdp_container.errors import (
    CdpError,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    StoreRefused,
    UsageError,
)
from cdp_container.store.api import Store
from cdp_container.store.attest import PROBE_PREFIX, Entropy, TellsVersions, race, refuse_versions
from cdp_container.store.s3_settings import SpellsTags, TagSpelling

SMALL_BYTES: Final = 1024
BIG_BYTES: Final = 16 * 1024 * 1024
"""The largest object that this system writes with one PUT."""
CONNECTIONS: Final = 32
ROUNDS: Final = 10
LEFT_NAMED_MAX: Final = 5
"""How many objects that could not be deleted are named."""


class Verdict(StrEnum):
    """What was found out of one row."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Row:
    """One promise.

    Attributes:
        promise: what is asked of a store.
        must: whether it is refused without; else it is only good to know.
        verdict: see `Verdict`; UNKNOWN where the store failed to answer, or the question does not apply.
        said: how it showed, "" where there is nothing to add.
        error: what kept the row from being judged.
    """

    promise: str
    must: bool
    verdict: Verdict
    said: str = ""
    error: CdpError | None = None


@runtime_checkable
class DeletesConditionally(Protocol):
    """A store of which more can be asked than this system ever uses."""

    def delete_if(self, key: str, tag: str) -> None:
        """Delete the object only if its tag is still `tag`. Raises PreconditionFailed."""
        ...


def attest(store: Store, entropy: Entropy, connections: int = CONNECTIONS, rounds: int = ROUNDS) -> list[Row]:
    """Ask for every promise, one after the other; leaves nothing behind, or says so in the last row.

    The store is told how to spell tags (`SpellsTags`).

    Args:
        store: must not repeat requests.
        entropy: draws names and contents.
        connections: how many race for one object, from 2 to RACE_CONNECTIONS_MAX.
        rounds: how often, from 1 to RACE_ROUNDS_MAX.
    """
    table = _Table(store, entropy, PROBE_PREFIX + entropy(16).hex())
    rows = [_ask(promise, must, lambda c=check: c(table)) for promise, must, check in _CHECKS]  # type: ignore[misc]
    rows.append(_ask(_RACES, True, lambda: _say_races(store, entropy, connections, rounds)))
    rows.append(_ask(_CLEAN, True, table.clean))
    return rows


def judge(store: Store, rows: list[Row]) -> None:
    """Raises StoreRefused where a row that must hold is broken, else the error that left one unknown."""
    broken = [row for row in rows if row.must and row.verdict is Verdict.BROKEN]
    if broken:
        why = "; ".join(f"{row.promise}: {row.said}" for row in broken)
        raise StoreRefused(f"trust the store {store.address}", why, "do not keep a container in this store")
    for row in rows:
        if row.must and row.verdict is Verdict.UNKNOWN and row.error is not None:
            raise row.error


_RACES: Final = "of simultaneous conditional writes of one object one at most wins"
_CLEAN: Final = "what was written for this table is gone"


class _Unasked(Exception):
    """The question does not apply to this store."""


def _ask(promise: str, must: bool, check: Callable[[], str]) -> Row:
    try:
        return Row(promise, must, Verdict.KEPT, check())
    except _Unasked as unasked:
        return Row(promise, must=False, verdict=Verdict.UNKNOWN, said=str(unasked))
    except (StoreRefused, NotFound, PreconditionFailed, LimitExceeded, UsageError) as error:
        return Row(promise, must, Verdict.BROKEN, error.why)
    except CdpError as error:
        return Row(promise, must, Verdict.UNKNOWN, error.why, error)


@dataclass(slots=True)
class _Table:
    """What the rows share: the store, and the names that they use up."""

    store: Store
    entropy: Entropy
    name: str
    keys: list[str] = field(default_factory=list)

    def key(self) -> str:
        """A fresh key."""
        self.keys.append(f"{self.name}-{len(self.keys):02}")
        return self.keys[-1]

    def written(self) -> tuple[str, bytes, str]:
        """A fresh small object: key, content, tag."""
        key, data = self.key(), self.entropy(SMALL_BYTES)
        return key, data, self.store.put_new(key, data)

    def clean(self) -> str:
        """Delete all that was written; says what could not be."""
        failed: CdpError | None = None
        for key in self.keys:
            try:
                self.store.delete(key)
            except CdpError as error:
                failed = error
        left = [found.key for found in self.store.list(self.name)]
        if left:
            why = "" if failed is None else f" ({failed.why})"
            named = ", ".join(left[:LEFT_NAMED_MAX])
            _break(f"{len(left)} objects are left behind{why}: {named}")
        if failed is not None:
            raise failed
        return ""


def _break(why: str) -> NoReturn:
    raise StoreRefused("attest the store", why)


# --- create-only and compare-and-swap ------------------------------------------------------------


def _create_only(table: _Table) -> str:
    key, data, _ = table.written()
    with _refused("a second create-only write of one key went through"):
        table.store.put_new(key, table.entropy(SMALL_BYTES))
    if table.store.get(key).data != data:
        _break("the refused write is stored all the same")
    return ""


def _swaps(table: _Table) -> str:
    """Finds the spelling, which the rows after it use."""
    for spelling in _spellings(table.store):
        if _swaps_spelled(table, spelling):
            return "" if spelling == "as-given" else "takes tags without quotes only"
    return _break("a replacement under the right tag is refused, quoted and unquoted")


def _quoted(table: _Table) -> str:
    return _spelled(table, "as-given")


def _unquoted(table: _Table) -> str:
    return _spelled(table, "unquoted")


def _spelled(table: _Table, spelling: TagSpelling) -> str:
    store = table.store
    if not isinstance(store, SpellsTags):
        raise _Unasked("this kind of store has one spelling")
    try:
        if not _swaps_spelled(table, spelling):
            _break("never matches")
        return ""
    finally:
        store.spell_tags("as-given")


def _swaps_spelled(table: _Table, spelling: TagSpelling) -> bool:
    if isinstance(table.store, SpellsTags):
        table.store.spell_tags(spelling)
    key, _, tag = table.written()
    data = table.entropy(SMALL_BYTES)
    try:
        table.store.put_if(key, data, tag)
    except PreconditionFailed:
        return False
    if table.store.get(key).data != data:
        _break("the replacement is not what is stored")
    return True


def _spellings(store: Store) -> tuple[TagSpelling, ...]:
    return ("as-given", "unquoted") if isinstance(store, SpellsTags) else ("as-given",)


def _old_tag(table: _Table) -> str:
    key, _, old = table.written()
    second = table.entropy(SMALL_BYTES)
    table.store.put_if(key, second, old)
    with _refused("a replacement under the tag of an older version went through"):
        table.store.put_if(key, table.entropy(SMALL_BYTES), old)
    if table.store.get(key).data != second:
        _break("the refused write is stored all the same")
    return ""


def _absent_tag(table: _Table) -> str:
    _, _, tag = table.written()
    absent = table.key()
    with _refused("a replacement of an object that does not exist went through"):
        table.store.put_if(absent, table.entropy(SMALL_BYTES), tag)
    _must_be_absent(table, absent)
    return ""


def _etags(table: _Table) -> str:
    store, (key, _, tag) = table.store, table.written()
    replaced = store.put_if(key, table.entropy(SMALL_BYTES), tag)
    listed = [found.tag for found in store.list(key)]
    shown = [store.get(key).found.tag, store.head(key).tag, *listed]
    if not (tag and replaced and all(shown)) or len(shown) < 3:
        _break("an answer names no ETag")
    if tag == replaced:
        _break("another content has the same ETag")
    if set(shown) != {replaced}:
        _break("writes, reads and listings name different ETags")
    return ""


@contextmanager
def _refused(otherwise: str) -> Iterator[None]:
    try:
        yield
    except PreconditionFailed:
        return
    _break(otherwise)


# --- reading what was written --------------------------------------------------------------------


def _reads(table: _Table) -> str:
    """GET and HEAD after each write; the second would come from a cache that the first has filled."""
    store, (key, data, tag) = table.store, table.written()
    for _ in range(2):
        blob, found = store.get(key), store.head(key)
        if blob.data != data:
            _break("a read right after a write does not show what was written")
        if (found.size, blob.found.size) != (len(data), len(data)) or {found.tag, blob.found.tag} != {tag}:
            _break("what it says of an object right after a write is of another version")
        data = table.entropy(SMALL_BYTES // 2)
        tag = store.put_if(key, data, tag)
    return ""


def _lists(table: _Table) -> str:
    store = table.store
    keys = [table.written()[0] for _ in range(3)]
    shown = [found.key for found in store.list(table.name) if found.key in keys]
    if shown != keys:
        _break("a listing right after writes lacks some of them, or is not in the order of keys")
    if [found.key for found in store.list(table.name, start_after=keys[1]) if found.key in keys] != keys[2:]:
        _break("a listing after a key does not begin there")
    if any(found.size != SMALL_BYTES for found in store.list(keys[0])):
        _break("a listing shows another size")
    return ""


def _deletes(table: _Table) -> str:
    store, (key, _, _) = table.store, table.written()
    store.get(key)
    store.delete(key)
    _must_be_absent(table, key)
    store.delete(key)
    if list(store.list(key)):
        _break("a listing right after a delete still shows the object")
    store.put_new(key, table.entropy(SMALL_BYTES))
    return ""


def _must_be_absent(table: _Table, key: str) -> None:
    for look in (table.store.get, table.store.head):
        try:
            look(key)
        except NotFound:
            continue
        _break("it shows an object that was deleted or never written")


def _unless(table: _Table) -> str:
    store, (key, data, tag) = table.store, table.written()
    if store.get_unless(key, tag) is not None:
        _break("it gives everything although the tag is the same")
    changed = store.get_unless(key, '"00000000000000000000000000000000"')
    if changed is None or changed.data != data:
        _break("it does not give an object whose tag is another")
    return ""


def _ranges(table: _Table) -> str:
    store, (key, data, _) = table.store, table.written()
    if store.get_range(key, 100, 200) != data[100:300] or store.get_range(key, 1000, 200) != data[1000:]:
        _break("a ranged read gives other bytes")
    if store.get_range(key, SMALL_BYTES, 1) != b"":
        _break("a ranged read past the end gives bytes")
    return ""


def _big(table: _Table) -> str:
    store, key = table.store, table.key()
    data = table.entropy(BIG_BYTES)
    store.put_new(key, data)
    with _refused("a second create-only write of a large object went through"):
        store.put_new(key, data[:-1] + bytes([data[-1] ^ 1]))
    if store.get_range(key, BIG_BYTES - 100, 200) != data[-100:] or store.get(key).data != data:
        _break("what is read is not what was written")
    return ""


# --- what is only asked of S3 --------------------------------------------------------------------


def _unversioned(table: _Table) -> str:
    if not isinstance(table.store, TellsVersions):
        raise _Unasked("this kind of store has no versions")
    key, _, _ = table.written()
    refuse_versions(table.store, key)
    return "versioning is suspended" if table.store.version_of(key) else ""


def _deletes_conditionally(table: _Table) -> str:
    store = table.store
    if not isinstance(store, DeletesConditionally):
        raise _Unasked("this kind of store has none")
    key, _, tag = table.written()
    store.put_if(key, table.entropy(SMALL_BYTES), tag)
    with _refused("it deletes under an old tag too; nothing here rests on it"):
        store.delete_if(key, tag)
    return ""


_CHECKS: Final[tuple[tuple[str, bool, Callable[[_Table], str]], ...]] = (
    ("a create-only write of a key that is taken is refused", True, _create_only),
    ("a tag as it was given, in quotes, matches in a replacement", False, _quoted),
    ("a tag without its quotes matches in a replacement", False, _unquoted),
    ("an object can be replaced under its tag, in one of the spellings", True, _swaps),
    ("a replacement under an old tag is refused", True, _old_tag),
    ("a replacement of what does not exist is refused", True, _absent_tag),
    ("every answer names the object's ETag", True, _etags),
    ("GET and HEAD show the last write, through no cache", True, _reads),
    ("LIST shows the last writes, in order", True, _lists),
    ("GET, HEAD and LIST show no object that was deleted", True, _deletes),
    ("a read unless unchanged tells changed from unchanged", True, _unless),
    ("a ranged read gives that range", True, _ranges),
    ("an object of 16 MiB is created by one PUT", True, _big),
    ("the bucket keeps no old versions", True, _unversioned),
    ("a conditional DELETE honours its condition", False, _deletes_conditionally),
)


def _say_races(store: Store, entropy: Entropy, connections: int, rounds: int) -> str:
    counted = race(store, entropy, connections, rounds)
    unknown = f", {counted.unknown} losers got an error of the store" if counted.unknown else ""
    return f"{rounds} rounds of {connections} connections{unknown}"
