"""A container with a roster, stores that fail where they are told to, and readers on a clock that is set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cdp_container.domain.holding import Holding, Reader
from cdp_container.format.domain import build_config, build_owner, config_digest
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY, config_key
from cdp_container.store.memory import MemoryStore
from tests import rosters
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

SECOND_NS = 1_000_000_000
READER = Reader("munich", "Sepp", "restore")


@dataclass
class Now:
    """A clock that stands where it is put."""

    ns: int = 1_700_000_000 * SECOND_NS

    def wall_ns(self) -> int:
        return self.ns

    def boottime_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)

    def passes(self, seconds: float) -> None:
        self.sleep(seconds)


@dataclass
class Entropy:
    """Bytes that never come twice."""

    counter: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __call__(self, length: int) -> bytes:
        limit: int = 1 << 8 * length
        return (next(self.counter) % limit).to_bytes(length)


class TestedStore(MemoryStore):
    """Calls `before` and `after` around each swap, which may raise: the second one loses a reply."""

    __test__ = False

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.swaps = 0

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        self.swaps += 1
        self.before()
        found = super().put_if(key, data, tag)
        self.after()
        return found


def container(clock: Now, roster: bool = True) -> TestedStore:
    store = TestedStore(clock)
    config = build_config(samples.config())
    assert config_digest(config) == samples.owner().config
    store.put_new(OWNER_KEY, build_owner(samples.owner()))
    store.put_new(config_key(samples.owner().config), config)
    if roster:
        rosters.give_roster(store, DOMAIN)
    return store


def holds_in(store: MemoryStore) -> Mapping[str, Hold]:
    return rosters.holds_in(store, DOMAIN)


def write_holds(store: MemoryStore, holds: Mapping[str, Hold]) -> None:
    """Behind everybody's back."""
    rosters.give_roster(store, DOMAIN, holds, version=99)


def reader(store: MemoryStore, clock: Now, told: list[str], entropy: Entropy | None = None) -> Holding:
    return Holding(store, READER, clock, entropy or Entropy(), told.append, starts_thread=False)


def failing(error: Exception, times: int = 1) -> Callable[[], None]:
    """Raises it so many times."""
    left = [times]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return fail
