"""Owners in all their storms (tests/sim/owners), with collectors and readers among them.

The owner's machine, the protocol of a pass, what the streamer makes of its requests, and holds are the real
ones; what is collected are the symbols of tests/model/collection_pass.py. Collectors outlive the processes
that they ask, are killed, see listings that omit; readers come, are paused past their term, go. A seed
replays exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cdp_agent.streamer.planning import Answer, Planning, change_request
from cdp_container.clock import Clock
from cdp_container.domain import owner_types as ot
from cdp_container.domain.held import Watch, dead_holds, watched, without_dead
from cdp_container.domain.holding import Holding, Reader
from cdp_container.domain.owner_work import OwnerWork, failure_of
from cdp_container.domain.roster import change_roster, read_roster
from cdp_container.errors import CdpError, HoldLost, NotFound, PreconditionFailed
from cdp_container.format.domain import EpochRecord, ObjectName, PlanState
from cdp_container.format.gc import parse_plan
from cdp_container.format.holds import Hold, Holds, build_holds
from cdp_container.format.keys import GC_PREFIX, HOLDS_KEY, OWNER_KEY, PACKS_PREFIX, gc_key
from cdp_container.format.place import Place
from tests.model import collection_pass as symbols
from tests.model.collection_pass import Meaning, Pass, Question, Reply, Runs
from tests.sim.clock import SECOND
from tests.sim.owners.checks import OwnersFailure
from tests.sim.owners.site import Process, Site
from tests.sim.owners.world import World
from tests.sim.store import CALM, SimStore

STORY_SECONDS: Final = 150.0
PASS_SECONDS: Final = 6.0
"""From the end of one pass of a site to the next, on average."""
READER_SECONDS: Final = 15.0
READS: Final = 6
DEATH_ODDS: Final = 0.01
"""Of a collector, before each of its requests."""
PASSES_MAX: Final = 12
"""Of the last owner, until nothing is left to do: a listing omits what is fresh."""
ASK_SECONDS: Final = 40.0


class Restless(Clock):
    """The world's clock for code that tries again at once."""

    def __init__(self, world: CollectionWorld) -> None:
        self._world = world

    def wall_ns(self) -> int:
        return self._world.time.wall_ns()

    def boottime_ns(self) -> int:
        return self._world.time.boottime_ns()

    def sleep(self, seconds: float) -> None:
        """It is tried again within the same moment."""


