"""When the owner renews, backs off and has to stop: the arithmetic of leases. PURE.

All times are boot-time nanoseconds. What is decided with them does not belong here (owner.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cdp_container.domain.owner_types import Failure, Phase, RunState

SECOND_NS: Final = 1_000_000_000
IDLE_AFTER_NS: Final = 300 * SECOND_NS
"""Without a write for so long, renewals become rare."""
IDLE_LEASE_SECONDS: Final = 900
"""The lease of an idle domain: a renewal every 300 s costs a store next to nothing."""
RENEWALS_PER_LEASE: Final = 3
"""Two renewals may fail before the lease passes."""
REQUESTS_PER_LEASE: Final = 6
"""Half of what lies between two renewals: a request that hangs costs one of them at most."""
REQUEST_SECONDS_MIN: Final = 2
"""A store far away, or busy, needs that long for an answer at times."""
RETRY_FIRST_NS: Final = SECOND_NS // 4
RETRY_MAX_NS: Final = 10 * SECOND_NS
"""A third of the default lease: an outage ends at most so long after the store is back."""
THROTTLED_FIRST_NS: Final = SECOND_NS
THROTTLED_MAX_NS: Final = 10 * SECOND_NS
"""A store that asks for patience gets it; but one that throttles half of all requests must not end it all."""
DOUBLINGS_MAX: Final = 16
"""Of a back-off, before the cap is applied."""

CLAIMED: Final = frozenset(
    {
        Phase.FINDING,
        Phase.RECORDING,
        Phase.CHECKING,
        Phase.COUNTING,
        Phase.ACTIVATING,
        Phase.ACTIVE,
        Phase.RELEASING,
    }
)
"""The phases in which `domain/owner` is known to be ours: whoever else shows up has overtaken us."""


def quiet(state: RunState) -> RunState:
    """The store answered: no back-off any more."""
    return replace(state, failures=0, retry_at_ns=0)


def delay_ns(failure: Failure, before: int) -> int:
    """How long to back off after `before` failures in a row and now this one."""
    if failure is Failure.PRECONDITION and before == 0:
        return 0
    throttled = failure is Failure.THROTTLED
    first, most = (THROTTLED_FIRST_NS, THROTTLED_MAX_NS) if throttled else (RETRY_FIRST_NS, RETRY_MAX_NS)
    return min(most, first << min(before, DOUBLINGS_MAX))


def request_seconds(lease_seconds: int) -> int:
    """How long an answer to a request on `domain/owner` is waited for, before it is asked again.

    So an owner that was overtaken while it stood still, with a request under way, knows it within its next
    renewal, whatever became of that request.
    """
    return max(REQUEST_SECONDS_MIN, lease_seconds // REQUESTS_PER_LEASE)


def lease_ns(state: RunState) -> int:
    """The lease that is in force, as recorded by the last swap that is known to be done."""
    assert state.seen is not None
    return state.seen.lease_seconds * SECOND_NS


def lapsed(state: RunState, boottime_ns: int) -> bool:
    """Whether a whole lease passed since before the last renewal that is known to be done."""
    return boottime_ns - state.renewed_ns > lease_ns(state)


def lease_wanted(state: RunState, boottime_ns: int) -> int:
    """The lease that the next swap records, in seconds: long while nobody writes."""
    idle = state.phase is Phase.ACTIVE and boottime_ns - state.active_ns >= IDLE_AFTER_NS
    lease = state.claimant.lease_seconds
    return max(lease, IDLE_LEASE_SECONDS) if idle else lease


def renewal_due(state: RunState, boottime_ns: int) -> bool:
    """Whether the claim or the ownership that we hold is to be renewed now."""
    return state.phase in CLAIMED and boottime_ns >= renew_at_ns(state)


def renew_at_ns(state: RunState) -> int:
    """A third of the lease after the last renewal; at once where a write ended an idle time."""
    assert state.seen is not None
    woken = state.active_ns > state.renewed_ns and state.seen.lease_seconds > state.claimant.lease_seconds
    return state.renewed_ns if woken else state.renewed_ns + lease_ns(state) // RENEWALS_PER_LEASE
