"""Group restore: rate and CPU against a program that only gets and writes; what overwritten volumes cost.

Whole processes on both sides, from their start until a new file is durable.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.data import fill
from bench.knobs import Knobs, alternating
from bench.site import (
    Spent,
    against,
    baseline_argv,
    bench_site,
    ceph,
    environment,
    flush,
    held,
    must_equal,
    new_address,
    restore_argv,
    started,
    weighed,
    write_all,
    write_backlog,
)
from bench.table import Figure
from tests.e2e.site import MIB, Site
from tests.nbd_client import NbdClient

GROUP = "restore"
THREADS = (4, 8, 16)
OVERWRITES = 20
OVERWRITTEN_MIB = 64
WRITE_BYTES = 64 << 10

Places = Callable[[random.Random, int], list[int]]
"""Which of so many blocks are written, and in which order, to write as much as a volume holds."""


def measure(knobs: Knobs) -> list[Figure]:
    """From Ceph RGW into a new file; then the overwritten volumes, from a directory."""
    return [
        *_rate(knobs),
        _overwritten(knobs, "every block once in each pass", _each_once, at_most=1.2),
        _overwritten(knobs, "blocks drawn at random in each pass", _drawn, at_most=None),
    ]


def _rate(knobs: Knobs) -> list[Figure]:
    with ceph() as server, bench_site({"db": knobs.mib * MIB}, server, 2 * knobs.mib + 1024) as site:
        fill(site.base / "data", knobs.mib, seed=1)
        agent = started(site)
        with held(agent):
            write_backlog(site, "db", site.base / "data")
        flush(site)
        assert agent.stop() == 0
        address, manifest = new_address(server), site.base / "manifest"
        argv = baseline_argv("put", site.base / "data", address, manifest, 8)
        weighed(argv, environment(site), site.base / "put.log")

        def theirs(threads: int) -> Spent:
            return _into_new_file(site, lambda at: baseline_argv("get", at, address, manifest, threads))

        def ours() -> Spent:
            return _into_new_file(site, lambda at: restore_argv(site, "db", at))

        ours()  # either reads for the first time once, before anything counts
        tried = {threads: theirs(threads) for threads in THREADS}
        best = min(tried, key=lambda threads: tried[threads].seconds)
        for threads, spent in tried.items():
            print(f"   comparator with {threads} threads: {spent}", flush=True)
        pairs = alternating(knobs.pairs, ours, lambda: theirs(best))
    gib = knobs.mib / 1024
    name = f"{gib:g} GiB from Ceph RGW"
    note = f"whole processes; comparator with {best} threads, the best of {', '.join(map(str, THREADS))}"
    return against(GROUP, name, "GET-open-decompress-write", pairs, knobs.mib, note)


def _into_new_file(site: Site, argv: Callable[[Path], list[str]]) -> Spent:
    """A restore into a file that is compared afterwards and removed."""
    target = site.base / "back.raw"
    spent = weighed(argv(target), environment(site), site.base / "restore.log")
    must_equal(target, site.backing("db"))
    target.unlink()
    return spent


def _each_once(rng: random.Random, blocks: int) -> list[int]:
    return rng.sample(range(blocks), blocks)


def _drawn(rng: random.Random, blocks: int) -> list[int]:
    """So that what is live lies in the segments of many passes, amid what is not."""
    return rng.choices(range(blocks), k=blocks)


def _overwritten(knobs: Knobs, how: str, places: Places, at_most: float | None) -> Figure:
    """Bytes fetched for a volume overwritten OVERWRITES times, by what its live data take alone."""
    mib = knobs.share(OVERWRITTEN_MIB)
    blocks = mib * MIB // WRITE_BYTES
    rng = random.Random(20)

    def writes(order: list[int]) -> Iterator[tuple[int, bytes]]:
        return ((number * WRITE_BYTES, rng.randbytes(WRITE_BYTES)) for number in order)

    with bench_site({"db": mib * MIB}, None, 1024) as site:
        agent = started(site)
        with NbdClient(site.socket, "db") as client:
            write_all(client, writes(_each_once(rng, blocks)))
            for _ in range(OVERWRITES):
                write_all(client, writes(places(rng, blocks)))
                flush(site)
        assert agent.stop() == 0
        fetched = _fetched(site)
        live = _stored_alone(site)
    name = f"{mib} MiB overwritten {OVERWRITES} times, {how}: bytes fetched to stored size of live data"
    return Figure(GROUP, name, "ratio", (fetched / live,), at_most=at_most)


def _fetched(site: Site) -> int:
    """What a restore asked the store for, heads and catalogs included."""
    _into_new_file(site, lambda at: restore_argv(site, "db", at))
    return int(json.loads((site.base / "restore.log").read_text())["fetched_bytes"])


def _stored_alone(site: Site) -> int:
    """What the volume as it is takes in a container that never held anything else."""
    with bench_site({"db": site.volumes["db"]}, None, 1024) as alone:
        alone.backing("db").write_bytes(site.backing("db").read_bytes())
        agent = started(alone)
        assert agent.stop() == 0
        return sum(path.stat().st_size for path in (alone.container / "log").rglob("*") if path.is_file())
