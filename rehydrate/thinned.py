"""Which of very many recovery points a person is shown, and where there was none for long. PURE.

Nothing is decided here but what is printed: every point can be restored whether it is shown or not. What a
point is does not belong here (points), nor how long it is kept (kept).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cdp_container.domain.image import Cut
from cdp_container.telling import UNIX_EPOCH

LATEST: Final = 10
"""So many of the newest are all shown."""
GAP_STEPS: Final = 2
"""A hole is worth a line where it is longer than so many of the steps that are shown where it begins."""
GAP_SECONDS_MIN: Final = 600

_SECOND_NS: Final = 1_000_000_000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS: Final = ((15 * _MINUTE, _MINUTE), (_DAY, _HOUR), (31 * _DAY, _DAY))
"""Up to this age one of so many seconds is shown; of what is older, one a month."""
_MONTH: Final = 31 * _DAY


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cut that may be shown. `main`: it is on no side branch; `sound`: it can be restored."""

    cut: Cut
    main: bool
    sound: bool


def picked(candidates: Sequence[Candidate]) -> list[int]:
    """The numbers of those that are shown, in their order, which is that of places.

    The latest ones, then the newest of each minute, hour, day and month, each branch for itself; one that can
    be restored rather than one that cannot. Always those with a name, and the newest that is sound.
    """
    shown = set(range(max(0, len(candidates) - LATEST), len(candidates)))
    shown |= {number for number, one in enumerate(candidates) if one.cut.markers}
    newest_ns = max((one.cut.time_ns for one in candidates), default=0)
    best: dict[tuple[object, ...], int] = {}
    for number, one in enumerate(candidates):
        span = (one.main, one.cut.place.epoch if not one.main else 0, *_span(one.cut.time_ns, newest_ns))
        if one.sound or span not in best or not candidates[best[span]].sound:
            best[span] = number
    sound = [number for number, one in enumerate(candidates) if one.sound]
    return sorted(shown | set(best.values()) | set(sound[-1:]))


def _span(time_ns: int, newest_ns: int) -> tuple[int, int]:
    """The minute, hour, day or month that a time belongs to."""
    seconds = time_ns // _SECOND_NS
    step = step_seconds((newest_ns - time_ns) / _SECOND_NS)
    if step != _MONTH:
        return step, seconds // step
    moment = UNIX_EPOCH + timedelta(seconds=seconds)
    return step, moment.year * 12 + moment.month


def step_seconds(age_seconds: float) -> int:
    """One of how many seconds is shown at this age."""
    return next((step for most, step in _STEPS if age_seconds <= most), _MONTH)


def gaps(cuts: Sequence[Cut], shown: Sequence[int]) -> dict[int, float]:
    """Before which of the shown ones there was no cut for long, and for how many seconds.

    `shown`: numbers in `cuts`, which is in the order of places.
    """
    newest_ns = max((cut.time_ns for cut in cuts), default=0)
    found: dict[int, float] = {}
    before = 0
    for number in shown:
        pairs = ((cuts[at - 1].time_ns, cuts[at].time_ns) for at in range(max(before, 1), number + 1))
        hole_ns, begin_ns = max(((end - begin, begin) for begin, end in pairs), default=(0, newest_ns))
        hole, step = hole_ns / _SECOND_NS, step_seconds((newest_ns - begin_ns) / _SECOND_NS)
        if hole > max(GAP_SECONDS_MIN, GAP_STEPS * step):
            found[number] = hole
        before = number + 1
    return found
