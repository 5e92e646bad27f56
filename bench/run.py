"""`make bench`: every group in turn, a table, build/bench.json, and an exit code that tells of missed floors.

ONLY=<group>[,<group>] chooses; BENCH_PAIRS, BENCH_SECONDS and BENCH_MIB make it quick, and worth nothing as a
proof. What a group measures stands in its own module. Whatever ends it, what it started ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import (
    capture,
    collection,
    concurrency,
    lag,
    liveness,
    memory,
    ownership,
    qmp,
    rehearsal,
    restic,
    restore,
    serve,
    stream,
    trees,
)
from bench.knobs import PAIRS, Knobs, knobs
from bench.machine import load, machine
from bench.table import Figure, rendered

Group = Callable[[Knobs], list[Figure]]

GROUPS: Mapping[str, Group] = {
    capture.GROUP: capture.measure,
    stream.GROUP: stream.measure,
    restore.GROUP: restore.measure,
    restic.GROUP: restic.measure,
    lag.GROUP: lag.measure,
    memory.GROUP: memory.measure,
    ownership.GROUP: ownership.measure,
    collection.GROUP: collection.measure,
    liveness.GROUP: liveness.measure,
    concurrency.GROUP: concurrency.measure,
    rehearsal.GROUP: rehearsal.measure,
    trees.GROUP: trees.measure,
    serve.GROUP: serve.measure,
    qmp.GROUP: qmp.measure,
}
RESULT = Path("build/bench.json")
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """0 where nothing was missed, 1 where a floor was, 2 for a group that is none."""
    wanted = [name for name in os.environ.get("ONLY", "").split(",") if name] or list(GROUPS)
    unknown = [name for name in wanted if name not in GROUPS]
    if unknown:
        print(f"ONLY={','.join(unknown)} is none of {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    for number in ENDS:
        signal.signal(number, _end)
    # One place around all others: what an interrupted removal leaves of them goes with it.
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        return run({name: GROUPS[name] for name in wanted}, knobs(), RESULT)


def run(groups: Mapping[str, Group], chosen: Knobs, result: Path) -> int:
    """Measure, tell, and write; what is measured is written as soon as its group is done."""
    where = f"{machine()}; {load()}"
    figures: list[Figure] = []
    result.parent.mkdir(exist_ok=True)
    for name, measure in groups.items():
        print(f"-- {name}", flush=True)
        began = time.monotonic()
        figures += measure(chosen)
        print(f"-- {name} took {time.monotonic() - began:.0f} s", flush=True)
        result.write_text(json.dumps([figure.document() for figure in figures], indent=2) + "\n")
    print(f"\n{rendered(figures, where)}")
    if not chosen.is_proof:
        print(f"a quick look: {chosen}; a proof takes {PAIRS} pairs and the full sizes")
    return 1 if any(figure.is_missed for figure in figures) else 0


def _end(_number: int, _frame: object) -> None:
    """Take everything down, once: an impatient second Ctrl-C would leave the rest behind."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
