"""Group ownership: how long a domain is without an owner when it changes hands, and what the way back costs.

One domain with an idle, sparse volume goes from site a to b as planned, from b to c by its lease, from c to d
by force; then c comes back. Whoever owns it is read in the container every few milliseconds, so that figures
are too large by as much, never too small. The sites share a machine, and commands are started when they are
needed: their start is part of every figure.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from bench.data import VmData
from bench.knobs import Knobs
from bench.site import ceph, new_address
from bench.table import Figure
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.address import open_store
from tests.e2e.processes import Done, run
from tests.e2e.recovery import Sites, force_word, several_sites
from tests.e2e.site import BIN, MIB, Site
from tests.servers.s3 import S3Server
from tests.waiting import wait_until

GROUP = "ownership"
VOLUME_BYTES = 10 << 30
LEASE_SECONDS = 30
LOOK_SECONDS = 0.005
COMMAND_SECONDS_MAX = 600.0
FULL_WRITTEN_MIB = 256
BLOCK_BYTES = 4096
SCATTERED = 4096
RUNS_MAX = 3


@dataclass(frozen=True, slots=True)
class Gaps:
    """Of one run; `way_back` and `scattered` are bytes fetched over bytes changed."""

    planned_seconds: float
    exports_seconds: float
    waited_seconds: float
    forced_seconds: float
    way_back: float
    scattered: float
    changed_mib: float

    def __str__(self) -> str:
        return (
            f"planned {self.planned_seconds:.2f} s without an owner, {self.exports_seconds:.2f} s without "
            f"exports; lease + {self.waited_seconds:.2f} s; forced {self.forced_seconds:.2f} s; "
            f"way back {self.way_back:.3f}, of scattered blocks {self.scattered:.3f}"
        )


@dataclass(slots=True)
class Watch:
    """What was seen in `domain/owner`, and when; times are monotonic seconds."""

    seen: list[tuple[float, Owner]] = field(default_factory=list)

    def at(self, what: str, matches: Callable[[Owner], bool]) -> float:
        """When a version that matches was first seen; waits for it."""
        seen = self.seen
        wait_until(lambda: any(matches(owner) for _, owner in seen), f"it is {what}", COMMAND_SECONDS_MAX)
        return next(at for at, owner in self.seen if matches(owner))

    def owned_at(self, site: Site) -> float:
        """When the site's claim was active."""
        name = site.base.name
        active = OwnerState.ACTIVE
        return self.at(f"owned by {name}", lambda owner: owner.site == name and owner.state is active)


def measure(knobs: Knobs) -> list[Figure]:
    """Medians of a few runs."""
    found = []
    count = min(RUNS_MAX, knobs.pairs)
    with ceph() as server:
        for number in range(count):
            found.append(_measure(server, knobs.share(FULL_WRITTEN_MIB)))
            print(f"   run {number + 1} of {count}: {found[-1]}", flush=True)
    where = f"idle volume of 10 GiB, Ceph RGW, lease {LEASE_SECONDS} s"
    back = f"failback: fetched by changed ({found[-1].changed_mib:.0f} MiB)"
    scattered = f"the same for {SCATTERED} scattered blocks of 4 KiB that do not compress"
    return [
        Figure(GROUP, f"planned failover, {where}: without an owner", "s", _all(found, "planned_seconds")),
        Figure(GROUP, "the same: release begun to exports open", "s", _all(found, "exports_seconds")),
        Figure(GROUP, "owner lost: owned again, beyond the lease", "s", _all(found, "waited_seconds")),
        Figure(GROUP, "forced takeover, without a wait: owned again", "s", _all(found, "forced_seconds")),
        Figure(GROUP, back, "ratio", _all(found, "way_back"), at_most=1.1),
        Figure(GROUP, scattered, "ratio", _all(found, "scattered"), at_most=1.1),
    ]


def _all(found: list[Gaps], name: str) -> tuple[float, ...]:
    return tuple(getattr(gaps, name) for gaps in found)


def _measure(server: S3Server, written_mib: int) -> Gaps:
    with (
        several_sites({"db": VOLUME_BYTES}, new_address(server), server.environment()) as sites,
        _watching(sites.first.store) as watch,
    ):
        first = sites.first
        first.config.write_text(first.config.read_text().replace("lease: 5s", f"lease: {LEASE_SECONDS}s"))
        first.settings = first.settings.replace("lease: 5s", f"lease: {LEASE_SECONDS}s")
        b, c, d = (sites.add(name) for name in "bcd")
        agent = first.start()
        _write(first, 0, 16)
        began = time.monotonic()
        first.agent_command("release", "--to", "b").must()
        planned = _fail_over(sites, b)
        exports_seconds = time.monotonic() - began
        released_at = watch.at("released", lambda owner: owner.released_to == "b")
        planned_seconds = watch.owned_at(b) - released_at
        assert planned["lost_seconds_max"] == 0
        agent.kill_group()
        _write(b, 16, 16)
        sites.lose(b)
        began = time.monotonic()
        _fail_over(sites, c)
        waited_seconds = watch.owned_at(c) - began - LEASE_SECONDS
        _write(c, 32, written_mib)
        sites.lose(c)
        word = force_word(d)
        began = time.monotonic()
        _fail_over(sites, d, "--force", word)
        forced_seconds = watch.owned_at(d) - began
        _write(d, 32 + written_mib // 2, written_mib)
        back = _fail_back(c).json
        _scatter(d)
        scattered = _fail_back(c).json
        sites.lose(d)
        return Gaps(
            planned_seconds,
            exports_seconds,
            waited_seconds,
            forced_seconds,
            back["fetched_bytes"] / back["changed_bytes"],
            scattered["fetched_bytes"] / scattered["changed_bytes"],
            back["changed_bytes"] / MIB,
        )


def _fail_over(sites: Sites, site: Site, *options: str) -> dict[str, object]:
    process = sites.begin(site, *options)
    out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
    return Done(process.returncode, out, err).must().json


def _fail_back(site: Site) -> Done:
    words = [str(BIN / "rehydrate"), "failback", site.store, "--once", "--json", *site.secret_options()]
    words += ["--journal", str(site.journal), "--config", str(site.config)]
    return run(words, site.environment(site.base / "home"), COMMAND_SECONDS_MAX).must()


def _write(site: Site, at_mib: int, mib: int) -> None:
    """Like a VM's data, protected when this returns."""
    data = VmData(at_mib)
    with site.client("db") as client:
        for offset in range(at_mib * MIB, (at_mib + mib) * MIB, MIB):
            client.write(offset, b"".join(data.block() for _ in range(16)))
    site.flush_when_ready()


def _scatter(site: Site) -> None:
    """Blocks of 4 KiB far from each other, protected when this returns."""
    rng = random.Random(1)
    places = rng.sample(range(VOLUME_BYTES // BLOCK_BYTES), SCATTERED)
    with site.client("db") as client:
        for place in places:
            client.write(place * BLOCK_BYTES, rng.randbytes(BLOCK_BYTES))
    site.flush_when_ready()


@contextmanager
def _watching(address: str) -> Iterator[Watch]:
    """Look at `domain/owner` all the while."""
    watch, stop = Watch(), threading.Event()
    thread = threading.Thread(target=_look, args=(address, watch, stop))
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def _look(address: str, watch: Watch, stop: threading.Event) -> None:
    with closing(open_store(address)) as store:
        while not stop.wait(LOOK_SECONDS):
            owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
            if not watch.seen or owner != watch.seen[-1][1]:
                watch.seen.append((time.monotonic(), owner))
