"""Who may write the domain: the owner's step machine. PURE: an event in, effects out.

A run claims the domain by compare-and-swap in two steps (claim; find where the epoch before ends, write the
epoch record, activate), renews its lease, proves cuts and stops for ever when it was overtaken. No time is
read here, no nonce made and nothing sent: `Moment` brings the first two, whoever runs the machine does the
third. What does not belong here: segments (the streamer's), whether a domain may be claimed
(`owner_takeover`), and what the objects say that it writes (`owner_objects`).

The rules of a swap, on which all safety rests: every attempt has a fresh nonce, durable before it is sent.
Where its outcome is not known, the object is read back. Our nonce: done. Another version: lost. The *old*
version proves nothing, because the request may land yet: a fresh attempt against the old tag follows, after
which at most one of all attempts can ever land.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, TypeAlias

from cdp_container.domain.owner_lease import (
    CLAIMED,
    delay_ns,
    lapsed,
    lease_ns,
    quiet,
    renew_at_ns,
    renewal_due,
)
from cdp_container.domain.owner_objects import epoch_record, heed_change, is_as_asked, wanted_owner
from cdp_container.domain.owner_takeover import begin_cancel, consider, put_back, released
from cdp_container.domain.owner_types import (
    Activated,
    Activity,
    Attempt,
    Cancel,
    ChangePlan,
    Claim,
    Claimant,
    Configure,
    CountEpochs,
    Effect,
    End,
    EndFound,
    EpochRead,
    EpochsCounted,
    EpochWritten,
    Event,
    Failure,
    Fenced,
    FindEnd,
    Moment,
    NoteFenced,
    NoteNonces,
    NoteOwning,
    NoteReleasing,
    OwnerFailed,
    OwnerRead,
    OwnerUnchanged,
    Paused,
    Phase,
    Prove,
    Proven,
    ReadEpoch,
    ReadOwner,
    Record,
    Release,
    Request,
    Resumed,
    RunState,
    SwapOwner,
    Swapped,
    TakeOver,
    Tick,
    Trouble,
    WorkFailed,
    WriteEpoch,
)
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.place import NOWHERE, Place

ATTEMPTS_MAX: Final = 256
"""Swaps of unknown outcome that are remembered; at the longest back-off, 40 minutes of them."""
Step: TypeAlias = tuple[RunState, tuple[Effect, ...]]

_OVER: Final = frozenset({Phase.FENCED, Phase.RELEASED, Phase.REFUSED})
_LOOKING: Final = frozenset({Phase.READING, Phase.ELSEWHERE, Phase.WATCHING})
"""The phases in which `domain/owner` is read again and again, as it is not ours."""


def begin(
    claimant: Claimant, known: Iterable[bytes], fenced: bool, released: bool, releasing_to: str = ""
) -> RunState:
    """The state of a run that starts, from what the durable notes say.

    `releasing_to`: the site that `NoteReleasing` names, "" where none was noted.
    """
    phase = Phase.FENCED if fenced else Phase.RELEASED if released else Phase.IDLE
    return RunState(claimant, frozenset(known), phase, release_to=releasing_to)


def first_owner(
    domain: bytes, name: str, site: str, nonce: bytes, config: bytes, lease_seconds: int, wall_ns: int
) -> Owner:
    """What `init` creates: a domain that nobody owned yet, released to the site that made it."""
    return Owner(
        domain=domain,
        name=name,
        version=1,
        nonce=nonce,
        site=site,
        instance=bytes(16),
        epoch=0,
        state=OwnerState.RELEASED,
        previous=0,
        since_ns=wall_ns,
        renewals=0,
        lease_seconds=lease_seconds,
        operator="",
        reason="init",
        released_to=site,
        config=config,
    )


def may_put(state: RunState, boottime_ns: int) -> bool:
    """Whether segments may be put now: the epoch is ours and was renewed within its lease."""
    return state.phase is Phase.ACTIVE and not lapsed(state, boottime_ns)


def is_recorded(state: RunState, place: Place) -> bool:
    """Whether `domain/owner` says that this cut is protected."""
    return state.seen is not None and place <= state.seen.protected


def due_ns(state: RunState) -> int | None:
    """When the machine wants its next Tick (boot-time clock), None while it waits for something else."""
    if state.phase in _OVER:
        return None
    due = []
    if state.request is None and _wants_request(state):
        due.append(state.retry_at_ns)
    elif state.request is None and state.phase in CLAIMED:
        due.append(max(renew_at_ns(state), state.retry_at_ns))
    if state.phase is Phase.ACTIVE and not state.paused:
        due.append(state.renewed_ns + lease_ns(state) + 1)
    if not state.working and state.phase in _WORK:
        due.append(state.work_at_ns)
    return min(due, default=None)


def step(state: RunState, event: Event, moment: Moment) -> Step:
    """One step: what happened, and what is to be done about it, in that order.

    At most one request on `domain/owner` and one piece of work are in flight at any time.
    """
    if isinstance(event, Cancel):
        state = begin_cancel(state, moment)
    if state.phase in _OVER:
        return state, ()
    state, effects = _take(state, event, moment)
    state = heed_change(state)
    if state.phase in _OVER:
        return state, effects
    state, more = _lapse(state, moment)
    effects += more
    state, more = _ask(state, moment)
    effects += more
    state, more = _work(state, moment)
    return state, effects + more


# --- what an event means -----------------------------------------------------------------------


def _take(state: RunState, event: Event, moment: Moment) -> Step:
    match event:
        case Tick() | Cancel():
            return state, ()
        case Claim():
            claimed = replace(state, phase=Phase.READING, active_ns=moment.boottime_ns)
            return (claimed if state.phase is Phase.IDLE else state), ()
        case TakeOver():
            assert state.phase in (Phase.IDLE, Phase.ELSEWHERE), state.phase
            wanted = replace(state, phase=Phase.READING, takeover=event, retry_at_ns=0)
            return replace(wanted, active_ns=moment.boottime_ns), ()
        case Activity():
            return replace(state, active_ns=moment.boottime_ns), ()
        case Prove(place):
            return replace(state, prove=place), ()
        case Configure(config):
            # Who is giving the domain up, or has none any more, changes nothing of it.
            return (replace(state, config=config) if state.phase is Phase.ACTIVE else state), ()
        case ChangePlan():
            return replace(state, change=event), ()
        case Release(site):
            assert state.phase is Phase.ACTIVE, state.phase
            return replace(state, phase=Phase.RELEASING, release_to=site), ()
        case Record(place):
            assert place <= state.proven, "only what is proven can be recorded"
            return replace(state, promised=max(state.promised, place)), ()
        case OwnerRead() | OwnerUnchanged() | Swapped() | OwnerFailed():
            return _take_reply(state, event, moment)
        case EndFound() | EpochWritten() | EpochRead() | EpochsCounted() | WorkFailed():
            return _take_work(state, event, moment)


def _take_reply(
    state: RunState, event: OwnerRead | OwnerUnchanged | Swapped | OwnerFailed, moment: Moment
) -> Step:
    assert state.request is not None, event
    proving = state.proving if state.request is Request.PROOF else None
    state = replace(state, request=None, proving=None)
    match event:
        case Swapped(tag):
            assert state.sent is not None
            return _confirmed(state, state.sent, tag, state.attempts[-1])
        case OwnerUnchanged():
            assert proving is not None
            return _proven(quiet(state), proving)
        case OwnerRead(owner, tag):
            return _take_owner(state, owner, tag, proving, moment)
        case OwnerFailed(failure, why):
            # A proof that failed is asked for again; only a swap leaves something to settle.
            if proving is not None and state.prove is None:
                state = replace(state, prove=proving)
            return _failed(state, failure, why, moment)


def _take_owner(state: RunState, owner: Owner, tag: str, proving: Place | None, moment: Moment) -> Step:
    """`domain/owner` was read: it is ours, still the old one, or somebody else's."""
    landed = next((attempt for attempt in state.attempts if attempt.nonce == owner.nonce), None)
    if landed is not None:
        return _confirmed(state, owner, tag, landed)
    looking = state.phase in _LOOKING
    if state.seen is not None and owner.nonce == state.seen.nonce and not looking:
        # With attempts open the back-off goes on growing: reads that work do not mean that writes do.
        same = replace(state if state.attempts else quiet(state), seen=owner, tag=tag, settle=False)
        return _proven(same, proving) if proving is not None else (same, ())
    if state.phase in CLAIMED and owner.epoch < state.epoch:
        return put_back(state, owner, tag, proving)
    if state.phase is Phase.RELEASING and state.sent is not None and state.sent.state is OwnerState.RELEASED:
        return released(state, owner, state.release_to)
    if state.phase in CLAIMED:
        return _fence(state, owner)
    return consider(replace(quiet(state), attempts=(), settle=False), owner, tag, moment)


