"""The streamer without threads: the two step machines, joined, and the jobs that they want done.

The engine is called by one thread. What takes time becomes a `Job`: its `work` may run anywhere, and gives
back what is to be called here when it is done. So the same engine is driven by threads (`run.py`) and by the
simulator, which can end it between any two calls. What does not belong here: threads, sockets, files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, NoReturn

from cdp_agent.identity import AgentIdentity
from cdp_agent.streamer import step_types as st
from cdp_agent.streamer import steps
from cdp_agent.streamer.begin import (
    begin_copying,
    believed,
    builder_of,
    check_gap,
    claimant_of,
    may_copy,
    not_whole,
    refusal,
    tail_after_copy,
)
from cdp_agent.streamer.build import CutBuilder
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.engine_types import Answered, Counters, Done, Epoch, Job, Lane, Outside, Shown, Wishes
from cdp_agent.streamer.put import PutResult, put_object
from cdp_agent.streamer.resume import plan_epoch
from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_work import OwnerRequest, OwnerWork, do_work, request_owner
from cdp_container.errors import CdpError, Fenced, JournalDamaged, PositionUnknown
from cdp_container.format.assemble import SealedObject
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage

CLAIM_AFTER_NS: Final = 10_000_000_000
"""A run with nothing to send claims its epoch so long after its start: the lease is due."""
SAVE_AGAIN_NS: Final = 1_000_000_000
"""Between two attempts to note what is whole."""


class Engine:
    """See the module. `jobs` is where new jobs appear; whoever drives the engine takes them out."""

    def __init__(self, identity: AgentIdentity, wishes: Wishes, outside: Outside) -> None:
        self._identity = identity
        self._wishes = wishes
        self._outside = outside
        self._notes = outside.local.load_notes()
        self._boot = outside.local.boot()
        self._started_ns = outside.clock.boottime_ns()
        self.run = owner.begin(
            claimant_of(identity, wishes, outside.entropy(16)),
            self._notes.nonces,
            bool(self._notes.fenced),
            bool(self._notes.released_to),
        )
        self.stream = st.StreamState(st.Pace(wishes.cadence_ns))
        self.jobs: list[Job] = []
        self.counters = Counters()
        self.shown = Shown()
        self._events: deque[Done] = deque()
        self._handling = False
        self._epoch: Epoch | None = None
        self._builder: CutBuilder | None = None
        self._copying: Copying | None = None
        self._lacking: tuple[int, ...] = ()
        self._save_again_ns = 0
        self._began = SplitterPage()  # as it was published when the epoch began
        self._segments: dict[int, SealedObject] = {}
        self._catalogs: dict[tuple[int, int], SealedObject] = {}
        self._waiting: dict[int, Callable[[Answered], None]] = {}
        self._promised: dict[int, Place] = {}
        self.is_finished = False
        self._tickets = 0

    # --- called from outside -------------------------------------------------------------------

    @property
    def not_whole(self) -> tuple[bytes, ...]:
        """The spaces that are not whole, in the order of agent.json."""
        return not_whole(self._identity, self._notes, self._splitter_page())

    def poll(self) -> None:
        """Look at the clock and at what the splitter published. Raises Fenced, and errors of this machine."""
        if self._notes.fenced:
            self.shown.standing = "fenced"
            raise Fenced("the streamer stopped", self._notes.fenced)
        seen_ns = self._outside.clock.wall_ns()
        page = self._splitter_page()
        if self.run.phase is ot.Phase.RELEASED:
            self.shown.standing = f"released to site {self._notes.released_to!r}"
        elif page is None:
            self.shown.standing = "waiting for the splitter"
        else:
            self._look(page, seen_ns)
            self._note_whole()
        self._owner(ot.Tick())
        self._stream(st.Tick())

    def due_ns(self) -> int | None:
        """When `poll` is wanted at the latest, by the boot-time clock."""
        due = [at for at in (owner.due_ns(self.run), steps.due_ns(self.stream)) if at is not None]
        return min(due, default=None)

    def ask(self, name: str | None, note: str, application: bool, reply: Callable[[Answered], None]) -> None:
        """A marker (`name` given) or a flush: `reply` is called once it is protected, or never will be."""
        seen_ns = self._outside.clock.wall_ns()
        page = self._splitter_page()
        refused = refusal(page, name is not None and bool(self.not_whole), len(self._waiting))
        if refused is not None:
            reply(refused)
            return
        assert page is not None, "refused"
        self._tickets += 1
        self._waiting[self._tickets] = reply
        self._look(page, seen_ns)
        asked = st.Asked(self._tickets, self.stream.tail, name, note, application, seen_ns)
        self._stream(st.AskedFor(asked))

    @property
    def may_finish(self) -> bool:
        """Whether what is captured could be sent soon: not while copying, and not where nothing is sent."""
        sending = self.run.phase is ot.Phase.ACTIVE and not self.stream.paused
        return sending and self._builder is not None and not self.stream.lacking

    def finish(self) -> None:
        """Protect what was captured until now, and record it; `is_finished` says when that is done."""

        def reply(_: Answered) -> None:
            self.is_finished = True

        self.ask(None, "", application=False, reply=reply)

    def close(self) -> None:
        """Give disk space back. Nothing may be called any more."""
        if self._copying is not None:
            self._copying.close()

    # --- what the splitter published -----------------------------------------------------------

    def _splitter_page(self) -> SplitterPage | None:
        """What the splitter published since the machine started: older pages may hide an unclean boot."""
        return believed(self._outside.local.splitter(), self._boot)

    def _look(self, page: SplitterPage, seen_ns: int) -> None:
        tail = page.tail
        if page.overflowed:
            # What guests wrote since is on their disks alone: no cut is newer than the overflow.
            tail, seen_ns = page.overflow_at, min(seen_ns, page.overflow_ns)
        if tail != self.stream.tail and self.stream.tail != NOWHERE:
            self._owner(ot.Activity())
        if self._builder is not None:
            check_gap(page, self._began, self.stream.lacking)
        self._stream(st.TailMoved(tail, seen_ns, page.applied if may_copy(page, self._began) else NOWHERE))
        if self.run.phase is ot.Phase.IDLE and self._wants_epoch(tail):
            self._owner(ot.Claim())
        if self._epoch is not None and self._builder is None:
            self._begin(self._epoch, page, seen_ns)

    def _wants_epoch(self, tail: Position) -> bool:
        new = tail != self._outside.local.streamer().proven or self.not_whole or self._waiting
        waited_ns = self._outside.clock.boottime_ns() - self._started_ns
        return bool(new) or waited_ns >= CLAIM_AFTER_NS

    # --- the epoch begins ----------------------------------------------------------------------

    def _begin(self, epoch: Epoch, page: SplitterPage, seen_ns: int) -> None:
        """Start sending, with copies of what the container may lack."""
        sources = self._identity.active
        proven = self._outside.local.streamer().proven
        try:
            plan = plan_epoch(epoch.end, page, seen_ns, self._notes, sources, self._outside.journal, proven)
        except PositionUnknown as error:
            self.shown.standing = f"refused: {error}"
            return
        except JournalDamaged as error:
            self._journal_damaged(error)
        if not self._note_lacking(frozenset(sources[index].whole_id for index in plan.in_full)):
            return
        if plan.lacking and page.overflowed:
            self.shown.standing = "waiting for the journal to go on: all that it lacks is compared then"
            self._publish_proven(page.overflow_at)
            return
        self._began = page
        if plan.why:
            self.trouble("comparison", f"everything is compared with the newest cut: {plan.why}")
        self._copying = begin_copying(self._outside, self._identity, epoch, plan, page.episode)
        self._builder = builder_of(self._outside, self._identity, self._wishes, epoch, self._copying)
        self.shown.standing = "copying" if plan.lacking else "streaming"
        if not plan.lacking:
            self._note_compared()
            self._publish_proven(plan.position if epoch.end.place else proven)
        self._stream(
            st.EpochBegan(
                epoch=epoch.record.epoch,
                base_digest=epoch.end.digest,
                position=plan.position,
                taken_ns=plan.taken_ns,
                lacking=plan.lacking,
                announce=not epoch.record.base or len(sources) < len(self._identity.sources),
                copy_from=plan.copy_from,
            )
        )

    def _publish_proven(self, position: Position) -> None:
        """What lies below is in the container, or will be compared with it."""
        streamer = self._outside.local.streamer()
        if streamer.proven != position:
            self._outside.local.publish(replace(streamer, proven=position))

    def _note_lacking(self, lacking: frozenset[bytes]) -> bool:
        """Durable before any cut: a later run must not take for whole what this one did not finish."""
        whole = self._notes.whole - lacking
        return whole == self._notes.whole or self._save(replace(self._notes, whole=whole))

    # --- the two machines ----------------------------------------------------------------------

    def _owner(self, event: ot.Event) -> None:
        self._events.append(lambda: self._step_owner(event))
        self._drain()

    def _stream(self, event: st.Event) -> None:
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
                case ot.NoteNonces(nonces):
                    noted = self._save(replace(self._notes, nonces=nonces))
                case ot.SwapOwner() if not noted:
                    # Never sent: what is not noted could not be known again after a crash.
                    self._owner(ot.OwnerFailed(ot.Failure.LOCAL, self.shown.last_error))
                case ot.ReadOwner() | ot.SwapOwner():
                    self._request(effect)
                case ot.FindEnd() | ot.WriteEpoch() | ot.ReadEpoch() | ot.CountEpochs():
                    self._work(effect)
                case _:
                    self._heed(effect)
        self._keep_promises()

    def _promise(self, ticket: int, place: Place) -> None:
        """Answer once `domain/owner` says so too: a reader must miss the cut if its segments get lost."""
        self._promised[ticket] = place
        self._owner(ot.Record(place))

    def _keep_promises(self) -> None:
        for ticket, place in list(self._promised.items()):
            if owner.is_recorded(self.run, place):
                del self._promised[ticket]
                self._waiting.pop(ticket)(Answered(place))

    def _request(self, effect: OwnerRequest) -> None:
        store, domain = self._outside.store, self._identity.domain

        def work() -> Done:
            event = request_owner(store, domain, effect)
            return lambda: self._owner_replied(event)

        self.jobs.append(Job(Lane.OWNER, work))

    def _owner_replied(self, event: ot.Event) -> None:
        if not isinstance(event, ot.OwnerFailed):
            self.shown.troubles.pop("domain/owner", None)
        self._owner(event)

    def _work(self, effect: OwnerWork) -> None:
        store, domain = self._outside.patient, self._identity.domain

        def work() -> Done:
            event = do_work(store, domain, effect)
            return lambda: self._owner(event)

        self.jobs.append(Job(Lane.WORK, work))

    def _heed(self, effect: ot.Effect) -> None:
        """What the owner's machine found out."""
        match effect:
            case ot.Activated(record, end):
                self._epoch = Epoch(record, end)
                self.shown.troubles.clear()
                self.shown.standing = "owning the domain"
            case ot.Proven(place):
                self._stream(st.CutProven(place))
            case ot.Paused():
                self._stream(st.LeasePassed())
            case ot.Resumed():
                self._stream(st.LeaseBack())
            case ot.Elsewhere(found):
                since = f"epoch {found.epoch}, lease {found.lease_seconds} s"
                self.shown.standing = f"owned elsewhere: by site {found.site!r} ({since})"
            case ot.NoteFenced(why):
                self._fence(why)
            case ot.NoteReleased(site):
                self._save(replace(self._notes, released_to=site))
            case ot.Trouble(what, why):
                self.trouble(what, why)

    def _step_stream(self, event: st.Event) -> None:
        self.stream, effects = steps.step(self.stream, event, self._outside.clock.boottime_ns())
        for effect in effects:
            match effect:
                case st.ReadCut() | st.SealSegment() | st.WriteCatalog():
                    self._build(effect)
                case st.PutSegment(seq):
                    self._put(self._segments[seq], partial(self._put_ended, seq))
                case st.ForgetSegment(seq):
                    del self._segments[seq]
                case st.AskProof(place):
                    self._owner(ot.Prove(place))
                case st.Protected():
                    self._protected(effect)
                case st.Answer(ticket, place):
                    self._promise(ticket, place)
                case st.Fence(why):
                    self._fence(why)

    # --- building and putting ------------------------------------------------------------------

    def _build(self, effect: st.ReadCut | st.SealSegment | st.WriteCatalog) -> None:
        builder = self._builder
        assert builder is not None

        def work() -> Done:
            try:
                match effect:
                    case st.ReadCut():
                        read = builder.read(effect)
                        return lambda: self._cut_read(effect, read)
                    case st.SealSegment():
                        sealed, built = builder.seal(effect)
                        return lambda: self._sealed(sealed, built)
                    case st.WriteCatalog(level, number):
                        made = self._catalogs.get((level, number)) or builder.catalog(effect)
                        return lambda: self._put_catalog(effect, made)
            except JournalDamaged as error:
                return partial(self._journal_damaged, error)

        self.jobs.append(Job(Lane.BUILD, work))

    def _journal_damaged(self, error: JournalDamaged) -> NoReturn:
        """End the run. If the journal was given up, the next one does without it, and compares everything."""
        page = self._splitter_page()
        if page is not None and page.overflowed:
            self._note_lacking(self._notes.whole)  # durable, before that is published
        raise error

    def _cut_read(self, effect: st.ReadCut, read: st.CutRead) -> None:
        tail = self._tail_after_copy()
        self._stream(read)
        if read.empty:
            self._copy_ended(tail)

    def _sealed(self, sealed: st.SegmentSealed, built: SealedObject) -> None:
        tail = self._tail_after_copy()
        self._segments[sealed.seq] = built
        self.counters.cuts += sealed.complete
        self._stream(sealed)
        if sealed.complete:
            self._copy_ended(tail)

    def _tail_after_copy(self) -> Position | None:
        """See `tail_after_copy`; None if nothing was read of a volume."""
        return tail_after_copy(self._splitter_page(), self._began) if self.stream.copying else None

    def _copy_ended(self, tail: Position | None) -> None:
        """A round was read to its end."""
        copying = self._copying
        if tail is None or copying is None:
            return
        self.counters.copy_compared_bytes = copying.compared_bytes
        self.counters.copy_different_bytes = copying.different_bytes
        if copying.why_everything and "index" not in self.shown.troubles:
            self.trouble("index", f"everything is sent again, as it cannot be used: {copying.why_everything}")
        pause_ns = int(copying.take_read_bytes() / self._wishes.copy_bytes_per_second * 1e9)
        self._stream(st.CopyEnded(copying.ended, tail, self._outside.clock.boottime_ns() + pause_ns))

    def _put(self, built: SealedObject, ended: Callable[[PutResult], None]) -> None:
        store, clock = self._outside.store, self._outside.clock

        def work() -> Done:
            self._outside.before_put(len(built.data))
            # The machine may have slept since this was decided; the lease is looked at once more.
            if not owner.may_put(self.run, clock.boottime_ns()):
                result = PutResult(st.PutOutcome.UNKNOWN, "the lease passed")
            else:
                result = put_object(store, built)
            return lambda: ended(result)

        self.jobs.append(Job(Lane.PUT, work))

    def _put_ended(self, seq: int, result: PutResult) -> None:
        if result.outcome is st.PutOutcome.STORED:
            self.counters.segments += 1
            self.counters.stored_bytes += len(self._segments[seq].data)
            self.shown.troubles.pop("put", None)
        else:
            self.counters.puts_failed += 1
            self.trouble("put", result.why)
        self._stream(st.PutEnded(seq, result.outcome, result.why))

    def _put_catalog(self, effect: st.WriteCatalog, built: SealedObject | None) -> None:
        name = (effect.level, effect.number)
        if built is None:  # left out: a catalog is never needed
            self._stream(st.CatalogEnded(*name, st.PutOutcome.STORED))
            return
        self._catalogs[name] = built

        def ended(result: PutResult) -> None:
            if result.outcome is st.PutOutcome.STORED:
                self.counters.catalogs += 1
            self._stream(st.CatalogEnded(*name, result.outcome))
            if self.stream.catalogs[effect.level] >= effect.number:
                del self._catalogs[name]

        self._put(built, ended)

    # --- what is protected ---------------------------------------------------------------------

    def _protected(self, effect: st.Protected) -> None:
        self._lacking = effect.lacking
        self._note_whole()
        self._publish_proven(effect.position)

    def _note_whole(self) -> None:
        """Once all that lacked is protected: note it, again and again until that is durable."""
        now_ns = self._outside.clock.boottime_ns()
        if self._builder is None or not self.stream.protected or now_ns < self._save_again_ns:
            return
        active, lacking = self._identity.active, self._lacking
        whole = frozenset(source.whole_id for index, source in active.items() if index not in lacking)
        episode = self._notes.episode if lacking else self._began.episode
        if (whole, episode) == (self._notes.whole, self._notes.episode):
            return
        self._save_again_ns = now_ns + SAVE_AGAIN_NS
        if self._save(replace(self._notes, whole=whole, episode=episode)) and not lacking:
            self._note_compared()

    def _note_compared(self) -> None:
        """Nothing is in doubt any more; the splitter may forget what was."""
        local = self._outside.local
        if self._copying is not None:
            self._copying.close()
        self.shown.standing = "streaming"
        self.shown.troubles.clear()
        local.publish(replace(local.streamer(), compared_episode=self._notes.episode))

    def _fence(self, why: str) -> None:
        """Never write again. The note outlasts this run; without it the next run would find the same."""
        self.run = replace(self.run, phase=ot.Phase.FENCED)
        self.shown.standing = "fenced"
        self.trouble("fenced", why)
        self._save(replace(self._notes, fenced=why))
        self._notes = replace(self._notes, fenced=why)
        for reply in self._waiting.values():
            reply(Answered(None, why))
        self._waiting.clear()
        self._promised.clear()

    def _save(self, notes: Notes) -> bool:
        try:
            self._outside.local.save_notes(notes)
        except CdpError as error:
            self.trouble("notes", str(error))
            return False
        self._notes = notes
        self.shown.troubles.pop("notes", None)
        return True

    def trouble(self, topic: str, why: str) -> None:
        """Something to show, until it is over."""
        self.shown.troubles[topic] = why
        self.shown.last_error = f"{topic}: {why}"
        self.shown.last_error_ns = self._outside.clock.wall_ns()