class CollectionWorld(World):
    """See the module. `allowed`: what executed plans named.

    `passes`, `deleted` and `read` count what happened: passes, deletes, and whole readings.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.lossy = self.clones = self.jumps = False
        self.allowed: set[str] = set()
        self.passes = self.deleted = self.read = 0
        self.plannings: dict[Process, Planning] = {}
        self.watches: dict[Site, Watch] = {}
        self.newest = self.sites[0]
        inner = self.store.inner
        for key in (symbols.OLD, symbols.NEW):
            inner.put_new(key, b"")
        inner.put_new(HOLDS_KEY, build_holds(Holds(self.domain, 1, self.rng.randbytes(16))))

    def connection(self) -> SimStore:
        """One more way to the store, with the weather of now."""
        store = SimStore(self.time, self.rng, self.store)
        store.odds, store.allow_two_contents = self.sites[0].store.odds, True
        store.landed, store.deletes = self.landed, self._deletes
        return store

    def do_work(self, process: Process, effect: OwnerWork) -> ot.Event:
        """The ledger that a look goes by must be there; what it says are symbols, and no segments."""
        if not isinstance(effect, ot.FindEnd) or effect.ledger is None:
            return super().do_work(process, effect)
        try:
            symbols.parse_meaning(process.site.store.get(effect.ledger.key).data)
        except CdpError as error:
            overtaken = self.shown().epoch != process.state.epoch
            gone = isinstance(error, NotFound) and not overtaken
            self.checks.must(not gone, f"{effect.ledger} is gone, and a claim in force goes by it")
            return ot.WorkFailed(failure_of(error), str(error))
        return super().do_work(process, replace(effect, ledger=None))

    def activated(self, process: Process, record: EpochRecord) -> None:
        super().activated(process, record)
        self.newest = process.site

    # --- what happens ------------------------------------------------------------------------------

    def landed(self, key: str, data: bytes) -> None:
        super().landed(key, data)
        shown = self.shown()
        if key == OWNER_KEY and shown.plan is not None and shown.plan.state is PlanState.EXECUTING:
            named = gc_key(shown.plan.epoch, shown.plan.n)
            plan = parse_plan(self.store.inner.get(named).data, named, self.domain)
            self.allowed |= set(plan.victims)

    def _deletes(self, key: str) -> None:
        self.deleted += 1
        self.checks.must(key in self.allowed, f"{key} is deleted, and no executed plan names it")

    def begin(self) -> None:
        super().begin()
        for site in self.sites:
            self.time.after(self.rng.uniform(1, PASS_SECONDS), lambda site=site: self._collect_at(site))  # type: ignore[misc]
        self.time.after(self.rng.uniform(1, READER_SECONDS), self._come)
        self.time.after(1.0, self._look)

    def _collect_at(self, site: Site) -> None:
        def again() -> None:
            if not self.quiet:
                self.time.after(self.rng.expovariate(1 / PASS_SECONDS), lambda: self._collect_at(site))

        Collecting(self, site, again).go_on()

    def _come(self) -> None:
        if not self.quiet:
            Reading(self).begin()
            self.time.after(self.rng.expovariate(1 / READER_SECONDS), self._come)

    def _look(self) -> None:
        self.check_objects()
        for planning in self.plannings.values():
            planning.look()
        if not self.over:
            self.time.after(0.5, self._look)

    # --- what must hold ----------------------------------------------------------------------------

    def meaning_of(self, name: ObjectName | None) -> Meaning:
        """Raises NotFound."""
        if name is None:
            return symbols.NOTHING_COLLECTED
        return symbols.parse_meaning(self.store.inner.get(name.key).data)

    def check_objects(self) -> None:
        """Whatever is offered is there."""
        name = self.shown().ledger
        try:
            meaning = self.meaning_of(name)
        except NotFound:
            raise OwnersFailure(f"{name} is in force, and gone") from None
        for cut in (symbols.Y,) if meaning.retired else (symbols.X, symbols.Y):
            self.must_restore(meaning, cut, "whoever reads now")

    def must_restore(self, meaning: Meaning, cut: Place, who: str) -> None:
        there = {found.key for found in self.store.inner.list(PACKS_PREFIX)}
        for key in meaning.needs(cut):
            self.checks.must(key in there, f"{who} needs {key} for {cut}, and it is gone")
            data = self.store.inner.get(key).data
            self.checks.must(not data or symbols.serves(data, cut), f"{key} does not hold {cut}")

    def _judge(self) -> None:
        """Somebody can take over, and collect to the end."""
        super()._judge()
        site = self.newest
        self.store.inner.put_if(
            HOLDS_KEY,
            build_holds(Holds(self.domain, 9, self.rng.randbytes(16))),
            self.store.inner.head(HOLDS_KEY).tag,
        )
        for _ in range(PASSES_MAX):
            done: list[bool] = []
            run = Collecting(self, site, lambda done=done: done.append(True))  # type: ignore[misc]
            run.calm()
            run.go_on()
            for _ in range(400):
                if done:
                    break
                self.run(1.0)
                for planning in list(self.plannings.values()):
                    planning.look()
            self.checks.must(bool(done), "a pass does not come to an end")
            self.run(30.0)
        self.check_objects()
        shown = self.shown()
        self.checks.must(shown.plan is None, f"nobody finishes {shown.plan}")
        needed = self.meaning_of(shown.ledger).needs(symbols.Y) | self.meaning_of(shown.ledger).needs(
            symbols.X
        )
        left = {found.key for found in self.store.inner.list(PACKS_PREFIX) if "ledger" not in found.key}
        self.checks.must(left <= needed | {symbols.OLD}, f"garbage for good: {sorted(left - needed)}")

    def planning(self, process: Process) -> Planning:
        """What the streamer of a process makes of a collector's requests."""
        found = self.plannings.get(process)
        if found is None:
            found = self.plannings[process] = Planning(Told(process))
        return found


