"""Group rehearsal: the metadata stage of a DR-test for 1,331 files with 883 MiB, over a round trip of 4 ms.

The files are protected by an agent into Ceph RGW; the rehearsal is a whole process that reads by a proxy. Two
objects for each file would be 2,662 requests. What the stage asks for, all that opens the container included,
is counted where it is asked.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from bench.far import far
from bench.knobs import Knobs
from bench.site import LEASE_SECONDS, ceph, environment, new_address, protect, weighed
from bench.table import Figure
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.servers.s3 import S3Server

GROUP = "rehearsal"
FILES, FILES_MIB = 1_331, 883
ROUND_TRIP_SECONDS = 0.004
GETS_MAX = 30
RUNS_MAX = 3


def measure(knobs: Knobs) -> list[Figure]:
    """Requests and seconds of the first two stages; heads that no catalog has yet take two GETs each."""
    mib = FILES_MIB if knobs.is_proof else knobs.share(FILES_MIB)
    with (
        ceph() as server,
        new_site({"db": MIB}, store=new_address(server), secrets=server.environment(), with_key=True) as site,
    ):
        _fill(site.root / "tree", FILES, mib * MIB)
        _configure(site)
        site.init().must()
        agent = site.start()
        protect(site, agent)
        assert agent.stop() == 0
        with far(server.endpoint, ROUND_TRIP_SECONDS) as endpoint:
            reports = [_rehearsed(site, server, endpoint) for _ in range(min(knobs.pairs, RUNS_MAX))]
        site.agents.clear()  # the logs of a run that went well are not shown
    name = f"{FILES} files, {mib} MiB, {ROUND_TRIP_SECONDS * 1000:g} ms"
    metadata, names = ([report["stages"][number] for report in reports] for number in (0, 1))
    kinds = ", ".join(f"{kind} {count}" for kind, count in metadata[0]["requests_by_kind"].items() if count)
    note = f"{metadata[0]['done']} objects; {kinds}"
    gets = tuple(float(one["requests_by_kind"]["GET"]) for one in metadata)
    return [
        Figure(GROUP, f"{name}: metadata stage, GETs", "", gets, at_most=GETS_MAX, note=note),
        Figure(GROUP, f"{name}: metadata stage", "s", tuple(one["seconds"] for one in metadata)),
        Figure(GROUP, f"{name}: namespace stage", "s", tuple(one["seconds"] for one in names)),
    ]


def _fill(tree: Path, count: int, size_bytes: int) -> None:
    """Files of many sizes, as people have them."""
    rng = random.Random(21)
    shares = [rng.expovariate(1.0) for _ in range(count)]
    for number, share in enumerate(shares):
        folder = tree / f"{number % 20}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {number}").write_bytes(rng.randbytes(int(size_bytes * share / sum(shares))))


def _configure(site: Site) -> None:
    key = next(line for line in site.config.read_text().splitlines() if line.startswith("recipients"))
    lines = [
        f"domain: shop\nsite: a\nstore: {json.dumps(site.store)}",
        f"journal: {{directory: {site.journal}, limit: 256MiB}}",
        f"cut_every: 1s\nlease: {LEASE_SECONDS}s\n{key}",
        f"volumes:\n  - {{name: db, path: {site.backing('db')}}}",
        f"trees:\n  - {{name: files, path: {site.root / 'tree'}}}",
    ]
    site.config.write_text("\n".join(lines) + "\n")


def _rehearsed(site: Site, server: S3Server, endpoint: str) -> Any:  # noqa: ANN401 (a document)
    log = site.base / "dr-test.log"
    argv = [str(BIN / "rehydrate"), "dr-test", site.store.replace(server.endpoint, endpoint)]
    argv += ["--into", str(site.base / "dr"), "--history", str(site.base / "history"), "--content", "none"]
    weighed([*argv, "--no-fsck", "--json", "--key-file", str(site.private_key)], environment(site), log)
    report = json.loads(log.read_text())
    assert report["outcome"] == "passed", report
    return report
