"""A pass's look for what is live, alone: a process of its own, so that its memory can be told.

    python -m bench.liveness_alone DIRECTORY HISTORY SHAPE FIRST UPTO

remembers segments FIRST to UPTO - 1 of a synthetic HISTORY in DIRECTORY, then finds out what is live, and
prints the seconds of both and the peak of memory, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cdp_agent.collector.alive import alive_of
from cdp_agent.collector.counting import Past
from cdp_agent.collector.facts import EXTENT, FACT, RUN, ObjectFacts
from cdp_agent.collector.remembered import Remembered
from cdp_container.domain.ledgers import NO_LEDGER
from cdp_container.extents.tables import Table
from cdp_container.format.keys import segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import NOWHERE, Place

EXTENTS = 100
DOMAIN = bytes(16)
SPACE = bytes([1]) * 16
KEPT_ALL = 0.1
"""The share of history, from its end, of which every cut is kept; of the rest every THINNED-th."""
THINNED = 100

HISTORIES = {
    "uniform": (1 << 40, 4096, 0.0),
    "80/20": (64 << 30, 4096, 0.8),
    "80/20 of 512 bytes": (64 << 30, 512, 0.8),
}
"""Bytes of the volume, of an extent, and how many writes go to a fifth of it."""


def main() -> None:
    directory, history, shape, first, upto = sys.argv[1:]
    began = time.monotonic()
    remembered = Remembered(Path(directory), DOMAIN)
    made_seconds = 0.0
    making = time.monotonic()
    for number, facts, extents in segments(history, int(first), int(upto)):
        made_seconds += time.monotonic() - making
        remembered.add(segment_key(1, number), facts, extents)
        making = time.monotonic()
    remembered.cache.keep()
    taken, busy = time.monotonic(), time.process_time()
    newest = Place(1, int(upto) - 1, int(upto) - 1)
    past = Past({1: NOWHERE}, {1: newest.seq}, newest)
    alive = alive_of(remembered, past, NO_LEDGER, retained(shape, newest.seq))
    remembered.close()
    ended = time.monotonic()
    objects = alive.objects
    print(
        json.dumps(
            {
                "taken_seconds": taken - began - made_seconds,
                "seconds": ended - taken,
                "cpu_seconds": time.process_time() - busy,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "live_share": float(objects["live_rows"].sum() / objects["rows"].sum()),
            }
        )
    )


def retained(shape: str, newest: int) -> list[Place]:
    """The cuts that are kept, each of one segment."""
    if shape == "one interval":
        return [Place(1, newest, newest)]
    kept_from = newest - int(newest * KEPT_ALL)
    seqs = [*range(THINNED, kept_from, THINNED), *range(kept_from, newest + 1)]
    return [Place(1, seq, seq) for seq in seqs]


def segments(history: str, first: int, upto: int) -> Iterator[tuple[int, ObjectFacts, Table]]:
    """Segments of EXTENTS extents each, a few voids among them; each is a cut."""
    volume_bytes, extent_bytes, skew = HISTORIES[history]
    cells = volume_bytes // extent_bytes
    rng = np.random.default_rng(first)
    extents = np.zeros(EXTENTS, dtype=EXTENT)
    extents["length"] = extent_bytes
    extents["frame"] = np.arange(EXTENTS) // 16
    for number in range(first, upto):
        hot = rng.random(EXTENTS + 8) < skew
        at = np.unique(np.where(hot, rng.integers(0, cells // 5, len(hot)), rng.integers(0, cells, len(hot))))
        extents["start"] = np.resize(at, EXTENTS) * extent_bytes
        extents["start"].sort()
        extents["share"] = np.where(np.arange(EXTENTS) % 20 == 7, 0, 0.5)
        yield number, _facts(number, extents), extents


def _facts(number: int, extents: Table) -> ObjectFacts:
    fact, runs = np.zeros(1, dtype=FACT), np.zeros(1, dtype=RUN)
    fact["kind"], fact["epoch"], fact["number"], fact["cut"] = ObjectKind.SEGMENT, 1, number, number
    fact["frame_bytes"] = int(extents["length"].sum()) // 2
    fact["stored_bytes"], fact["rows"] = fact["frame_bytes"] + 8192, EXTENTS
    end = int(extents["start"][-1]) + int(extents["length"][-1])
    runs[0] = (0, 0, 1, number, number, 0, EXTENTS, extents["start"][0], end, fact["frame_bytes"][0])
    return ObjectFacts(fact, runs, (SPACE,))


if __name__ == "__main__":
    main()
