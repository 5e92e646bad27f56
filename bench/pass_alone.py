"""A whole pass of collection up to its plan, and `cdp-agent usage`, each a process of its own.

    python -m bench.pass_alone make DIRECTORY SEGMENTS
    python -m bench.pass_alone grow DIRECTORY
    python -m bench.pass_alone pass DIRECTORY
    python -m bench.pass_alone usage DIRECTORY

`make` fills DIRECTORY/container with an encrypted domain of so many segments, each a cut: their heads are
real, and in real catalogs. Of the objects the newest are real, the others files of the right name, length and
time without content: nothing that is measured here reads that. `grow` adds one per cent. `pass` and `usage`
print their seconds and the peak of memory, as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cdp_agent.collector.collect import look_only
from cdp_agent.collector.pass_types import Around, Wishes
from cdp_agent.usage.look import look_at
from cdp_agent.usage.survey import survey
from cdp_container.clock import SystemClock
from cdp_container.domain.collecting import Collector
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.retention_policy import Retention, build_retention
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import DomainConfig
from cdp_container.format.holds import Holds, build_holds
from cdp_container.format.index import Entry, Record
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY
from cdp_container.format.layout import ExtentKind, ObjectKind
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import NO_DIGEST, parse_preamble
from cdp_container.format.records import make_record
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.format.segment import NewExtent, SegmentFacts, build_segment
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.inventory import open_inventories
from cdp_container.store.memory import MemoryStore
from tests.containers import FIRST_CUT_NS, Site

EXTENTS = 100
EXTENT_BYTES = 4096
CELLS = 160
"""Of EXTENT_BYTES for each segment: the volume of 100,000 has 61 GiB, and is written two thirds of a time."""
HOT, HOT_SPACE = 0.8, 0.2
"""So many writes go to so much of the volume."""
CUT_SECONDS = 60
KEPT_ALL = 0.1
"""The share of history, from its end, of which every cut is kept; of the rest one of each hour."""
GROWTH = 0.01
CATALOG_SEGMENTS = 1024
TAIL = 100
"""The newest segments, which no catalog bundles yet."""
POOL_BYTES = 8 << 20


class Long(Site):
    """A domain with a long past; of its volume no image is held."""

    def __init__(self, store: DirectoryStore | MemoryStore, segments: int) -> None:
        self._segments = segments
        super().__init__(store, 0, encrypted=True)

    def _config(self) -> DomainConfig:
        every_seconds = int(self._segments * KEPT_ALL) * CUT_SECONDS
        retention = Retention(every_seconds=every_seconds, hourly_seconds=None)
        return replace(super()._config(), retention=build_retention(retention))

    def add_again(self, space: bytes, name: str, size_bytes: int) -> None:
        """See `Site.add_again`."""
        value = {"kind": "volume", "name": name, "size_bytes": size_bytes, "block_bytes": 512}
        self._pending.append(make_record("space+", space, value))

    def identity(self) -> AgentIdentity:
        """Of its agent."""
        index_key = derive_index_key(self.private_key, self.domain)
        return AgentIdentity(
            self.domain, "shop", "site-a", "aes-256-gcm", public_of(self.private_key), index_key,
            self.key_block, bytes(32), (),
        )  # fmt: skip

    def segments(self, disk: bytes, count: int) -> Iterator[SealedObject]:
        """So many, each a cut of random writes."""
        rng = np.random.default_rng(1)
        pool = memoryview(rng.bytes(POOL_BYTES))
        digest = NO_DIGEST
        cells = self._segments * CELLS
        records: list[Record] = self._pending
        for number in range(1, count + 1):
            facts = SegmentFacts(
                epoch=1, seq=number, cut=number, complete=True, base=NOWHERE, end=NOWHERE, not_whole=(),
                journal_generation=7, journal_offset=number, cut_time_ns=cut_ns(number),
                previous_digest=digest, site="site-a", software="bench", marker=None,
            )  # fmt: skip
            extents = list(_extents(disk, cells, rng, pool))
            built = build_segment(facts, extents, records, self._keys, self.rng.randbytes(16))
            yield built
            digest, records = built.digest, []

    def catalog(  # type: ignore[override]  # of heads instead of stored objects
        self, entries: list[Entry], number: int
    ) -> SealedObject:
        """One of some heads."""
        facts = CatalogFacts(1, 2, number)
        return build_catalog(facts, entries, self._keys, self.rng.randbytes(16), Compressor())


def _extents(disk: bytes, cells: int, rng: np.random.Generator, pool: memoryview) -> Iterator[NewExtent]:
    edge = int(cells * HOT_SPACE)
    hot = rng.random(EXTENTS) < HOT
    at = np.unique(np.where(hot, rng.integers(0, edge, EXTENTS), rng.integers(edge, cells, EXTENTS)))
    sources = rng.integers(0, POOL_BYTES - EXTENT_BYTES, len(at)).tolist()
    for cell, source in zip(at.tolist(), sources, strict=True):
        data = pool[source : source + EXTENT_BYTES]
        yield NewExtent(disk, cell * EXTENT_BYTES, EXTENT_BYTES, ExtentKind.DATA, data)


def cut_ns(number: int) -> int:
    """When a cut was taken, and stored."""
    return FIRST_CUT_NS + number * CUT_SECONDS * 1_000_000_000


def make(directory: Path, segments: int) -> None:
    """The container, and beside it what `grow` adds."""
    for name in ("container", "later"):
        (directory / name).mkdir()
    store = DirectoryStore(directory / "container")
    site = Long(store, segments)
    store.put_new(HOLDS_KEY, build_holds(Holds(site.domain, 1, bytes(16))))
    disk = site.add_volume("disk", segments * CELLS * EXTENT_BYTES)
    site.begin_epoch()
    later = segments + int(segments * GROWTH)
    entries: list[Entry] = []
    for number, built in enumerate(site.segments(disk, later), 1):
        at = directory / ("container" if number <= segments else "later")
        put_file(at / built.key, built.data, cut_ns(number), is_real=number > segments - TAIL)
        head_bytes = parse_preamble(built.data, built.key).head_length
        head = built.data[:head_bytes]
        entries.append(Entry(ObjectKind.SEGMENT, 1, number, len(built.data), built.digest, head))
        if number in (segments - TAIL, later - TAIL) or len(entries) == CATALOG_SEGMENTS:
            catalog = site.catalog(entries, number)
            put_file(at / catalog.key, catalog.data, cut_ns(number), is_real=True)
            entries = []
    for at, newest in ((directory / "later", later), (directory / "container", segments)):
        site.protect(Place(1, newest, newest))
        owner = store.get(OWNER_KEY).data
        put_file(at / OWNER_KEY, owner, cut_ns(newest), is_real=True)


def put_file(path: Path, data: bytes, stored_ns: int, *, is_real: bool) -> None:
    """A file of the container as it was stored then; one that is not real has its length alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if is_real:
            file.write(data)
        else:
            file.truncate(len(data))
    os.utime(path, ns=(stored_ns, stored_ns))


