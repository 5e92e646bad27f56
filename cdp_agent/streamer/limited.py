"""The streamer's requests, paced: who waits, who only is counted, and the limit that is in force now.

Objects and the reading of comparisons wait for their turn. Requests for `domain/owner` (lease, proof) never
wait, or a low limit would cost the lease; they are counted, and what they use the others wait for. How much
may be sent when is decided in `pace`, which window of the schedule holds in `cdp_container.domain.schedule`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from cdp_agent.streamer.pace import Bucket, Limits, charged, refilled, wait_seconds
from cdp_container.clock import Clock
from cdp_container.domain.schedule import newest, next_change
from cdp_container.domain.settings import LimitsSettings
from cdp_container.store.api import Blob, Found, Store
from cdp_container.store.s3_settings import SpellsTags, TagSpelling

WAKE_SECONDS_MAX: Final = 1.0
"""Who waits looks again so often: another limit may have come into force."""
LOOK_AGAIN_NS: Final = 60_000_000_000
"""The schedule is looked at anew so often, whatever it foretold: the wall clock may be set."""
LISTED_PER_REQUEST: Final = 1000


class Limiter:
    """See the module. Called from any thread; those who wait are served one after another."""

    def __init__(self, settings: LimitsSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._times = settings.times()
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._limits = Limits()
        self._window: int | None = None
        self._look_again_ns = 0
        self._change_wall_ns = 0
        self._bucket = Bucket(at_ns=clock.boottime_ns())
        self._began_ns = clock.boottime_ns()
        self._sent_bytes = 0
        self._requests = 0

    def wait(self, stored_bytes: int) -> None:
        """Wait until one request of that many bytes may be made, and count it."""
        with self._turn:
            while True:
                with self._lock:
                    self._refill()
                    seconds = wait_seconds(self._bucket, self._limits)
                    if seconds <= 0:
                        self._charge(stored_bytes, 1)
                        return
                self._clock.sleep(min(seconds, WAKE_SECONDS_MAX))

    def count(self, stored_bytes: int, requests: int = 1) -> None:
        """Count what was or is sent without waiting."""
        with self._lock:
            self._refill()
            self._charge(stored_bytes, requests)

    def facts(self) -> dict[str, Any]:
        """The limit in force and what was counted, as JSON members; None where there is no limit."""
        with self._lock:
            self._refill()
            window = None if self._window is None else self._settings.schedule[self._window].cron
            return {
                "bytes_per_second": _finite(self._limits.bytes_per_second),
                "requests_per_second": _finite(self._limits.requests_per_second),
                "since": window,
                "sent_bytes": self._sent_bytes,
                "requests": self._requests,
                "seconds": round((self._clock.boottime_ns() - self._began_ns) / 1e9, 3),
            }

    def _refill(self) -> None:
        now_ns = self._clock.boottime_ns()
        self._bucket = refilled(self._bucket, self._limits, now_ns)
        wall_ns = self._clock.wall_ns()
        if now_ns >= self._look_again_ns or wall_ns >= self._change_wall_ns:
            self._look_again_ns = now_ns + LOOK_AGAIN_NS
            self._look_at_schedule(datetime.fromtimestamp(wall_ns / 1e9, UTC))

    def _look_at_schedule(self, now: datetime) -> None:
        settings = self._settings
        self._window = newest(self._times, now)
        self._limits = Limits(settings.bytes_per_second, settings.requests_per_second)
        if self._window is not None:
            window = settings.schedule[self._window]
            if window.bytes_per_second is not None:
                self._limits = replace(self._limits, bytes_per_second=window.bytes_per_second)
            if window.requests_per_second is not None:
                self._limits = replace(self._limits, requests_per_second=window.requests_per_second)
        change = next_change(self._times, now)
        self._change_wall_ns = 1 << 63 if change is None else int(change.timestamp() * 1e9)

    def _charge(self, stored_bytes: int, requests: int) -> None:
        self._bucket = charged(self._bucket, stored_bytes, requests)
        self._sent_bytes += stored_bytes
        self._requests += requests


def _finite(rate: float) -> float | None:
    return rate if rate < float("inf") else None


class LimitedStore:
    """A store of which every request is counted; see `Store` for its methods.

    Args:
        store: what is asked.
        limiter: of this process.
        patient: whether requests wait for their turn. Where they do not, `put_new` is not counted either: who
            creates objects waited and counted before looking at the lease for the last time (`Limiter.wait`).
    """

    def __init__(self, store: Store, limiter: Limiter, *, patient: bool) -> None:
        self._store = store
        self._limiter = limiter
        self._before: Callable[[int], None] = limiter.wait if patient else limiter.count
        self._patient = patient

    @property
    def wrapped(self) -> Store:
        """See `zones.Wraps`."""
        return self._store

    def spell_tags(self, spelling: TagSpelling) -> None:
        """See `SpellsTags`: passed on to a store that has a use for it."""
        if isinstance(self._store, SpellsTags):
            self._store.spell_tags(spelling)

    @property
    def address(self) -> str:
        """See `Store.address`."""
        return self._store.address

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        self._before(0)
        blob = self._store.get(key)
        self._limiter.count(len(blob.data), requests=0)
        return blob

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        self._before(0)
        blob = self._store.get_unless(key, tag)
        if blob is not None:
            self._limiter.count(len(blob.data), requests=0)
        return blob

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        self._before(length)
        return self._store.get_range(key, start, length)

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        self._before(0)
        return self._store.head(key)

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        if self._patient:
            self._before(len(data))
        return self._store.put_new(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        self._before(len(data))
        return self._store.put_if(key, data, tag)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._before(0)
        self._store.delete(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`."""
        for number, found in enumerate(self._store.list(prefix, start_after)):
            if number % LISTED_PER_REQUEST == 0:
                self._before(0)
            yield found

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()
