"""A guest that boots from `rehydrate serve` over a long way, against one that boots from a local file.

The root file system lies on a sparse disk of 20 GiB; the guest (tests/tiny_vm.py, emulated) starts from it,
reads some of its files, and says so on its console. The clock begins with the command, `rehydrate serve` here
and QEMU there. What the guest touches is counted once, block by block, by an export of a local file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.capture import server
from bench.far import far
from bench.knobs import Knobs, alternating
from bench.site import bench_site, ceph, environment, started
from bench.table import Figure
from tests.e2e.site import BIN, MIB, Site
from tests.nbd_server import FileExport, serving
from tests.servers.s3 import S3Server
from tests.tiny_vm import Job, root_disk, tiny_guest

DISK_BYTES: Final = 20 << 30
TOUCHED, TOUCHED_BYTES = 16, 1 << 20
OTHER_MIB: Final = 256
ROUND_TRIP_SECONDS: Final = 0.020
PAIRS_MAX: Final = 5
SECONDS_MAX: Final = 15.0
LOCAL_TIMES_MAX: Final = 2.5
TOUCHED_TIMES_MAX: Final = 1.5
BLOCK_BYTES: Final = 4096
JOB: Final = Job("touch", root=True)
MARK: Final = f"MARK touched {TOUCHED} 0 "


@dataclass(frozen=True, slots=True)
class Boot:
    """Seconds to the mark of a root file system that runs, and to that of files that were read and are right.

    `received_bytes`: that came from the store until then.
    """

    root_seconds: float
    seconds: float
    received_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, root {self.root_seconds:.2f} s, {self.received_bytes / MIB:.1f} MiB"


class _Recording(FileExport):
    """Notes which blocks are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.blocks: set[int] = set()

    async def read(self, offset: int, length: int) -> bytes:
        self.blocks.update(range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1))
        return await super().read(offset, length)


def measure(group: str, knobs: Knobs) -> list[Figure]:
    """Seconds to the marks, and bytes from the store by bytes that were touched."""
    other_mib = knobs.share(OTHER_MIB)
    with ceph() as gateway, bench_site({"root": DISK_BYTES}, gateway, 1024) as site:
        root_disk(site.backing("root"), DISK_BYTES, TOUCHED, TOUCHED_BYTES, other_mib * MIB)
        assert started(site).stop() == 0
        touched_bytes = _touched_bytes(site)
        print(f"   the guest touches {touched_bytes / MIB:.1f} MiB", flush=True)
        with far(gateway.endpoint, ROUND_TRIP_SECONDS) as endpoint:
            pairs = alternating(
                min(knobs.pairs, PAIRS_MAX), lambda: _served(site, gateway, endpoint), lambda: _local(site)
            )
    name = f"a boot from 20 GiB, {ROUND_TRIP_SECONDS * 1000:g} ms"
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    local = Figure(group, "the same boot from a local file", "s", tuple(one.seconds for one in theirs))
    amounts = tuple(one.received_bytes / touched_bytes for one in ours)
    return [
        Figure(
            group,
            f"{name}: from the command to the guest's mark",
            "s",
            tuple(one.seconds for one in ours),
            at_most=max(SECONDS_MAX, LOCAL_TIMES_MAX * local.value),
            note=f"its root file system runs after {min(one.root_seconds for one in ours):.1f} s at the best",
        ),
        local,
        Figure(group, f"{name}: read by touched bytes", "ratio", amounts, at_most=TOUCHED_TIMES_MAX),
        Figure(group, f"{name}: touched", "MiB", (touched_bytes / MIB,)),
    ]


def _touched_bytes(site: Site) -> int:
    export = _Recording(_copied(site))
    try:
        with serving(export, site.base / "t"):
            _booted(site, f"nbd+unix:///disk?socket={site.base}/t", time.monotonic())
    finally:
        export.close()
    return len(export.blocks) * BLOCK_BYTES


def _local(site: Site) -> Boot:
    disk = _copied(site)
    return _booted(site, disk, time.monotonic())


def _served(site: Site, gateway: S3Server, endpoint: str) -> Boot:
    overlay = site.base / "overlay"
    argv = [str(BIN / "rehydrate"), "serve", site.store.replace(gateway.endpoint, endpoint)]
    argv += ["--overlay", str(overlay), "--key-file", str(site.private_key)]
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, overlay, ignore_errors=True)
        stack.enter_context(server(overlay, *argv, name="nbd.sock"))
        booted = _booted(site, f"nbd+unix:///root?socket={overlay}/nbd.sock", began)
        received_bytes = int(_status(site, overlay)["received_bytes"])
    return Boot(booted.root_seconds, booted.seconds, received_bytes)


def _booted(site: Site, disk: Path | str, began: float) -> Boot:
    with tiny_guest(site.base / "g", [disk], JOB) as guest:
        guest.wait_for("MARK root ")
        root_seconds = time.monotonic() - began
        guest.wait_for(MARK)
        return Boot(root_seconds, time.monotonic() - began)


def _status(site: Site, overlay: Path) -> Any:  # noqa: ANN401 (a document)
    argv = [str(BIN / "rehydrate"), "serving", str(overlay), "--json"]
    done = subprocess.run(argv, env=environment(site), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _copied(site: Site) -> Path:
    """A copy that a guest may write, with the holes of the original."""
    copy = site.base / "copy.raw"
    subprocess.run(["cp", "--sparse=always", str(site.backing("root")), str(copy)], check=True)
    return copy