def _confirmed(state: RunState, owner: Owner, tag: str, attempt: Attempt) -> Step:
    """One of our swaps is known to have been done; every other attempt against the old tag is dead."""
    state = replace(
        quiet(state),
        seen=owner,
        tag=tag,
        attempts=(),
        settle=False,
        overruled=False,
        known=frozenset({owner.nonce}),
        renewed_ns=attempt.began_ns,
    )
    effects: tuple[Effect, ...] = ()
    if state.paused:
        state, effects = replace(state, paused=False), (Resumed(),)
    mine = owner.epoch == state.epoch
    if state.phase is Phase.CLAIMING and mine and owner.state is OwnerState.CLAIMING:
        # Found before a collision of epochs, the end is still the end: nobody but us could have moved it.
        return replace(state, phase=Phase.FINDING if state.end is None else Phase.RECORDING), effects
    if state.phase is Phase.ACTIVATING and mine and owner.state is OwnerState.ACTIVE:
        assert state.record is not None
        assert state.end is not None
        if state.cancel:
            effects += (NoteOwning(),)
        active = replace(state, phase=Phase.ACTIVE, cancel=False)
        return active, (*effects, Activated(state.record, state.end))
    if state.phase is Phase.RELEASING and owner.state is OwnerState.RELEASED:
        state, more = released(state, owner, state.release_to)
        return state, effects + more
    return state, effects


