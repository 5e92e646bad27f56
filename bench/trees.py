"""Group trees: many files, on Ceph RGW: their names against tar, their content and changes against restic.

A million empty files are protected from the agent's start on, looked through again by one that starts where
nothing changed, and laid out from the container beside `tar -x` of the same. Then 20,000 small files: all
are restored, and 10,000 of them change at once, beside restic with its defaults on the same gateway. Of a
burst ours ends when all is protected, which is later than sent. What is restored is compared byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.data import VmData
from bench.knobs import MIB as FULL_MIB
from bench.knobs import Knobs, alternating
from bench.memory import Peaks, watched
from bench.site import (
    LEASE_SECONDS,
    Spent,
    ceph,
    cpu_seconds,
    environment,
    must_equal,
    new_address,
    protect,
    scratch,
    sync_below,
    weighed,
)
from bench.table import Figure, ratios
from cdp_agent.streamer.control import call
from cdp_agent.watcher.client import WatcherClient
from tests.e2e.processes import children_of, processes
from tests.e2e.site import BIN, MIB, Agent, Site, new_site
from tests.servers.s3 import S3Server

GROUP = "trees"
NAMES, IN_DIRECTORY = 1_000_000, 1_000
NAMES_PAIRS_MAX = 3
"""A pair makes two million files, and nothing is removed before the end: file systems remember for minutes
what was removed, and look around it."""
FILES, FILES_MIB, CHANGED = 20_000, 173, 10_000
LOOK_SECONDS = 0.01
STAYS_SECONDS = 0.5
"""A change that nobody had heard of yet would have shown by then."""
PROTECTED_SECONDS_MAX = 120.0
SCANNED_SECONDS_MAX = 600.0
NAMES_MIB_MAX = 512


def measure(knobs: Knobs) -> list[Figure]:
    """Names, then content."""
    if shutil.which("restic") is None:
        raise SystemExit("restic is not installed: deploy/system-packages.sh bench")
    return [*_names(knobs), *_files(knobs)]


# --- names -----------------------------------------------------------------------------------------


def _names(knobs: Knobs) -> list[Figure]:
    directories = NAMES // IN_DIRECTORY * min(knobs.mib, FULL_MIB) // FULL_MIB
    count = max(20, directories) * IN_DIRECTORY
    with ceph() as server, _site(server) as site, scratch() as folder:
        tree = site.root / "tree"
        _make_names(tree, count)
        subprocess.run(["tar", "-cf", str(folder / "names.tar"), "-C", str(tree), "."], check=True)
        first, first_peak = _started(site)
        again, again_peak = _started(site)
        peaks: list[float] = []
        numbers = iter(range(2 * knobs.pairs))

        def ours() -> Spent:
            spent, peak_mib = _lay_out(site, folder / f"{next(numbers)}", count)
            peaks.append(peak_mib)
            return spent

        def theirs() -> Spent:
            target = folder / f"{next(numbers)}"
            target.mkdir()
            argv = ["tar", "-xf", str(folder / "names.tar"), "-C", str(target)]
            spent = weighed(argv, os.environ, folder / "tar.log")
            os.sync()
            return spent

        pairs = alternating(min(knobs.pairs, NAMES_PAIRS_MAX), ours, theirs)
        site.agents.clear()
    name = f"{count} empty files"
    rates = ratios((tar.seconds, spent.seconds) for spent, tar in pairs)
    cpus = ratios((spent.cpu_seconds, tar.cpu_seconds) for spent, tar in pairs)
    return [
        Figure(GROUP, f"{name}: names from heads to a tree, rate to tar -x", "ratio", rates, at_least=0.7),
        Figure(GROUP, f"{name}: peak of rehydrate", "MiB", tuple(peaks), at_most=NAMES_MIB_MAX),
        Figure(GROUP, f"{name}: names", "1/s", tuple(count / spent.seconds for spent, _ in pairs)),
        Figure(GROUP, f"{name}: CPU to tar -x", "ratio", cpus),
        Figure(GROUP, f"{name}: first start to protected", "s", (first.seconds,), note=str(first)),
        Figure(GROUP, f"{name}: peak of the watcher", "MiB", (first_peak,), at_most=NAMES_MIB_MAX),
        Figure(GROUP, f"{name}: next start to scanned", "s", (again.seconds,), note=str(again)),
        Figure(GROUP, f"{name}: peak of the watcher then", "MiB", (again_peak,)),
    ]


def _make_names(tree: Path, count: int) -> None:
    for number in range(count // IN_DIRECTORY):
        folder = tree / f"{number // 50:03d}" / f"{number % 50:02d}"
        folder.mkdir(parents=True)
        directory = os.open(folder, os.O_RDONLY)
        for inner in range(IN_DIRECTORY):
            os.mknod(f"file-{inner:05d}.txt", 0o100644, dir_fd=directory)
        os.close(directory)


def _started(site: Site) -> tuple[Spent, float]:
    """From an agent's start until all is protected and scanned: CPU and peak (MiB) of its watcher."""
    began = time.monotonic()
    agent = site.launch()
    with watched(lambda: children_of(agent.process.pid)) as peaks:
        protect(site, agent)
        _wait_scanned(site)
        spent = Spent(time.monotonic() - began, _watcher_seconds(agent))
    assert agent.stop() == 0
    return spent, _mib(peaks, "watcher")


