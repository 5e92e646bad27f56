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
from typing import Final

from cdp_agent.identity import AgentIdentity
from cdp_agent.streamer import step_types as st
from cdp_agent.streamer import steps
from cdp_agent.streamer.build import CutBuilder, EpochFacts
from cdp_agent.streamer.compare import Comparison
from cdp_agent.streamer.engine_types import Answered, Counters, Done, Epoch, Job, Lane, Outside, Shown, Wishes
from cdp_agent.streamer.put import PutResult, put_object
from cdp_agent.streamer.resume import epoch_keys, gap_in, resume_position
from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_work import OwnerRequest, OwnerWork, do_work, request_owner
from cdp_container.errors import CdpError, Fenced, LimitExceeded, PositionUnknown
from cdp_container.format.assemble import SealedObject
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage

CLAIM_AFTER_NS: Final = 10_000_000_000
"""A run with nothing to send claims its epoch so long after its start: the lease is due."""
SAVE_AGAIN_NS: Final = 1_000_000_000
"""Between two attempts to note that a copy is done."""


class Engine:
    """See the module. `jobs` is where new jobs appear; whoever drives the engine takes them out."""

    def __init__(self, identity: AgentIdentity, wishes: Wishes, outside: Outside) -> None:
        self._identity = identity
        self._wishes = wishes
        self._outside = outside
        self._notes = outside.local.load_notes()
        self._boot = outside.local.boot()
        self._started_ns = outside.clock.boottime_ns()
        claimant = ot.Claimant(
            domain=identity.domain,
            site=identity.site,
            instance=outside.entropy(16),
            lease_seconds=wishes.lease_seconds,
            operator=wishes.operator,
            reason="run",
            software=wishes.software,
        )
        self.run = owner.begin(
            claimant, self._notes.nonces, bool(self._notes.fenced), bool(self._notes.released_to)
        )
        self.stream = st.StreamState(st.Pace(wishes.cadence_ns))
        self.jobs: list[Job] = []
        self.counters = Counters()
        self.shown = Shown()
        self._events: deque[Done] = deque()
        self._handling = False
        self._epoch: Epoch | None = None
        self._builder: CutBuilder | None = None
        self._comparison: Comparison | None = None
        self._copying: tuple[bytes, ...] = ()
        self._copied = False
        self._save_again_ns = 0
        self._generation = 0
        self._segments: dict[int, SealedObject] = {}
        self._catalogs: dict[tuple[int, int], SealedObject] = {}
        self._waiting: dict[int, Callable[[Answered], None]] = {}
        self._promised: dict[int, Place] = {}
        self.is_finished = False
        self._tickets = 0

    # --- called from outside -------------------------------------------------------------------

    @property
    def notes(self) -> Notes:
        """The durable notes as they stand."""
        return self._notes

    @property
    def not_whole(self) -> tuple[bytes, ...]:
        """The spaces that are not whole, in the order of agent.json."""
        return tuple(s.space for s in self._identity.sources if s.space not in self._notes.whole)

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
        gap = "" if page is None else gap_in(page)
        if page is None:
            reply(Answered(None, "the splitter is not running yet"))
        elif gap:
            reply(Answered(None, gap, PositionUnknown.default_hint))
        elif len(self._waiting) >= steps.ASKED_MAX:
            reply(Answered(None, f"{steps.ASKED_MAX} others are waiting already"))
        else:
            self._tickets += 1
            self._waiting[self._tickets] = reply
            self._look(page, seen_ns)
            asked = st.Asked(self._tickets, self.stream.tail, name, note, application, seen_ns)
            self._stream(st.AskedFor(asked))

    @property
    def may_finish(self) -> bool:
        """Whether what is captured could be sent soon: not while copying, and not where nothing is sent."""
        sending = self.run.phase is ot.Phase.ACTIVE and not self.stream.paused
        return sending and self._builder is not None and not self._copying

    def finish(self) -> None:
        """Protect what was captured until now, and record it; `is_finished` says when that is done."""

        def reply(_: Answered) -> None:
            self.is_finished = True

        self.ask(None, "", application=False, reply=reply)

    # --- what the splitter published -----------------------------------------------------------

    def _splitter_page(self) -> SplitterPage | None:
        """What the splitter published since the machine started: older pages may hide an unclean boot."""
        page = self._outside.local.splitter()
        return page if page is not None and page.generation and page.boot == self._boot else None

    def _look(self, page: SplitterPage, seen_ns: int) -> None:
        tail = page.tail
        if page.overflowed:
            # What guests wrote since is on their disks alone: no cut is newer than the overflow.
            tail, seen_ns = page.overflow_at, min(seen_ns, page.overflow_ns)
        if tail != self.stream.tail and self.stream.tail != NOWHERE:
            self._owner(ot.Activity())
        self._stream(st.TailMoved(tail, seen_ns))
        self._allow(page)
        if self.run.phase is ot.Phase.IDLE and self._wants_epoch(tail):
            self._owner(ot.Claim())
        if self._epoch is not None and self._builder is None:
            self._begin(self._epoch, page)

    def _wants_epoch(self, tail: Position) -> bool:
        new = tail != self._outside.local.streamer().proven or self.not_whole or self._waiting
        waited_ns = self._outside.clock.boottime_ns() - self._started_ns
        return bool(new) or waited_ns >= CLAIM_AFTER_NS

    def _allow(self, page: SplitterPage) -> None:
        """Exports may open where every source is whole."""
        allowed = 0 if self.not_whole else page.generation
        ours = self._outside.local.streamer()
        if ours.exports_allowed_for != allowed:
            self._outside.local.publish(replace(ours, exports_allowed_for=allowed))

    # --- the epoch begins ----------------------------------------------------------------------

    def _begin(self, epoch: Epoch, page: SplitterPage) -> None:
        """Start sending, if what is here is what the container's newest cut was followed by."""
        to_copy, outside = self.not_whole, self._outside
        try:
            position = resume_position(
                epoch.end,
                page,
                outside.journal,
                outside.local.streamer().proven,
                everything=len(to_copy) == len(self._identity.sources),
            )
        except PositionUnknown as error:
            self.shown.standing = f"refused: {error}"
            return
        if to_copy and (page.exports_open or not page.running):
            self.shown.standing = "waiting to copy: the exports must be closed and the splitter running"
            return
        indexes = [index for index, s in enumerate(self._identity.sources) if s.space in to_copy]
        rounds = outside.local.plan_copy(indexes) if to_copy else []
        self._generation = page.generation
        self._copying = to_copy
        base = epoch.record.base
        if to_copy and base:
            self._comparison = Comparison(outside.patient, self._identity, base)
        self._builder = CutBuilder(
            facts=EpochFacts(
                epoch.record.epoch,
                epoch.record.base,
                epoch.record.end,
                self._identity.site,
                self._wishes.software,
            ),
            keys=epoch_keys(self._identity, outside.entropy),
            sources=self._identity.sources,
            journal=outside.build_journal,
            rounds=rounds,
            cover=bool(epoch.record.base),
            copied=to_copy,
            clock=outside.clock,
            entropy=outside.entropy,
            compressor=outside.compressor,
            different=iter if self._comparison is None else self._comparison.different,
        )
        self.shown.standing = "copying" if to_copy else "streaming"
        self._stream(
            st.EpochBegan(
                epoch=epoch.record.epoch,
                base_digest=epoch.end.digest,
                position=position,
                copies=len(rounds),
                announce=not epoch.record.base,
            )
        )

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
            match effect:
                case st.ReadCut():
                    read = builder.read(effect)
                    return lambda: self._cut_read(effect, read)
                case st.SealSegment():
                    sealed, built = builder.seal(effect)
                    return lambda: self._sealed(sealed, built)
                case st.WriteCatalog(level, number):
                    made = self._catalogs.get((level, number)) or _catalog_of(builder, effect)
                    return lambda: self._put_catalog(effect, made)

        self.jobs.append(Job(Lane.BUILD, work))

    def _cut_read(self, effect: st.ReadCut, read: st.CutRead) -> None:
        if effect.copy is not None:
            page = self._outside.local.splitter()
            if page is None or page.generation != self._generation or page.exports_open:
                # The next run copies anew: this one may have read while a redo was writing.
                raise PositionUnknown("the copy was given up", "the splitter started again meanwhile")
        self._stream(read)

    def _sealed(self, sealed: st.SegmentSealed, built: SealedObject) -> None:
        self._show_comparison()
        self._segments[sealed.seq] = built
        self.counters.cuts += sealed.complete
        self._stream(sealed)

    def _show_comparison(self) -> None:
        comparison = self._comparison
        if comparison is not None:
            self.counters.copy_compared_bytes = comparison.compared_bytes
            self.counters.copy_different_bytes = comparison.different_bytes
            if comparison.why_everything and "comparison" not in self.shown.troubles:
                why = f"everything is sent again, as the index cannot be used: {comparison.why_everything}"
                self.trouble("comparison", why)

    def _put(self, built: SealedObject, ended: Callable[[PutResult], None]) -> None:
        store, clock = self._outside.store, self._outside.clock

        def work() -> Done:
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
        local = self._outside.local
        self._copied = self._copied or effect.whole
        self._note_whole()
        local.publish(replace(local.streamer(), proven=effect.position))

    def _note_whole(self) -> None:
        """Once all copies are protected: note it, again and again until that is durable."""
        now_ns = self._outside.clock.boottime_ns()
        if not (self._copying and self._copied) or now_ns < self._save_again_ns:
            return
        page = self._outside.local.splitter()
        if page is None or page.generation != self._generation:
            raise PositionUnknown("the copy was given up", "the splitter started again meanwhile")
        # Durable before exports open: later runs may open them without asking the store.
        whole = self._notes.whole | frozenset(self._copying)
        self._save_again_ns = now_ns + SAVE_AGAIN_NS
        if self._save(replace(self._notes, whole=whole)):
            self._copying = ()
            self._end_comparison()
            self.shown.standing = "streaming"

    def _end_comparison(self) -> None:
        if self._comparison is not None:
            self._comparison.close()
            self._comparison = None
            self.shown.troubles.pop("comparison", None)

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


def _catalog_of(builder: CutBuilder, effect: st.WriteCatalog) -> SealedObject | None:
    try:
        return builder.catalog(effect)
    except LimitExceeded:
        return None
