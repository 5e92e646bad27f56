"""Holds as people and programs are told of them. PURE.

Whether a hold is dead is decided by the collector alone, on its own clock; here is only what a look can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdp_container.domain.hold_rules import REFRESHES_PER_TERM
from cdp_container.format.holds import Hold
from cdp_container.telling import table, time_text

ID_DIGITS = 8
"""Of an id, as it is printed."""

_TITLES = ("ID", "SITE", "OPERATOR", "FOR", "HOLDS", "SINCE", "STATE")
_SECOND_NS = 1_000_000_000


def is_late(hold: Hold, stored_ns: int, wall_ns: int) -> bool:
    """Whether a reader's counter is further behind than its term, or nobody wrote the roster for so long.

    Its reader may be dead; or it, or the store, was away for a while, or the clocks of two machines differ.
    """
    term_ns = hold.term_seconds * _SECOND_NS
    refreshed_ns = hold.since_ns + hold.counter * (term_ns // REFRESHES_PER_TERM)
    return wall_ns - refreshed_ns > term_ns or wall_ns - stored_ns > term_ns


def state_of(hold: Hold, stored_ns: int, wall_ns: int) -> str:
    """`kept` or `over` (an operator's), `alive` or `late` (a reader's)."""
    if hold.until_ns is not None:
        return "kept" if wall_ns <= hold.until_ns else "over"
    return "late" if is_late(hold, stored_ns, wall_ns) else "alive"


def hold_members(hold_id: str, hold: Hold, stored_ns: int, wall_ns: int) -> dict[str, Any]:
    """One hold. `point` is null where everything is held."""
    return {
        "id": hold_id,
        "site": hold.site,
        "operator": hold.operator,
        "purpose": hold.purpose,
        "point": None if hold.cut is None else f"{hold.cut.epoch}.{hold.cut.cut}",
        "since": time_text(hold.since_ns),
        "until": None if hold.until_ns is None else time_text(hold.until_ns),
        "counter": hold.counter,
        "term_seconds": hold.term_seconds,
        "ledger": None if hold.ledger is None else hold.ledger.key,
        "state": state_of(hold, stored_ns, wall_ns),
    }


def holds_text(members: Sequence[Mapping[str, Any]]) -> str:
    """The table of the holds."""
    if not members:
        return "nothing is held"
    rows = [
        (
            one["id"][:ID_DIGITS],
            one["site"],
            one["operator"],
            one["purpose"],
            one["point"] or "everything",
            one["since"],
            one["state"] if one["until"] is None else f"{one['state']}, until {one['until']}",
        )
        for one in members
    ]
    return table(_TITLES, rows)
