"""How long `make bench` takes: settable by the environment, for quick looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

PAIRS = 9
SECONDS = 2
MIB = 2048


@dataclass(frozen=True, slots=True)
class Knobs:
    """`pairs` of runs; `seconds` of one run of a load; `mib` of a backlog, that other sizes follow."""

    pairs: int
    seconds: int
    mib: int

    @property
    def is_proof(self) -> bool:
        """Whether this is what figures are to be told from."""
        return self.pairs >= PAIRS and self.seconds >= SECONDS and self.mib >= MIB

    def share(self, mib: int) -> int:
        """Of a size that belongs to the full backlog: as much less as the backlog is smaller."""
        return max(32, mib * self.mib // MIB)


def knobs() -> Knobs:
    """From BENCH_PAIRS, BENCH_SECONDS, BENCH_MIB."""
    return Knobs(
        pairs=int(os.environ.get("BENCH_PAIRS", PAIRS)),
        seconds=int(os.environ.get("BENCH_SECONDS", SECONDS)),
        mib=int(os.environ.get("BENCH_MIB", MIB)),
    )


def alternating(count: int, ours: Callable[[], T], theirs: Callable[[], T]) -> list[tuple[T, T]]:
    """Pairs, ours first in every other one: whatever drifts, drifts for both."""
    pairs = []
    for number in range(count):
        if number % 2:
            ours_value, theirs_value = ours(), theirs()
        else:
            theirs_value, ours_value = theirs(), ours()
        pairs.append((ours_value, theirs_value))
        print(f"   pair {number + 1} of {count}: {told(ours_value)} against {told(theirs_value)}", flush=True)
    return pairs


def told(value: object) -> str:
    """A value of a pair, for people."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
