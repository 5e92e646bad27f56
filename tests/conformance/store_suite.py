"""What every store must do, whatever it is made of.

A test module subclasses `StoreSuite` (and `StoreRaces` where the store is a real one) and gives a
fixture `store`, empty at the start of each test and told how to spell tags.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import ForeignObject, NotFound, PreconditionFailed
from cdp_container.store.api import KEY_BYTES_MAX, Store
from cdp_container.store.attest import probe, race

ABSENT_TAG = '"00000000000000000000000000000000"'
BIG_BYTES = 9 * 1024 * 1024 + 17
"""Over every client's threshold for multipart uploads."""

BAD_KEYS = (
    "", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", ".lock", "a/.tmp", "a b", "a\\b", "a\x00b",
    "a\n", "ä", "a?b", "a%2Fb", "a" * 300, "/".join("abcdefghi"), "a/" * 300 + "a",
)  # fmt: skip


class StoreSuite:
    """The promises of `cdp_container.store.api.Store`, one by one."""

    def test_an_absent_object_is_not_found(self, store: Store) -> None:
        for look in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(NotFound):
                look("log/0001/0001")
        with pytest.raises(NotFound):
            store.get_unless("log/0001/0001", ABSENT_TAG)
        with pytest.raises(NotFound):
            store.get_range("log/0001/0001", 0, 0)
        assert list(store.list("")) == []

    def test_an_object_comes_back_as_it_was_written(self, store: Store) -> None:
        for key, data in (("log/0", b""), ("log/1", b"x"), ("log/2", bytes(range(256)) * 20)):
            tag = store.put_new(key, data)
            blob = store.get(key)
            assert blob.data == data
            assert (blob.found.key, blob.found.size, blob.found.tag) == (key, len(data), tag)
            assert store.head(key) == blob.found
            assert list(store.list(key)) == [blob.found]

    def test_a_big_object_comes_back_as_it_was_written(self, store: Store) -> None:
        data = os.urandom(BIG_BYTES)
        store.put_new("log/0001/0001", data)
        assert store.get("log/0001/0001").data == data
        assert store.get_range("log/0001/0001", BIG_BYTES - 5, 5) == data[-5:]

    def test_the_time_of_a_write_is_told(self, store: Store) -> None:
        store.put_new("a", b"1")
        minute_ns = 60 * 10**9
        assert abs(store.head("a").modified_ns - SystemClock().wall_ns()) < 10 * minute_ns

    def test_an_object_is_created_only_once(self, store: Store) -> None:
        tag = store.put_new("domain/epochs/0001", b"first")
        with pytest.raises(PreconditionFailed):
            store.put_new("domain/epochs/0001", b"second")
        with pytest.raises(PreconditionFailed):
            store.put_new("domain/epochs/0001", b"first")
        blob = store.get("domain/epochs/0001")
        assert (blob.data, blob.found.tag) == (b"first", tag)

    def test_an_object_can_be_created_again_after_its_deletion(self, store: Store) -> None:
        store.put_new("a", b"first")
        store.delete("a")
        store.put_new("a", b"second")
        assert store.get("a").data == b"second"

    def test_a_replacement_needs_the_right_tag(self, store: Store) -> None:
        first = store.put_new("domain/owner", b"first")
        second = store.put_if("domain/owner", b"second", first)
        assert second != first
        for stale in (first, ABSENT_TAG):
            with pytest.raises(PreconditionFailed):
                store.put_if("domain/owner", b"third", stale)
        blob = store.get("domain/owner")
        assert (blob.data, blob.found.tag) == (b"second", second)
        third = store.put_if("domain/owner", b"third", store.head("domain/owner").tag)
        assert store.head("domain/owner").tag == third

    def test_a_replacement_needs_an_object(self, store: Store) -> None:
        tag = store.put_new("domain/owner", b"first")
        for key in ("domain/holds", "other/holds"):
            with pytest.raises(PreconditionFailed):
                store.put_if(key, b"x", tag)
        store.delete("domain/owner")
        with pytest.raises(PreconditionFailed):
            store.put_if("domain/owner", b"x", tag)
        assert list(store.list("")) == []

    def test_every_tag_of_a_chain_of_replacements_is_its_own(self, store: Store) -> None:
        tags = [store.put_new("domain/owner", b"nonce 0")]
        for number in range(1, 20):
            tags.append(store.put_if("domain/owner", b"nonce %d" % number, tags[-1]))
        assert len(set(tags)) == len(tags)

    def test_a_read_unless_unchanged(self, store: Store) -> None:
        first = store.put_new("domain/owner", b"first")
        assert store.get_unless("domain/owner", first) is None
        changed = store.get_unless("domain/owner", ABSENT_TAG)
        assert changed is not None
        assert changed == store.get("domain/owner")
        second = store.put_if("domain/owner", b"second", first)
        changed = store.get_unless("domain/owner", first)
        assert changed is not None
        assert (changed.data, changed.found.tag) == (b"second", second)
        assert store.get_unless("domain/owner", second) is None

    def test_a_range_is_cut_at_the_end(self, store: Store) -> None:
        store.put_new("a", b"0123456789")
        ranges = [
            (0, 0),
            (0, 1),
            (0, 10),
            (3, 4),
            (9, 1),
            (3, 100),
            (0, 11),
            (10, 1),
            (11, 1),
            (10**9, 10**6),
        ]
        for start, length in ranges:
            assert store.get_range("a", start, length) == b"0123456789"[start : start + length], (
                start,
                length,
            )

    def test_a_range_of_an_empty_object_is_empty(self, store: Store) -> None:
        store.put_new("a", b"")
        assert store.get_range("a", 0, 5) == b""

    def test_a_deleted_object_is_gone(self, store: Store) -> None:
        store.put_new("a/b", b"1")
        store.put_new("a/c", b"2")
        store.delete("a/b")
        with pytest.raises(NotFound):
            store.get("a/b")
        assert [found.key for found in store.list("")] == ["a/c"]

    def test_deleting_what_is_not_there_is_no_error(self, store: Store) -> None:
        store.delete("a")
        store.delete("a/b/c")

    def test_a_listing_is_in_bytewise_order(self, store: Store) -> None:
        keys = [
            "a-b",
            "a.b",
            "a/b",
            "a/b-c",
            "a/b.c/d",
            "a0",
            "aB",
            "ab",
            "B",
            "log/0001/0002",
            "log/0001/0010",
        ]
        for key in reversed(keys):
            store.put_new(key, key.encode())
        assert [found.key for found in store.list("")] == sorted(keys)
        assert [found.size for found in store.list("")] == [len(key) for key in sorted(keys)]

    def test_a_listing_is_of_what_begins_with_the_prefix(self, store: Store) -> None:
        keys = ["log/0001/01", "log/0001/02", "log/0002/01", "log/00020", "logs/1", "packs/0001/01"]
        for key in keys:
            store.put_new(key, b"")
        for prefix in (
            "",
            "l",
            "log",
            "log/",
            "log/000",
            "log/0001",
            "log/0001/",
            "log/0001/02",
            "log/0003/",
            "x",
        ):
            assert [found.key for found in store.list(prefix)] == [
                k for k in sorted(keys) if k.startswith(prefix)
            ]

    def test_a_listing_begins_after_a_key(self, store: Store) -> None:
        keys = ["log/0001/01", "log/0001/02", "log/0002/01", "log/0002-", "packs/0001/01"]
        for key in keys:
            store.put_new(key, b"")
        for prefix in ("", "log/", "log/0001/"):
            for after in (
                *keys,
                "a",
                "log",
                "log/",
                "log/0001",
                "log/0001/",
                "log/0001/015",
                "log/0002",
                "z",
            ):
                expected = [key for key in sorted(keys) if key.startswith(prefix) and key > after]
                assert [found.key for found in store.list(prefix, after)] == expected, (prefix, after)

    def test_a_key_that_nobody_should_have_is_refused(self, store: Store) -> None:
        attempts: list[Callable[[str], object]] = [
            store.get,
            lambda key: store.get_unless(key, ABSENT_TAG),
            lambda key: store.get_range(key, 0, 1),
            store.head,
            lambda key: store.put_new(key, b"x"),
            lambda key: store.put_if(key, b"x", ABSENT_TAG),
            store.delete,
        ]
        for key in BAD_KEYS:
            for attempt in attempts:
                with pytest.raises(ForeignObject):
                    attempt(key)
        assert list(store.list("")) == []

    def test_the_longest_key_is_taken(self, store: Store) -> None:
        key = "/".join(["k" * 200, "l" * 200, "m" * 109])
        assert len(key) == KEY_BYTES_MAX - 1
        store.put_new(key, b"x")
        assert [found.key for found in store.list("k")] == [key]

    def test_a_prefix_that_no_key_has_is_refused(self, store: Store) -> None:
        for prefix in ("/", "..", "a//", "../", "a/../", ".t", "a/.t", "a b", "\x00", "a" * 600):
            with pytest.raises(ForeignObject):
                list(store.list(prefix))

    def test_the_probe_leaves_nothing_behind(self, store: Store) -> None:
        probe(store, os.urandom)
        assert list(store.list("")) == []


class StoreRaces:
    """What only a real store can be asked: one winner of many at once."""

    CONNECTIONS = 12
    ROUNDS = 5

    def test_one_of_many_wins(self, store: Store) -> None:
        probe(store, os.urandom)
        counted = race(store, os.urandom, self.CONNECTIONS, self.ROUNDS)
        assert counted.won + counted.lost + counted.unknown == 2 * self.CONNECTIONS * self.ROUNDS
        assert 0 < counted.won <= 2 * self.ROUNDS
        assert list(store.list("")) == []
