"""Group collection: what the collector copies for what is written, in the steady state, at a given space.

A volume of incompressible data is filled, and overwritten at random five times over while the collector runs
every hour of a virtual clock; what it does while the volume is overwritten twice more is what counts. All is
real but the store, which is memory, and the time: segments by the streamer's builder, passes by
`collect.run_pass`, with a grace, a ledger, packs that are read back. At the end the volume is restored.

*The plain case*: `retention: {every: 1h}`, so that the newest cut and those of the last hour are kept.
*Space*: every byte in the store by the data that any kept cut shows, before and after each pass, its mean.
*Copied*: what packs take; *new*: what segments take.

The optimum beside it, for uniform overwriting, is that of log-structured arrays and of flash: large blocks,
cleaned when their share of live data has fallen to u, all of them at the same age. Live data fall off as
exp(-age), so blocks hold (1 - u) / -ln(u) on average: the space is the inverse of that, and u / (1 - u) is
copied for each new byte. (Menon, "A performance comparison of RAID-5 and log-structured arrays", 1995;
Desnoyers, "Analytic modeling of SSD write performance", 2012: to choose the emptiest block comes to the same
as blocks grow.) For a skew it is that of hot and cold data which never share a block, the space between them
parted as is best: a bound that nobody reaches, as segments hold what comes, hot with cold, and what survives
of them must be copied once to be parted.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.knobs import Knobs
from bench.table import Figure
from cdp_agent.collector.pass_types import Wishes
from cdp_container.format.layout import ExtentKind
from cdp_container.format.place import NOWHERE
from cdp_container.format.segment import NewExtent
from cdp_container.store.api import Blob, Found
from tests.unit.collector.collecting_site import CollectedSite, WatchedStore
from tests.unit.rehydrate.test_restore import restored

GROUP = "collection"
VOLUME_MIB = 512
PAGE_BYTES = 16 << 10
CUT_PAGES = 480
"""Of a cut: as much as a segment takes that is full."""
ROUND_SHARE = 0.02
"""Of the volume, overwritten between two passes."""
WARM_TIMES, MEASURED_TIMES = 5, 2
"""How often the volume is overwritten before that, and while it is measured."""
POOL_BYTES = 32 << 20
OPTIMUM_STEPS, OPTIMUM_HALVINGS = 500, 60
HOUR_SECONDS = 3600
LIST_KEYS = 1000
SPACE_MAX = 1.25
TARGET = 1.225
"""By which the mean space, the hour between two passes and all heads included, stays below that."""
CURVE = (1.15, 1.2, TARGET, 1.3, 1.4)
HOT_SPACE = 0.2

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Load:
    """Which pages are written. `hot`: the share of writes to HOT_SPACE of the volume; others go to the rest.

    `is_scattered`: the hot pages lie everywhere instead of side by side. `sealed`: encrypted; `with_key`: the
    private key is at hand.
    """

    name: str
    hot: float
    copied_max: float | None = None
    is_scattered: bool = False
    sealed: bool = False
    with_key: bool = False


UNIFORM = Load("uniform", HOT_SPACE, 2.0)
SKEWED = Load("80/20", 0.8, 1.3)
OTHERS = (
    replace(SKEWED, name="80/20, encrypted, key at hand", sealed=True, with_key=True),
    replace(SKEWED, name="80/20, encrypted, no key", sealed=True, copied_max=None),
    replace(SKEWED, name="80/20, hot pages scattered", is_scattered=True, copied_max=None),
)


@dataclass(frozen=True, slots=True)
class Steady:
    """What was measured. `requests`: of passes; `gone_bytes`: of the objects that they deleted."""

    space: float
    copied: float
    requests: int
    gone_bytes: int

    @property
    def requests_per_gib(self) -> float:
        """Of what passes deleted."""
        return self.requests / max(1, self.gone_bytes) * (1 << 30)


class CountingStore(WatchedStore):
    """Counts what is asked of it; all other ways to read are by way of these."""

    requests = 0

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        self.requests += 1
        return super().get(key)

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        self.requests += 1
        return super().put_new(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        self.requests += 1
        return super().put_if(key, data, tag)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self.requests += 1
        super().delete(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; a reply has so many keys."""
        found = list(super().list(prefix, start_after))
        self.requests += 1 + len(found) // LIST_KEYS
        yield from found


