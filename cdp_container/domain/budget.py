"""How much a verification may read, or for how long, as people write it. PURE.

What is chosen by it does not belong here (sampling).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

_SIZES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TIMES: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BUDGET: Final = re.compile(rf"([0-9]{{1,9}}) ?({'|'.join((*_SIZES, *_TIMES))})")


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a run may read, or for how long; the other one is without end."""

    size_bytes: float = math.inf
    seconds: float = math.inf


def budget_of(text: str) -> Budget:
    """From words like `1GiB` or `10m`. Raises ValueError, which says why."""
    match = _BUDGET.fullmatch(text)
    if match is None or not int(match[1]):
        raise ValueError("is no budget (write bytes like 1GiB, or a time like 10m)")
    if match[2] in _SIZES:
        return Budget(size_bytes=int(match[1]) * _SIZES[match[2]])
    return Budget(seconds=int(match[1]) * _TIMES[match[2]])
