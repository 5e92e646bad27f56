"""Negative controls: stores that break one promise each must be refused, by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import (
    AccessDenied,
    Contention,
    NotFound,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)
from cdp_container.store.api import Blob, Found
from cdp_container.store.attest import probe, race
from cdp_container.store.memory import MemoryStore
from cdp_container.store.s3_settings import TagSpelling

GOOD_TAG_BYTES = 16


class Honest(MemoryStore):
    """A store that keeps its word; the others below break it in one place each."""

    def __init__(self) -> None:
        super().__init__(SystemClock())


class IgnoresIfNoneMatch(Honest):
    def put_new(self, key: str, data: bytes) -> str:
        super().delete(key)
        return super().put_new(key, data)


class SaysNoButWrites(Honest):
    def put_new(self, key: str, data: bytes) -> str:
        try:
            return super().put_new(key, data)
        except PreconditionFailed:
            super().delete(key)
            super().put_new(key, data)
            raise


class IgnoresIfMatch(Honest):
    def put_if(self, key: str, data: bytes, tag: str) -> str:
        try:
            return super().put_if(key, data, super().head(key).tag)
        except NotFound:
            raise PreconditionFailed("replace", "there is no such object") from None


class CreatesByIfMatch(Honest):
    def put_if(self, key: str, data: bytes, tag: str) -> str:
        try:
            super().head(key)
        except NotFound:
            return super().put_new(key, data)
        return super().put_if(key, data, tag)


class NeverMatches(Honest):
    def put_if(self, key: str, data: bytes, tag: str) -> str:
        raise PreconditionFailed("replace", "never")


class Cached(Honest):
    """Answers reads from a cache that knows an object's first version only."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Blob] = {}

    def get(self, key: str) -> Blob:
        return self.seen.setdefault(key, super().get(key))


class StaleHead(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Found] = {}

    def head(self, key: str) -> Found:
        return self.seen.setdefault(key, super().head(key))


class LateListing(Honest):
    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        return iter(list(super().list(prefix, start_after))[:-1])


class ListsTheDeleted(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.all: dict[str, Found] = {}

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        self.all |= {found.key: found for found in super().list(prefix, start_after)}
        return iter(found for key, found in self.all.items() if key.startswith(prefix) and key > start_after)


class IgnoresStartAfter(Honest):
    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        return super().list(prefix)


class IgnoresRanges(Honest):
    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key).data


class AlwaysUnchanged(Honest):
    def get_unless(self, key: str, tag: str) -> Blob | None:
        return None


class NeverUnchanged(Honest):
    def get_unless(self, key: str, tag: str) -> Blob | None:
        return self.get(key)


class KeepsTheDeleted(Honest):
    def delete(self, key: str) -> None:
        return


