"""Several sites over one domain on a virtual clock: the real owner's machine, and all that may go wrong.

Sites crash, reboot, are paused, cut off and cloned; requests are late, lost and refused; operators take over,
force at bad moments, choose older cuts, release and cancel; a collector deletes what lies beyond ends; those
who want the domain ask for it. Everything is drawn from one seed, and a seed replays exactly. What must hold
is for checks.py.
"""

from __future__ import annotations

from random import Random

from cdp_container.domain import owner, owner_work, requests
from cdp_container.domain import owner_types as ot
from cdp_container.domain.history import read_history
from cdp_container.domain.owner_work import do_work
from cdp_container.errors import CdpError, UsageError
from cdp_container.format.domain import EpochRecord, Owner, OwnerState, build_owner, parse_owner
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.request import OwnershipRequest
from cdp_container.format.seal import NO_KEYS
from tests.sim.clock import SECOND, VirtualTime
from tests.sim.owners.checks import Checks
from tests.sim.owners.site import LEASE_SECONDS, Process, Site
from tests.sim.store import CALM, STORMY, SimStore

STORY_SECONDS = 240.0
SETTLE_SECONDS = 120.0
"""After the storm: everything late has landed, all back-offs are over."""
IDLE_SECONDS = 1_000.0
"""Between two cuts of a domain that is hardly written: its lease becomes long."""
JUDGE_SECONDS = 2_000.0
"""Within so long somebody must be able to take over, whatever was left: the longest lease, and a release."""
CRASH_ODDS = 0.002
JUMP = 1_000
ACTIONS = (
    *("crash", "pause", "cut off", "storm", "take over", "take over", "force", "force", "force"),
    *("release", "release", "cancel", "ask", "collect", "reboot", "disk", "wall", "calm"),
)