def _proven(state: RunState, place: Place) -> Step:
    """The epoch was still ours after the last acknowledgement of that cut."""
    assert state.seen is not None
    assert (state.seen.epoch, state.seen.state) == (state.epoch, OwnerState.ACTIVE)
    return replace(state, proven=max(state.proven, place)), (Proven(place),)


def _fence(state: RunState, owner: Owner) -> Step:
    why = (
        f"site {owner.site!r} (run {owner.instance.hex()[:8]}) took the domain with epoch {owner.epoch}; "
        f"ours was {state.epoch}"
    )
    return replace(state, phase=Phase.FENCED, seen=owner), (NoteFenced(why), Fenced(why))


def _failed(state: RunState, failure: Failure, why: str, moment: Moment) -> Step:
    """A request on `domain/owner` failed: when to go on, and whether to read back first."""
    # 409 and a note that failed are known not to have been done; everything else needs a look.
    known_undone = failure in (Failure.CONTENTION, Failure.LOCAL)
    state = replace(
        state,
        settle=state.settle or (bool(state.attempts) and not known_undone),
        failures=state.failures + 1,
        retry_at_ns=moment.boottime_ns + delay_ns(failure, state.failures),
    )
    return state, (Trouble("domain/owner", f"{failure.value}: {why}"),)


def _take_work(
    state: RunState, event: EndFound | EpochWritten | EpochRead | EpochsCounted | WorkFailed, moment: Moment
) -> Step:
    assert state.working, event
    state = replace(state, working=False)
    if isinstance(event, WorkFailed):
        return _work_failed(state, event, moment)
    state = replace(state, work_failures=0, work_at_ns=0)
    match event:
        case EndFound(end):
            return _found(state, end, moment)
        case EpochWritten():
            return replace(state, phase=Phase.ACTIVATING), ()
        case EpochRead(None):
            # The same bytes again: whichever attempt lands, it says the same.
            return replace(state, phase=Phase.RECORDING), ()
        case EpochRead(record):
            return replace(state, phase=Phase.ACTIVATING if record == state.record else Phase.COUNTING), ()
        case EpochsCounted(highest):
            epoch = max(highest, state.epoch) + 1
            return replace(state, phase=Phase.CLAIMING, epoch=epoch, record=None), ()


def _found(state: RunState, end: End, moment: Moment) -> Step:
    assert state.seen is not None
    if end.place < state.seen.protected and not state.lost:
        why = f"the newest cut found is {end.place}, but {state.seen.protected} was proven to be there"
        return _work_failed(state, WorkFailed(Failure.LOST, why), moment)
    base = None if state.takeover is None else state.takeover.base
    if base is not None and base > end.place:
        why = f"the cut {base} was chosen, and the newest one found is {end.place}"
        return _work_failed(state, WorkFailed(Failure.LOST, why), moment)
    return replace(state, end=end, phase=Phase.RECORDING), ()


