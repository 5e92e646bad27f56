"""What the objects of an owner's run say: the next `domain/owner`, and the record of its epoch. PURE.

When they are written, and what becomes of an attempt, does not belong here (owner.py).
"""

from __future__ import annotations

from dataclasses import replace

from cdp_container.domain.owner_lease import lease_wanted
from cdp_container.domain.owner_types import Moment, Phase, RunState
from cdp_container.format.domain import EpochRecord, Owner, OwnerState
from cdp_container.format.place import Place


def is_as_asked(state: RunState) -> bool:
    """Whether `domain/owner` names the configuration, plan and ledger that were asked for, if any were."""
    configured = state.config is None or (state.seen is not None and state.seen.config == state.config)
    return configured and state.change is None


def heed_change(state: RunState) -> RunState:
    """Without the change of plan and ledger that was asked for, once it is made or cannot be.

    An attempt that holds it may be under way even so: whoever asks again finds what it left.
    """
    change, seen = state.change, state.seen
    if change is None:
        return state
    if state.phase is Phase.ACTIVE and seen is not None and state.epoch == change.epoch:
        found = (seen.plan, seen.ledger)
        if found == (change.plan_before, change.ledger_before) != (change.plan, change.ledger):
            return state
    return replace(state, change=None)


def wanted_owner(state: RunState, moment: Moment) -> Owner:
    """`domain/owner` as this run wants it to be next."""
    assert state.seen is not None
    seen, claimant = state.seen, state.claimant
    owner = replace(
        seen,
        version=seen.version + 1,
        nonce=moment.nonce,
        site=claimant.site,
        instance=claimant.instance,
        epoch=state.epoch,
        renewals=seen.renewals + 1,
        lease_seconds=lease_wanted(state, moment.boottime_ns),
        protected=max(seen.protected, state.proven),
    )
    match state.phase:
        case Phase.CLAIMING:
            return replace(
                owner,
                state=OwnerState.CLAIMING,
                # The last epoch that was ever active: a claim that came to nothing does not count.
                previous=seen.previous if seen.state is OwnerState.CLAIMING else seen.epoch,
                since_ns=moment.wall_ns,
                renewals=0,
                operator=claimant.operator,
                reason=claimant.reason,
                released_to=None,
            )
        case Phase.ACTIVATING:
            assert state.record is not None
            # What a chosen older cut left behind is protected on its side branch, by our epoch's record.
            return replace(owner, state=OwnerState.ACTIVE, protected=state.record.base)
        case Phase.RELEASING:
            return replace(owner, state=OwnerState.RELEASED, released_to=state.release_to)
        case Phase.ACTIVE:
            return _as_asked(owner, state)
        case _:
            return owner


def _as_asked(owner: Owner, state: RunState) -> Owner:
    if state.config is not None:
        owner = replace(owner, config=state.config)
    if state.change is not None:
        owner = replace(owner, plan=state.change.plan, ledger=state.change.ledger)
    return owner


def epoch_record(state: RunState, moment: Moment) -> EpochRecord:
    """The record of the epoch that this run claimed, once the end of the one before is known."""
    assert state.seen is not None
    assert state.end is not None
    wish = state.takeover
    base = None if wish is None else wish.base
    reason = state.claimant.reason
    if state.end.place < state.seen.protected:
        reason += f"; lost: {_told(state.seen.protected)} was protected, {_told(state.end.place)} is left"
    return EpochRecord(
        domain=state.claimant.domain,
        epoch=state.epoch,
        previous=state.seen.previous,
        site=state.claimant.site,
        instance=state.claimant.instance,
        operator=state.claimant.operator,
        reason=reason,
        base=state.end.place if base is None else base,
        end=state.end.place,
        began_ns=moment.wall_ns,
        software=state.claimant.software,
        unsynchronised=wish is not None and wish.jump > 0,
    )


def _told(place: Place) -> str:
    return f"cut {place.cut} of epoch {place.epoch}" if place else "no cut"
