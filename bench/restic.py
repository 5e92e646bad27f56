"""Group restic: a volume of VM-like data to and from the same Ceph RGW, whole processes, against restic.

Ours is the first copy: from the start of the agent over a filled volume until all of it is protected. What
only prepares (init of both, keys) is not counted. Every pair has a fresh domain and a fresh repository;
restic runs with its defaults (compression, five connections), its cache as new as the repository.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bench.data import fill
from bench.knobs import Knobs, alternating
from bench.site import (
    Spent,
    bench_site,
    ceph,
    cpu_seconds,
    environment,
    must_equal,
    new_address,
    protect,
    restore_argv,
    scratch,
    sync_below,
    weighed,
)
from bench.table import Figure, ratios
from tests.e2e.site import MIB, Agent
from tests.servers.s3 import S3Server

GROUP = "restic"
VOLUME_MIB = 1024

_Both = tuple[Spent, Spent]
"""The way there, the way back."""


def measure(knobs: Knobs) -> list[Figure]:
    """Backup and restore."""
    if shutil.which("restic") is None:
        raise SystemExit("restic is not installed: deploy/system-packages.sh bench")
    mib = knobs.share(VOLUME_MIB)
    with ceph() as server, scratch() as folder:
        volume = folder / "volume"
        fill(volume, mib, seed=2)
        pairs = alternating(knobs.pairs, lambda: _ours(server, volume), lambda: _restic(server, volume))
    backup = ratios((theirs[0].seconds, ours[0].seconds) for ours, theirs in pairs)
    restore = ratios((theirs[1].seconds, ours[1].seconds) for ours, theirs in pairs)
    name = f"{mib} MiB VM-like volume on Ceph RGW"
    return [
        Figure(GROUP, f"{name}: rate of the first copy to restic backup", "ratio", backup, at_least=1.5),
        Figure(GROUP, f"{name}: rate of the restore to restic restore", "ratio", restore, at_least=1.2),
        Figure(GROUP, f"{name}: first copy", "MiB/s", tuple(mib / ours[0].seconds for ours, _ in pairs)),
        Figure(GROUP, f"{name}: restore", "MiB/s", tuple(mib / ours[1].seconds for ours, _ in pairs)),
    ]


def _ours(server: S3Server, volume: Path) -> _Both:
    size_bytes = volume.stat().st_size
    with bench_site({"db": size_bytes}, server, 2 * size_bytes // MIB) as site:
        shutil.copyfile(volume, site.backing("db"))
        sync_below(site.root)
        began = time.monotonic()
        agent = site.launch()
        protect(site, agent)
        copied = Spent(time.monotonic() - began, _cpu_seconds(agent))
        assert agent.stop() == 0
        target = site.base / "back.raw"
        restored = weighed(restore_argv(site, "db", target), environment(site), site.base / "restore.log")
        must_equal(target, volume)
    return copied, restored


def _cpu_seconds(agent: Agent) -> float:
    pids = [agent.process.pid, agent.child("splitter"), agent.child("streamer")]
    return sum(cpu_seconds(pid) for pid in pids if pid is not None)


def _restic(server: S3Server, volume: Path) -> _Both:
    bucket = new_address(server).removeprefix("s3://").split("/")[0]
    with scratch() as folder:
        copy, back, log = folder / "volume", folder / "back", folder / "log"
        shutil.copyfile(volume, copy)  # as ours is
        sync_below(folder)
        variables = {
            **os.environ,
            **server.environment(),
            "RESTIC_REPOSITORY": f"s3:{server.endpoint}/{bucket}/r",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }
        weighed(["restic", "init"], variables, log)
        backed_up = weighed(["restic", "backup", str(copy)], variables, log)
        restored = weighed(["restic", "restore", "latest", "--target", str(back)], variables, log)
        must_equal(back / copy.relative_to("/"), volume)
    return backed_up, restored
