"""A store that counts what is asked of it: requests by kind, bytes, and how many are under way.

It belongs below whatever repeats requests, so that a repeated one counts each time. What is done with the
counts does not belong here (stages, watch).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cdp_container.store.api import Blob, Found, Store
from cdp_container.store.s3_settings import SpellsTags, TagSpelling

LIST_PAGE_KEYS: Final = 1_000
"""What a store gives of a listing at once: each such page is a request."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests by kind, and bytes that came. A difference of two is what was asked between them."""

    get: int = 0
    list: int = 0
    head: int = 0
    put: int = 0
    delete: int = 0
    received_bytes: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.get - other.get,
            self.list - other.list,
            self.head - other.head,
            self.put - other.put,
            self.delete - other.delete,
            self.received_bytes - other.received_bytes,
        )

    @property
    def requests(self) -> int:
        """Of all kinds."""
        return self.get + self.list + self.head + self.put + self.delete

    def by_kind(self) -> dict[str, int]:
        """By their names as a store's operators know them, all of them."""
        return {
            "GET": self.get,
            "LIST": self.list,
            "HEAD": self.head,
            "PUT": self.put,
            "DELETE": self.delete,
        }


class CountingStore:
    """See `Store`; every method asks `store`, and counts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("get", "list", "head", "put", "delete"), 0)
        self._bytes = self._under_way = 0

    @property
    def counts(self) -> Counts:
        """All since it was made."""
        with self._lock:
            return Counts(**self._counts, received_bytes=self._bytes)

    @property
    def under_way(self) -> int:
        """Requests that were begun and have not ended."""
        with self._lock:
            return self._under_way

    @property
    def address(self) -> str:
        """See `Store.address`."""
        return self._store.address

    @property
    def wrapped(self) -> Store:
        """See `zones.Wraps`."""
        return self._store

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        with self._counted("get"):
            blob = self._store.get(key)
        self._received(len(blob.data))
        return blob

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        with self._counted("get"):
            blob = self._store.get_unless(key, tag)
        self._received(0 if blob is None else len(blob.data))
        return blob

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        with self._counted("get"):
            data = self._store.get_range(key, start, length)
        self._received(len(data))
        return data

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        with self._counted("head"):
            return self._store.head(key)

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        with self._counted("put"):
            return self._store.put_new(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        with self._counted("put"):
            return self._store.put_if(key, data, tag)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with self._counted("delete"):
            self._store.delete(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; a page of it counts when its first key is asked for."""
        given = 0
        found = iter(self._store.list(prefix, start_after))
        while True:
            if given % LIST_PAGE_KEYS:
                item = next(found, None)
            else:
                with self._counted("list"):
                    item = next(found, None)
            if item is None:
                return
            given += 1
            yield item

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()

    def spell_tags(self, spelling: TagSpelling) -> None:
        """See `SpellsTags`: passed on to a store that has a use for it."""
        if isinstance(self._store, SpellsTags):
            self._store.spell_tags(spelling)

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        with self._lock:
            self._counts[kind] += 1
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def _received(self, count: int) -> None:
        with self._lock:
            self._bytes += count