class Written(CollectedSite):
    """A volume of pages, each a piece of one pool: which, is all that is known of it."""

    new_store = CountingStore

    def __init__(self, pages: int, seed: int, encrypted: bool = False) -> None:
        super().__init__(encrypted, seed, every_hours=1)
        self.random = np.random.default_rng(seed)
        self.pool = self.random.bytes(POOL_BYTES)
        self.disk = self.add_volume("disk", pages * PAGE_BYTES)
        self.begin_epoch()
        self._line.image.clear()
        self.written_in: Ints = np.zeros(pages, dtype=np.int64)
        self.at: Ints = np.zeros(pages, dtype=np.int64)
        self.replaced: list[tuple[Ints, int]] = []
        self.new_bytes = 0
        self.newest = NOWHERE
        assert isinstance(self.watched, CountingStore)
        self.counted = self.watched

    def write_pages(self, pages: Ints) -> None:
        """A cut that overwrites these pages."""
        pages = np.unique(pages)
        self.at[pages] = self.random.integers(0, POOL_BYTES - PAGE_BYTES, len(pages))
        self._cut += 1
        view = memoryview(self.pool)
        extents = [
            NewExtent(self.disk, page * PAGE_BYTES, PAGE_BYTES, ExtentKind.DATA, view[at : at + PAGE_BYTES])
            for page, at in zip(pages.tolist(), self.at[pages].tolist(), strict=True)
        ]
        records, self._pending = self._pending, []
        self._segment(extents, records, (), None, True, True)
        self.new_bytes += len(self.objects[-1].data)
        self.objects[-1] = replace(self.objects[-1], data=b"")
        self.replaced.append((self.written_in[pages], self._cut))
        self.written_in[pages] = self._cut
        self.newest = self._line.place

    def live_bytes(self, kept: list[int]) -> int:
        """What any of these cuts shows; those that are replaced before the first of them are forgotten."""
        self.replaced = [(since, cut) for since, cut in self.replaced if cut > kept[0]]
        count = len(self.at)
        for since, cut in self.replaced:
            # Of the kept cuts before `cut`, the newest shows the old version if any does.
            newest = kept[int(np.searchsorted(kept, cut)) - 1]
            count += int(np.count_nonzero(since <= newest))
        return count * PAGE_BYTES

    def stored(self) -> int:
        """Every byte in the store."""
        return sum(found.size for found in self.store.list(""))

    def assert_restored(self, directory: Path) -> None:
        """The newest cut shows what was written."""
        data = memoryview(restored(self, self.newest, directory)[self.disk])
        pool = memoryview(self.pool)
        for page, at in enumerate(self.at.tolist()):
            first = page * PAGE_BYTES
            assert data[first : first + PAGE_BYTES] == pool[at : at + PAGE_BYTES], page


def measure(knobs: Knobs) -> list[Figure]:
    """Space, copied bytes and requests; the curve beside the optimum."""
    mib = knobs.share(VOLUME_MIB)
    cases = [(load, target) for load in (UNIFORM, SKEWED) for target in CURVE]
    cases += [(load, TARGET) for load in OTHERS]
    # No figure is of time, so all cores may work.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        waited = [(case, pool.submit(steady, *case, mib)) for case in cases]
        found = [(load, target, future.result()) for (load, target), future in waited]
    return [figure for case in found for figure in _figures(*case)]