class Told:
    """The engine of a process, as plans see it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def run(self) -> ot.RunState:
        return self._process.state

    def tell_owner(self, event: ot.Event) -> None:
        self._process.on(event)


class Collecting:
    """One pass, request by request; `ended` is called once it is over, or dead."""

    def __init__(self, world: CollectionWorld, site: Site, ended: Callable[[], None]) -> None:
        self._world, self._site, self._ended = world, site, ended
        self._store = world.connection()
        self._runs = Runs()
        self._calm = False
        world.passes += 1
        self._run = self._runs.begin(Pass(site.name, world.passes, False, world.domain, restless=True))

    def calm(self) -> None:
        """Nothing goes wrong with this one, and it packs nothing for its own sake."""
        self._calm, self._store.odds = True, CALM
        self._run = self._runs.begin(Pass(self._site.name, self._world.passes, False, self._world.domain))

    def go_on(self) -> None:
        question, world = self._runs.asks(self._run), self._world
        if question is None or (not self._calm and world.rng.random() < DEATH_ODDS):
            self._ended()
            return
        delay = world.rng.expovariate(1 / world.delay_seconds)
        world.time.after(delay, lambda: self._ask(question))

    def _told(self, reply: Reply) -> None:
        self._run = self._runs.told(self._run, reply)
        self.go_on()

    def _ask(self, question: Question) -> None:
        if isinstance(question, symbols.Change):
            self._change(question)
            return
        try:
            reply = self._answer(question)
        except NotFound:
            reply = symbols.MISSING
        except PreconditionFailed:
            reply = symbols.THERE
        except CdpError:
            reply = symbols.UNKNOWN
        self._told(reply)

    def _answer(self, question: Question) -> Reply:
        store = self._store
        match question:
            case symbols.Get(key):
                return store.get(key).data
            case symbols.Head(_, key):
                store.head(key)
                return b""
            case symbols.New(key, data):
                store.put_new(key, data)
                return None
            case symbols.Delete(key):
                store.delete(key)
                return None
            case symbols.ReadHolds():
                return tuple(sorted(self._living().items()))
        keys = frozenset(found.key for prefix in (PACKS_PREFIX, GC_PREFIX) for found in store.list(prefix))
        return keys, symbols.NO_BASE

    def _living(self) -> dict[str, Hold]:
        """As `held_look.look_at_holds`, on the site's own boot-time clock."""
        world, site = self._world, self._site
        asked_ns = site.boottime_ns()
        boot = site._booted_ns.to_bytes(16)
        holds = read_roster(self._store, world.domain).holds.holds
        watch = watched(world.watches.get(site, Watch(bytes(16))), holds, boot, site.boottime_ns())
        world.watches[site] = watch
        dead = dead_holds(watch, holds, asked_ns, None)
        if not dead:
            return dict(holds)
        clock, entropy = Restless(world), world.rng.randbytes
        return dict(
            change_roster(self._store, world.domain, lambda found: without_dead(found, dead), clock, entropy)
        )

    def _change(self, question: symbols.Change) -> None:
        process, world = self._site.process, self._world
        if process is None:
            self._told(symbols.REFUSED)
            return
        answers: list[Answer] = []
        planning = world.planning(process)
        planning.ask(change_request(question.change), answers.append)
        ends_ns = world.time.now_ns + int(ASK_SECONDS * SECOND)

        def look() -> None:
            planning.look()
            if answers or world.time.now_ns > ends_ns:
                self._told(None if answers and answers[0].get("ok") else symbols.REFUSED)
            else:
                world.time.after(0.3, look)

        look()


class Reading:
    """Somebody who restores, with a real hold; now and then it is paused for longer than its term."""

    def __init__(self, world: CollectionWorld) -> None:
        self._world = world
        self._store = world.connection()
        self._holding = Holding(
            self._store, Reader("site-x", "", "restore"), Restless(world), world.rng.randbytes,
            lambda line: None, starts_thread=False,
        )  # fmt: skip
        self._ledger: ObjectName | None = None
        self._cut = symbols.Y
        self._meaning = symbols.NOTHING_COLLECTED

    def begin(self) -> None:
        self._holding.place()
        if self._holding.hold_id:
            self._later(self._look)

    def _later(self, call: Callable[[], None]) -> None:
        rng = self._world.rng
        slow = rng.random() < 0.05
        seconds = rng.uniform(20, 120) if slow else rng.expovariate(1 / 2)

        def wake() -> None:
            if not self._world.quiet:
                call()

        self._world.time.after(seconds, wake)

    def _stands(self) -> bool:
        """Whether its hold is in the roster, whatever it thinks."""
        roster = read_roster(self._world.store.inner, self._world.domain)
        return self._holding.hold_id in roster.holds.holds

    def _look(self) -> None:
        self._ledger = self._world.shown().ledger
        self._later(self._choose)

    def _choose(self) -> None:
        world, stood = self._world, self._stands()
        try:
            self._meaning = world.meaning_of(self._ledger)
        except NotFound:
            world.checks.must(not stood, f"{self._ledger} is gone under a hold on everything")
            self.begin()
            return
        self._cut = symbols.Y if self._meaning.retired else symbols.X
        try:
            self._holding.narrow(self._cut, self._ledger)
        except HoldLost:
            self.begin()
            return
        except CdpError:
            pass  # written with the next refresh
        self._read(READS)

    def _read(self, left: int) -> None:
        world = self._world
        self._holding.look()
        try:
            self._holding.check()
        except HoldLost:
            self.begin()
            return
        if self._stands():
            world.must_restore(self._meaning, self._cut, "a reader under its hold")
        if left:
            self._later(lambda: self._read(left - 1))
        else:
            world.read += 1
            self._holding.drop()
