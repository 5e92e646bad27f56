"""What a reader does with its hold, and when: plain functions of rosters and boot-time nanoseconds. PURE.

Carrying it out does not belong here (holding), nor when a hold of somebody else is dead (held).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cdp_container.errors import HoldLost
from cdp_container.format.holds import Hold

HOLD_TERM_SECONDS: Final = 900
REFRESHES_PER_TERM: Final = 3
"""Two may fail before the term passes."""
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What a reader knows of its hold.

    `hold` is what the entry should be; `refreshed_ns` is when the request was begun that last is known to
    have written it.
    """

    hold_id: str
    hold: Hold
    refreshed_ns: int


def refresh_due(standing: Standing, boottime_ns: int) -> bool:
    """Whether a third of the term has passed since the last refresh that is known to be done."""
    term_ns = standing.hold.term_seconds * _SECOND_NS
    return boottime_ns - standing.refreshed_ns >= term_ns // REFRESHES_PER_TERM


def term_passed(standing: Standing, boottime_ns: int) -> bool:
    """Whether the collector may have taken the hold for dead."""
    return boottime_ns - standing.refreshed_ns > standing.hold.term_seconds * _SECOND_NS


def with_hold(holds: Mapping[str, Hold], hold_id: str, hold: Hold) -> Mapping[str, Hold] | None:
    """The roster with a new entry; None where it is there."""
    return None if holds.get(hold_id) == hold else {**holds, hold_id: hold}


def with_refreshed(holds: Mapping[str, Hold], hold_id: str, hold: Hold) -> Mapping[str, Hold] | None:
    """The roster with an entry as it should be; None where it is so. Raises HoldLost where there is none.

    An entry that somebody took out is never put back: what it protected may be gone.
    """
    if hold_id not in holds:
        raise HoldLost(f"go on under the hold {hold_id[:8]}", "it is not in the roster any more")
    return with_hold(holds, hold_id, hold)


def without_hold(holds: Mapping[str, Hold], hold_id: str) -> Mapping[str, Hold] | None:
    """The roster without an entry; None where there is none."""
    if hold_id not in holds:
        return None
    return {other: hold for other, hold in holds.items() if other != hold_id}


def hold_to_go_on_with(
    holds: Mapping[str, Hold], known: Sequence[str], point: tuple[int, int] | None
) -> tuple[str, Hold] | None:
    """The hold of an interrupted run of this job, if it stands and holds the point that is asked for.

    Args:
        holds: the roster.
        known: the ids that the interrupted run noted.
        point: (epoch, cut number), None where the newest of something is asked for.
    """
    for hold_id in known:
        hold = holds.get(hold_id)
        if hold is None or hold.cut is None or hold.until_ns is not None:
            continue
        if (hold.cut.epoch, hold.cut.cut) == point:
            return hold_id, hold
    return None
