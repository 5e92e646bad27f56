"""Group concurrency: heads of many small objects, as many at once as the pace finds, by fixed numbers.

From Ceph RGW, through a proxy that adds a round trip. What is timed is `gather`, without any catalog: a
listing, and one request for each head. The gateway, the proxy and we share one machine, so what limits the
rate at a short round trip is its processors; at a long one it is how many requests are under way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

from bench.far import far
from bench.knobs import Knobs
from bench.site import ceph, new_address
from bench.table import Figure, ratios
from cdp_container.clock import SystemClock
from cdp_container.format.place import NOWHERE
from cdp_container.store.address import open_store
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from cdp_container.store.retry import with_retries
from rehydrate.container import Container, Secret, open_container
from rehydrate.flow import Flow
from tests.containers import Site, write
from tests.servers.s3 import S3Server

GROUP = "concurrency"
OBJECTS = 10_000
OBJECTS_QUICK = 2_000
BLOCK = 4096
UPLOADS = 32
FIXED = (16, 32, 64, 128, 256)
NEAR_SECONDS, FAR_SECONDS = 0.004, 0.040
PAIRS_MAX = 3
"""A run takes up to half a minute."""


def measure(knobs: Knobs) -> list[Figure]:
    """At 4 ms against the best fixed number, at 40 ms against sixteen."""
    count = OBJECTS if knobs.is_proof else OBJECTS_QUICK
    pairs = min(knobs.pairs, PAIRS_MAX)
    with ceph() as server:
        address = new_address(server)
        _upload(address, count)
        return [*_near(server, address, count, pairs), *_far(server, address, count, pairs)]


def _near(server: S3Server, address: str, count: int, pairs: int) -> list[Figure]:
    with _opened(server, address, NEAR_SECONDS) as container:
        _seconds(container, None)  # connections are made once
        tried = {fixed: _seconds(container, fixed) for fixed in FIXED}
        _tell(NEAR_SECONDS, tried)
        best = min(tried, key=lambda fixed: tried[fixed])
        runs = [(_seconds(container, best), _seconds(container, None)) for _ in range(pairs)]
    name = f"{count} heads at {NEAR_SECONDS * 1000:g} ms"
    note = f"the best fixed number was {best} of {', '.join(map(str, FIXED))}"
    return [
        Figure(
            GROUP, f"{name}: rate to the best fixed number", "ratio", ratios(runs), at_least=0.9, note=note
        ),
        Figure(GROUP, f"{name}: rate", "per s", tuple(count / ours for _, ours in runs)),
    ]


def _far(server: S3Server, address: str, count: int, pairs: int) -> list[Figure]:
    with _opened(server, address, FAR_SECONDS) as container:
        _seconds(container, None)
        runs = [(_seconds(container, 16), _seconds(container, None)) for _ in range(pairs)]
    name = f"{count} heads at {FAR_SECONDS * 1000:g} ms"
    return [
        Figure(GROUP, f"{name}: rate to sixteen at once", "ratio", ratios(runs), at_least=2.5),
        Figure(GROUP, f"{name}: rate", "per s", tuple(count / ours for _, ours in runs)),
    ]


def _tell(round_trip_seconds: float, tried: Mapping[int, float]) -> None:
    for fixed, seconds in tried.items():
        print(f"   {round_trip_seconds * 1000:g} ms, {fixed} at once: {seconds:.2f} s", flush=True)


def _seconds(container: Container, fixed: int | None) -> float:
    """One reading of all heads, by the pace or (`fixed`) so many at once."""
    history, flow = container.history, Flow(fixed=fixed)
    began = time.monotonic()
    with closing(container.gather(history.branch_of(history.newest), at_once=flow)) as contents:
        seconds = time.monotonic() - began
        assert not contents.broken
    if fixed is None:
        print(f"   by the pace: {seconds:.2f} s, {flow.pace.in_flight} at once in the end", flush=True)
    return seconds


@contextmanager
def _opened(server: S3Server, address: str, round_trip_seconds: float) -> Iterator[Container]:
    with far(server.endpoint, round_trip_seconds) as endpoint:
        clock = SystemClock()
        away = address.replace(server.endpoint, endpoint)
        with closing(with_retries(open_store(away, clock), clock, lambda: 0.5)) as store:
            yield open_container(store, Secret())


def _upload(address: str, count: int) -> None:
    """A container of so many segments, each of the same block, and no catalog."""
    here = MemoryStore(SystemClock())
    site = Site(here, encrypted=False)
    disk = site.add_volume("disk", BLOCK)  # the site keeps an image of each cut
    site.begin_epoch()
    place = NOWHERE
    for _ in range(count):
        place = site.cut([write(disk, 0, site.rng.randbytes(BLOCK))])
    site.protect(place)
    with closing(open_store(address, SystemClock())) as store, ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(partial(_copy, here, store), [found.key for found in here.list("")]))


def _copy(here: Store, there: Store, key: str) -> None:
    there.put_new(key, here.get(key).data)
