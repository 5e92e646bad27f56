"""Group memory: the largest anonymous memory of each process of the agent, and of a restore.

10,000 regions of a sparse volume of 1 TiB are written while the streamer is held, as much as five minutes of
25 MB/s; then the backlog is streamed to Ceph RGW and the volume restored. Then once more with a journal so
small that it overflows, so that the regions are kept in dirty maps and compared. Pages of files do not count:
they go when they are needed.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.data import BLOCK_BYTES, VmData, shuffled
from bench.knobs import Knobs
from bench.site import bench_site, ceph, environment, held, protect, restore_argv, started, write_all
from bench.table import Figure
from cdp_container.journal.shared import SharedPages
from tests.e2e.processes import children_of
from tests.e2e.site import Site
from tests.nbd_client import NbdClient

GROUP = "memory"
VOLUME_BYTES = 1 << 40
REGIONS = 10_000
BACKLOG_MIB = 7153  # 25 MB/s for 5 min
LOOK_SECONDS = 0.05
AGENT_MIB_MAX = 256
RESTORE_MIB_MAX = 300

Peaks = dict[str, int]
"""KiB by process."""


def measure(knobs: Knobs) -> list[Figure]:
    """Peaks in MiB."""
    blocks = max(1, (knobs.share(BACKLOG_MIB) << 20) // REGIONS // BLOCK_BYTES)
    mib = (REGIONS * blocks * BLOCK_BYTES) >> 20
    with ceph() as server, bench_site({"db": VOLUME_BYTES}, server, 2 * mib + 1024) as site:
        streamed = _agent(site, blocks, overflows=False)
        restored = _restore(site)
    with bench_site({"db": VOLUME_BYTES}, None, 256) as site:
        overflowed = _agent(site, 1, overflows=True)
    name = f"1 TiB sparse, {REGIONS} regions"
    return [
        *_figures(f"{name}, {mib} MiB of backlog", streamed, AGENT_MIB_MAX),
        *_figures(f"{name}, restored", restored, RESTORE_MIB_MAX),
        *_figures(f"{name}, kept in dirty maps", overflowed, AGENT_MIB_MAX),
    ]


def _figures(name: str, peaks: Peaks, at_most: float) -> list[Figure]:
    return [
        Figure(GROUP, f"{name}: peak of {process}", "MiB", (kib / 1024,), at_most=at_most)
        for process, kib in sorted(peaks.items())
    ]


def _agent(site: Site, blocks: int, overflows: bool) -> Peaks:
    """Written while the streamer is held, then protected; what it took from start to end."""
    agent = started(site)
    with watched(lambda: children_of(agent.process.pid) | {"supervisor": agent.process.pid}) as peaks:
        with held(agent), NbdClient(site.socket, "db") as client:
            write_all(client, _writes(blocks))
            assert _is_overflowed(site) is overflows
        protect(site, agent)
    assert agent.stop() == 0
    return peaks


def _is_overflowed(site: Site) -> bool:
    pages = SharedPages(site.journal / "shared")
    page = pages.splitter.read()
    pages.close()
    return page is not None and page.overflowed


def _writes(blocks: int) -> Iterator[tuple[int, bytes]]:
    data, step = VmData(3), VOLUME_BYTES // REGIONS // BLOCK_BYTES * BLOCK_BYTES
    for region in shuffled(REGIONS, 3):
        yield region * step, data.chunk(blocks)


def _restore(site: Site) -> Peaks:
    target = site.base / "back.raw"
    with (site.base / "restore.log").open("wb") as log:
        argv = restore_argv(site, "db", target)
        process = subprocess.Popen(argv, env=environment(site), stdout=log, stderr=log)
        try:
            with watched(lambda: {"rehydrate": process.pid}) as peaks:
                code = process.wait()
        finally:
            process.kill()
            process.wait()
    assert code == 0, (site.base / "restore.log").read_text()[-2000:]
    assert target.stat().st_size == VOLUME_BYTES
    return peaks


@contextmanager
def watched(pids: Callable[[], dict[str, int]]) -> Iterator[Peaks]:
    """The largest RssAnon of each process, looked at every LOOK_SECONDS until the block ends."""
    peaks: Peaks = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            for name, pid in pids().items():
                peaks[name] = max(peaks.get(name, 0), _anonymous_kib(pid))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peaks
    finally:
        stop.set()
        watcher.join()


def _anonymous_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended between two looks
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
