"""Group lag: how long after the reply to a write it is in the container, and proven to be, at a steady rate.

A write is stored when the last PUT of its cut was answered (`sent` in the streamer's facts), and protected
when the page that it shares with the splitter says so. Both are looked at every few milliseconds, so that
figures are too large by as much, never too small. The rate is kept: a late write is followed at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from bench.data import BLOCK_BYTES, VmData, shuffled
from bench.knobs import Knobs
from bench.site import bench_site, ceph, flush, started
from bench.table import Figure, percentile
from cdp_agent.streamer.control import call
from cdp_container.format.limits import PREAMBLE_BYTES_MAX
from cdp_container.format.preamble import parse_preamble
from cdp_container.journal.position import Position
from cdp_container.journal.shared import SharedPages
from cdp_container.store.address import open_store
from tests.e2e.site import MIB, Site
from tests.nbd_client import NbdClient

GROUP = "lag"
BYTES_PER_SECOND = 25_000_000
FULL_SECONDS = 60
VOLUME_MIB = 1024
AGENT_LEASE_SECONDS = 30  # as where nothing is said of it: renewals belong to it
LOOK_SECONDS = 0.005
ASK_SECONDS = 0.02


@dataclass(slots=True)
class Seen:
    """When what was seen; times are monotonic seconds."""

    written: list[tuple[float, Position]] = field(default_factory=list)
    protected: list[tuple[float, Position]] = field(default_factory=list)
    sent: list[tuple[float, tuple[int, int]]] = field(default_factory=list)  # epoch, cut


def measure(knobs: Knobs) -> list[Figure]:
    """The 99th percentiles over all writes of one run."""
    seconds = min(FULL_SECONDS, max(10, FULL_SECONDS * knobs.mib // 2048))
    with ceph() as server, bench_site({"db": VOLUME_MIB * MIB}, server, 4096, AGENT_LEASE_SECONDS) as site:
        agent = started(site)
        seen = _run(site, seconds)
        ends = _ends_of_cuts(site)
        assert agent.stop() == 0
    stored = delays(seen.written, [(at, ends[place]) for at, place in seen.sent if place in ends])
    protected = delays(seen.written, seen.protected)
    name = f"25 MB/s for {seconds} s, cuts of 1 s, Ceph RGW: NBD reply to"
    took = seen.written[-1][0] - seen.written[0][0]
    note = (
        f"medians {percentile(stored, 50):.2f} s and {percentile(protected, 50):.2f} s; "
        f"{len(stored)} writes of 64 KiB in {took:.1f} s"
    )
    return [
        Figure(GROUP, f"{name} last PUT, p99", "s", (percentile(stored, 99),), at_most=2.0),
        Figure(GROUP, f"{name} protected, p99", "s", (percentile(protected, 99),), at_most=3.0, note=note),
    ]


def _run(site: Site, seconds: int) -> Seen:
    """Write at a steady rate and look at what becomes of it until all is protected."""
    seen, stop = Seen(), threading.Event()
    watchers = [
        threading.Thread(target=watch, args=(site, seen, stop)) for watch in (_watch_page, _watch_facts)
    ]
    for watcher in watchers:
        watcher.start()
    try:
        _write(site, seen, seconds)
        flush(site)
    finally:
        time.sleep(10 * ASK_SECONDS)  # the last of it is seen too
        stop.set()
        for watcher in watchers:
            watcher.join()
    return seen


def _write(site: Site, seen: Seen, seconds: int) -> None:
    data, pages = VmData(1), SharedPages(site.journal / "shared")
    blocks = [data.block() for _ in range(512)]
    places = shuffled(VOLUME_MIB * MIB // BLOCK_BYTES, 1)
    began = time.monotonic()
    with NbdClient(site.socket, "db") as client:
        for number in range(seconds * BYTES_PER_SECOND // BLOCK_BYTES):
            due = began + number * BLOCK_BYTES / BYTES_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            client.write(places[number % len(places)] * BLOCK_BYTES, blocks[number % len(blocks)])
            at = time.monotonic()
            page = pages.splitter.read()
            assert page is not None
            seen.written.append((at, page.tail))
    pages.close()


def _watch_page(site: Site, seen: Seen, stop: threading.Event) -> None:
    pages = SharedPages(site.journal / "shared")
    while not stop.wait(LOOK_SECONDS):
        page = pages.streamer.read()
        if page is not None and (not seen.protected or page.proven != seen.protected[-1][1]):
            seen.protected.append((time.monotonic(), page.proven))
    pages.close()


def _watch_facts(site: Site, seen: Seen, stop: threading.Event) -> None:
    while not stop.wait(ASK_SECONDS):
        sent: dict[str, Any] | None = call(site.journal, {"command": "status"}, 30)["facts"].get("sent")
        place = (sent["epoch"], sent["cut"]) if sent else (0, 0)
        if not seen.sent or place != seen.sent[-1][1]:
            seen.sent.append((time.monotonic(), place))


def _ends_of_cuts(site: Site) -> dict[tuple[int, int], Position]:
    """The journal position of each cut, from its segments."""
    ends = {}
    store = open_store(site.store)
    for found in store.list("log/"):
        preamble = parse_preamble(store.get_range(found.key, 0, PREAMBLE_BYTES_MAX), found.key)
        position = Position(preamble.journal_generation, preamble.journal_offset)
        ends[preamble.epoch, preamble.cut] = position
    store.close()
    return ends


def delays(written: list[tuple[float, Position]], reached: list[tuple[float, Position]]) -> list[float]:
    """For every write how long it took until its position was reached."""
    waiting, delays = deque(written), []
    for at, position in reached:
        while (
            waiting
            and waiting[0][1].generation == position.generation
            and waiting[0][1].offset <= position.offset
        ):
            delays.append(max(0.0, at - waiting.popleft()[0]))
    assert not waiting, f"{len(waiting)} writes were never seen in the container"
    return delays
