"""Group capture: what guests pay, against qemu-storage-daemon that exports the same kind of file, no capture.

Both are driven by fio's NBD engine over unix sockets, in turn. The volumes are files that were filled before
(but the sparse ones), all of them in the page cache; before each run everything on either side is drained and
synced, so that neither pays for what the other has left to write. The first run of each does not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.data import BLOCK_BYTES, VmData, shuffled
from bench.knobs import Knobs, alternating
from bench.site import bench_site, flush, scratch, started, sync_below
from bench.table import Figure, ratios
from tests.e2e.site import MIB
from tests.waiting import wait_until

GROUP = "capture"
VOLUME_BYTES = 1 << 30
HUGE_BYTES = 1 << 40
START_SECONDS_MAX = 60.0
RANDOM_QD16 = ("--rw=randwrite", "--bs=4k", "--iodepth=16", "--norandommap")
RANDOM_QD1 = ("--rw=randwrite", "--bs=4k", "--iodepth=1", "--norandommap")
FLUSHES = (*RANDOM_QD16, "--fsync=32")
SMALL, LARGE = 4 << 10, 1 << 20
"""Pieces in which volumes were filled. Linux caches a file in folios as large as the writes that brought it
in, and on ext4 a small write into a large folio takes six times as long: each load has what suits it."""
SEQUENTIAL = ("--rw=write", "--bs=1m", "--iodepth=4")


@dataclass(frozen=True, slots=True)
class Served:
    """A volume that fio can reach; `settle` returns once nothing is left to be done for it.

    `pid`: of the process that serves it.
    """

    uri: str
    settle: Callable[[], None]
    pid: int


def measure(knobs: Knobs) -> list[Figure]:
    """All rows. Servers are shared by rows of the same kind: the longer they run, the warmer."""
    row = _Rows(knobs)
    with plain(SMALL) as theirs:
        with alone("warm", SMALL) as ours:
            figures = [
                row("4 KiB random, qd 16, warm, streamer paused", RANDOM_QD16, ours, theirs, 1.5),
                row("4 KiB random, qd 1, warm", RANDOM_QD1, ours, theirs, 1.0),
                row("4 KiB random, qd 16, a flush every 32, warm", FLUSHES, ours, theirs, 0.8),
            ]
            with alone("warm", None) as huge:
                figures += row.huge(huge, ours)
        with streaming() as ours:
            name = "4 KiB random, qd 16, streamer to a directory"
            figures.append(row(name, RANDOM_QD16, ours, theirs, 0.7))
    with plain(LARGE) as theirs:
        for state, at_least in (("warm", 0.8), ("cold", None)):
            with alone(state, LARGE) as ours:
                name = f"1 MiB sequential, qd 4, {state}"
                figures.append(row(name, SEQUENTIAL, ours, theirs, at_least))
    return figures


class _Rows:
    """Measures rows."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs

    def __call__(
        self, name: str, options: tuple[str, ...], ours: Served, theirs: Served, at_least: float | None
    ) -> Figure:
        """A row against the plain server."""
        values = self._ratios(name, options, (ours, VOLUME_BYTES), (theirs, VOLUME_BYTES))
        return Figure(GROUP, f"{name}: to plain", "ratio", values, at_least=at_least)

    def huge(self, huge: Served, ours: Served) -> list[Figure]:
        """The first row on a huge sparse volume, against itself on the small one."""
        name = "4 KiB random, qd 16, 1 TiB sparse"
        same = self._ratios(name, RANDOM_QD16, (huge, VOLUME_BYTES), (ours, VOLUME_BYTES))
        whole = self._ratios(f"{name}, all of it", RANDOM_QD16, (huge, HUGE_BYTES), (ours, VOLUME_BYTES))
        return [
            Figure(GROUP, f"{name}, in 1 GiB of it: to 1 GiB", "ratio", same, at_least=0.8),
            Figure(GROUP, f"{name}, all over it, every page new: to 1 GiB", "ratio", whole),
        ]

    def _ratios(
        self, name: str, options: tuple[str, ...], ours: tuple[Served, int], theirs: tuple[Served, int]
    ) -> tuple[float, ...]:
        """Operations per second, pair by pair; each side with the bytes that it is driven over."""
        print(f"   {name}", flush=True)

        def run(side: tuple[Served, int]) -> float:
            served, size_bytes = side
            iops = fio(served.uri, options, self._knobs.seconds, size_bytes)
            served.settle()
            return iops

        run(ours), run(theirs)
        return ratios(alternating(self._knobs.pairs, lambda: run(ours), lambda: run(theirs)))


@contextmanager
def plain(piece_bytes: int) -> Iterator[Served]:
    """What users have without us."""
    with scratch() as base:
        disk = base / "disk.raw"
        _fill(disk, piece_bytes)
        with server(
            base,
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=disk,filename={disk},discard=unmap",
            "--nbd-server", f"addr.type=unix,addr.path={base}/s",
            "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on",
        ) as served:  # fmt: skip
            yield served


@contextmanager
def alone(state: str, piece_bytes: int | None) -> Iterator[Served]:
    """Our splitter, as with the streamer paused; without `piece_bytes` the volume is huge and empty."""
    size_bytes = VOLUME_BYTES if piece_bytes else HUGE_BYTES
    with scratch() as base:
        disk = base / "disk.raw"
        if piece_bytes:
            _fill(disk, piece_bytes)
        else:
            with disk.open("wb") as file:
                file.truncate(size_bytes)
        words = ["-m", "bench.splitter_alone", str(base), str(size_bytes), state]
        with server(base, sys.executable, *words) as served:
            yield served


@contextmanager
def streaming() -> Iterator[Served]:
    """A whole agent whose store is a directory."""
    with bench_site({"disk": VOLUME_BYTES}, None, 64 << 10) as site:
        _fill(site.backing("disk"), SMALL)
        agent = started(site)

        def settle() -> None:
            flush(site)
            sync_below(site.base)

        settle()
        splitter = agent.child("splitter")
        assert splitter is not None, agent.log()
        yield Served(site.uri("disk"), settle, splitter)
        assert agent.stop() == 0


def _fill(disk: Path, piece_bytes: int) -> None:
    """No hole, nothing left to be synced, all in the page cache."""
    chunk = VmData(0).chunk(MIB // BLOCK_BYTES)
    with disk.open("wb", buffering=0) as file:
        file.truncate(VOLUME_BYTES)
        for number in shuffled(VOLUME_BYTES // piece_bytes, 0):
            offset = number * piece_bytes
            os.pwrite(file.fileno(), chunk[offset % MIB : offset % MIB + piece_bytes], offset)
    sync_below(disk.parent)


@contextmanager
def server(base: Path, *argv: str, name: str = "s") -> Iterator[Served]:
    """A process that serves `disk` at a socket of this name in a directory."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(argv, env=environment)
    try:
        wait_until((base / name).exists, f"{argv[0]} listens", START_SECONDS_MAX)
        yield Served(f"nbd+unix:///disk?socket={base}/{name}", lambda: sync_below(base), process.pid)
    finally:
        process.terminate()
        process.wait()


def fio(uri: str, options: tuple[str, ...], seconds: int, size_bytes: int) -> float:
    """Operations per second, reads and writes."""
    argv = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--size={size_bytes}", *options]
    argv += [
        "--time_based",
        f"--runtime={seconds}",
        "--output-format=json",
        "--buffer_compress_percentage=50",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout[done.stdout.index("{") :])
    job = document["jobs"][0]
    return round(float(job["read"]["iops"]) + float(job["write"]["iops"]), 1)
