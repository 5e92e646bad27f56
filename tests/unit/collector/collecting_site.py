"""A container whose every image is known, and the real collector over it, in virtual time.

`change` does what the owner's machine does (tests/unit/domain/test_owner_plan.py); the store counts what is
done to it, and ends the collector where it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from cdp_agent.collector import collect
from cdp_agent.collector.pass_objects import read_runs
from cdp_agent.collector.pass_types import Around, Passed, Wishes
from cdp_container.domain.collecting import Collector
from cdp_container.domain.held_look import look_at_holds
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.ledgers import ledger_of
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.domain.plan_changes import fault_of
from cdp_container.domain.retention_policy import Retention, build_retention
from cdp_container.errors import CollectionStopped
from cdp_container.format.domain import DomainConfig, ObjectName
from cdp_container.format.holds import Hold, Holds, build_holds
from cdp_container.format.keys import HOLDS_KEY
from cdp_container.format.place import Place
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from tests.containers import FIRST_CUT_NS, PASSPHRASE, Site, Write, discard, write, zero
from tests.reader import Container, ReaderError
from tests.unit.rehydrate.test_restore import restored

SECOND_NS = 1_000_000_000
HOUR = 3600
WISHES = Wishes(grace_seconds=60.0, space_target=1.0, software="tests")


class Crash(Exception):
    """The collector's process ended."""


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ns = 1000 * SECOND_NS

    def wall_ns(self) -> int:
        return self.now_ns + FIRST_CUT_NS

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


@dataclass
class Effects:
    """Counts what changes anything outside; ends the collector at one, before (n) or after it (n + 0.5)."""

    count: int = 0
    crash_at: float = -1.0
    before: Callable[[str], None] = lambda _: None

    def do(self, what: str, effect: Callable[[], object]) -> None:
        at, self.count = self.count, self.count + 1
        self.before(what)
        if self.crash_at == at:
            raise Crash(what)
        effect()
        if self.crash_at == at + 0.5:
            raise Crash(what)


class StopAt(Effects):
    """Ends the collector before the first effect that is called so."""

    def __init__(self, what: str) -> None:
        super().__init__(before=self._look)
        self._what = what

    def _look(self, what: str) -> None:
        if what.startswith(self._what):
            raise Crash(what)


class WatchedStore(MemoryStore):
    """A store in memory whose writes are effects while somebody collects."""

    effects: Effects | None = None

    def put_new(self, key: str, data: bytes) -> str:
        if self.effects is None:
            return super().put_new(key, data)
        tags: list[str] = []
        self.effects.do(f"put {key}", lambda: tags.append(super(WatchedStore, self).put_new(key, data)))
        return tags[0]

    def delete(self, key: str) -> None:
        if self.effects is None:
            super().delete(key)
        else:
            self.effects.do(f"delete {key}", lambda: super(WatchedStore, self).delete(key))