def _work_failed(state: RunState, event: WorkFailed, moment: Moment) -> Step:
    state = replace(
        state,
        work_failures=state.work_failures + 1,
        work_at_ns=moment.boottime_ns + delay_ns(event.failure, state.work_failures),
        # Whether the record was created is not known, or somebody else's is there: look.
        phase=Phase.CHECKING if state.phase is Phase.RECORDING else state.phase,
        lost=state.lost or _may_lose(state, event.failure),
    )
    return state, (Trouble(state.phase.value, f"{event.failure.value}: {event.why}"),)


def _may_lose(state: RunState, failure: Failure) -> bool:
    """Whether the operator accepted that what was proven is gone."""
    accepted = state.takeover is not None and state.takeover.accept_loss
    return accepted and state.phase is Phase.FINDING and failure is Failure.LOST


# --- what to do next ---------------------------------------------------------------------------


def _lapse(state: RunState, moment: Moment) -> Step:
    """Stop putting when the lease passed. This only saves work; proofs and ends make it safe."""
    if state.phase is Phase.ACTIVE and not state.paused and lapsed(state, moment.boottime_ns):
        return replace(state, paused=True), (Paused(),)
    return state, ()


def _ask(state: RunState, moment: Moment) -> Step:
    """The next request on `domain/owner`, if one is wanted now."""
    if state.request is not None or state.phase is Phase.IDLE or moment.boottime_ns < state.retry_at_ns:
        return state, ()
    if state.settle or state.phase in _LOOKING:
        return replace(state, request=Request.READ), (ReadOwner(unless_tag=None),)
    if _wants_swap(state) or state.attempts or renewal_due(state, moment.boottime_ns):
        return _swap(state, moment)
    if state.prove is not None and state.phase is Phase.ACTIVE:
        state = replace(state, request=Request.PROOF, proving=state.prove, prove=None)
        return state, (ReadOwner(unless_tag=state.tag),)
    return state, ()


def _wants_request(state: RunState) -> bool:
    """Whether `_ask` has something to ask for before the next renewal."""
    reading = state.settle or state.phase in _LOOKING
    proof = state.prove is not None and state.phase is Phase.ACTIVE
    return reading or _wants_swap(state) or bool(state.attempts) or proof


def _wants_swap(state: RunState) -> bool:
    if state.overruled:
        return True
    if state.phase is Phase.ACTIVE:
        return not (is_recorded(state, state.promised) and is_as_asked(state))
    return state.phase in (Phase.CLAIMING, Phase.ACTIVATING, Phase.RELEASING)


def _swap(state: RunState, moment: Moment) -> Step:
    """Send one attempt, its nonce durable first."""
    assert moment.nonce not in {attempt.nonce for attempt in state.attempts} | state.known
    owner = wanted_owner(state, moment)
    attempts = (*state.attempts, Attempt(moment.nonce, moment.boottime_ns))[-ATTEMPTS_MAX:]
    noted = (*sorted(state.known), *(attempt.nonce for attempt in attempts))
    state = replace(state, request=Request.SWAP, attempts=attempts, sent=owner)
    releasing = (NoteReleasing(state.release_to),) if state.phase is Phase.RELEASING else ()
    return state, (*releasing, NoteNonces(noted), SwapOwner(owner, state.tag))


_WORK: Final = frozenset({Phase.FINDING, Phase.RECORDING, Phase.CHECKING, Phase.COUNTING})
"""The phases that wait for a piece of work, while the claim is renewed."""


def _work(state: RunState, moment: Moment) -> Step:
    """The next piece of work, if one is wanted now."""
    if state.working or state.phase not in _WORK or moment.boottime_ns < state.work_at_ns:
        return state, ()
    seen = state.seen
    assert seen is not None
    state = replace(state, working=True)
    match state.phase:
        case Phase.FINDING:
            protected = NOWHERE if state.lost else seen.protected
            return state, (FindEnd(seen.previous, protected, seen.ledger),)
        case Phase.RECORDING:
            state = replace(state, record=state.record or epoch_record(state, moment))
            assert state.record is not None
            return state, (WriteEpoch(state.record),)
        case Phase.CHECKING:
            return state, (ReadEpoch(state.epoch),)
        case _:
            return state, (CountEpochs(),)