class RemembersKeys(Honest):
    """Like Ceph 16 where versions are suspended: what marks the deleted counts as an object."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[str] = set()

    def delete(self, key: str) -> None:
        super().delete(key)
        self.deleted.add(key)

    def put_new(self, key: str, data: bytes) -> str:
        if key in self.deleted:
            raise PreconditionFailed("create", "an object has this key already")
        return super().put_new(key, data)


class Versioned(Honest):
    def version_of(self, key: str) -> str:
        return super().head(key).tag


BROKEN = (
    (IgnoresIfNoneMatch, "create-only writes"), (SaysNoButWrites, "read right after a write"),
    (IgnoresIfMatch, "old tag"), (CreatesByIfMatch, "no object"), (NeverMatches, "under the right tag"),
    (Cached, "read right after a write"), (StaleHead, "what it says of an object"),
    (LateListing, "listing right after a write"), (ListsTheDeleted, "listing right after a delete"),
    (IgnoresStartAfter, "listing after a key"), (IgnoresRanges, "ranged read"),
    (AlwaysUnchanged, "does not give a changed object"), (NeverUnchanged, "does not recognise the tag"),
    (KeepsTheDeleted, "deleted or never written"), (Versioned, "keeps old versions"),
    (RemembersKeys, "cannot be written again"),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "promise"), BROKEN)
def test_a_store_that_breaks_a_promise_is_refused_by_its_name(kind: type[Honest], promise: str) -> None:
    store = kind()
    with pytest.raises(StoreRefused, match=promise):
        probe(store, os.urandom)
    if kind not in (KeepsTheDeleted, ListsTheDeleted, LateListing):
        assert list(store.list("")) == []


def test_an_honest_store_is_trusted() -> None:
    store = Honest()
    store.put_new("log/0001", b"x")
    assert probe(store, os.urandom).tag_spelling == "as-given"
    assert race(store, os.urandom, 8, 3).won == 6
    assert [found.key for found in store.list("")] == ["log/0001"]


@pytest.mark.parametrize("version", ["", "null"])
def test_a_bucket_without_versions_or_with_versions_suspended_is_trusted(version: str) -> None:
    class Unversioned(Honest):
        def version_of(self, key: str) -> str:
            super().head(key)
            return version

    probe(Unversioned(), os.urandom)


class WantsUnquoted(Honest):
    """Like Ceph 16: gives its tags in quotes, and matches them only without."""

    def __init__(self) -> None:
        super().__init__()
        self.spelling: TagSpelling = "as-given"

    def spell_tags(self, spelling: TagSpelling) -> None:
        self.spelling = spelling

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        if self.spelling == "as-given":
            raise PreconditionFailed("replace", "it never matches a tag in quotes")
        return super().put_if(key, data, tag)


def test_the_spelling_is_found_and_kept() -> None:
    store = WantsUnquoted()
    assert probe(store, os.urandom).tag_spelling == "unquoted"
    assert store.spelling == "unquoted"


class TakesAnythingUnquoted(WantsUnquoted):
    """Does not understand an unquoted tag, and so ignores the condition."""

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        return super().put_if(key, data, super().head(key).tag)


def test_a_spelling_that_switches_the_condition_off_is_refused() -> None:
    with pytest.raises(StoreRefused, match="old tag"):
        probe(TakesAnythingUnquoted(), os.urandom)


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied, Contention])
def test_an_error_of_the_store_is_no_verdict(error: type[StoreUnavailable]) -> None:
    class Away(Honest):
        def put_if(self, key: str, data: bytes, tag: str) -> str:
            raise error("replace", "not now")

    store = Away()
    with pytest.raises(error):
        probe(store, os.urandom)
    assert list(store.list("")) == []


class RacyCreate(Honest):
    """Checks, and then acts: all who check together win."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.checked = threading.Barrier(parties)

    def put_new(self, key: str, data: bytes) -> str:
        free = not list(super().list(key))
        self.checked.wait()
        if not free:
            raise PreconditionFailed("create", "an object has this key already")
        with self._lock:
            return self._store(key, data)


class RacySwap(Honest):
    def __init__(self, parties: int) -> None:
        super().__init__()
        self.checked = threading.Barrier(parties)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        right = super().head(key).tag == tag
        self.checked.wait()
        if not right:
            raise PreconditionFailed("replace", "it is another version")
        with self._lock:
            return self._store(key, data)


@pytest.mark.parametrize(
    ("store", "promise"), [(RacyCreate(4), "create-only"), (RacySwap(4), "compare-and-swap")]
)
def test_two_winners_are_found(store: Honest, promise: str) -> None:
    with pytest.raises(StoreRefused, match=f"4 of 4 simultaneous {promise}"):
        race(store, os.urandom, 4, 1)
    assert list(store.list("")) == []


class LoserWrites(Honest):
    """One says that it won, another one's bytes are stored."""

    def put_new(self, key: str, data: bytes) -> str:
        try:
            return super().put_new(key, data)
        except PreconditionFailed:
            with self._lock:
                self._store(key, data)
            raise


def test_a_loser_whose_bytes_are_stored_is_found() -> None:
    with pytest.raises(StoreRefused, match="what no winner wrote"):
        race(LoserWrites(), os.urandom, 4, 1)


class Hesitant(Honest):
    """Answers every other replacement with an error of its own, done or not (Ceph 16 does so to losers)."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        self.count += 1
        try:
            return super().put_if(key, data, tag)
        finally:
            if self.count % 2:
                raise StoreUnavailable("replace", "the store answered 500")


def test_losers_may_get_any_error() -> None:
    counted = race(Hesitant(), os.urandom, 6, 4)
    assert counted.unknown > 0
    assert counted.won + counted.lost + counted.unknown == 48


def test_all_may_be_told_to_try_again() -> None:
    class Busy(Honest):
        def put_new(self, key: str, data: bytes) -> str:
            raise Contention("create", "the store answered 409")

    counted = race(Busy(), os.urandom, 4, 2)
    assert (counted.won, counted.lost, counted.unknown) == (0, 8, 0)
