"""When will the journal be full, if nothing changes? PURE: numbers in, seconds out.

What does not belong here: what happens then (the splitter's matter), and how it is told.
"""

from __future__ import annotations

from typing import Final

FORECAST_LAG_SECONDS_MIN: Final = 10.0
"""While the lag is shorter than this the store keeps up, and a rate over so short a time says nothing."""


def seconds_until_full(
    lag_seconds: float | None, lag_bytes: int | None, used_bytes: int, limit_bytes: int
) -> float | None:
    """Seconds until the journal is at its limit if guests write on as they did and nothing is sent.

    Args:
        lag_seconds: age of the oldest write that is not protected.
        lag_bytes: bytes of journal since then.
        used_bytes: what is in use of the limit.
        limit_bytes: the journal's limit.

    Returns:
        None where nothing grows, or too little is known to say.
    """
    if lag_seconds is None or lag_bytes is None or lag_bytes <= 0 or lag_seconds < FORECAST_LAG_SECONDS_MIN:
        return None
    return max(0.0, (limit_bytes - used_bytes) * lag_seconds / lag_bytes)


def spoken(seconds: float) -> str:
    """A time to come, as exact as a forecast can be: "40 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"
