"""Every interleaving of two sites over one `domain/owner`, on the real step machine.

Both sites claim, renew, write cuts, prove them, release, crash, start again from their notes and take over
at an operator's word. A request may be carried out at any time after it was sent, its reply may be lost, and
what was given up or left by a dead process may land at any time, or never. The budgets bound how often;
within them nothing is left out but what the reductions below leave out soundly. How states are kept small
does not belong here (owner_steps.py), nor what must hold in each of them (owner_rules.py).

Reductions, and why nothing is missed by them:

* **No clock.** Each step of a run is offered at the moment of its last one, and at one beyond every lease.
  So clocks run at any rates, leases pass or do not at each site as they like, back-offs take any time. That
  is more than can happen: safety must not rest on time.
* **A request is carried out and answered in one.** Between the two only others act, and what a run does with
  its answer touches nothing but itself and what it sends. A crash between the two is the crash before, with a
  swap that lands late.
* **A retry is sent at once.** Sent and not yet carried out is the same as not yet sent: a read says nothing,
  a swap that nobody answers may just as well never land.
* **Cuts are put as soon as an epoch is active,** all that the budget allows, as each may land at any time.
* **What nobody can read any more is dropped:** late swaps against a tag that is past (see owner_steps.py) and
  late segments of an epoch whose end stands; the latter are held against that end first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cdp_container.domain import owner_types as ot
from cdp_container.format.domain import EpochRecord, Owner, OwnerState
from tests.model.owner_steps import (
    FRESH,
    LATE,
    LATE_NS,
    NOW_NS,
    SENT,
    SHOWN,
    Reaction,
    Renaming,
    Steps,
    bits_renamed,
    landing,
    moved,
    nonce_of,
)
from tests.model.owner_stored import Find, Stored, find_end

NOTHING: Final = -1
LOST: Final = ot.OwnerFailed(ot.Failure.UNKNOWN, "lost")
REFUSED: Final = ot.OwnerFailed(ot.Failure.PRECONDITION, "412")
WORK_LOST: Final = ot.WorkFailed(ot.Failure.UNKNOWN, "lost")
WORK_REFUSED: Final = ot.WorkFailed(ot.Failure.PRECONDITION, "412")


class Broken(AssertionError):
    """A rule was broken by a step."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often what makes the number of states grow may happen, in one story; `cuts` in one epoch.

    Attributes:
        forced: whether operators also force, at once from what they see.
        older: whether they then also choose the cut before the newest.
    """

    renewals: int = 1
    crashes: int = 0
    losses: int = 0
    takeovers: int = 1
    releases: int = 0
    cancels: int = 0
    cuts: int = 1
    forced: bool = True
    older: bool = False


class Site(NamedTuple):
    """One site: `run` and what it sent are numbers of `Steps`, NOTHING where there is none.

    `known` is what its notes hold (a bit for each nonce). `puts`, `acked`: a bit for each seq of its epoch.
    """

    run: int = NOTHING
    known: int = 0
    fenced: bool = False
    releasing: bool = False
    released: bool = False
    starts: int = 0
    request: int = NOTHING
    work: int = NOTHING
    puts: int = 0
    acked: int = 0
    epoch: int = 0


class World(NamedTuple):
    """Everything. `late_*` was given up, or left by a dead process, and may land yet.

    `activated`: (epoch, site, start) of every run that became active. `proven`: (epoch, seq), the newest.
    """

    owner: int
    stored: Stored
    sites: tuple[Site, ...]
    late_swaps: tuple[int, ...]
    late_puts: tuple[tuple[int, int], ...]
    late_records: tuple[int, ...]
    activated: tuple[tuple[int, int, int], ...]
    proven: tuple[tuple[int, int], ...]
    renewals: int
    crashes: int
    losses: int
    takeovers: int
    releases: int
    cancels: int


class Model:
    """The rules of the world. `find` looks for the end of an epoch, and may be a broken one."""

    def __init__(self, budget: Budget, find: Find = find_end) -> None:
        self.budget = budget
        self.find = find
        self.steps = Steps()

    def begin(self) -> World:
        """Site 0 is about to claim what `init` released to it; site 1 is not there yet."""
        budget = self.budget
        world = World(
            owner=self.steps.owners.number(self.steps.first),
            stored=Stored(),
            sites=(Site(), Site()),
            late_swaps=(),
            late_puts=(),
            late_records=(),
            activated=(),
            proven=(),
            renewals=budget.renewals,
            crashes=budget.crashes,
            losses=budget.losses,
            takeovers=budget.takeovers,
            releases=budget.releases,
            cancels=budget.cancels,
        )
        return self._start(world, 0, ot.Claim())

    def next(self, world: World) -> Iterator[World]:
        """Every world that one step leads to."""
        yield from self._late(world)
        for index, site in enumerate(world.sites):
            if site.run == NOTHING:
                yield from self._starts(world, index, site)
            else:
                yield from self._runs(world, index, site)

    # --- what nobody waits for ---------------------------------------------------------------------

    def _late(self, world: World) -> Iterator[World]:
        for swap in world.late_swaps:
            yield self._landed(world, swap)
        for epoch, seq in world.late_puts:
            late = tuple(put for put in world.late_puts if put != (epoch, seq))
            yield world._replace(late_puts=late, stored=world.stored.with_segment(epoch, seq))
        for number in world.late_records:
            late_records = tuple(record for record in world.late_records if record != number)
            record = self.steps.records.value(number)
            yield world._replace(late_records=late_records, stored=world.stored.with_record(record))

    def _landed(self, world: World, swap: int) -> World:
        """A swap that may still land does, and so every other one against that tag is dead."""
        effect = self.steps.requests.value(swap)
        assert isinstance(effect, ot.SwapOwner)
        self._check_known(world, effect.owner)
        shown = self.steps.shown(swap)
        world = self._renamed(world, landing(int.from_bytes(effect.owner.nonce, "big")))
        return self._pruned(world._replace(owner=shown, late_swaps=()), self.steps.owners.value(shown))

    def _renamed(self, world: World, renaming: Renaming) -> World:
        """The same world, with nonces by other names."""
        steps = self.steps
        sites = tuple(
            site._replace(
                run=site.run if site.run == NOTHING else steps.run_renamed(site.run, renaming),
                known=bits_renamed(site.known, renaming),
                request=site.request
                if site.request == NOTHING
                else steps.request_renamed(site.request, renaming),
            )
            for site in world.sites
        )
        late = tuple(steps.request_renamed(swap, renaming) for swap in world.late_swaps)
        return world._replace(sites=sites, late_swaps=late)

    def _check_known(self, world: World, owner: Owner) -> None:
        """Whoever sent what lands must still take it for its own, or for one that may."""
        site = world.sites[self.steps.index_of(owner.site)]
        known = site.known if site.run == NOTHING else self.steps.open_nonces(site.run)
        if not known >> int.from_bytes(owner.nonce, "big") & 1:
            raise Broken(f"a swap to {owner.state.value} landed after its sender took it for settled")

    def _pruned(self, world: World, owner: Owner) -> World:
        """Without late segments of epochs that have ended; none of them may lie within an end."""
        ends = {record.previous: record.end for record in world.stored.chain(owner)}
        late = []
        for epoch, seq in world.late_puts:
            end = ends.get(epoch)
            if end is None:
                late.append((epoch, seq))
            elif end.epoch == epoch and seq <= end.seq:
                raise Broken(f"a late segment {seq} of epoch {epoch} lies within its end {end}")
        return world._replace(late_puts=tuple(late), stored=world.stored.without_tails(ends))

    # --- a site that is not running ----------------------------------------------------------------

    def _starts(self, world: World, index: int, site: Site) -> Iterator[World]:
        if site.starts and not site.fenced and not site.released:
            yield self._start(world, index, ot.Claim())
        owner = self.steps.owners.value(world.owner)
        if owner.state is OwnerState.RELEASED and owner.released_to == self.steps.site_name(index):
            yield self._start(self._forgiven(world, index), index, ot.Claim())
        if site.released and world.cancels:
            yield self._start(world._replace(cancels=world.cancels - 1), index, ot.Cancel())
        yield from self._told(world, index)

    def _told(self, world: World, index: int) -> Iterator[World]:
        """An operator takes over at this site."""
        if world.takeovers:
            told = self._forgiven(world, index)._replace(takeovers=world.takeovers - 1)
            for wish in self._wishes(world):
                yield self._start(told, index, wish)

    def _forgiven(self, world: World, index: int) -> World:
        """An operator's word, or a domain that was given back: the site may go on."""
        return _with(world, index, world.sites[index]._replace(fenced=False, releasing=False, released=False))

    def _wishes(self, world: World) -> Iterator[ot.TakeOver]:
        yield ot.TakeOver()
        owner = self.steps.owners.value(world.owner)
        seen = (owner.epoch, owner.nonce)
        if self.budget.forced:
            yield ot.TakeOver(forced=seen)
        end = self.find(world.stored, owner.epoch_in_force, owner.protected)
        if self.budget.older and isinstance(end, ot.EndFound) and end.end.place.cut > 1:
            place = end.end.place
            older = type(place)(place.epoch, place.cut - 1, place.seq - 1)
            yield ot.TakeOver(forced=seen, base=older)

    def _start(self, world: World, index: int, event: ot.Event) -> World:
        site = world.sites[index]
        released = isinstance(event, ot.Cancel)
        run = self.steps.begin(index, site.starts, site.known, released, site.releasing)
        site = site._replace(run=run, starts=site.starts + 1, puts=0, acked=0, epoch=0)
        return self._on(_with(world, index, site), index, event)

    # --- a site that runs --------------------------------------------------------------------------

    def _runs(self, world: World, index: int, site: Site) -> Iterator[World]:
        if world.renewals and site.request == NOTHING:
            # A lease passed, or a third of it: the claim or the ownership is renewed.
            later = self._on(world, index, ot.Tick(), LATE_NS)
            if later is not world:
                yield later._replace(renewals=world.renewals - 1)
        if site.request != NOTHING:
            yield from self._request(world, index, site)
        if site.work != NOTHING:
            yield from self._work(world, index, site)
        if site.puts:
            yield from self._puts(world, index, site)
        elif (world.releases or site.releasing) and self._may_release(site):
            spent = world._replace(releases=world.releases - (not site.releasing))
            yield self._on(spent, index, ot.Release(self.steps.site_name(1 - index)))
        if world.crashes:
            yield self._ended(world, index, site)._replace(crashes=world.crashes - 1)
        elif world.takeovers and self.steps.runs.value(site.run).phase is ot.Phase.ELSEWHERE:
            # Whoever only looks on is stopped for free: an operator wants to take over here.
            ended = self._ended(world, index, site)
            yield from self._told(ended, index)

    def _may_release(self, site: Site) -> bool:
        """Everything that it wrote is protected."""
        run = self.steps.runs.value(site.run)
        drained = not site.acked or run.proven.seq == site.acked.bit_length() - 1
        return run.phase is ot.Phase.ACTIVE and drained

    def _request(self, world: World, index: int, site: Site) -> Iterator[World]:
        bare = _with(world, index, site._replace(request=NOTHING))
        effect = self.steps.requests.value(site.request)
        owner = self.steps.owners.value(world.owner)
        tag = self.steps.tag(owner)
        if isinstance(effect, ot.ReadOwner):
            same = effect.unless_tag == tag
            reply = ot.OwnerUnchanged() if same else ot.OwnerRead(owner, tag)
            yield self._on(bare, index, reply)
            if self.steps.runs.value(site.run).phase is ot.Phase.WATCHING:
                yield self._on(bare, index, reply, LATE_NS)
            return
        if effect.tag != tag:
            yield self._on(bare, index, REFUSED)
            return
        done = self._landed(bare, site.request)
        yield self._on(done, index, ot.Swapped(nonce_of(SHOWN).hex()))
        if world.losses:
            losses = world.losses - 1
            yield self._on(done._replace(losses=losses), index, LOST)
            given_up = self._given_up(bare, index, site.request)
            yield self._on(given_up._replace(losses=losses), index, LOST)

    def _given_up(self, world: World, index: int, swap: int) -> World:
        """A swap of that site may land yet, and nobody waits for it."""
        late = world._replace(late_swaps=(*world.late_swaps, swap))
        return self._renamed(late, moved(SENT + index, LATE + len(world.late_swaps)))

    def _work(self, world: World, index: int, site: Site) -> Iterator[World]:
        bare = _with(world, index, site._replace(work=NOTHING))
        match self.steps.works.value(site.work):
            case ot.FindEnd(epoch, protected):
                yield self._on(bare, index, self.find(world.stored, epoch, protected))
            case ot.ReadEpoch(epoch):
                yield self._on(bare, index, ot.EpochRead(world.stored.record(epoch)))
            case ot.CountEpochs():
                yield self._on(bare, index, ot.EpochsCounted(world.stored.highest()))
            case ot.WriteEpoch(record):
                yield from self._write_record(world, bare, index, record)

    def _write_record(self, world: World, bare: World, index: int, record: EpochRecord) -> Iterator[World]:
        if world.stored.record(record.epoch) is not None:
            yield self._on(bare, index, WORK_REFUSED)
            return
        done = bare._replace(stored=world.stored.with_record(record))
        yield self._on(done, index, ot.EpochWritten())
        if world.losses:
            losses = world.losses - 1
            yield self._on(done._replace(losses=losses), index, WORK_LOST)
            late = (*world.late_records, self.steps.records.number(record))
            yield self._on(bare._replace(losses=losses, late_records=late), index, WORK_LOST)

    def _puts(self, world: World, index: int, site: Site) -> Iterator[World]:
        for seq in range(1, self.budget.cuts + 1):
            if not site.puts >> seq & 1:
                continue
            acked = site.acked | 1 << seq
            landed = world._replace(stored=world.stored.with_segment(site.epoch, seq))
            landed = _with(landed, index, site._replace(puts=site.puts & ~(1 << seq), acked=acked))
            whole = 0
            while acked >> whole + 1 & 1:
                whole += 1
            old = self.steps.runs.value(site.run).proven.seq
            place = self.steps.place(site.epoch, whole)
            yield self._on(landed, index, ot.Prove(place)) if whole > old else landed

    def _ended(self, world: World, index: int, site: Site) -> World:
        """The process is gone; what it sent may land yet, its notes stay."""
        late_records = world.late_records
        if site.work != NOTHING:
            work = self.steps.works.value(site.work)
            if isinstance(work, ot.WriteEpoch) and world.stored.record(work.record.epoch) is None:
                late_records = tuple(sorted((*late_records, self.steps.records.number(work.record))))
        puts = [(site.epoch, seq) for seq in range(1, self.budget.cuts + 1) if site.puts >> seq & 1]
        left = Site(NOTHING, site.known, site.fenced, site.releasing, site.released, site.starts)
        world = _with(world, index, left)._replace(
            late_records=late_records,
            late_puts=tuple(sorted((*world.late_puts, *puts))),
        )
        if site.request != NOTHING:
            effect = self.steps.requests.value(site.request)
            if isinstance(effect, ot.SwapOwner) and effect.tag == nonce_of(SHOWN).hex():
                world = self._given_up(world, index, site.request)
        return self._pruned(world, self.steps.owners.value(world.owner))

    # --- the edges ---------------------------------------------------------------------------------

    def _on(self, world: World, index: int, event: ot.Event, now_ns: int = NOW_NS) -> World:
        """One event at one site, and at once what is to be done after it."""
        site = world.sites[index]
        reaction = self.steps.react(site.run, event, now_ns)
        world = self._carry_out(world, index, site, reaction)
        site = world.sites[index]
        if site.run == NOTHING:
            return world
        if not isinstance(event, ot.Tick):
            return self._on(world, index, ot.Tick())
        return world

    def _carry_out(self, world: World, index: int, site: Site, done: Reaction) -> World:
        if done.run == site.run and not done.has_effects:
            return world
        new = site._replace(
            run=done.run,
            known=site.known if done.known == NOTHING else done.known,
            fenced=site.fenced or done.fenced,
            releasing=(site.releasing or done.releasing) and not done.owning,
            released=(site.released or done.released) and not done.owning,
        )
        if done.request != NOTHING:
            assert site.request == NOTHING, "two requests at once"
            new = new._replace(request=done.request)
        if done.work != NOTHING:
            assert site.work == NOTHING, "two pieces of work at once"
            new = new._replace(work=done.work)
        if done.activated:
            if any(epoch == done.activated for epoch, _, _ in world.activated):
                raise Broken(f"two runs own epoch {done.activated}")
            activated = (*world.activated, (done.activated, index, site.starts))
            world = world._replace(activated=activated)
            # A run that is to go on releasing takes no writes.
            cuts = 0 if new.releasing else (1 << self.budget.cuts + 1) - 2
            new = new._replace(puts=cuts, acked=0, epoch=done.activated)
        if done.proven is not None:
            newest = {**dict(world.proven), done.proven.epoch: done.proven.seq}
            world = world._replace(proven=tuple(sorted(newest.items())))
        world = self._renamed(_with(world, index, new), moved(FRESH, SENT + index))
        return self._ended(world, index, world.sites[index]) if done.over else world


def _with(world: World, index: int, site: Site) -> World:
    sites = (site, world.sites[1]) if index == 0 else (world.sites[0], site)
    return world._replace(sites=sites)