def _wait_scanned(site: Site) -> None:
    client, deadline = WatcherClient(site.journal), time.monotonic() + SCANNED_SECONDS_MAX
    while any(tree["scanning"] or tree["why_not_whole"] for tree in client.status()["trees"]):
        assert time.monotonic() < deadline, client.status()
        time.sleep(0.05)


def _watcher_seconds(agent: Agent) -> float:
    return cpu_seconds(children_of(agent.process.pid)["watcher"])


def _mib(peaks: Peaks, process: str) -> float:
    return peaks[process] / 1024


def _lay_out(site: Site, target: Path, count: int) -> tuple[Spent, float]:
    argv = [sys.executable, "-m", "bench.names_alone", site.store, str(site.private_key), str(target)]
    process = subprocess.Popen(argv, env=environment(site), stdout=subprocess.PIPE, text=True)
    with watched(lambda: _with_children(process.pid)) as peaks:
        told, _ = process.communicate()
    assert process.returncode == 0, process.returncode
    found = json.loads(told)
    assert found["names"] >= count, found
    os.sync()
    return Spent(found["seconds"], found["cpu_seconds"]), sum(_mib(peaks, name) for name in peaks)


def _with_children(pid: int) -> dict[str, int]:
    """A process and those that it has begun, by any names."""
    return {"": pid} | {str(child): child for child, parent, _ in processes() if parent == pid}


# --- content and changes ---------------------------------------------------------------------------


def _files(knobs: Knobs) -> list[Figure]:
    mib = knobs.share(FILES_MIB) if knobs.mib < FULL_MIB else FILES_MIB
    files, changed = FILES * mib // FILES_MIB, CHANGED * mib // FILES_MIB
    with ceph() as server, _site(server) as site:
        tree, copy = site.root / "tree", site.base / "copy"
        _fill(tree, files, mib * MIB)
        shutil.copytree(tree, copy)
        restic = _restic_variables(server, site.base)
        log = site.base / "restic.log"
        weighed(["restic", "init"], restic, log)
        weighed(["restic", "backup", str(copy)], restic, log)
        agent = site.launch()
        protect(site, agent)
        assert agent.stop() == 0

        def our_restore() -> Spent:
            back = site.base / "back"
            argv = [str(BIN / "rehydrate"), "restore", site.store, "--tree", f"files={back}", "--json"]
            argv += ["--key-file", str(site.private_key)]
            spent = weighed(argv, environment(site), site.base / "restore.log")
            return _compared(spent, back, tree, back)

        def their_restore() -> Spent:
            back = site.base / "back"
            spent = weighed(["restic", "restore", "latest", "--target", str(back)], restic, log)
            return _compared(spent, back / copy.relative_to("/"), copy, back)

        restores = alternating(knobs.pairs, our_restore, their_restore)
        agent = site.launch()
        protect(site, agent)
        seeds = {"ours": iter(range(knobs.pairs)), "theirs": iter(range(knobs.pairs))}

        def our_burst() -> Spent:
            _change(tree, files, changed, next(seeds["ours"]))
            return _until_protected(site)

        def their_burst() -> Spent:
            _change(copy, files, changed, next(seeds["theirs"]))
            return weighed(["restic", "backup", str(copy)], restic, log)

        bursts = alternating(knobs.pairs, our_burst, their_burst)
        assert agent.stop() == 0
        our_restore()  # what was said to be protected is
        site.agents.clear()
    return [*_against("restore", files, mib, restores), *_against(f"{changed} changed", files, mib, bursts)]


