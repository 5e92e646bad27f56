"""What an event means: the streamer's state after it, and what follows at once. PURE.

Puts that ended, what was read, sealed and proven. What does not belong here: what is to be done next, and
when (`steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

from cdp_agent.streamer.fill_step_types import FillingLooked, Lacking, is_whole, lacking_at, marked
from cdp_agent.streamer.step_types import (
    Answer,
    Asked,
    AskedFor,
    CatalogEnded,
    CopyEnded,
    CutFacts,
    CutProven,
    CutRead,
    Effect,
    EpochBegan,
    Event,
    Fence,
    Fixed,
    Flying,
    ForgetSegment,
    LeaseBack,
    LeasePassed,
    Protected,
    PutEnded,
    PutOutcome,
    Refuse,
    SegmentSealed,
    StreamState,
    TailMoved,
    Tick,
    VmsLooked,
)
from cdp_agent.streamer.tree_step_types import TreesLooked, TreesSwept
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE as NO_POSITION

ASKED_MAX: Final = 1024
"""Markers and flushes that wait; whoever comes later is refused."""
RETRY_FIRST_NS: Final = 500_000_000
RETRY_MAX_NS: Final = 30_000_000_000
"""An outage of the store ends for us at most so long after it ended."""
DOUBLINGS_MAX: Final = 16
CATALOG_ATTEMPTS_MAX: Final = 8
"""A catalog is never needed: after so many failures it is left out."""

FILLED: Final = "a volume is being filled, or was left half filled: `cdp-agent status` tells"

Effects: TypeAlias = tuple[Effect, ...]
Step: TypeAlias = tuple[StreamState, Effects]


def take(state: StreamState, event: Event, now_ns: int) -> Step:
    """The state after an event at `now_ns` of the boot-time clock, and the effects of that alone."""
    match event:
        case Tick():
            return state, ()
        case EpochBegan():
            return _began(state, event), ()
        case TailMoved(tail, seen_ns, applied):
            return replace(state, tail=tail, tail_seen_ns=seen_ns, applied=applied), ()
        case TreesLooked(ready, trees_changed, anew):
            looked = replace(state, trees_ready=ready, trees_changed=trees_changed)
            return replace(looked, sweep_due=state.sweep_due or anew), ()
        case TreesSwept():
            return _swept(state, event), ()
        case VmsLooked(vms_changed):
            return replace(state, vms_changed=vms_changed), ()
        case FillingLooked():
            return _filling_looked(state, event)
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
    gains = {*event.filled} - {*lacking_at(event.filling, event.position)}
    return replace(
        state,
        epoch=event.epoch,
        digest=event.base_digest,
        position=event.position,
        taken_ns=event.taken_ns,
        proven_position=event.position,
        lacking=tuple(map(Lacking, event.lacking)),
        filling=event.filling,
        filled=event.filled,
        announce=event.announce or bool(gains),
        copy_from=event.copy_from,
        trees=event.trees,
        lacking_trees=event.trees,
        sweep_due=bool(event.trees),
    )


def _filling_looked(state: StreamState, event: FillingLooked) -> Step:
    """A cut without any write is worth it where it has what the newest one has not.

    A marker that waits names an instant, which cannot wait until a volume is filled.
    """
    filling = marked(state.filling, event, state.tail)
    gains = {*state.filled} - {*lacking_at(filling, state.position)}
    refused = [one for one in state.asked if one.name is not None and lacking_at(filling, one.target)]
    state = replace(
        state,
        filling=filling,
        announce=state.announce or bool(gains),
        asked=tuple(one for one in state.asked if one not in refused),
    )
    return state, tuple(Refuse(one.ticket, FILLED) for one in refused)


def _swept(state: StreamState, event: TreesSwept) -> StreamState:
    """What it gave goes into the next cut, which is due at once, and so is the take that follows."""
    assert state.sweeping, event
    return replace(
        state,
        sweeping=False,
        sweep_due=not event.done,
        sweep_given=event.given,
        swept=event.done,
        more=state.more or event.done,
        trees_ready=state.trees_ready and event.done,  # until it was looked at again
    )


def _cut_read(state: StreamState, event: CutRead, now_ns: int) -> Step:
    """The cut was read: it is numbered now, or comes to nothing."""
    assert state.reading, event
    waits = event.waits or (state.copying and state.waits)
    filled = lacking_at(state.filling, event.position)
    # The newest cut lists what is whole by now: nobody is answered with that one.
    gains = event.empty and not state.copying and bool({*state.filled} - {*filled})
    taking, left, effects = ((), state.taking, ()) if gains else _answered(state, event, filled)
    # Nothing was written, but a cut there lets the journal go of all generations before: starts without a
    # write would fill it otherwise.
    begins_anew = event.empty and not state.copying and event.position.generation != state.position.generation
    # Or that trees are whole is all that there is to say.
    is_more_whole = event.empty and not {*state.lacking_trees} <= {*event.lacking_trees}
    state = replace(
        state,
        reading=False,
        position=event.position,
        taken_ns=event.taken_ns,
        more=not event.reached or event.again,
        trees_changed=state.trees_changed or event.again,
        asked=state.asked if waits else (*left, *state.asked),
        fixed=left if waits else (),
        waits=waits,
        sweep_due=state.sweep_due or event.sweep,
        taking=(),
        cut_at_ns=state.cut_at_ns if state.copying else now_ns + state.pace.cadence_ns,
        copied_last=state.copying,
        announce=begins_anew or is_more_whole or gains or (state.announce and state.copying),
        copy_from=NO_POSITION if event.position == state.copy_from else state.copy_from,
    )
    if event.empty:
        lacking_trees = tuple(
            tree for tree in state.trees if tree in state.lacking_trees or tree in event.lacking_trees
        )
        state, answers = _answered_later(replace(state, lacking_trees=lacking_trees), taking)
        return state, (*effects, *answers)
    facts = CutFacts(
        place=Place(state.epoch, state.cut + 1, 0),
        position=event.position,
        lacking=tuple(one.source for one in state.lacking if not is_whole(one, event.position)),
        tickets=taking,
        lacking_trees=event.lacking_trees,
        taken_ns=event.taken_ns,
        filled=filled,
    )
    lacking = tuple(one for one in state.lacking if one.source in facts.lacking)
    return replace(
        state,
        cut=state.cut + 1,
        building=True,
        lacking=lacking,
        filled=filled,
        lacking_trees=event.lacking_trees,
        cuts=(*state.cuts, facts),
    ), effects


def _answered(
    state: StreamState, event: CutRead, filled: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[Asked, ...], Effects]:
    """Tickets that this cut answers, those that it may not answer yet, and what markers are told at once.

    `filled`: not whole in it, as they are filled from outside.
    """
    if state.copying or not event.reached:
        return (), state.fixed if state.copying else state.taking, ()
    markers = tuple(asked for asked in state.taking if asked.name is not None)
    flushes = tuple(asked for asked in state.taking if asked.name is None)
    answered = tuple(asked for asked in flushes if not event.lacking_trees and (asked.anyway or not filled))
    left = tuple(asked for asked in flushes if asked not in answered)
    if event.lacking_trees and event.sweep and not event.refused:
        return (), state.taking, ()  # what is asked for now may be whole after a sweep
    why = event.refused or (FILLED if filled else "")
    if why:
        refused = tuple(Refuse(marker.ticket, why) for marker in markers)
        return tuple(asked.ticket for asked in answered), left, refused
    assert not (markers and event.lacking_trees), "a marker names a cut at which all is whole"
    fixed = tuple(Fixed(marker.ticket) for marker in markers) if state.trees else ()
    return tuple(asked.ticket for asked in (*answered, *markers)), left, fixed


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
        state = changed(state, event.seq, lambda old: replace(old, putting=False, stored=True))
        return _landed(replace(state, slow_failures=0)), (ForgetSegment(event.seq),)
    if event.outcome is PutOutcome.THROTTLED:
        state = _slowed(state, now_ns)
    return changed(state, event.seq, lambda old: _failed(old, now_ns)), ()


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
    trees_ns = 0 if newest.lacking_trees else newest.taken_ns
    protected = Protected(newest.place, newest.position, newest.lacking, trees_ns, newest.filled)
    return state, (protected, *answers)


def _catalog_ended(state: StreamState, event: CatalogEnded, now_ns: int) -> Step:
    state = replace(state, catalog_busy=False)
    if event.outcome is PutOutcome.FOREIGN:
        why = f"catalog {event.level}-{event.number} of epoch {state.epoch} holds bytes that are not ours"
        return replace(state, fenced=True), (Fence(why),)
    if event.outcome is PutOutcome.STORED or state.catalog_failures + 1 == CATALOG_ATTEMPTS_MAX:
        done = list(state.catalogs)
        done[event.level] = event.number
        return replace(state, catalogs=tuple(done), catalog_failures=0, catalog_at_ns=0), ()
    if event.outcome is PutOutcome.THROTTLED:
        state = _slowed(state, now_ns)
    failures = state.catalog_failures
    return replace(state, catalog_failures=failures + 1, catalog_at_ns=now_ns + _delay_ns(failures)), ()


def changed(state: StreamState, seq: int, change: Callable[[Flying], Flying]) -> StreamState:
    """One segment in flight is changed."""
    return replace(
        state, flying=tuple(change(flying) if flying.seq == seq else flying for flying in state.flying)
    )


def _slowed(state: StreamState, now_ns: int) -> StreamState:
    slow_until_ns = now_ns + _delay_ns(state.slow_failures)
    return replace(state, slow_failures=state.slow_failures + 1, slow_until_ns=slow_until_ns)


def _delay_ns(failures: int) -> int:
    return min(RETRY_MAX_NS, RETRY_FIRST_NS << min(failures, DOUBLINGS_MAX))
