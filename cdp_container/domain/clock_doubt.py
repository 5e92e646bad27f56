"""Whether ages may be told by the clocks of a pass of collection. PURE.

Follows docs/collection.md, "Which cuts are kept". Reading a clock does not belong here, nor what an age means
(retention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CLOCK_SKEW_SECONDS_MAX: Final = 60
"""Machine and store may differ so much, and either jump so far within a pass, before the pass ends."""

_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ClockLook:
    """All clocks at one moment of a pass: `store_ns` is the Last-Modified of an object just written."""

    store_ns: int
    wall_ns: int
    boottime_ns: int


def clock_doubt(looks: Sequence[ClockLook], last_pass_ns: int) -> str | None:
    """Why ages must not be told by these clocks; None where they may.

    `looks`: those of this pass, in their order; at least one. `last_pass_ns`: the newest time of the store
    that any pass before it saw, 0 for none.
    """
    assert looks, "ages are told by a clock that was looked at"
    for look in looks:
        if look.store_ns <= 0:
            return "the store does not say when an object was written"
        apart = abs(look.store_ns - look.wall_ns) / _SECOND_NS
        if apart > CLOCK_SKEW_SECONDS_MAX:
            return f"the clocks of the store and of this machine differ by {apart:.0f} s"
    if looks[0].store_ns < last_pass_ns:
        back = (last_pass_ns - looks[0].store_ns) / _SECOND_NS
        return f"the store's clock went back by {back:.0f} s since the last pass"
    first = looks[0]
    for look in looks[1:]:
        passed_ns = look.boottime_ns - first.boottime_ns
        moved = (
            ("the store's", look.store_ns - first.store_ns),
            ("this machine's", look.wall_ns - first.wall_ns),
        )
        for whose, moved_ns in moved:
            jump = abs(moved_ns - passed_ns) / _SECOND_NS
            if jump > CLOCK_SKEW_SECONDS_MAX:
                return f"{whose} clock jumped by {jump:.0f} s within the pass"
    return None