def _against(what: str, files: int, mib: int, pairs: list[tuple[Spent, Spent]]) -> list[Figure]:
    """Seconds of ours by those of restic, and both."""
    name = f"{files} files, {mib} MiB: {what}"
    by_theirs = ratios((ours.seconds, theirs.seconds) for ours, theirs in pairs)
    return [
        Figure(GROUP, f"{name}: seconds to those of restic", "ratio", by_theirs, at_most=1.0),
        Figure(GROUP, f"{name}: seconds", "s", tuple(ours.seconds for ours, _ in pairs)),
        Figure(GROUP, f"{name}: seconds of restic", "s", tuple(theirs.seconds for _, theirs in pairs)),
    ]


def _fill(tree: Path, count: int, size_bytes: int) -> None:
    """Small files of many sizes, of what file systems hold."""
    rng, data = random.Random(22), VmData(22)
    shares = [rng.expovariate(1.0) for _ in range(count)]
    whole = sum(shares)
    for number, share in enumerate(shares):
        path = _path(tree, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        length = int(size_bytes * share / whole)
        path.write_bytes(data.block(max(64, length))[:length])


def _path(tree: Path, number: int) -> Path:
    return tree / f"{number % 200:03d}" / f"file {number}"


def _change(tree: Path, files: int, changed: int, seed: int) -> None:
    """Write so many files anew, at their old lengths."""
    rng = random.Random(f"burst {seed}")
    for number in rng.sample(range(files), changed):
        path = _path(tree, number)
        path.write_bytes(rng.randbytes(path.stat().st_size))


def _until_protected(site: Site) -> Spent:
    """From now on, which is the last write, until nothing would be lost any more, and stays so."""
    began = time.monotonic()
    clean: float | None = None
    while clean is None or time.monotonic() < clean + STAYS_SECONDS:
        facts = call(site.journal, {"command": "status"}, PROTECTED_SECONDS_MAX)["facts"]
        trees = facts.get("trees")
        if trees is None or trees["not_whole"] or facts["lag_seconds"] != 0:
            clean = None
        elif clean is None:
            clean = time.monotonic()
        assert time.monotonic() < began + PROTECTED_SECONDS_MAX, facts
        time.sleep(LOOK_SECONDS)
    return Spent(clean - began, 0.0)


def _compared(spent: Spent, found: Path, meant: Path, back: Path) -> Spent:
    """What was restored is what there was; then it goes."""
    names = sorted(path.relative_to(meant) for path in meant.rglob("*"))
    assert names == sorted(path.relative_to(found) for path in found.rglob("*"))
    for name in names:
        if (meant / name).is_file():
            must_equal(found / name, meant / name)
    shutil.rmtree(back)
    sync_below(meant)
    return spent


def _restic_variables(server: S3Server, folder: Path) -> dict[str, str]:
    bucket = new_address(server).removeprefix("s3://").split("/")[0]
    return {
        **os.environ,
        **server.environment(),
        "RESTIC_REPOSITORY": f"s3:{server.endpoint}/{bucket}/r",
        "RESTIC_PASSWORD": "bench",
        "RESTIC_CACHE_DIR": str(folder / "cache"),
    }


@contextmanager
def _site(server: S3Server) -> Iterator[Site]:
    """A domain of one tree, which is empty; initialised, its agent not started."""
    with new_site({}, store=new_address(server), secrets=server.environment(), with_key=True) as site:
        tree = site.root / "tree"
        tree.mkdir()
        key = next(line for line in site.config.read_text().splitlines() if line.startswith("recipients"))
        lines = [
            f"domain: shop\nsite: a\nstore: {json.dumps(site.store)}",
            f"journal: {{directory: {site.journal}, limit: 256MiB}}",
            f"cut_every: 1s\nlease: {LEASE_SECONDS}s\n{key}",
            f"trees:\n  - {{name: files, path: {tree}}}",
        ]
        site.config.write_text("\n".join(lines) + "\n")
        site.init().must()
        yield site
