"""Group stream: how quickly a backlog leaves, and what CPU it costs, against a program that only puts it.

Ours counts from the moment the held streamer goes on until all of the backlog is protected; CPU is that of
the streamer's process. Either reads from the page cache: we the journal, the program a file.
"""

from __future__ import annotations

import json
import time

from bench.data import fill
from bench.knobs import Knobs
from bench.site import (
    Spent,
    against,
    baseline_argv,
    bench_site,
    ceph,
    cpu_seconds,
    environment,
    flush,
    held,
    new_address,
    started,
    streamer_of,
    weighed,
    write_backlog,
)
from bench.table import Figure
from tests.e2e.site import MIB, Agent, Site
from tests.servers.s3 import S3Server

GROUP = "stream"
THREADS = (4, 8, 16)


def measure(knobs: Knobs) -> list[Figure]:
    """Rate and CPU of a backlog of VM-like data to Ceph RGW."""
    with ceph() as server, bench_site({"db": knobs.mib * MIB}, server, 2 * knobs.mib + 1024) as site:
        fill(site.base / "data", knobs.mib, seed=0)
        agent = started(site)
        _ours(site, agent)  # the journal's files and the volume's pages are there from now on
        tried = {threads: _put(site, server, threads) for threads in THREADS}
        best = min(tried, key=lambda threads: tried[threads].seconds)
        for threads, spent in tried.items():
            print(f"   comparator with {threads} threads: {spent}", flush=True)
        pairs = []
        for number in range(knobs.pairs):
            first = _put(site, server, best) if number % 2 else None
            ours = _ours(site, agent)
            theirs = first or _put(site, server, best)
            pairs.append((ours, theirs))
            print(f"   pair {number + 1} of {knobs.pairs}: {ours} against {theirs}", flush=True)
        assert agent.stop() == 0
    gib = knobs.mib / 1024
    name = f"backlog of {gib:g} GiB to Ceph RGW"
    note = f"comparator with {best} threads, the best of {', '.join(map(str, THREADS))}"
    return against(GROUP, name, "read-compress-seal-PUT", pairs, knobs.mib, note)


def _ours(site: Site, agent: Agent) -> Spent:
    """A fresh backlog, streamed."""
    pid = streamer_of(agent)
    with held(agent):
        write_backlog(site, "db", site.base / "data")
        before, began = cpu_seconds(pid), time.monotonic()
    flush(site)
    return Spent(time.monotonic() - began, cpu_seconds(pid) - before)


def _put(site: Site, server: S3Server, threads: int) -> Spent:
    """The comparator, of the same data; its start is not counted."""
    log, manifest = site.base / "put.log", site.base / "manifest"
    argv = baseline_argv("put", site.base / "data", new_address(server), manifest, threads)
    weighed(argv, environment(site), log)
    return Spent(**json.loads(log.read_text()))
