"""A store that misbehaves as stores do: late, lost, refused, twice; but never breaking its promises.

A call takes effect when it is made; what the caller is told, and when a write lands, is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from cdp_container.errors import AccessDenied, CdpError, Contention, StoreThrottled, StoreUnavailable
from cdp_container.store.api import Blob, Found
from cdp_container.store.memory import MemoryStore
from tests.sim.clock import VirtualTime

LATE_SECONDS_MAX = 90.0
FRESH_SECONDS = 20.0


@dataclass(frozen=True)
class Odds:
    """How often, of one, a request meets each fault."""

    no_answer: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    contention: float = 0.0
    throttled: float = 0.0
    denied: float = 0.0

    def scaled(self, factor: float) -> Odds:
        return Odds(*(getattr(self, name) * factor for name in self.__dataclass_fields__))


CALM = Odds()
STORMY = Odds(no_answer=0.05, lost_reply=0.06, late=0.04, contention=0.03, throttled=0.03, denied=0.01)


class TwoContents(AssertionError):
    """One key was given two contents."""


class SimStore:
    """See `cdp_container.store.api.Store`.

    Args:
        time, rng: the virtual clock; what all faults are drawn from.
        same: the store of another site, of which this is one more connection.

    Attributes:
        away: nothing gets through on this connection.
        allow_two_contents: whether two runs may build one key differently, as the clones of one do.
        landed: called with the key and the bytes of every write when it is done.
        deletes: called with the key of every delete before it is done; None where nothing may delete.
    """

    def __init__(self, time: VirtualTime, rng: Random, same: SimStore | None = None) -> None:
        self._time = time
        self._rng = rng
        self.inner: MemoryStore = MemoryStore(time) if same is None else same.inner
        self.odds = CALM
        self.away = False
        self.allow_two_contents = False
        self.landed: Callable[[str, bytes], None] = lambda key, data: None
        self.deletes: Callable[[str], None] | None = None
        self._written: dict[str, bytes] = {} if same is None else same._written
        self._fresh: dict[str, int] = {} if same is None else same._fresh

    @property
    def address(self) -> str:
        return "sim:"

    def get(self, key: str) -> Blob:
        self._may_fail()
        return self.inner.get(key)

    def get_unless(self, key: str, tag: str) -> Blob | None:
        self._may_fail()
        return self.inner.get_unless(key, tag)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._may_fail()
        return self.inner.get_range(key, start, length)

    def head(self, key: str) -> Found:
        self._may_fail()
        return self.inner.head(key)

    def put_new(self, key: str, data: bytes) -> str:
        if self._written.setdefault(key, data) != data and not self.allow_two_contents:
            raise TwoContents(f"{key} was built twice, with different bytes")
        return self._write(lambda: self._new(key, data))

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        return self._write(lambda: self._swap(key, data, tag))

    def delete(self, key: str) -> None:
        assert self.deletes is not None, "nothing here deletes"
        deletes = self.deletes

        def gone() -> str:
            deletes(key)
            self.inner.delete(key)
            return ""

        self._write(gone)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """Fresh keys may be missing in a listing: nothing may rest on it."""
        self._may_fail()
        for found in self.inner.list(prefix, start_after):
            fresh = self._time.now_ns - self._fresh.get(found.key, 0) < FRESH_SECONDS * 1e9
            if not (fresh and self._rng.random() < 0.5):
                yield found

    def close(self) -> None:
        pass

    def _new(self, key: str, data: bytes) -> str:
        tag = self.inner.put_new(key, data)
        self._fresh[key] = self._time.now_ns
        self.landed(key, data)
        return tag

    def _swap(self, key: str, data: bytes, tag: str) -> str:
        new = self.inner.put_if(key, data, tag)
        self.landed(key, data)
        return new

    def _write(self, write: Callable[[], str]) -> str:
        self._may_fail()
        drawn = self._rng.random()
        if drawn < self.odds.late:
            self._time.after(self._rng.uniform(0.0, LATE_SECONDS_MAX), lambda: _quietly(write))
            raise StoreUnavailable("write", "no answer (it lands later)")
        if drawn < self.odds.late + self.odds.contention:
            raise Contention("write", "409")
        tag = write()
        if self._rng.random() < self.odds.lost_reply:
            raise StoreUnavailable("write", "the reply was lost")
        return tag

    def _may_fail(self) -> None:
        if self.away or self._rng.random() < self.odds.no_answer:
            raise StoreUnavailable("request", "no answer")
        if self._rng.random() < self.odds.throttled:
            raise StoreThrottled("request", "503 slow down")
        if self._rng.random() < self.odds.denied:
            raise AccessDenied("request", "403")


def _quietly(write: Callable[[], str]) -> None:
    """A request that nobody waits for any more."""
    try:
        write()
    except CdpError:
        return
