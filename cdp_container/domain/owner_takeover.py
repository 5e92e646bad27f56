"""Whether a domain that was just read may be claimed: at once, after its lease, by force, or not. PURE.

Design: whoever wants the domain of another watches (epoch, renewals) stand still for a whole lease on its
own clock, so no two clocks are ever compared; or an operator names the version that he saw, and takes the
blame. What this site released is not claimed again but by a `Cancel`. How a claim is carried out does not
belong here (owner.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

from cdp_container.domain.owner_lease import SECOND_NS
from cdp_container.domain.owner_types import (
    Effect,
    Elsewhere,
    Moment,
    NoteReleased,
    Phase,
    Refused,
    Released,
    RunState,
    TakeOver,
    Trouble,
    Waiting,
    Watch,
)
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.place import Place

ELSEWHERE_NS: Final = 10 * SECOND_NS
"""How often one who does not own the domain looks again."""
WATCH_NS: Final = 5 * SECOND_NS
"""How often one who waits for a lease to pass looks whether it was renewed."""
RELEASE_SECONDS: Final = 600
"""A domain that was released to a site is that site's for so long; unclaimed, it is anybody's after that."""

Considered: TypeAlias = tuple[RunState, tuple[Effect, ...]]


def consider(state: RunState, owner: Owner, tag: str, moment: Moment) -> Considered:
    """What a look at a domain that this run does not hold leads to."""
    state = replace(state, seen=owner, tag=tag, end=None)
    mine = owner.nonce in state.known
    given = owner.state is OwnerState.RELEASED and owner.released_to == state.claimant.site
    wish = state.takeover
    if state.cancel:
        return _claim(state, owner) if mine else _stay_released(state, owner)
    if wish is None and not given and mine and owner.state is OwnerState.RELEASED:
        # Landed, and the run that sent it did not live to hear of it.
        return released(state, owner, owner.released_to or state.release_to)
    if wish is None and not mine and state.release_to:
        # Everything was drained, the swap may have been sent, and what it released was taken; and even where
        # somebody forced it before that, nothing is lost. Whatever came of it, our disks are old by now.
        return released(state, owner, state.release_to)
    if wish is not None and wish.base is not None and owner.ledger != wish.ledger:
        return _refuse(state, owner, "a collection took place since the cut was chosen, which may be gone")
    # What another site gave up holds writes that our disks lack: no agent may claim it over what is on them.
    fits = owner.site == state.claimant.site or wish is not None
    if mine or (given and fits):
        # In another zone with a jump, whatever stands there: at home the next epoch may be somebody's.
        return _claim(state, owner, wish)
    if wish is None:
        retry_at_ns = moment.boottime_ns + ELSEWHERE_NS
        return replace(state, phase=Phase.ELSEWHERE, retry_at_ns=retry_at_ns), (Elsewhere(owner),)
    if wish.forced is not None:
        if wish.forced == (owner.epoch, owner.nonce):
            return _claim(state, owner, wish)
        return _refuse(state, owner, "it changed since it was looked at")
    return _watch(state, owner, wish, moment)


def released(state: RunState, owner: Owner, site: str) -> Considered:
    """The domain was given up to this site, and perhaps taken."""
    over = replace(state, phase=Phase.RELEASED, seen=owner, attempts=(), settle=False)
    return over, (NoteReleased(site), Released(owner))


def put_back(state: RunState, owner: Owner, tag: str, proving: Place | None) -> Considered:
    """An older epoch's object stands in the place of ours, as zones met: ours is written back over it.

    Nothing else explains one: in one zone `domain/owner` goes on to higher epochs only. What was to be proven
    is asked for again. Attempts are kept: replication may bring back what they wrote.
    """
    assert state.seen is not None
    seen = replace(state.seen, version=max(state.seen.version, owner.version))
    prove = proving if state.prove is None else state.prove
    state = replace(state, seen=seen, tag=tag, settle=False, prove=prove, overruled=True)
    why = f"epoch {owner.epoch} of site {owner.site!r} stands in the place of ours, {state.epoch}"
    return state, (Trouble("domain/owner", f"{why}, which is written back"),)


def begin_cancel(state: RunState, moment: Moment) -> RunState:
    """Look whether what was released is still there to be taken back; nothing of the old epoch is kept."""
    assert state.phase is Phase.RELEASED, state.phase
    anew = RunState(state.claimant, state.known, Phase.READING, epoch=state.epoch, cancel=True)
    return replace(anew, active_ns=moment.boottime_ns)


def _stay_released(state: RunState, owner: Owner) -> Considered:
    why = f"site {owner.site!r} has taken it with epoch {owner.epoch}"
    return replace(state, phase=Phase.RELEASED, cancel=False), (Refused(owner, why),)


def _watch(state: RunState, owner: Owner, wish: TakeOver, moment: Moment) -> Considered:
    """Claim once (epoch, renewals) stood still for the whole lease; refuse as soon as they move."""
    watch = state.watch
    if watch is None:
        # From after the look, not from the renewal that it shows: the lease is counted too long, never short.
        watch = Watch(owner.epoch, owner.renewals, moment.boottime_ns)
    elif (owner.epoch, owner.renewals) != (watch.epoch, watch.renewals):
        return _refuse(state, owner, "its lease was renewed while we waited for it to pass")
    seconds = RELEASE_SECONDS if owner.state is OwnerState.RELEASED else owner.lease_seconds
    passes_ns = watch.since_ns + seconds * SECOND_NS
    if moment.boottime_ns > passes_ns:
        return _claim(state, owner, wish)
    retry_at_ns = min(moment.boottime_ns + WATCH_NS, passes_ns + 1)
    watching = replace(state, phase=Phase.WATCHING, watch=watch, retry_at_ns=retry_at_ns)
    return watching, (Waiting(owner, passes_ns),)


def _claim(state: RunState, owner: Owner, wish: TakeOver | None = None) -> Considered:
    jump = 0 if wish is None else wish.jump
    epoch = max(owner.epoch, state.epoch) + 1 + jump
    return replace(state, phase=Phase.CLAIMING, epoch=epoch, watch=None), ()


def _refuse(state: RunState, owner: Owner, why: str) -> Considered:
    return replace(state, phase=Phase.REFUSED, seen=owner, watch=None), (Refused(owner, why),)
