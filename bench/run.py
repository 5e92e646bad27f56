"""`make bench`: what a guest pays for protection, and how quickly a volume comes back. Asserts nothing.

The export of a running agent (directory store, everything streamed meanwhile) is driven by fio beside
a plain qemu-storage-daemon on the same kind of file; then the volume is restored. Figures of shared
machines are noisy: read the ratios, and run it more than once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
VOLUME_BYTES = 1 << 30
RUN_SECONDS = int(os.environ.get("BENCH_SECONDS", "5"))
START_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload of fio."""

    name: str
    options: tuple[str, ...]


CELLS = (
    Cell("4 KiB random writes, qd 16", ("--rw=randwrite", "--bs=4k", "--iodepth=16")),
    Cell("4 KiB random writes, qd 1", ("--rw=randwrite", "--bs=4k", "--iodepth=1")),
    Cell("4 KiB qd 16, a flush every 32", ("--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=32")),
    Cell("1 MiB sequential writes, qd 4", ("--rw=write", "--bs=1m", "--iodepth=4")),
)


def fio(uri: str, cell: Cell) -> float:
    """Operations per second."""
    argv = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--size={VOLUME_BYTES}", *cell.options]
    argv += [
        "--time_based",
        f"--runtime={RUN_SECONDS}",
        "--output-format=json",
        "--buffer_compress_percentage=50",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout[done.stdout.index("{") :])
    return float(document["jobs"][0]["write"]["iops"])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


@contextmanager
def plain(base: Path) -> Iterator[str]:
    """A file behind qemu-storage-daemon: what users have without us."""
    disk, sock = base / "plain.raw", base / "plain.sock"
    with disk.open("wb") as file:
        file.truncate(VOLUME_BYTES)
    server = subprocess.Popen(
        [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=disk,filename={disk},discard=unmap",
            "--nbd-server", f"addr.type=unix,addr.path={sock}",
            "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on",
        ]
    )  # fmt: skip
    try:
        wait_for(sock.exists, "qemu-storage-daemon")
        yield f"nbd+unix:///disk?socket={sock}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def protected(base: Path) -> Iterator[str]:
    """The same behind an agent that streams into a directory."""
    disk, config = base / "disk.raw", base / "agent.yaml"
    (base / "container").mkdir()
    with disk.open("wb") as file:
        file.truncate(VOLUME_BYTES)
    config.write_text(
        f"domain: bench\nsite: here\nstore: {base}/container\njournal:\n  directory: {base}/journal\n"
        f"  limit: 16GiB\nvolumes:\n  - name: disk\n    path: {disk}\n"
    )
    (base / "passphrase").write_text("bench\n")
    init: list[str | Path] = [
        BIN / "cdp-agent",
        "init",
        "--config",
        config,
        "--passphrase-file",
        base / "passphrase",
    ]
    subprocess.run(init, check=True, capture_output=True)
    agent = subprocess.Popen([BIN / "cdp-agent", "run", "--config", config], start_new_session=True)
    try:
        wait_for((base / "journal" / "nbd.sock").exists, "the agent")
        yield f"nbd+unix:///disk?socket={base}/journal/nbd.sock"
        flush: list[str | Path] = [BIN / "cdp-agent", "flush", "--config", config, "--timeout", "300"]
        subprocess.run(flush, check=True, capture_output=True)
    finally:
        os.killpg(agent.pid, signal.SIGTERM)
        agent.wait()


def restore(base: Path) -> None:
    """The whole command, process start included."""
    began = time.monotonic()
    done = subprocess.run(
        [BIN / "rehydrate", "restore", base / "container", "--volume", "disk", "--target", base / "back.raw",
         "--passphrase-file", base / "passphrase", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.monotonic() - began
    report = json.loads(done.stdout)
    rate = report["written_bytes"] / seconds / 1e6
    print(f"restore: {report['written_bytes'] >> 20} MiB written in {seconds:.1f} s ({rate:.0f} MB/s)")
    subprocess.run(["cmp", base / "disk.raw", base / "back.raw"], check=True)
    print("the restored volume is equal, byte for byte")


def main() -> None:
    """All cells, both servers, then the restore."""
    with tempfile.TemporaryDirectory(prefix="cdp-bench-") as folder:
        base = Path(folder)
        with plain(base) as uri:
            before = [fio(uri, cell) for cell in CELLS]
        with protected(base) as uri:
            after = [fio(uri, cell) for cell in CELLS]
        print(f"{'writes per second':<34}{'plain':>10}{'protected':>12}{'ratio':>8}")
        for cell, plain_iops, our_iops in zip(CELLS, before, after, strict=True):
            print(f"{cell.name:<34}{plain_iops:>10.0f}{our_iops:>12.0f}{our_iops / plain_iops:>8.2f}")
        restore(base)


if __name__ == "__main__":
    main()
