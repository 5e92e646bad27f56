"""`cdp-agent gc`, told of a faster time: `python -m tests.e2e.compressed_gc BEGAN_NS FACTOR gc OPTION...`.

What a store and this machine say of when something was is stretched FACTOR times from BEGAN_NS on, so that a
minute is a day for the policy, and for nothing else: holds, leases and pauses are those of the real clocks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cdp_agent.cli import app, gc
from cdp_agent.collector import process
from cdp_container.clock import Clock, SystemClock
from cdp_container.domain import clock_doubt
from cdp_container.domain.held_look import Living, look_at_holds
from cdp_container.domain.roster import Entropy
from cdp_container.store import address
from cdp_container.store.api import Blob, Found, Store


class Stretch:
    """The faster time."""

    def __init__(self, began_ns: int, factor: int) -> None:
        self._began_ns, self._factor = began_ns, factor

    def of(self, time_ns: int) -> int:
        return self._began_ns + (time_ns - self._began_ns) * self._factor

    def found(self, found: Found) -> Found:
        return replace(found, modified_ns=self.of(found.modified_ns))


class FastClock(SystemClock):
    """Its wall clock is the faster one."""

    stretch: Stretch

    def wall_ns(self) -> int:
        return self.stretch.of(super().wall_ns())


class FastStore:
    """A store whose times are those of the faster clock; see `Store`."""

    def __init__(self, store: Store, stretch: Stretch) -> None:
        self._store, self._stretch = store, stretch
        self.address = store.address
        self.get_range, self.put_new, self.put_if = store.get_range, store.put_new, store.put_if
        self.delete, self.close = store.delete, store.close

    def get(self, key: str) -> Blob:
        blob = self._store.get(key)
        return replace(blob, found=self._stretch.found(blob.found))

    def get_unless(self, key: str, tag: str) -> Blob | None:
        blob = self._store.get_unless(key, tag)
        return None if blob is None else replace(blob, found=self._stretch.found(blob.found))

    def head(self, key: str) -> Found:
        return self._stretch.found(self._store.head(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        return map(self._stretch.found, self._store.list(prefix, start_after))

    def spell_tags(self, spelling: str) -> None:
        self._store.spell_tags(spelling)  # type: ignore[attr-defined]  # those of S3 do


def main() -> int:
    """See the module."""
    stretch = Stretch(int(sys.argv[1]), int(sys.argv[2]))
    FastClock.stretch = stretch

    def opened(where: str, clock: Clock) -> FastStore:
        return FastStore(address.open_store(where, clock), stretch)

    def looked(
        store: Store, domain: bytes, directory: Path, boot: bytes, clock: Clock, entropy: Entropy,
        store_ns: int | None,
    ) -> Living:  # fmt: skip
        return look_at_holds(store, domain, directory, boot, SystemClock(), entropy, store_ns)

    patches: Mapping[object, Mapping[str, object]] = {
        process: {"open_store": opened, "look_at_holds": looked},
        gc: {"SystemClock": FastClock},
        clock_doubt: {"CLOCK_SKEW_SECONDS_MAX": 10**9},
    }
    for module, names in patches.items():
        for name, value in names.items():
            assert hasattr(module, name), name
            setattr(module, name, value)
    sys.argv[1:] = sys.argv[3:]
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
