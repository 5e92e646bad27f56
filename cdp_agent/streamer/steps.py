"""Cuts, order and proof: the streamer's step machine. PURE: an event in, effects out.

It decides when a cut is taken, numbers segments and chains their digests, keeps a bounded window of puts in
flight, takes acknowledgements in order, asks for a proof of what is sent and calls protected what was proven.
It never sees data: reading, sealing and putting are effects. What does not belong here: what an event means
for the state (`step_events`), ownership (`cdp_container.domain.owner`).

The rules that data hangs on: a sealed seq is never sealed again; a put is repeated with the same bytes only;
a cut is sent when all its segments and all earlier ones are stored; the journal is trimmed below a protected
cut alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cdp_agent.streamer.fill_step_types import lacking_at
from cdp_agent.streamer.step_events import Step, changed, take
from cdp_agent.streamer.step_types import (
    CATALOG_SEGMENTS,
    Asked,
    AskProof,
    Event,
    PutSegment,
    ReadCut,
    SealSegment,
    StreamState,
    WriteCatalog,
)
from cdp_agent.streamer.tree_step_types import SweepTrees
from cdp_container.format.place import NOWHERE
from cdp_container.journal.position import NOWHERE as NO_POSITION

PUTS_MAX: Final = 8
"""Requests in flight: enough to fill a WAN with objects of 8 MiB, few enough for a small machine."""
WINDOW_BYTES_MAX: Final = 64 << 20
"""Sealed bytes that are not acknowledged; they are kept in memory, as a sealed seq is never built again."""
FLYING_MAX: Final = 64
"""Sealed segments that are not acknowledged, however small: each is tried again by itself, and a store that
takes none would meet more requests with every cut. Cuts wait meanwhile, and are the wider."""


def step(state: StreamState, event: Event, now_ns: int) -> Step:
    """One step at `now_ns` of the boot-time clock."""
    if state.fenced:
        return state, ()
    state, effects = take(state, event, now_ns)
    for drive in (_cut, _sweep, _seal, _put, _prove, _catalog):
        if not state.fenced:
            state, more = drive(state, now_ns)
            effects += more
    return state, effects


def due_ns(state: StreamState) -> int | None:
    """When the machine wants its next Tick, None while it waits for something else."""
    if state.fenced or not state.epoch:
        return None
    due = []
    if _may_cut(state) and _is_new(state):
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


# --- what to do next ---------------------------------------------------------------------------


def _cut(state: StreamState, now_ns: int) -> Step:
    """Take a cut, if one is due and nothing is being read or built."""
    if not _may_cut(state):
        return state, ()
    source = _to_copy(state)
    may_copy = source is not None and now_ns >= state.copy_at_ns
    by_cadence = _is_new(state) and (state.more or now_ns >= state.cut_at_ns)
    at_once = not state.lacking_trees and _may_answer(state)
    journal_due = state.announce or at_once or by_cadence
    if may_copy and not (journal_due and state.copied_last):
        return _copy(state, source)
    if not journal_due:
        return state, ()
    if state.waits:
        asked, rest = state.fixed, state.asked
    else:
        asked, rest = _answerable(state) if _may_answer(state) else ((), state.asked)
    # With trees the watcher finds the instant, at or beyond the tail.
    named = bool(asked) and asked[-1].name is not None and not state.trees
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
        trees=_may_take(state),
        lacking_trees=state.trees,
        swept=state.swept,
        vms_due=state.vms_changed,
    )
    if effect.trees:
        took_sweep = state.sweep_given
        state = replace(
            state,
            sweep_given=False,
            swept=state.swept and took_sweep,
            trees_changed=state.trees_changed and took_sweep,
        )
    return replace(state, reading=True, asked=rest, taking=asked, fixed=(), vms_changed=False), (effect,)


def _sweep(state: StreamState, now_ns: int) -> Step:
    """Ask for a sweep, if one is due. No take is asked for meanwhile, and no batch waits."""
    is_asked = state.sweeping or state.sweep_given or state.waits or (state.reading and not state.copying)
    may_ask = state.trees_ready and not (is_asked or state.paused or _is_window_full(state))
    if not state.sweep_due or not state.epoch or not may_ask or state.copy_from != NO_POSITION:
        return state, ()
    return replace(state, sweeping=True), (SweepTrees(),)


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
        lacking_trees=state.lacking_trees,  # it is the instant of the cut before
    )
    return replace(state, reading=True, copying=True), (effect,)


def _is_new(state: StreamState) -> bool:
    """Whether a cut would hold something, or may answer somebody."""
    in_journal = state.copy_from != NO_POSITION or state.tail != state.position
    # That a tree is whole again may be all that there is to say, and nothing else asks for a cut then.
    is_worth_it = state.trees_changed or bool(state.lacking_trees) or state.sweep_given
    in_trees = is_worth_it and _may_take(state)
    return in_journal or in_trees or state.vms_changed or _may_answer(state)


def _may_take(state: StreamState) -> bool:
    """Whether a cut of the journal asks the watcher.

    Not before what was written before a power loss is in cuts: the trees are those of today. And not while
    that could take long.
    """
    is_brief = state.trees_ready and not (state.sweep_due or state.sweeping)
    may_give = state.waits or state.sweep_given or is_brief
    return bool(state.trees) and may_give and state.copy_from == NO_POSITION


def _may_answer(state: StreamState) -> bool:
    """Whether the next cut of the journal may be what somebody waits for: all sources may be whole in it."""
    # What a sweep gave is of no instant: the take comes after it.
    may_be_whole = not state.lacking and (not state.trees or (_may_take(state) and not state.sweep_given))
    return bool(_able(state)) and may_be_whole


def _able(state: StreamState) -> tuple[Asked, ...]:
    """Those that a cut may answer as far as sources are concerned that are filled from outside."""
    is_filled = bool(lacking_at(state.filling, state.tail))
    return tuple(one for one in state.asked if one.anyway or not is_filled)


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


def _answerable(state: StreamState) -> tuple[tuple[Asked, ...], tuple[Asked, ...]]:
    """Who is served by the next cut: all up to the first marker, as a cut has one name and its end."""
    able = _able(state)
    first = next((number for number, one in enumerate(able) if one.name is not None), len(able))
    served = able[: first + 1]
    tickets = {one.ticket for one in served}
    return served, tuple(one for one in state.asked if one.ticket not in tickets)


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
        lacking=tuple(dict.fromkeys((*state.cuts[-1].lacking, *state.cuts[-1].filled))),
        lacking_trees=state.cuts[-1].lacking_trees,
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
        state = changed(state, seq, lambda old: replace(old, putting=True))
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
    for level in reversed(range(len(CATALOG_SEGMENTS))):
        width = CATALOG_SEGMENTS[level]
        number = state.catalogs[level] + 1
        narrower = level - 1
        narrower_done = level == 0 or state.catalogs[narrower] * CATALOG_SEGMENTS[narrower] >= number * width
        if state.protected.seq >= number * width and narrower_done:
            return WriteCatalog(level, number, (number - 1) * width + 1, number * width)
    return None


# --- helpers -------------------------------------------------------------------------------------


def _putting(state: StreamState) -> int:
    return sum(flying.putting for flying in state.flying) + state.catalog_busy
