"""A store in memory, with exactly the promises of the protocol: for tests and the simulator.

Deterministic: tags are a counter, times come from the clock that is passed in. Faults do not
belong here; the simulator wraps this.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from cdp_container.clock import Clock
from cdp_container.errors import NotFound, PreconditionFailed
from cdp_container.store.api import Blob, Found
from cdp_container.store.keys import check_beginning, check_key


class MemoryStore:
    """See `cdp_container.store.api.Store`.

    Args:
        clock: gives `Found.modified_ns`.
        address: what messages call this store.
    """

    def __init__(self, clock: Clock, address: str = "memory:") -> None:
        self._clock = clock
        self._address = address
        self._blobs: dict[str, Blob] = {}
        self._writes = 0
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """See `Store.address`."""
        return self._address

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        check_key(key)
        with self._lock:
            blob = self._blobs.get(key)
        if blob is None:
            raise NotFound(f"read {key} in {self._address}", "there is no such object")
        return blob

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        blob = self.get(key)
        return None if blob.found.tag == tag else blob

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        assert min(start, length) >= 0, (start, length)
        return self.get(key).data[start : start + length]

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        return self.get(key).found

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        check_key(key)
        with self._lock:
            if key in self._blobs:
                raise PreconditionFailed(f"create {key} in {self._address}", "an object has this key already")
            return self._store(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        check_key(key)
        with self._lock:
            old = self._blobs.get(key)
            if old is None or old.found.tag != tag:
                raise PreconditionFailed(
                    f"replace {key} in {self._address}", "it is another version, or gone"
                )
            return self._store(key, data)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with self._lock:
            self._blobs.pop(key, None)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; the listing is of the moment of its first step."""
        check_beginning(prefix)
        with self._lock:
            keys = sorted(key for key in self._blobs if key.startswith(prefix) and key > start_after)
            found = [self._blobs[key].found for key in keys]
        yield from found

    def close(self) -> None:
        """See `Store.close`; the objects stay."""

    def _store(self, key: str, data: bytes) -> str:
        """Keep the bytes under a fresh tag; the caller holds the lock."""
        self._writes += 1
        tag = f"{self._writes:016x}"
        found = Found(key=key, size=len(data), tag=tag, modified_ns=self._clock.wall_ns())
        self._blobs[key] = Blob(found=found, data=bytes(data))
        return tag