def _figures(load: Load, target: float, found: Steady) -> list[Figure]:
    name = f"{load.name}, space_target {target:g}"
    hot = load.hot if load.copied_max is not None or load.is_scattered else None
    note = f"at a space of {found.space:.3f}"
    if hot is not None:
        note += f"; optimum there: {optimum(found.space, hot):.2f}"
    must = target == TARGET and load.copied_max is not None
    figures = [
        Figure(GROUP, f"{name}: copied by new", "ratio", (found.copied,),
               at_most=load.copied_max if must else None, note=note)
    ]  # fmt: skip
    if target == TARGET:
        figures += [
            Figure(
                GROUP, f"{name}: stored by live", "ratio", (found.space,), at_most=SPACE_MAX if must else None
            ),
            Figure(GROUP, f"{name}: requests per GiB collected", "requests", (found.requests_per_gib,)),
        ]
    return figures


def optimum(space: float, hot: float) -> float:
    """Copied by new, at the least, if `hot` of all writes go to HOT_SPACE of the data."""
    cold_space = 1 - HOT_SPACE

    def copied(hot_space: float) -> float:
        rest = (space - HOT_SPACE * hot_space) / cold_space
        return hot * _copied(hot_space) + (1 - hot) * _copied(rest)

    most = (space - cold_space) / HOT_SPACE
    return min(copied(float(each)) for each in np.linspace(1, most, OPTIMUM_STEPS + 2)[1:-1])


def _copied(space: float) -> float:
    """Of uniform overwriting: u / (1 - u), where u is the share of live data at which that space is taken."""
    low, high = 0.0, 1.0
    for _ in range(OPTIMUM_HALVINGS):
        share = (low + high) / 2
        if -math.log(share) / (1 - share) > space:
            low = share
        else:
            high = share
    return low / (1 - low)


def steady(load: Load, target: float, mib: int) -> Steady:
    """One volume, filled, overwritten, collected and restored."""
    pages = (mib << 20) // PAGE_BYTES
    site = Written(pages, 5, load.sealed)
    key = site.private_key if load.with_key else None
    wishes = Wishes(space_target=target, private_key=key, software="bench")
    random = np.random.default_rng(6)
    places = random.permutation(pages) if load.is_scattered else np.arange(pages)
    measured_from = round(WARM_TIMES / ROUND_SHARE)
    spaces: list[float] = []
    counts = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="collector-") as directory:
        for first in range(0, pages, CUT_PAGES):
            site.write_pages(np.arange(first, min(pages, first + CUT_PAGES)))
        for number in range(measured_from + round(MEASURED_TIMES / ROUND_SHARE)):
            new = site.new_bytes
            _overwrite(site, load, places, random)
            before, requests = site.stored(), site.counted.requests
            passed = site.run_pass(Path(directory), wishes)
            if number >= measured_from:
                assert passed.found is not None
                live = site.live_bytes(sorted(place.cut for place in passed.found.kept))
                spaces += [before / live, site.stored() / live]
                counts["new"] += site.new_bytes - new
                counts["copied"] += passed.packing.packed_bytes
                counts["requests"] += site.counted.requests - requests
                counts["gone"] += 0 if passed.finished is None else passed.found.chosen.freed_bytes
        site.assert_restored(Path(directory))
    copied = counts["copied"] / counts["new"]
    return Steady(float(np.mean(spaces)), copied, counts["requests"], counts["gone"])


def _overwrite(site: Written, load: Load, places: Ints, random: np.random.Generator) -> None:
    """What comes between two passes: cuts, over an hour."""
    pages = len(places)
    edge, left = round(pages * HOT_SPACE), round(pages * ROUND_SHARE)
    cuts = -(-left // CUT_PAGES)
    for number in range(cuts):
        site.time.sleep(HOUR_SECONDS / cuts)
        count = left // cuts + (number < left % cuts)
        hot, cold = random.integers(0, edge, count), random.integers(edge, pages, count)
        site.write_pages(places[np.where(random.random(count) < load.hot, hot, cold)])
    site.protect(site.newest)
