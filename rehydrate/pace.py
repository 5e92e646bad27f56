"""How many requests a restore keeps in flight: decided from what was measured. PURE.

Measuring and waiting do not belong here (flow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IN_FLIGHT_MIN: Final = 16
IN_FLIGHT_MAX: Final = 256
STEP: Final = 16
"""Requests in flight that are tried more, or taken back."""

ROSE: Final = 1.05
"""A rate that is less than a twentieth higher than before may be so by chance."""

MISSES_MAX: Final = 3
"""Doublings in a row at the start that may bring nothing: samples may be low by chance, and who stops early
stays slow for long, as more is then tried a step at a time."""

PROBE_AFTER: Final = 8
"""Samples without a change after which more is tried again: the store or the network may have changed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured over some time. `refusals`: how often the store failed or asked for patience."""

    seconds: float
    operations: int
    fetch_bytes: int
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """How many requests are in flight, and the rates that more of them have to beat.

    `raised` says whether the last change was to more, `held` for how many samples nothing was changed,
    `starting` that nobody knows yet how many the store and the line bear; then `best` is the number at which
    the rates were measured.
    """

    in_flight: int = IN_FLIGHT_MIN
    operations_per_second: float = 0.0
    bytes_per_second: float = 0.0
    raised: bool = False
    held: int = 0
    starting: bool = False
    best: int = IN_FLIGHT_MIN


def next_pace(pace: Pace, sample: Sample) -> Pace:
    """The pace after a sample.

    Additive increase while either rate rises with it, multiplicative decrease where the store is overloaded
    (D. Chiu and R. Jain, Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in
    Computer Networks, 1989). Many small requests are bound by operations per second and few large ones by
    bytes: a rise of either is a gain. What did not help is taken back. At the start it is doubled as long as
    that pays, as TCP does (V. Jacobson, Congestion Avoidance and Control, 1988): else a short reading is
    over before it is fast.
    """
    assert sample.seconds > 0, sample
    if sample.refusals:
        return Pace(max(pace.in_flight // 2, IN_FLIGHT_MIN))
    operations, fetched = sample.operations / sample.seconds, sample.fetch_bytes / sample.seconds
    rose = operations > pace.operations_per_second * ROSE or fetched > pace.bytes_per_second * ROSE
    if pace.starting:
        return _next_of_start(pace, operations, fetched, rose)
    if rose or pace.held + 1 >= PROBE_AFTER:
        more = min(pace.in_flight + STEP, IN_FLIGHT_MAX)
        return Pace(more, operations, fetched, raised=more > pace.in_flight)
    fewer = max(pace.in_flight - STEP, IN_FLIGHT_MIN) if pace.raised else pace.in_flight
    return Pace(fewer, pace.operations_per_second, pace.bytes_per_second, held=pace.held + 1)


def _next_of_start(pace: Pace, operations: float, fetched: float, rose: bool) -> Pace:
    """Twice as many, until that brought nothing several times; then the number that was best.

    Small gains of several doublings add up: the best is the one with the highest rates, by however little.
    """
    is_best = operations > pace.operations_per_second or fetched > pace.bytes_per_second
    best = pace.in_flight if is_best else pace.best
    operations = max(operations, pace.operations_per_second)
    fetched = max(fetched, pace.bytes_per_second)
    misses = 0 if rose else pace.held + 1
    if misses == MISSES_MAX or pace.in_flight == IN_FLIGHT_MAX:
        return Pace(best, operations, fetched)
    more = min(2 * pace.in_flight, IN_FLIGHT_MAX)
    return Pace(more, operations, fetched, raised=True, held=misses, starting=True, best=best)
