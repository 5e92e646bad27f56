"""The table of promises: for each row a store that breaks exactly it, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import (
    AccessDenied,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)
from cdp_container.store import attest_table
from cdp_container.store.api import Blob, Found
from cdp_container.store.attest_table import Row, Verdict, attest, judge
from cdp_container.store.memory import MemoryStore
from cdp_container.store.s3_settings import TagSpelling

QUICK = {"connections": 4, "rounds": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attest_table, "BIG_BYTES", 20_000)


class Honest(MemoryStore):
    """Keeps its word, and tells all that can be asked of a store."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.spelling: TagSpelling = "as-given"

    def spell_tags(self, spelling: TagSpelling) -> None:
        self.spelling = spelling

    def delete_if(self, key: str, tag: str) -> None:
        if super().head(key).tag != tag:
            raise PreconditionFailed("delete", "it is another version")
        super().delete(key)

    def version_of(self, key: str) -> str:
        super().head(key)
        return ""


class IgnoresIfNoneMatch(Honest):
    def put_new(self, key: str, data: bytes) -> str:
        if len(data) <= attest_table.SMALL_BYTES:
            super().delete(key)
        return super().put_new(key, data)


class NeverMatchesQuoted(Honest):
    """Like Ceph 16."""

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        if self.spelling == "as-given":
            raise PreconditionFailed("replace", "another version")
        return super().put_if(key, data, tag)


class NeverMatchesUnquoted(Honest):
    def put_if(self, key: str, data: bytes, tag: str) -> str:
        if self.spelling == "unquoted":
            raise PreconditionFailed("replace", "another version")
        return super().put_if(key, data, tag)


class NeverMatches(Honest):
    def put_if(self, key: str, data: bytes, tag: str) -> str:
        raise PreconditionFailed("replace", "another version")


