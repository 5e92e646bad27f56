"""A domain without content for the protocol of collection: owner, roster, victims, a plan; and crashes.

`World.effects` counts what the collector does to others; `crash_at` ends it there, before or after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cdp_container.clock import SystemClock
from cdp_container.domain.collecting import Collector, Finished, carry_out, settle
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.domain.plan_changes import fault_of
from cdp_container.errors import CollectionStopped, NotFound, ObjectLocked
from cdp_container.format.domain import ObjectName, Owner, build_owner, parse_owner
from cdp_container.format.gc import Plan, SeenHold
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY, gc_key, ledger_key, pack_key, segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Blob, Found
from cdp_container.store.memory import MemoryStore
from tests.unit.domain.owner_play import DOMAIN, shown

OLD = (segment_key(4, 1), segment_key(4, 2), segment_key(4, 3))
"""What readers by no ledger need."""
LEDGER = ObjectName(ledger_key(4, 1), b"l" * 32)
PACK = ObjectName(pack_key(4, 1), b"k" * 32)
NEEDS: Mapping[ObjectName | None, tuple[str, ...]] = {None: OLD, LEDGER: (PACK.key, LEDGER.key)}
"""What a reader needs, by the ledger by which it reads."""
CUT = Place(4, 3, 3)
LOCKED_UNTIL_NS = 10**18


class Crash(Exception):
    """The collector's process ended."""


@dataclass
class World:
    """See the module. `holds` is the roster; `between` is called before every effect."""

    holds: dict[str, Hold] = field(default_factory=dict)
    effects: int = 0
    crash_at: float = -1.0
    between: Callable[[int], None] = lambda _: None
    deleted: list[str] = field(default_factory=list)
    roster_fails: bool = False
    locked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.store = MemoryStore(SystemClock())
        self.store.put_new(OWNER_KEY, build_owner(shown()))
        for key in OLD:
            self.store.put_new(key, b"segment")
        for name in (PACK, LEDGER):
            self.store.put_new(name.key, b"new")

    @property
    def owner(self) -> Owner:
        return parse_owner(self.store.get(OWNER_KEY).data, OWNER_KEY, DOMAIN)

    def write_owner(self, **changes: object) -> None:
        blob = self.store.get(OWNER_KEY)
        owner = self.owner
        changed = replace(owner, version=owner.version + 1, **changes)  # type: ignore[arg-type]  # by name
        self.store.put_if(OWNER_KEY, build_owner(changed), blob.found.tag)

    def has_plan(self) -> None:
        """As a replica has the first plan: some object of that name."""
        self.store.put_new(gc_key(4, 1), b"plan")

    def do(self, effect: Callable[[], object]) -> None:
        """An effect; the collector may die just before it (n) or just after it (n + 0.5)."""
        at, self.effects = self.effects, self.effects + 1
        self.between(at)
        if self.crash_at == at:
            raise Crash
        effect()
        if self.crash_at == at + 0.5:
            raise Crash

    def change(self, change: ChangePlan) -> None:
        """As the owner's machine does it (tests/unit/domain/test_owner_plan.py)."""
        assert not fault_of(change)

        def swap() -> None:
            owner = self.owner
            if owner.epoch != change.epoch:
                raise CollectionStopped("the pass ended", "another epoch")
            found = (owner.plan, owner.ledger)
            if found == (change.plan, change.ledger):
                return
            if found != (change.plan_before, change.ledger_before):
                raise CollectionStopped("the pass ended", "plan or ledger are not what they were")
            self.write_owner(plan=change.plan, ledger=change.ledger)

        self.do(swap)

    def read_holds(self) -> Mapping[str, Hold]:
        found: list[Mapping[str, Hold]] = []
        self.do(lambda: found.append(dict(self.holds)))
        if self.roster_fails:
            raise CollectionStopped("the pass ended", "there is no roster")
        return found[0]

    def collector(self, site: str = "site-a") -> Collector:
        return Collector(
            CrashingStore(self),
            (),
            DOMAIN,
            site,
            self.read_holds,
            self.change,
            lambda _: self.do(lambda: None),
        )

    def plan(self, n: int = 1) -> Plan:
        owner = self.owner
        seen = tuple(SeenHold(name, hold.cut) for name, hold in sorted(self.holds.items()))
        return Plan(
            DOMAIN, owner.epoch, n, 1, owner.site, owner.ledger, LEDGER, (PACK,), OLD, seen, owner.protected
        )

    def run_pass(self) -> Finished | None:
        """A whole pass: settles, and carries its plan out unless its ledger is in force already."""
        collector = self.collector()
        owner, finished = settle(collector)
        if owner.ledger == LEDGER:
            return finished
        return carry_out(collector, owner, self.plan(self.free_number()), (), (), 60.0)

    def free_number(self) -> int:
        return 1 + sum("final" not in found.key for found in self.store.list("domain/gc/"))

    def has(self, key: str) -> bool:
        try:
            self.store.head(key)
        except NotFound:
            return False
        return True


class CrashingStore:
    """The world's store, as the collector sees it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store
        self.address = "memory:"

    def get(self, key: str) -> Blob:
        return self._store.get(key)

    def get_unless(self, key: str, tag: str) -> Blob | None:
        return self._store.get_unless(key, tag)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._store.get_range(key, start, length)

    def head(self, key: str) -> Found:
        return self._store.head(key)

    def put_new(self, key: str, data: bytes) -> str:
        tags: list[str] = []
        self._world.do(lambda: tags.append(self._store.put_new(key, data)))
        return tags[0]

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        raise AssertionError("the collector swaps nothing itself")

    def delete(self, key: str) -> None:
        if key in self._world.locked:
            locked = ObjectLocked(f"delete {key}", "it is locked")
            locked.until_ns = LOCKED_UNTIL_NS
            raise locked
        self._world.deleted.append(key)
        self._world.do(lambda: self._store.delete(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        return self._store.list(prefix, start_after)

    def close(self) -> None:
        """Nothing to give back."""


def a_hold(cut: Place | None, ledger: ObjectName | None = None) -> Hold:
    return Hold("site-b", "", "restore", cut, 1, 900, 1, None, ledger)
