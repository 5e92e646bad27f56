"""Group liveness: how long a pass of collection looks for what is live, in 100,000 segments of 100 extents.

*A whole pass* goes from the first request up to the plan: the owner, the listing, heads out of catalogs,
remembering them, which cuts are kept, what is live, the choice; in a directory, of an encrypted domain whose
key is not at hand. Writing packs is not in it. *Usage* is `cdp-agent usage` after it.

In all others segments are made up as tables, each a cut: listing, fetching and parsing heads is not in them.
In them are the remembering of new facts on local disk, all of the computation, and that of its results.
*Thinned*: every cut of the newest tenth is retained and of the rest every hundredth; the next pass finds
one per cent more. *One interval*: only the newest cut is retained, so all of history is one interval, and
the next pass, whose only interval it is again, looks at everything visible: told, without a floor.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from bench.knobs import Knobs
from bench.liveness_alone import HISTORIES
from bench.table import Figure

GROUP = "liveness"
SEGMENTS = 100_000
SECONDS_MAX = 20
NEXT_SECONDS_MAX = 2
MIB_MAX = 512


def measure(knobs: Knobs) -> list[Figure]:
    """Seconds and peaks in MiB."""
    figures: list[Figure] = []
    segments = SEGMENTS if knobs.is_proof else SEGMENTS // 10
    for history in HISTORIES:
        for shape in ("thinned", "one interval"):
            figures += _passes(history, shape, segments)
    return figures + _whole(segments)


def _passes(history: str, shape: str, segments: int) -> list[Figure]:
    more = segments + segments // 100
    with tempfile.TemporaryDirectory() as directory:
        first = _pass(directory, history, shape, 1, segments)
        following = _pass(directory, history, shape, segments + 1, more)
    name = f"{segments} segments, {history}, {shape}"
    note = f"{first['live_share']:.0%} live"
    floor = NEXT_SECONDS_MAX if shape == "thinned" else None
    peak = max(first["peak_mib"], following["peak_mib"])
    return [
        Figure(GROUP, f"{name}: a pass", "s", (first["all_seconds"],), at_most=SECONDS_MAX, note=note),
        Figure(GROUP, f"{name}: the next, 1 % more", "s", (following["all_seconds"],), at_most=floor),
        Figure(GROUP, f"{name}: peak of both", "MiB", (peak,), at_most=MIB_MAX),
    ]


def _pass(directory: str, history: str, shape: str, first: int, last: int) -> dict[str, float]:
    argv = [sys.executable, "-m", "bench.liveness_alone", directory, history, shape]
    done = subprocess.run([*argv, str(first), str(last + 1)], check=True, stdout=subprocess.PIPE)
    told: dict[str, float] = json.loads(done.stdout)
    return told | {"all_seconds": told["taken_seconds"] + told["seconds"]}


def _whole(segments: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        _alone("make", directory, str(segments))
        first, account = json.loads(_alone("pass", directory)), json.loads(_alone("usage", directory))
        _alone("grow", directory)
        following = json.loads(_alone("pass", directory))
    name = f"{segments} segments, a directory"
    note = f"{first['kept']} cuts kept, {first['victims']} victims"
    peak = max(first["peak_mib"], following["peak_mib"])
    return [
        Figure(GROUP, f"{name}: a whole pass up to its plan", "s", (first["seconds"],), note=note),
        Figure(GROUP, f"{name}: the next whole one, 1 % more", "s", (following["seconds"],)),
        Figure(GROUP, f"{name}: peak of both", "MiB", (peak,), at_most=MIB_MAX),
        Figure(GROUP, f"{name}: usage", "s", (account["seconds"],)),
        Figure(GROUP, f"{name}: peak of usage", "MiB", (account["peak_mib"],), at_most=MIB_MAX),
    ]


def _alone(verb: str, *words: str) -> str:
    argv = [sys.executable, "-m", "bench.pass_alone", verb, *words]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
