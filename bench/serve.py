"""Group serve: what guests of `rehydrate serve` get, against qemu-storage-daemon that exports a local file.

Reads of 4 KiB at random, by fio's NBD engine over unix sockets, in turn. Warm: everything is here and in the
page cache, on either side; the first run of each does not count. Cold: an empty overlay of a container in
Ceph RGW, on this machine, and a file that the page cache does not hold. A run's CPU is its server's alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench import serve_boot
from bench.capture import Served, fio, server
from bench.data import fill
from bench.knobs import Knobs, alternating
from bench.site import bench_site, ceph, cpu_seconds, started, sync_below
from bench.table import Figure, ratios
from tests.e2e.site import BIN, MIB, Site

GROUP = "serve"
VOLUME_MIB = 512
DEPTHS = (1, 16)
COLD_PAIRS_MAX = 3
AT_LEAST = 0.8


@dataclass(frozen=True, slots=True)
class Rate:
    """What a run of fio got, and what each operation took of its server's CPU."""

    iops: float
    cpu_microseconds: float

    def __str__(self) -> str:
        return f"{self.iops:.0f}/s at {self.cpu_microseconds:.1f} us of CPU"


Run = Callable[[], Rate]


def measure(knobs: Knobs) -> list[Figure]:
    """All rows."""
    return [*serve_boot.measure(GROUP, knobs), *_rates(knobs)]


def _rates(knobs: Knobs) -> list[Figure]:
    mib = knobs.share(VOLUME_MIB)
    with ceph() as gateway, bench_site({"disk": mib * MIB}, gateway, 1024) as site:
        fill(site.backing("disk"), mib, seed=1)
        assert started(site).stop() == 0
        return [*_warm(knobs, site), *_cold(knobs, site)]


def _warm(knobs: Knobs, site: Site) -> list[Figure]:
    figures = []
    with overlaid(site, site.base / "o") as ours, plain(site) as theirs:
        for served in (ours, theirs):
            subprocess.run(["nbdcopy", "--no-extents", served.uri, "null:"], check=True)
            served.settle()
        for depth in DEPTHS:
            runs = [_run(served, depth, site, knobs) for served in (ours, theirs)]
            for run in runs:
                run()
            name = f"4 KiB random reads, qd {depth}, warm"
            figures += _rows(name, alternating(knobs.pairs, *_named(name, runs)), AT_LEAST)
    return figures


def _cold(knobs: Knobs, site: Site) -> list[Figure]:
    """Each run begins with nothing: of a run of some seconds, this is the average while it is fetched."""
    figures = []
    numbers = count()
    pairs = min(knobs.pairs, COLD_PAIRS_MAX)
    for depth in DEPTHS:

        def ours(depth: int = depth) -> Rate:
            overlay = site.base / f"o{next(numbers)}"
            with overlaid(site, overlay) as served:
                rate = _run(served, depth, site, knobs)()
            shutil.rmtree(overlay)
            return rate

        def theirs(depth: int = depth) -> Rate:
            _forget(site.backing("disk"))
            with plain(site) as served:
                return _run(served, depth, site, knobs)()

        name = f"4 KiB random reads, qd {depth}, cold, the first {knobs.seconds} s"
        figures += _rows(name, alternating(pairs, *_named(name, [ours, theirs])), None)
    return figures


def _named(name: str, runs: list[Run]) -> tuple[Run, Run]:
    print(f"   {name}", flush=True)
    ours, theirs = runs
    return ours, theirs


def _rows(name: str, pairs: list[tuple[Rate, Rate]], at_least: float | None) -> list[Figure]:
    rates = ratios((ours.iops, theirs.iops) for ours, theirs in pairs)
    cpus = ratios((ours.cpu_microseconds, theirs.cpu_microseconds) for ours, theirs in pairs)
    return [
        Figure(GROUP, f"{name}: to plain", "ratio", rates, at_least=at_least),
        Figure(GROUP, f"{name}: CPU of a read to the same", "ratio", cpus),
        Figure(GROUP, f"{name}", "1000/s", tuple(ours.iops / 1000 for ours, _ in pairs)),
    ]


def _run(served: Served, depth: int, site: Site, knobs: Knobs) -> Run:
    options = ("--rw=randread", "--bs=4k", f"--iodepth={depth}", "--norandommap")

    def run() -> Rate:
        before = cpu_seconds(served.pid)
        iops = fio(served.uri, options, knobs.seconds, site.volumes["disk"])
        spent_seconds = cpu_seconds(served.pid) - before
        served.settle()
        return Rate(iops, spent_seconds * 1e6 / (iops * knobs.seconds))

    return run


@contextmanager
def overlaid(site: Site, overlay: Path) -> Iterator[Served]:
    """`rehydrate serve` of the newest point."""
    argv = [str(BIN / "rehydrate"), "serve", site.store, "--overlay", str(overlay)]
    with server(overlay, *argv, "--key-file", str(site.private_key), name="nbd.sock") as served:
        yield served


@contextmanager
def plain(site: Site) -> Iterator[Served]:
    """The volume's own file, by what users have without us."""
    disk, base = site.backing("disk"), site.base / "plain"
    base.mkdir(exist_ok=True)
    with server(
        base,
        "qemu-storage-daemon",
        "--blockdev", f"driver=file,node-name=disk,filename={disk}",
        "--nbd-server", f"addr.type=unix,addr.path={base}/s",
        "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on",
    ) as served:  # fmt: skip
        yield served
    (base / "s").unlink(missing_ok=True)


def _forget(path: Path) -> None:
    """Nothing of it is in the page cache any more."""
    sync_below(path.parent)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