class CollectedSite(Site):
    """See the module. `retention`: what the next configuration says."""

    new_store: type[WatchedStore] = WatchedStore

    def __init__(self, encrypted: bool = False, seed: int = 0, every_hours: float = 4) -> None:
        self.time = Time()
        self.watched = self.new_store(self.time)
        self.retention = Retention(every_seconds=int(every_hours * HOUR))
        super().__init__(self.watched, seed, encrypted)
        self.watched.put_new(HOLDS_KEY, build_holds(Holds(self.domain, 1, bytes(16))))
        self.seen_ns = 0
        self.gone: set[Place] = set()
        self.disks: list[tuple[bytes, int]] = []
        self.replicas: list[Store] = []
        self.said: list[str] = []

    def _config(self) -> DomainConfig:
        return replace(super()._config(), retention=build_retention(self.retention))

    # --- guests --------------------------------------------------------------------------------

    def busy(self, cuts: int, minutes: float = 20, writes: int = 5) -> None:
        """Random writes on all disks, and a cut of them each time; all but the newest are protected."""
        for _ in range(cuts):
            self.time.sleep(minutes * 60)
            self.cut([self._random_write() for _ in range(writes)], segments=self.rng.choice([1, 1, 2]))
        self.protect(max(self.images))

    def _random_write(self) -> Write:
        disk, size = self.rng.choice(self.disks)
        length = self.rng.choice([512, 4096, 8192, 30_000])
        offset = self.rng.randrange(0, size - length) // 512 * 512
        kind = self.rng.choice(["data", "data", "data", "discard", "zero"])
        if kind == "data":
            return write(disk, offset, self.rng.randbytes(length))
        return (zero if kind == "zero" else discard)(disk, offset, length)

    def add_disk(self, name: str, size: int) -> bytes:
        space = self.add_volume(name, size)
        self.disks.append((space, size))
        return space

    # --- the collector -------------------------------------------------------------------------

    def run_pass(
        self, directory: Path, wishes: Wishes = WISHES, effects: Effects | None = None, site: str = "site-a"
    ) -> Passed:
        """One pass; what it does are `effects`."""
        effects = effects or Effects()
        self.watched.effects = effects
        holds_in = directory / "collector"
        asked_at = self.time

        def holds() -> dict[str, Hold]:
            found = look_at_holds(
                self.store,
                self.domain,
                holds_in,
                bytes(16),
                asked_at,
                self.rng.randbytes,
                self.time.wall_ns(),
            )
            return dict(found.holds)

        def change(wanted: ChangePlan) -> None:
            effects.do("change", lambda: self._change(wanted))

        collector = Collector(self.store, self.replicas, self.domain, site, holds, change, self.time.sleep)
        around = Around(
            self._identity(),
            holds_in,
            collector,
            self.store,
            self.time,
            self.rng.randbytes,
            self.said.append,
            self.seen_ns,
        )
        directory.mkdir(exist_ok=True)
        try:
            passed = collect.run_pass(around, wishes)
            if passed.stopped is not None:
                raise passed.stopped
        finally:
            self.watched.effects = None
        self.seen_ns = passed.store_ns
        if passed.finished is not None and passed.found is not None:
            self.gone |= {cut.place for cut in passed.found.retired}
        return passed

    def _change(self, change: ChangePlan) -> None:
        assert not fault_of(change)
        if self.owner.epoch != change.epoch:
            raise CollectionStopped("the pass ended", "another epoch")
        found = (self.owner.plan, self.owner.ledger)
        if found == (change.plan, change.ledger):
            return
        if found != (change.plan_before, change.ledger_before):
            raise CollectionStopped("the pass ended", "plan or ledger are not what they were")
        self.write_owner(plan=change.plan, ledger=change.ledger)

    def _identity(self) -> AgentIdentity:
        return AgentIdentity(
            domain=self.domain,
            name="shop",
            site="site-a",
            encryption="aes-256-gcm" if self.encrypted else "none",
            public_key=public_of(self.private_key) if self.encrypted else b"",
            index_key=derive_index_key(self.private_key, self.domain) if self.encrypted else b"",
            key_block=self.key_block,
            config_digest=bytes(32),
            sources=(),
        )

    # --- what is left --------------------------------------------------------------------------

    @property
    def stored_bytes(self) -> int:
        """Of segments and packs."""
        return sum(found.size for prefix in ("log/", "packs/") for found in self.store.list(prefix))

    def hold(self, name: str, cut: Place | None, ledger: ObjectName | None = None) -> None:
        """What a reader does."""
        blob = self.store.get(HOLDS_KEY)
        entry = Hold("site-b", "", "restore", cut, 1, 900, 1, None, ledger)
        data = build_holds(Holds(self.domain, 2, self.rng.randbytes(16), {name: entry}))
        self.store.put_if(HOLDS_KEY, data, blob.found.tag)

    def unhold(self) -> None:
        """It is done."""
        blob = self.store.get(HOLDS_KEY)
        data = build_holds(Holds(self.domain, 3, self.rng.randbytes(16)))
        self.store.put_if(HOLDS_KEY, data, blob.found.tag)

    def is_retired(self, place: Place) -> bool:
        """By the ledger in force."""
        runs = read_runs(self.store, self.domain, self.reader_keys(), self.owner.ledger)
        return ledger_of(runs).is_retired(place.epoch, place.seq)

    def sound(self, directory: Path, retired: Collection[Place] | None = None, most: int = 10**9) -> None:
        """Cuts that are not retired restore byte for byte, by both readers; the others are refused.

        Of many, so many of either kind, the oldest and the newest among them.
        """
        retired = self.gone if retired is None else retired
        keys = [found.key for found in self.store.list("")]
        secret = PASSPHRASE if self.encrypted else None
        reader = Container(lambda key: self.store.get(key).data, lambda: keys, secret)
        directory.mkdir(exist_ok=True)
        for place in self._some(retired, most):
            image = self.images[place]
            if place in retired:
                try:
                    reader.cut(place.epoch, place.cut)
                except ReaderError:
                    continue
                raise AssertionError(f"{place} is retired, and offered")
            back = restored(self, place, directory)
            assert back == {space: image[space] for space in back}, place
            cut = reader.cut(place.epoch, place.cut)
            for space in reader.volumes(cut):
                if space not in cut.not_whole:
                    target = BytesIO()
                    size = reader.restore(space.hex(), target, cut)
                    assert target.getvalue().ljust(size, b"\0") == image[space], place

    def _some(self, retired: Collection[Place], most: int) -> list[Place]:
        chosen: list[Place] = []
        for kind in (True, False):
            places = sorted(place for place in self.images if (place in retired) is kind)
            ends = {*places[:1], *places[-1:]}
            rest = [place for place in places if place not in ends]
            chosen += [*ends, *self.rng.sample(rest, min(len(rest), max(0, most - len(ends))))]
        return chosen
