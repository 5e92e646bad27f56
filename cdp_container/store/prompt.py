"""A store that gives up soon on an answer that does not come: for small objects on which others wait.

What hangs in the network (a path that went away, a machine that stood still meanwhile) is not waited for: its
connection is dropped, and who asks again does so on a fresh one. Nothing is repeated here. What does not
belong here: how long is too long (the lease says), and what an unknown outcome means (`domain.owner`).

To give a *conditional write* up is no more than to lose its reply: it may have been done, may be under way,
or may land any time later, and `StoreUnavailable` promises nothing else. Who swaps by nonces is right in all
three cases: it reads back; its nonce means done; the old version means another attempt against the same old
tag, with a fresh nonce, after which at most one of all can ever land. Nor can an answer that comes after all
be taken for another's: its connection is closed, and used for no other request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar, runtime_checkable

from cdp_container.clock import Clock
from cdp_container.errors import StoreUnavailable
from cdp_container.store.api import Blob, Found, Store

LATE_MAX: Final = 3
"""In a row: then it is the line or the store that is slow, where a short limit would never end."""

T = TypeVar("T")


@runtime_checkable
class LimitsAnswers(Protocol):
    """A store that waits for answers over a network."""

    def limited(self, limit_seconds: int) -> Store:
        """The same place with connections of its own, where each request is given up after so long."""
        ...


def prompt(store: Store, clock: Clock, limit_seconds: int) -> Store:
    """The same store, where no request is waited for longer than this; unless LATE_MAX in a row took longer.

    Then requests are made as patiently as `store` makes them, until one is answered within the limit. A store
    without a network is given back as it is.
    """
    if not isinstance(store, LimitsAnswers):
        return store
    return _Prompt(store.limited(limit_seconds), store, clock, limit_seconds)


class _Prompt:
    """See `prompt`. `close` leaves the patient store open, which is another's."""

    def __init__(self, quick: Store, patient: Store, clock: Clock, limit_seconds: int) -> None:
        self._quick = quick
        self._patient = patient
        self._clock = clock
        self._limit_ns = limit_seconds * 1_000_000_000
        self._lock = threading.Lock()
        self._late = 0

    @property
    def address(self) -> str:
        """See `Store.address`."""
        return self._patient.address

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        return self._ask(lambda store: store.get(key))

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        return self._ask(lambda store: store.get_unless(key, tag))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        return self._ask(lambda store: store.get_range(key, start, length))

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        return self._ask(lambda store: store.head(key))

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        return self._ask(lambda store: store.put_new(key, data))

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        return self._ask(lambda store: store.put_if(key, data, tag))

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._ask(lambda store: store.delete(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; as patiently as ever."""
        return self._patient.list(prefix, start_after)

    def close(self) -> None:
        """See `Store.close`."""
        self._quick.close()

    def _ask(self, request: Callable[[Store], T]) -> T:
        store = self._quick if self._late < LATE_MAX else self._patient
        began_ns = self._clock.boottime_ns()
        unanswered = False
        try:
            return request(store)
        except StoreUnavailable:
            unanswered = True
            raise
        finally:
            is_late = self._clock.boottime_ns() - began_ns >= self._limit_ns
            with self._lock:
                if not is_late and not unanswered:
                    self._late = 0
                elif is_late and unanswered:
                    self._late = min(self._late + 1, LATE_MAX)
