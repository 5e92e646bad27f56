"""Patience with a store: repeats what is safe to repeat, with growing pauses and an end.

Reads and deletes only. A conditional write is never repeated here: its lost reply may hide its
success, and only who wrote it can tell (by reading back its own nonce).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from cdp_container.clock import Clock
from cdp_container.errors import Contention, StoreUnavailable
from cdp_container.store.api import Blob, Found, Store
from cdp_container.store.s3_settings import SpellsTags, TagSpelling

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on. Pauses double from the first to the longest, each shortened by up to half at random.

    Attributes:
        attempts_max: requests in all, the first included.
        deadline_seconds: no pause ends later than this after the first attempt began.
        first_pause_seconds: before the second attempt.
        pause_seconds_max: the longest that we choose ourselves.
        asked_seconds_max: the longest that a store's Retry-After makes us wait: one that names an hour
            would otherwise end a restore at once, or keep it idle long after the store is back.
    """

    attempts_max: int = 10
    deadline_seconds: float = 60.0
    first_pause_seconds: float = 0.2
    pause_seconds_max: float = 10.0
    asked_seconds_max: float = 30.0


def is_temporary(error: Exception) -> bool:
    """Whether the same request may well succeed later: no answer, throttled, 5xx, or a 409."""
    return isinstance(error, StoreUnavailable | Contention)


def with_retries(
    store: Store,
    clock: Clock,
    jitter: Callable[[], float],
    patience: Patience | None = None,
    noticed: Callable[[], None] = lambda: None,
) -> Store:
    """The same store, with patience.

    Args:
        store: what is asked.
        clock: measures the deadline and pauses.
        jitter: gives a fresh number from 0 up to 1, like `random.Random.random`.
        patience: the limits.
        noticed: called at every failed attempt, for who wants to ask less of the store.
    """
    return _Patient(store, clock, jitter, patience if patience is not None else Patience(), noticed)


class _Attempts:
    """Counts the attempts of one operation and pauses between them."""

    __slots__ = ("_clock", "_ends_at_ns", "_jitter", "_made", "_noticed", "_patience")

    def __init__(
        self, clock: Clock, jitter: Callable[[], float], patience: Patience, noticed: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._patience = patience
        self._noticed = noticed
        self._made = 0
        self._ends_at_ns = clock.boottime_ns() + int(patience.deadline_seconds * 1e9)

    def pause_after(self, error: StoreUnavailable) -> None:
        """Wait before the next attempt; raises `error` where patience is at its end."""
        self._noticed()
        self._made += 1
        longest = self._patience.first_pause_seconds * 2.0 ** (self._made - 1)
        pause = min(longest, self._patience.pause_seconds_max) * (1.0 - self._jitter() / 2)
        pause = max(pause, min(error.retry_after_seconds or 0.0, self._patience.asked_seconds_max))
        ends_at_ns = self._clock.boottime_ns() + int(pause * 1e9)
        if self._made >= self._patience.attempts_max or ends_at_ns > self._ends_at_ns:
            raise error
        self._clock.sleep(pause)


class _Patient:
    """See `Store`, and `with_retries` for which of its methods are repeated."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        jitter: Callable[[], float],
        patience: Patience,
        noticed: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._jitter = jitter
        self._patience = patience
        self._noticed = noticed

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
        return self._patiently(lambda: self._store.get(key))

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        return self._patiently(lambda: self._store.get_unless(key, tag))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        return self._patiently(lambda: self._store.get_range(key, start, length))

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        return self._patiently(lambda: self._store.head(key))

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`; made once."""
        return self._store.put_new(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`; made once."""
        return self._store.put_if(key, data, tag)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._patiently(lambda: self._store.delete(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; after a failure it goes on behind the last key that it gave."""
        attempts = self._attempts()
        while True:
            try:
                for found in self._store.list(prefix, start_after):
                    yield found
                    start_after = found.key
                    attempts = self._attempts()
            except StoreUnavailable as error:
                attempts.pause_after(error)
            else:
                return

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()

    def spell_tags(self, spelling: TagSpelling) -> None:
        """See `SpellsTags`: passed on to a store that has a use for it."""
        if isinstance(self._store, SpellsTags):
            self._store.spell_tags(spelling)

    def _attempts(self) -> _Attempts:
        return _Attempts(self._clock, self._jitter, self._patience, self._noticed)

    def _patiently(self, request: Callable[[], T]) -> T:
        attempts = self._attempts()
        while True:
            try:
                return request()
            except StoreUnavailable as error:
                attempts.pause_after(error)
