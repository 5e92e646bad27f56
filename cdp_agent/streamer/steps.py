"""Cuts, order and proof: the streamer's step machine. PURE: an event in, effects out.

It decides when a cut is taken, numbers segments and chains their digests, keeps a bounded window of puts in
flight, takes acknowledgements in order, asks for a proof of what is sent and calls protected what was proven.
It never sees data: reading, sealing and putting are effects. What does not belong here: ownership
(`cdp_container.domain.owner`).

The rules that data hangs on: a sealed seq is never sealed again; a put is repeated with the same bytes only;
a cut is sent when all its segments and all earlier ones are stored; the journal is trimmed below a protected
cut alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

from cdp_agent.streamer.step_types import (
    Answer,
    Asked,
    AskedFor,
    AskProof,
    CatalogEnded,
    CopyEnded,
    CutFacts,
    CutProven,
    CutRead,
    Effect,
    EpochBegan,
    Event,
    Fence,
    Flying,
    ForgetSegment,
    Lacking,
    LeaseBack,
    LeasePassed,
    Protected,
    PutEnded,
    PutOutcome,
    PutSegment,
    ReadCut,
    SealSegment,
    SegmentSealed,
    StreamState,
    TailMoved,
    Tick,
    WriteCatalog,
)
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.position import NOWHERE as NO_POSITION
from cdp_container.journal.position import Position

PUTS_MAX: Final = 8
"""Requests in flight: enough to fill a WAN with objects of 8 MiB, few enough for a small machine."""
WINDOW_BYTES_MAX: Final = 96 << 20
"""Sealed bytes that are not acknowledged; they are kept in memory, as a sealed seq is never built again."""
FLYING_MAX: Final = 64
"""Sealed segments that are not acknowledged, however small: each is tried again by itself, and a store that
takes none would meet more requests with every cut. Cuts wait meanwhile, and are the wider."""
ASKED_MAX: Final = 1024
"""Markers and flushes that wait; whoever comes later is refused."""
RETRY_FIRST_NS: Final = 500_000_000
RETRY_MAX_NS: Final = 30_000_000_000
"""An outage of the store ends for us at most so long after it ended."""
DOUBLINGS_MAX: Final = 16
CATALOG_SEGMENTS: Final = (16, 256)
"""How many segments a catalog of each level bundles."""
CATALOG_ATTEMPTS_MAX: Final = 8
"""A catalog is never needed: after so many failures it is left out."""

Step: TypeAlias = tuple[StreamState, tuple[Effect, ...]]
_Change: TypeAlias = Callable[[Flying], Flying]


def step(state: StreamState, event: Event, now_ns: int) -> Step:
    """One step at `now_ns` of the boot-time clock."""
    if state.fenced:
        return state, ()
    state, effects = _take(state, event, now_ns)
    for drive in (_cut, _seal, _put, _prove, _catalog):
        if not state.fenced:
            state, more = drive(state, now_ns)
            effects += more
    return state, effects


def due_ns(state: StreamState) -> int | None:
    """When the machine wants its next Tick, None while it waits for something else."""
    if state.fenced or not state.epoch:
        return None
    due = []
    if _may_cut(state) and (state.tail != state.position or state.copy_from != NO_POSITION):
        due.append(state.cut_at_ns)
    if _may_cut(state) and _to_copy(state) is not None:
        due.append(state.copy_at_ns)
    if not state.paused and _putting(state) < PUTS_MAX:
        waiting = [flying.retry_at_ns for flying in state.flying if not (flying.putting or flying.stored)]
        due += [max(state.slow_until_ns, at_ns) for at_ns in waiting]
    if _next_catalog(state) is not None and not state.paused:
        due.append(max(state.slow_until_ns, state.catalog_at_ns))
    return min(due, default=None)


def window_bytes(state: StreamState) -> int:
    """Sealed bytes that are not acknowledged."""
    return sum(flying.stored_bytes for flying in state.flying if not flying.stored)


# --- what an event means -----------------------------------------------------------------------


def _take(state: StreamState, event: Event, now_ns: int) -> Step:
    match event:
        case Tick():
            return state, ()
        case EpochBegan():
            return _began(state, event), ()
        case TailMoved(tail, seen_ns, applied):
            return replace(state, tail=tail, tail_seen_ns=seen_ns, applied=applied), ()
        case AskedFor(asked):
            assert len(state.asked) < ASKED_MAX
            return replace(state, asked=(*state.asked, asked)), ()
        case CutRead():
            return _cut_read(state, event, now_ns)
        case CopyEnded():
            return _copy_ended(state, event), ()
        case SegmentSealed():
            return _sealed(state, event), ()
        case PutEnded():
            return _put_ended(state, event, now_ns)
        case CutProven(place):
            return _proven(state, place)
        case LeasePassed():
            return replace(state, paused=True), ()
        case LeaseBack():
            return replace(state, paused=False), ()
        case CatalogEnded():
            return _catalog_ended(state, event, now_ns)


def _began(state: StreamState, event: EpochBegan) -> StreamState:
    assert state.epoch == 0, "a run has one epoch"
    return replace(
        state,
        epoch=event.epoch,
        digest=event.base_digest,
        position=event.position,
        taken_ns=event.taken_ns,
        proven_position=event.position,
        lacking=tuple(map(Lacking, event.lacking)),
        announce=event.announce,
        copy_from=event.copy_from,
    )


def _cut_read(state: StreamState, event: CutRead, now_ns: int) -> Step:
    """The cut was read: it is numbered now, or comes to nothing."""
    assert state.reading, event
    taking = state.taking if event.reached else ()
    # Nothing was written, but a cut there lets the journal go of all generations before: starts without a
    # write would fill it otherwise.
    begins_anew = event.empty and not state.copying and event.position.generation != state.position.generation
    state = replace(
        state,
        reading=False,
        position=event.position,
        taken_ns=event.taken_ns,
        more=not event.reached,
        asked=state.asked if event.reached else (*state.taking, *state.asked),
        taking=(),
        cut_at_ns=state.cut_at_ns if state.copying else now_ns + state.pace.cadence_ns,
        copied_last=state.copying,
        announce=begins_anew or (state.announce and state.copying),
        copy_from=NO_POSITION if event.position == state.copy_from else state.copy_from,
    )
    tickets = tuple(asked.ticket for asked in taking)
    if event.empty:
        return _answered_later(state, tickets)
    facts = CutFacts(
        place=Place(state.epoch, state.cut + 1, 0),
        position=event.position,
        lacking=tuple(one.source for one in state.lacking if not _is_whole(one, event.position)),
        tickets=tickets,
    )
    lacking = tuple(one for one in state.lacking if one.source in facts.lacking)
    return replace(state, cut=state.cut + 1, building=True, lacking=lacking, cuts=(*state.cuts, facts)), ()


def _is_whole(one: Lacking, position: Position) -> bool:
    """Whether a cut at this position has all that the copies may have seen of later writes."""
    mark = one.whole_at
    return mark is not None and mark.generation == position.generation and mark.offset <= position.offset


def _copy_ended(state: StreamState, event: CopyEnded) -> StreamState:
    """What the round saw of writes that are in no cut yet lies below `tail`, as the journal comes first."""
    assert state.copying, event
    ended = event.source
    lacking = tuple(Lacking(ended, event.tail) if one.source == ended else one for one in state.lacking)
    return replace(
        state,
        copying=False,
        copy_at_ns=event.again_ns,
        lacking=lacking,
        announce=state.announce or ended is not None,  # a cut without any write is worth it: it is whole
    )


def _answered_later(state: StreamState, tickets: tuple[int, ...]) -> Step:
    """There was nothing new: what was asked for is protected with the newest cut that there is."""
    if not state.cuts:
        return state, tuple(Answer(ticket, state.protected) for ticket in tickets)
    last = replace(state.cuts[-1], tickets=state.cuts[-1].tickets + tickets)
    return replace(state, cuts=(*state.cuts[:-1], last)), ()


def _sealed(state: StreamState, event: SegmentSealed) -> StreamState:
    assert state.sealing, event
    assert event.seq == state.seq + 1, "a sealed seq is never sealed again"
    flying = Flying(event.seq, state.cut, event.digest, event.stored_bytes, event.complete)
    cuts = state.cuts
    if event.complete:
        place = Place(state.epoch, state.cut, event.seq)
        cuts = (*cuts[:-1], replace(cuts[-1], place=place))
    return replace(
        state,
        sealing=False,
        building=not event.complete,
        seq=event.seq,
        digest=event.digest,
        flying=(*state.flying, flying),
        cuts=cuts,
    )


def _put_ended(state: StreamState, event: PutEnded, now_ns: int) -> Step:
    if event.outcome is PutOutcome.FOREIGN:
        why = f"segment {event.seq} of epoch {state.epoch} holds bytes that are not ours: {event.why}"
        return replace(state, fenced=True), (Fence(why),)
    if event.outcome is PutOutcome.STORED:
        state = _changed(state, event.seq, lambda old: replace(old, putting=False, stored=True))
        return _landed(replace(state, slow_failures=0)), (ForgetSegment(event.seq),)
    if event.outcome is PutOutcome.THROTTLED:
        state = _slowed(state, now_ns)
    return _changed(state, event.seq, lambda old: _failed(old, now_ns)), ()


def _failed(flying: Flying, now_ns: int) -> Flying:
    retry_at_ns = now_ns + _delay_ns(flying.failures)
    return replace(flying, putting=False, failures=flying.failures + 1, retry_at_ns=retry_at_ns)


def _landed(state: StreamState) -> StreamState:
    """What is stored without a gap is taken off the window; the last complete cut in it is sent."""
    flying, sent = list(state.flying), state.sent
    while flying and flying[0].stored:
        first = flying.pop(0)
        if first.complete:
            sent = Place(state.epoch, first.cut, first.seq)
    return replace(state, flying=tuple(flying), sent=sent)


def _proven(state: StreamState, place: Place) -> Step:
    """Everything up to this cut is protected."""
    assert place <= state.sent, "only what is sent can be proven"
    proven = [facts for facts in state.cuts if facts.place.seq and facts.place <= place]
    if not proven:
        return state, ()
    newest = proven[-1]
    state = replace(
        state,
        cuts=state.cuts[len(proven) :],
        protected=newest.place,
        proven_position=newest.position,
    )
    answers = [Answer(ticket, facts.place) for facts in proven for ticket in facts.tickets]
    return state, (Protected(newest.place, newest.position, newest.lacking), *answers)


def _catalog_ended(state: StreamState, event: CatalogEnded, now_ns: int) -> Step:
    state = replace(state, catalog_busy=False)
    if event.outcome is PutOutcome.FOREIGN:
        why = f"catalog {event.level}-{event.number} of epoch {state.epoch} holds bytes that are not ours"
        return replace(state, fenced=True), (Fence(why),)
    if event.outcome is PutOutcome.STORED or state.catalog_failures + 1 == CATALOG_ATTEMPTS_MAX:
        done = list(state.catalogs)
        done[event.level] = event.number
        return replace(state, catalogs=(done[0], done[1]), catalog_failures=0, catalog_at_ns=0), ()
    if event.outcome is PutOutcome.THROTTLED:
        state = _slowed(state, now_ns)
    failures = state.catalog_failures
    return replace(state, catalog_failures=failures + 1, catalog_at_ns=now_ns + _delay_ns(failures)), ()


# --- what to do next ---------------------------------------------------------------------------


def _cut(state: StreamState, now_ns: int) -> Step:
    """Take a cut, if one is due and nothing is being read or built."""
    if not _may_cut(state):
        return state, ()
    source = _to_copy(state)
    may_copy = source is not None and now_ns >= state.copy_at_ns
    is_new = state.copy_from != NO_POSITION or state.tail != state.position
    by_cadence = is_new and (state.more or now_ns >= state.cut_at_ns)
    journal_due = state.announce or bool(state.asked and not state.lacking) or by_cadence
    if may_copy and not (journal_due and state.copied_last):
        return _copy(state, source)
    if not journal_due:
        return state, ()
    asked, rest = ((), state.asked) if state.lacking else _answerable(state.asked)
    named = bool(asked) and asked[-1].name is not None
    tail, seen_ns = state.tail, state.tail_seen_ns
    if state.copy_from != NO_POSITION:
        tail, seen_ns = state.copy_from, state.taken_ns  # nobody looked at a clock there
    effect = ReadCut(
        cut=state.cut + 1,
        from_position=state.position,
        to_position=asked[-1].target if named else tail,
        taken_ns=asked[-1].seen_ns if named else seen_ns,
        asked=asked,
        copy=None,
        # A later reader of this epoch alone finds its spaces here.
        announce=state.announce or state.cut == 0,
    )
    return replace(state, reading=True, asked=rest, taking=asked), (effect,)


def _copy(state: StreamState, source: int | None) -> Step:
    """A cut of its own before what follows its position: later writes that it saw are put over it again."""
    effect = ReadCut(
        cut=state.cut + 1,
        from_position=state.position,
        to_position=state.position,
        taken_ns=state.taken_ns,
        asked=(),
        copy=source,
        announce=state.cut == 0,
    )
    return replace(state, reading=True, copying=True), (effect,)


def _to_copy(state: StreamState) -> int | None:
    """The source of which a round may be read: all that cuts hold of it must be on its disk.

    After a power loss the disk also holds what no record says: were it copied before the records of an
    earlier time, they would be put over it.
    """
    if state.copy_from != NO_POSITION:
        return None
    applied, position = state.applied, state.position
    is_applied = applied != NO_POSITION and (
        applied.generation != position.generation or applied.offset >= position.offset
    )
    return next((one.source for one in state.lacking if one.whole_at is None), None) if is_applied else None


def _answerable(asked: tuple[Asked, ...]) -> tuple[tuple[Asked, ...], tuple[Asked, ...]]:
    """Who is served by the next cut: all up to the first marker, as a cut has one name and its end."""
    for number, one in enumerate(asked):
        if one.name is not None:
            return asked[: number + 1], asked[number + 1 :]
    return asked, ()


def _may_cut(state: StreamState) -> bool:
    busy = state.reading or state.building or state.sealing or state.copying
    return state.epoch > 0 and not busy and not state.paused and not _is_window_full(state)


def _is_window_full(state: StreamState) -> bool:
    return window_bytes(state) >= WINDOW_BYTES_MAX or len(state.flying) >= FLYING_MAX


def _seal(state: StreamState, now_ns: int) -> Step:
    if not state.building or state.sealing or _is_window_full(state):
        return state, ()
    effect = SealSegment(
        seq=state.seq + 1,
        cut=state.cut,
        previous_digest=state.digest,
        position=state.cuts[-1].position,
        lacking=state.cuts[-1].lacking,
    )
    return replace(state, sealing=True), (effect,)


def _put(state: StreamState, now_ns: int) -> Step:
    if state.paused or now_ns < state.slow_until_ns:
        return state, ()
    room = PUTS_MAX - _putting(state)
    ready = [
        flying.seq
        for flying in state.flying
        if not (flying.putting or flying.stored) and now_ns >= flying.retry_at_ns
    ]
    for seq in ready[:room]:
        state = _changed(state, seq, lambda old: replace(old, putting=True))
    return state, tuple(PutSegment(seq) for seq in ready[:room])


def _prove(state: StreamState, now_ns: int) -> Step:
    if state.sent <= state.proof_asked or state.sent == NOWHERE:
        return state, ()
    return replace(state, proof_asked=state.sent), (AskProof(state.sent),)


def _catalog(state: StreamState, now_ns: int) -> Step:
    effect = _next_catalog(state)
    if effect is None or state.paused or now_ns < max(state.catalog_at_ns, state.slow_until_ns):
        return state, ()
    return replace(state, catalog_busy=True), (effect,)


def _next_catalog(state: StreamState) -> WriteCatalog | None:
    """The next catalog over protected segments; the wider one first, as it replaces narrow ones."""
    if state.catalog_busy:
        return None
    for level in (1, 0):
        width = CATALOG_SEGMENTS[level]
        number = state.catalogs[level] + 1
        narrower_done = level == 0 or state.catalogs[0] * CATALOG_SEGMENTS[0] >= number * width
        if state.protected.seq >= number * width and narrower_done:
            return WriteCatalog(level, number, (number - 1) * width + 1, number * width)
    return None


# --- helpers -------------------------------------------------------------------------------------


def _changed(state: StreamState, seq: int, change: _Change) -> StreamState:
    return replace(
        state, flying=tuple(change(flying) if flying.seq == seq else flying for flying in state.flying)
    )


def _putting(state: StreamState) -> int:
    return sum(flying.putting for flying in state.flying) + state.catalog_busy


def _slowed(state: StreamState, now_ns: int) -> StreamState:
    slow_until_ns = now_ns + _delay_ns(state.slow_failures)
    return replace(state, slow_failures=state.slow_failures + 1, slow_until_ns=slow_until_ns)


def _delay_ns(failures: int) -> int:
    return min(RETRY_MAX_NS, RETRY_FIRST_NS << min(failures, DOUBLINGS_MAX))