class TakesOldTags(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.old: set[str] = set()
        self.lock = threading.Lock()

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        with self.lock:
            if threading.current_thread() is threading.main_thread() and f"{key} {tag}" in self.old:
                return super().put_if(key, data, super().head(key).tag)
            done = super().put_if(key, data, tag)
            self.old.add(f"{key} {tag}")
            return done


class CreatesByIfMatch(Honest):
    def put_if(self, key: str, data: bytes, tag: str) -> str:
        try:
            super().head(key)
        except NotFound:
            return super().put_new(key, data)
        return super().put_if(key, data, tag)


class ListsWithoutTags(Honest):
    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        for found in super().list(prefix, start_after):
            yield Found(found.key, found.size, "", found.modified_ns)


class Cached(Honest):
    """GET gives the first version for ever, once a HEAD has been made."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Blob] = {}
        self.counted: dict[str, int] = {}

    def head(self, key: str) -> Found:
        self.counted[key] = self.counted.get(key, 0) + 1
        if self.counted[key] == 1:
            self.kept[key] = super().get(key)
        return super().head(key)

    def get(self, key: str) -> Blob:
        fresh = super().get(key)
        kept = self.kept.get(key)
        return fresh if kept is None or self.counted[key] < 1 else kept


class ListsWithoutTheLast(Honest):
    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        found = list(super().list(prefix, start_after))
        yield from found[:-1] if len(found) > 3 else found


class ShowsTheDeleted(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.gone: dict[str, Blob] = {}

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFound):
            self.gone[key] = super().get(key)
        super().delete(key)

    def get(self, key: str) -> Blob:
        try:
            return super().get(key)
        except NotFound:
            if key in self.gone:
                return self.gone[key]
            raise


class AlwaysUnchanged(Honest):
    def get_unless(self, key: str, tag: str) -> Blob | None:
        return None


class IgnoresRanges(Honest):
    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = super().get(key).data
        return data if len(data) <= attest_table.SMALL_BYTES else super().get_range(key, start, length)


class SmallObjectsOnly(Honest):
    def put_new(self, key: str, data: bytes) -> str:
        if len(data) > attest_table.SMALL_BYTES:
            raise LimitExceeded("create", "it is too large")
        return super().put_new(key, data)


class Versioned(Honest):
    def version_of(self, key: str) -> str:
        return super().head(key).tag


class DeletesAnyway(Honest):
    """Like Ceph 16."""

    def delete_if(self, key: str, tag: str) -> None:
        super().delete(key)


class Racy(Honest):
    """Create-only is a look and then a write, which anybody may come between."""

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(2)

    def put_new(self, key: str, data: bytes) -> str:
        if threading.current_thread() is threading.main_thread():
            return super().put_new(key, data)
        try:
            self.head(key)
        except NotFound:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.together.wait(5.0)
            super().delete(key)
            return super().put_new(key, data)
        raise PreconditionFailed("create", "it is there")


class KeepsOne(Honest):
    """Does not delete the first object that was written, and does not say so."""

    def delete(self, key: str) -> None:
        if not key.endswith("-00"):
            super().delete(key)


class MayNotDelete(Honest):
    def delete(self, key: str) -> None:
        raise AccessDenied("delete", "not allowed")


BROKEN: tuple[tuple[type[Honest], str], ...] = (
    (NeverMatchesQuoted, "in quotes, matches"),
    (NeverMatchesUnquoted, "without its quotes matches"),
    (TakesOldTags, "under an old tag is refused"),
    (CreatesByIfMatch, "of what does not exist is refused"),
    (ListsWithoutTags, "names the object's ETag"),
    (ListsWithoutTheLast, "LIST shows"),
    (ShowsTheDeleted, "that was deleted"),
    (AlwaysUnchanged, "unless unchanged"),
    (IgnoresRanges, "ranged read"),
    (SmallObjectsOnly, "16 MiB"),
    (Versioned, "no old versions"),
    (DeletesAnyway, "conditional DELETE"),
    (Racy, "simultaneous"),
    (KeepsOne, "is gone"),
)
"""Each breaks this row alone."""


def broken(rows: list[Row]) -> list[str]:
    return [row.promise for row in rows if row.verdict is Verdict.BROKEN]


@pytest.mark.parametrize(("kind", "promise"), BROKEN)
def test_a_store_that_breaks_one_promise_fails_that_row_alone(kind: type[Honest], promise: str) -> None:
    store = kind()
    rows = attest(store, os.urandom, **QUICK)
    assert len(broken(rows)) == 1, broken(rows)
    assert promise in broken(rows)[0]
    row = next(row for row in rows if row.verdict is Verdict.BROKEN)
    assert row.said
    if row.must:
        with pytest.raises(StoreRefused, match=promise):
            judge(store, rows)
    else:
        judge(store, rows)
    if kind is not KeepsOne:
        assert [found.key for found in MemoryStore.list(store, "")] == []


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (IgnoresIfNoneMatch, "create-only"),
        (NeverMatches, "one of the spellings"),
        (Cached, "through no cache"),
    ],
)
def test_a_promise_that_others_rest_on(kind: type[Honest], promise: str) -> None:
    """More rows than its own may fail with it."""
    store = kind()
    rows = attest(store, os.urandom, **QUICK)
    assert any(promise in row for row in broken(rows))
    with pytest.raises(StoreRefused, match=promise):
        judge(store, rows)
    assert list(store.list("")) == []


def test_an_honest_store() -> None:
    store = Honest()
    store.put_new("log/0001", b"x")
    rows = attest(store, os.urandom, **QUICK)
    assert {row.verdict for row in rows} == {Verdict.KEPT}
    judge(store, rows)
    assert [found.key for found in store.list("")] == ["log/0001"]


def test_the_spelling_that_was_found_stays_in_force() -> None:
    store = NeverMatchesQuoted()
    judge(store, attest(store, os.urandom, **QUICK))
    assert store.spelling == "unquoted"


def test_suspended_versions_are_no_fault_but_told() -> None:
    class Suspended(Honest):
        def version_of(self, key: str) -> str:
            super().head(key)
            return "null"

    rows = attest(Suspended(), os.urandom, **QUICK)
    assert {row.verdict for row in rows} == {Verdict.KEPT}
    assert [row.said for row in rows if "versions" in row.promise] == ["versioning is suspended"]


def test_what_does_not_apply_is_no_fault() -> None:
    store = MemoryStore(SystemClock())
    rows = attest(store, os.urandom, **QUICK)
    unknown = [row for row in rows if row.verdict is Verdict.UNKNOWN]
    assert len(unknown) == 4
    assert not any(row.must for row in unknown)
    judge(store, rows)


def test_an_error_of_the_store_is_no_verdict() -> None:
    class Away(Honest):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            raise StoreUnavailable("read", "no answer")

    store = Away()
    rows = attest(store, os.urandom, **QUICK)
    assert broken(rows) == []
    with pytest.raises(StoreUnavailable, match="no answer"):
        judge(store, rows)


def test_objects_that_cannot_be_deleted_are_named() -> None:
    store = MayNotDelete()
    last = attest(store, os.urandom, **QUICK)[-1]
    assert last.verdict is Verdict.BROKEN
    assert "left behind (not allowed): domain/probe/" in last.said