class World:
    """See the module.

    Attributes:
        lossy: segments get lost, and operators accept that.
        clones: processes are cloned while they run.
        delay_seconds: of a request on its way, and of its reply, on average.
        jumps: operators also take over as in a zone that may not know of the newest epoch.
        crash_odds: of a process, before each of its effects.
        cut_seconds: how long it takes on average from one cut to the next.
        final: for each epoch that was released, the cut that holds everything.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.time = VirtualTime()
        self.quiet = False
        self.over = False
        self.lossy = self.rng.random() < 0.15
        self.clones = self.rng.random() < 0.15
        self.jumps, self.crash_odds = True, CRASH_ODDS
        self.delay_seconds = self.rng.choice((0.05, 0.15, 0.15, 0.6))
        self.cut_seconds = self.rng.choice((0.5, 2.5, 2.5, 2.5, 8.0, IDLE_SECONDS))
        self.store = SimStore(self.time, self.rng)
        self.domain = self.rng.randbytes(16)
        self.checks = Checks(self)
        self.final: dict[int, Place] = {}
        names = ("site-a", "site-b", "site-c")[: self.rng.choice((2, 3))]
        first = owner.first_owner(
            self.domain, "shop", names[0], self.rng.randbytes(16), bytes(32), LEASE_SECONDS, 7
        )
        self.store.inner.put_if(
            OWNER_KEY, build_owner(first), self.store.inner.put_new(OWNER_KEY, build_owner(first))
        )
        self.sites = [Site(self, name) for name in names]
        for site in self.sites:
            site.store.allow_two_contents = self.clones

    def shown(self) -> Owner:
        """`domain/owner` as it is."""
        return parse_owner(self.store.inner.get(OWNER_KEY).data, OWNER_KEY, self.domain)

    def digest_of(self, place: Place) -> bytes:
        """Of a base, for the segment that follows it."""
        if not place or segment_key(place.epoch, place.seq) in self.checks.lost:
            return bytes(32)
        return self.store.inner.get(segment_key(place.epoch, place.seq)).data[-32:]

    # --- what processes tell -----------------------------------------------------------------------

    def landed(self, key: str, data: bytes) -> None:
        self.checks.landed(key, data)

    def do_work(self, process: Process, effect: owner_work.OwnerWork) -> ot.Event:
        return do_work(process.site.store, process.site.store, self.domain, effect, NO_KEYS)

    def activated(self, process: Process, record: EpochRecord) -> None:
        self.checks.activated(process, record)

    def proven(self, process: Process, place: Place) -> None:
        self.checks.proven(process, place)
        if self.rng.random() < 0.2:
            process.later(0.0, lambda: process.on(ot.Record(place)))

    # --- what happens ------------------------------------------------------------------------------

    def act(self) -> None:
        """Something goes wrong, or somebody wants something."""
        if self.quiet:
            return
        site = self.rng.choice(self.sites)
        match self.rng.choice((*ACTIONS, *("lose",) * self.lossy, *("clone",) * 2 * self.clones)):
            case "crash":
                site.crash()
            case "reboot":
                site.reboot()
            case "pause":
                site.paused_until_ns = self.time.now_ns + int(self.rng.expovariate(1 / 50) * SECOND)
            case "cut off":
                self._cut_off(self.sites if self.rng.random() < 0.3 else [site])
            case "storm":
                self._weather()
            case "calm":
                for one in self.sites:
                    one.store.odds = CALM
            case "wall":
                site.wall_offset_ns = int(self.rng.uniform(-7200, 7200) * SECOND)
            case "disk":
                self._fill_disk(site)
            case "clone":
                self._clone(site)
            case other:
                self._operate(other, site)
        self.time.after(self.rng.expovariate(1 / 12), self.act)

    def _operate(self, action: str, site: Site) -> None:
        process = site.process
        match action:
            case "take over" | "force":
                self._take_over(site, forced=action == "force")
            case "release":
                other = self.rng.choice([one for one in self.sites if one.name != site.name])
                if process is not None:
                    process.release(other.name)
                if other.process is None or other.process.state.phase is ot.Phase.RELEASED:
                    other.kill()
                    other.forgive()
                    other.start(ot.TakeOver())
            case "cancel":
                if process is not None and process.state.phase is ot.Phase.RELEASED:
                    process.on(ot.Cancel())
            case "ask":
                self._ask(site)
            case "collect":
                self._collect()
            case "lose":
                self._lose()

    def _cut_off(self, sites: list[Site]) -> None:
        for site in sites:
            site.store.away = True

        def back() -> None:
            for site in sites:
                site.store.away = False

        self.time.after(self.rng.expovariate(1 / 25), back)

    def _weather(self) -> None:
        for site in self.sites:
            site.store.odds = STORMY.scaled(self.rng.choice((0.0, 0.5, 1.0, 3.0)))

    def _fill_disk(self, site: Site) -> None:
        site.disk_full = True

        def room() -> None:
            site.disk_full = False

        self.time.after(self.rng.uniform(1, 30), room)

    def _take_over(self, site: Site, forced: bool) -> None:
        """An operator looks, thinks for a while, and then types."""
        if site.process is not None and site.process.state.phase is ot.Phase.ACTIVE:
            return
        shown = self.shown()
        seen = (shown.epoch, shown.nonce) if forced else None
        base = self._older() if self.rng.random() < 0.2 else None
        jump = JUMP if self.jumps and self.rng.random() < 0.1 else 0
        ledger = None if base is None else shown.ledger
        wish = ot.TakeOver(forced=seen, jump=jump, base=base, ledger=ledger, accept_loss=self.lossy)

        def typed() -> None:
            active = site.process is not None and site.process.state.phase is ot.Phase.ACTIVE
            if not active and not self.quiet:
                site.kill()
                site.forgive()
                site.start(wish, writes=self.rng.random() < 0.5)

        self.time.after(self.rng.choice((0.0, 0.5, 5.0, 20.0)) * self.rng.random(), typed)

    def _older(self) -> Place | None:
        """Some cut of the newest branch that is not the newest."""
        try:
            history = read_history(self.store.inner)
            branch = history.branch_of(history.newest)
        except CdpError:
            return None
        known = [place for place in self.checks.complete if place.seq <= branch.get(place.epoch, 0)]
        return self.rng.choice(known[-6:]) if known else None

    def _ask(self, site: Site) -> None:
        shown = self.shown()
        wish = OwnershipRequest(
            domain=self.domain,
            request_id=self.rng.randbytes(8).hex(),
            site=site.name,
            operator="root",
            reason="please",
            asked_ns=site.wall_ns(),
            owner_site=shown.site,
            owner_epoch=shown.epoch,
        )
        try:
            requests.ask(site.store, shown, wish)
        except (UsageError, CdpError):
            return

    def _collect(self) -> None:
        """What lies beyond ends that stand is deleted, as a collector does."""
        for epoch, end in self.checks.ends().items():
            last = end.seq if end.epoch == epoch else 0
            for found in list(self.store.inner.list(f"log/{epoch:010}/", f"log/{epoch:010}/{last:012}")):
                self.store.inner.delete(found.key)

    def _lose(self) -> None:
        """Some of the newest segments are gone, whatever was proven."""
        keys = [found.key for found in self.store.inner.list("log/")]
        for key in keys[-self.rng.choice((1, 2)) :]:
            self.store.inner.delete(key)
            self.checks.lost.add(key)

    def _clone(self, site: Site) -> None:
        """The machine's memory and disk go on twice, with the same instance."""
        old = site.process
        if old is None or len(self.sites) > 5:
            return
        twin = Site(self, site.name)
        twin.store.allow_two_contents = True
        twin.notes, twin.wall_offset_ns = site.notes, site.wall_offset_ns
        process = twin.process = Process(twin, old.wish, old.writes)
        process.state, process.sent, process.looked = old.state, set(old.sent), old.looked
        if old.writer is not None:
            process.writer = old.writer.cloned(process)
        # What is in flight is answered to one of the two; the other hears nothing, and looks.
        if process.state.request is not None:
            process.later(5.0, lambda: process.on(ot.OwnerFailed(ot.Failure.UNKNOWN, "no answer")))
        if process.state.working:
            process.later(5.0, lambda: process.on(ot.WorkFailed(ot.Failure.UNKNOWN, "no answer")))
        process.wake()
        self.sites.append(twin)

    # --- a whole story -----------------------------------------------------------------------------

    def play(self, seconds: float = STORY_SECONDS) -> None:
        """Everything, then calm, then whether anybody can still take over."""
        self.begin()
        self.run(seconds)
        self.settle()
        self.checks.check()
        self._judge()
        self.checks.check(thorough=True)

    def begin(self) -> None:
        """The sites begin their work, and trouble its own."""
        self.sites[0].start(ot.Claim())
        for site in self.sites[1:]:
            if self.rng.random() < 0.5:
                site.start(ot.Claim())
        self.time.after(self.rng.uniform(2, 20), self.act)
        self.time.after(self.rng.uniform(1, 20), self._read)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.time.run_until(self.time.now_ns + int(seconds * SECOND))

    def settle(self) -> None:
        """The storm ends, and what is late lands."""
        self.quiet = True
        for site in self.sites:
            site.store.odds, site.store.away, site.disk_full = CALM, False, False
            site.paused_until_ns = 0
        self.run(SETTLE_SECONDS)

    def _read(self) -> None:
        if not self.quiet:
            self.checks.check()
            self.time.after(self.rng.expovariate(1 / 15), self._read)

    def _judge(self) -> None:
        """Somebody who knows nothing of all this takes the domain, and protects a cut."""
        self.over = True
        for site in self.sites:
            site.kill()
        judge, asker = Site(self, "judge"), Site(self, "asker")
        ends_ns = self.time.now_ns + int(JUDGE_SECONDS * SECOND)
        while self.time.now_ns < ends_ns:
            if judge.process is None:
                # Refused, where what a dead process had sent landed meanwhile: the operator says it again.
                judge.start(ot.TakeOver(accept_loss=self.lossy))
            process = judge.process
            assert process is not None
            if process.writer is not None and process.writer.last == NOWHERE:
                process.writer.force_cut()
            if process.writer is not None and process.state.proven >= process.writer.last:
                return
            self.run(5)
            # Whoever asks for the domain asks again and again; its dead owner stays dead.
            self._ask(asker)
        self.checks.must(False, f"nobody can take over: {self.shown()}")
        assert self.shown().state is OwnerState.ACTIVE