def grow(directory: Path) -> None:
    """One per cent more."""
    later = directory / "later"
    for path in [path for path in later.rglob("*") if path.is_file()]:
        target = directory / "container" / path.relative_to(later)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def look(directory: Path) -> dict[str, Any]:
    """A pass up to its plan."""
    found = look_only(around_of(directory), Wishes(software="bench"))
    return {
        "objects": len(found.alive.objects),
        "kept": len(found.kept),
        "victims": len(found.chosen.victims),
    }


def usage(directory: Path) -> dict[str, Any]:
    """The account of the container."""
    found = look_at(around_of(directory), Wishes(software="bench"))
    assert found.known is not None, found.doubts
    inventories = open_inventories(str(directory / "container"))
    seen = survey(inventories, found.known, found.now_ns, {})
    for inventory in inventories:
        inventory.close()
    return {kind.value: amount.bytes for kind, amount in seen.usage.amounts.items() if amount.bytes}


def around_of(directory: Path) -> Around:
    """Of a pass over it."""
    site = Long(MemoryStore(SystemClock()), 1)
    store = DirectoryStore(directory / "container")
    collector = Collector(store, (), site.domain, "site-a", dict, lambda _: None, lambda _: None)
    return Around(
        site.identity(), directory / "collector", collector, store, SystemClock(), os.urandom, lambda _: None
    )


def timed(act: Callable[[Path], dict[str, Any]], directory: Path) -> dict[str, Any]:
    """What it gave, and what it took."""
    began, busy = time.monotonic(), time.process_time()
    told = act(directory)
    return told | {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - busy,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    verb, directory = sys.argv[1], Path(sys.argv[2]).absolute()
    if verb == "make":
        make(directory, int(sys.argv[3]))
    elif verb == "grow":
        grow(directory)
    else:
        print(json.dumps(timed({"pass": look, "usage": usage}[verb], directory)))


if __name__ == "__main__":
    main()
