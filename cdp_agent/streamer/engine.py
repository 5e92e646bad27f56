"""The streamer without threads: the two step machines, joined, and the jobs that they want done.

The engine is called by one thread. What takes time becomes a `Job`: its `work` may run anywhere, and gives
back what is to be called here when it is done. So the same engine is driven by threads (`run.py`) and by the
simulator, which can end it between any two calls. What does not belong here: threads, sockets, files; what
becomes of an epoch's objects (`sending`), what is noted on this machine (`noted`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from cdp_agent.streamer import step_types as st
from cdp_agent.streamer import steps
from cdp_agent.streamer.begin import (
    MENDS_ITSELF,
    begin_copying,
    builder_of,
    check_gap,
    claimant_of,
    may_copy,
    refusal,
    told_elsewhere,
)
from cdp_agent.streamer.build import NOT_WHOLE
from cdp_agent.streamer.configuring import Configuring
from cdp_agent.streamer.describing import Describing
from cdp_agent.streamer.engine_types import (
    Answered,
    Counters,
    Done,
    Epoch,
    Job,
    Lane,
    Outside,
    Reply,
    Shown,
    Wishes,
)
from cdp_agent.streamer.filling import FillingNotes, in_order
from cdp_agent.streamer.noted import Noted
from cdp_agent.streamer.planning import Planning
from cdp_agent.streamer.promises import Promises
from cdp_agent.streamer.releasing import Releasing, Told
from cdp_agent.streamer.resume import Plan, plan_epoch
from cdp_agent.streamer.sending import Sending, nothing
from cdp_agent.streamer.tree_step_types import SweepTrees, TreesLooked
from cdp_agent.streamer.trees import Trees
from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_work import OwnerRequest, OwnerWork, do_work, request_owner
from cdp_container.errors import JournalDamaged, PositionUnknown
from cdp_container.format.index import Record
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage

CLAIM_AFTER_NS: Final = 10_000_000_000
"""A run with nothing to send claims its epoch so long after its start: the lease is due."""


class Engine:
    """See the module. `jobs` is where new jobs appear; whoever drives the engine takes them out."""

    def __init__(self, identity: AgentIdentity, wishes: Wishes, outside: Outside) -> None:
        self._identity = identity
        self._wishes = wishes
        self._outside = outside
        self._noted = Noted(identity, outside.local, outside.clock)
        self._started_ns = outside.clock.boottime_ns()
        self.run = _begin_run(self._noted.notes, claimant_of(identity, wishes, outside.entropy(16)))
        self.releasing = Releasing(identity.site, self._noted, outside.clock, self)
        self.configuring = Configuring(outside.patient, outside.configured, outside.clock, self._noted, self)
        self.planning = Planning(self)
        self.describing = Describing(
            outside.vms, identity, wishes.vms_every_ns, outside.clock, self._noted, self
        )
        self.filling = FillingNotes(identity, self._noted, outside.clock, self)
        self.stream = st.StreamState(st.Pace(wishes.cadence_ns))
        self.jobs: list[Job] = []
        self.counters = Counters()
        self._events: deque[Done] = deque()
        self._handling = False
        self._epoch: Epoch | None = None
        self._sending: Sending | None = None
        self._lacking: tuple[int, ...] = ()
        self._promises = Promises()
        self.is_finished = False

    # --- called from outside -------------------------------------------------------------------

    @property
    def not_whole(self) -> tuple[bytes, ...]:
        """The spaces that are not whole, in the order of agent.json."""
        return in_order((*self._noted.not_whole, *self.filling.lacking), self._identity)

    @property
    def shown(self) -> Shown:
        """What `status` shows."""
        return self._noted.shown

    def poll(self) -> None:
        """Look at the clock and at what the splitter published. Raises Fenced, and errors of this machine."""
        self._noted.refuse_fenced()
        seen_ns = self._outside.clock.wall_ns()
        page = self._noted.splitter_page()
        self.releasing.poll(page)
        if self._noted.notes.released_to or self.run.phase is ot.Phase.RELEASED:
            self.shown.standing = f"released to site {self._noted.notes.released_to!r}"
        elif page is None:
            self.shown.standing = "waiting for the splitter"
        else:
            self._look(page, seen_ns)
            self._look_at_trees(page)
            self._note_whole()
        self.configuring.poll()
        self.describing.poll()
        self._look_at_vms()
        self.tell_owner(ot.Tick())
        self.tell(st.Tick())

    def due_ns(self) -> int | None:
        """When `poll` is wanted at the latest, by the boot-time clock."""
        due = [at for at in (owner.due_ns(self.run), steps.due_ns(self.stream)) if at is not None]
        return min(due, default=None)

    def release(self, site: str) -> Told:
        """Begin to release the domain to a site, or go on with it."""
        return self.releasing.begin(site, self._noted.splitter_page())

    def ask(
        self,
        name: str | None,
        note: str,
        application: bool,
        reply: Reply,
        more: Mapping[str, object] | None = None,
        until_ns: int = 0,
        fixed: Callable[[], None] = nothing,
        anyway: bool = False,
    ) -> None:
        """A marker (`name` given) or a flush: `reply` is called once it is protected, or never will be.

        `fixed` is called when the instant that a marker stands for is over; without trees that is before this
        returns. `more`, `until_ns`, `anyway`: see `step_types.Asked`.
        """
        seen_ns = self._outside.clock.wall_ns()
        page = self._noted.splitter_page()
        refused = refusal(page, name is not None and bool(self._noted.not_whole), self._promises.count)
        if refused is None and name is not None:
            refused = self.filling.refusal
        if refused is None and name is not None and self.stream.lacking_trees and not until_ns:
            refused = Answered(None, NOT_WHOLE, MENDS_ITSELF)
        if refused is not None:
            reply(refused)
            return
        assert page is not None, "refused"
        ticket = self._promises.take(reply)
        self._look(page, seen_ns)
        since_ns = self._outside.clock.boottime_ns()
        asked = st.Asked(
            ticket, self.stream.tail, name, note, application, seen_ns, more or {}, until_ns, since_ns, anyway
        )
        if self._identity.batched:
            self._promises.when_fixed(ticket, fixed)
        self.tell(st.AskedFor(asked))
        if not self._identity.batched:
            fixed()

    @property
    def may_finish(self) -> bool:
        """Whether what is captured could be sent soon: not while copying, and not where nothing is sent."""
        sending = self.run.phase is ot.Phase.ACTIVE and not self.stream.paused
        return sending and self._sending is not None and not self.stream.lacking

    def finish(self) -> None:
        """Protect what was captured until now, and record it; `is_finished` says when that is done."""

        def reply(_: Answered) -> None:
            self.is_finished = True

        self.ask(None, "", application=False, reply=reply, anyway=True)

    def close(self) -> None:
        """Give disk space back. Nothing may be called any more."""
        if self._sending is not None:
            self._sending.close()

    @property
    def trees(self) -> Trees | None:
        """The file trees in this run's epoch; None before it began, or where there are none."""
        return None if self._sending is None else self._sending.trees

    @property
    def vms_run(self) -> bool:
        """See `releasing.Machines`; as far as is known."""
        return bool(self._identity.active_disks) and (self.trees is None or self.trees.runs)

    def look_again(self) -> None:
        """See `Machines.look_again`."""
        seen_ns = self._outside.clock.wall_ns()
        page = self._noted.splitter_page()
        if page is not None:
            self._look(page, seen_ns)
        else:
            self.filling.look(page)

    # --- what the splitter published -----------------------------------------------------------

    def _look(self, page: SplitterPage, seen_ns: int) -> None:
        tail = page.tail
        if page.overflowed:
            # What guests wrote since is on their disks alone: no cut is newer than the overflow.
            tail, seen_ns = page.overflow_at, min(seen_ns, page.overflow_ns)
        if tail != self.stream.tail and self.stream.tail != NOWHERE:
            self.tell_owner(ot.Activity())
        applied = NOWHERE
        if self._sending is not None:
            check_gap(page, self._sending.began, self.stream.lacking)
            if may_copy(page, self._sending.began):
                applied = page.applied
        self.tell(st.TailMoved(tail, seen_ns, applied))
        self.filling.look(page)
        if self.run.phase is ot.Phase.IDLE and self._wants_epoch(tail):
            self.tell_owner(ot.Claim())
        if self._epoch is not None and self._sending is None:
            self._begin(self._epoch, page, seen_ns)

    def _look_at_trees(self, page: SplitterPage) -> None:
        trees = self.trees
        if trees is not None:
            ready, is_changed, is_anew = trees.look()
            if ready and is_changed:
                self.tell_owner(ot.Activity())
            # Amid an overflow cuts are older than the trees are.
            stream = self.stream
            is_quiet = ready and not (is_changed or stream.reading or stream.cuts or stream.lacking_trees)
            trees.unprotected.look(is_quiet, self._outside.clock.wall_ns() - trees.behind_ns)
            self.tell(TreesLooked(ready and not page.overflowed, is_changed, is_anew))

    def _look_at_vms(self) -> None:
        is_due = self.describing.is_due
        if is_due and not self.stream.vms_changed:
            self.tell_owner(ot.Activity())
        if is_due != self.stream.vms_changed:
            self.tell(st.VmsLooked(is_due))

    def _wants_epoch(self, tail: Position) -> bool:
        new = tail != self._noted.proven or bool(self._noted.not_whole) or self._promises.count > 0
        waited_ns = self._outside.clock.boottime_ns() - self._started_ns
        return new or waited_ns >= CLAIM_AFTER_NS

    # --- the epoch begins ----------------------------------------------------------------------

    def _begin(self, epoch: Epoch, page: SplitterPage, seen_ns: int) -> None:
        """Start sending, with copies of what the container may lack."""
        sources, noted = self._identity.active, self._noted
        proven = noted.proven
        try:
            plan = plan_epoch(epoch.end, page, seen_ns, noted.notes, sources, self._outside.journal, proven)
        except PositionUnknown as error:
            self.shown.standing = f"refused: {error}"
            return
        except JournalDamaged as error:
            noted.journal_damaged(error)
        if not noted.note_lacking(frozenset(sources[index].whole_id for index in plan.in_full)):
            return
        if plan.lacking and page.overflowed:
            if not epoch.end.place and not noted.note_lacking(
                frozenset(source.whole_id for source in sources.values())
            ):
                return  # without a cut, what is published now must not look like cuts that were lost
            self.shown.standing = "waiting for the journal to go on: all that it lacks is compared then"
            noted.publish_proven(page.overflow_at)
            return
        if plan.why:
            noted.trouble("comparison", f"everything is compared with the newest cut: {plan.why}")
        self._sending = self._sending_of(epoch, plan, page)
        self.describing.epoch_began(epoch.record.epoch, epoch.record.base.epoch)
        self.shown.standing = "copying" if plan.lacking else "streaming"
        if not plan.lacking:
            self._all_compared()
            noted.publish_proven(plan.position if epoch.end.place else proven)
        filling, filled = self.filling.began(epoch.end, page)
        self.tell(
            st.EpochBegan(
                epoch=epoch.record.epoch,
                base_digest=epoch.end.digest,
                position=plan.position,
                taken_ns=plan.taken_ns,
                lacking=plan.lacking,
                announce=not epoch.record.base or self._identity.has_removed,
                copy_from=plan.copy_from,
                trees=self._identity.batched,
                filling=filling,
                filled=filled,
            )
        )

    def _sending_of(self, epoch: Epoch, plan: Plan, page: SplitterPage) -> Sending:
        copying = begin_copying(self._outside, self._identity, epoch, plan, page.episode)
        builder = builder_of(self._outside, self._identity, self._wishes, epoch, copying)
        rate = self._wishes.copy_bytes_per_second
        return Sending(self._outside, self, self._noted, self.counters, builder, copying, page, rate)

    def _all_compared(self) -> None:
        if self._sending is not None:
            self._sending.end_copying()
        self._noted.publish_compared()

    # --- the two machines ----------------------------------------------------------------------

    def tell_owner(self, event: ot.Event) -> None:
        """An event for the owner's machine."""
        self._events.append(lambda: self._step_owner(event))
        self._drain()

    def tell(self, event: st.Event) -> None:
        """An event for the stream's machine."""
        self._events.append(lambda: self._step_stream(event))
        self._drain()

    def _drain(self) -> None:
        """One event at a time, each to its end, in the order in which they came."""
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self._events.popleft()()
        finally:
            self._handling = False

    def _step_owner(self, event: ot.Event) -> None:
        clock = self._outside.clock
        moment = ot.Moment(clock.boottime_ns(), clock.wall_ns(), self._outside.entropy(16))
        self.run, effects = owner.step(self.run, event, moment)
        noted = True
        for effect in effects:
            match effect:
                case ot.NoteReleasing(site):
                    noted = self.releasing.note_releasing(site)
                case ot.NoteNonces(nonces):
                    noted = noted and self._noted.save(replace(self._noted.notes, nonces=nonces))
                case ot.SwapOwner() if not noted:
                    # Never sent: what is not noted could not be known again after a crash.
                    self.tell_owner(ot.OwnerFailed(ot.Failure.LOCAL, self.shown.last_error))
                case ot.ReadOwner() | ot.SwapOwner():
                    self._request(effect)
                case ot.FindEnd() | ot.WriteEpoch() | ot.ReadEpoch() | ot.CountEpochs():
                    self._work(effect)
                case _:
                    self._heed(effect)
        self._promises.keep(lambda place: owner.is_recorded(self.run, place))
        self.planning.look()

    def _promise(self, ticket: int, place: Place) -> None:
        """Answer once `domain/owner` says so too: a reader must miss the cut if its segments get lost."""
        self._promises.promise(ticket, place)
        self.tell_owner(ot.Record(place))

    def _request(self, effect: OwnerRequest) -> None:
        store, domain = self._outside.prompt, self._identity.domain

        def work() -> Done:
            event = request_owner(store, domain, effect)
            return lambda: self._owner_replied(event)

        self.start(Job(Lane.OWNER, work))

    def _owner_replied(self, event: ot.Event) -> None:
        if not isinstance(event, ot.OwnerFailed):
            self.shown.troubles.pop("domain/owner", None)
        self.tell_owner(event)

    def _work(self, effect: OwnerWork) -> None:
        patient, prompt, identity = self._outside.patient, self._outside.prompt, self._identity
        keys = ReaderKeys(identity.index_key or None)

        def work() -> Done:
            event = do_work(patient, prompt, identity.domain, effect, keys)
            return lambda: self.tell_owner(event)

        self.start(Job(Lane.WORK, work))

    def _heed(self, effect: ot.Effect) -> None:
        """What the owner's machine found out."""
        match effect:
            case ot.Activated(record, end):
                self._epoch = Epoch(record, end)
                self.shown.troubles.clear()
                if end.warning:
                    self._noted.trouble("ledger", end.warning)
                self.shown.standing = "owning the domain"
            case ot.Proven(place):
                self.tell(st.CutProven(place))
            case ot.Paused():
                self.tell(st.LeasePassed())
            case ot.Resumed():
                self.tell(st.LeaseBack())
            case ot.Elsewhere(found):
                self.shown.standing = told_elsewhere(found, self._identity.site)
            case ot.NoteFenced(why):
                self._fence(why)
            case ot.NoteReleased(site):
                self.releasing.note_released(site)
            case ot.Released(found):
                self.releasing.found(found)
            case ot.NoteOwning():
                self.releasing.note_owning()
            case ot.Refused(_, why):
                self.releasing.refuse_cancel(why)
            case ot.Trouble(what, why):
                self._noted.trouble(what, why)

    def _step_stream(self, event: st.Event) -> None:
        self.stream, effects = steps.step(self.stream, event, self._outside.clock.boottime_ns())
        for effect in effects:
            match effect:
                case st.AskProof(place):
                    self.tell_owner(ot.Prove(place))
                case st.Protected():
                    assert self._sending is not None, "the epoch began"
                    self._sending.protected(effect)
                    self.describing.protected(effect.place.cut)
                    self.filling.protected(effect)
                    self._lacking = effect.lacking
                    self._note_whole()
                    self._noted.publish_proven(effect.position)
                case st.Answer(ticket, place):
                    self._promise(ticket, place)
                case st.Fixed(ticket):
                    self._promises.fixed(ticket)
                case st.Refuse(ticket, why):
                    self._promises.refuse(ticket, why)
                case st.Fence(why):
                    self._fence(why)
                case _:
                    self._send(effect)

    def _send(
        self,
        effect: st.ReadCut | SweepTrees | st.SealSegment | st.WriteCatalog | st.PutSegment | st.ForgetSegment,
    ) -> None:
        assert self._sending is not None, "the epoch began"
        match effect:
            case SweepTrees():
                self._sending.sweep()
            case st.PutSegment(seq):
                self._sending.put_segment(seq)
            case st.ForgetSegment(seq):
                self._sending.forget_segment(seq)
            case st.ReadCut():
                # Of copies, which are of the instant before, only the first of an epoch.
                says = effect.copy is None or effect.cut == 1
                self._sending.build(effect, self.describing.offer() if says else ())
            case _:
                self._sending.build(effect)

    def start(self, job: Job) -> None:
        """Have a job done by whoever drives the engine."""
        self.jobs.append(job)

    def says(self, cut: int, of_vms: Sequence[Record]) -> None:
        """See `Machines.says`."""
        self.describing.taken(cut, of_vms)

    def may_put(self) -> bool:
        """Whether the lease holds at this moment; asked by any thread."""
        return owner.may_put(self.run, self._outside.clock.boottime_ns())

    def _note_whole(self) -> None:
        """What is protected wholly is noted; again and again, until that is durable."""
        if self._sending is None or not self.stream.protected:
            return
        if self._noted.note_whole(self._lacking, self._sending.began.episode):
            self._all_compared()

    def _fence(self, why: str) -> None:
        self.run = replace(self.run, phase=ot.Phase.FENCED)
        self._noted.fence(why)
        self._promises.refuse_all(why)


def _begin_run(notes: Notes, claimant: ot.Claimant) -> ot.RunState:
    # Before the final cut was noted no release was sent, and a domain that is another's was taken by force.
    releasing_to = notes.releasing_to if notes.final is not None else ""
    return owner.begin(claimant, notes.nonces, bool(notes.fenced), bool(notes.released_to), releasing_to)
