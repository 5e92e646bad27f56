"""How long the next request must wait so that a limit is kept: a token bucket. PURE: the time is an argument.

A request may begin when nothing is owed, and then owes all that it costs: an object larger than a second's
worth passes whole, and what follows waits for it. So what was sent in any span is at most the limit times
that span, a burst and one object. Which limit is in force, and waiting itself, do not belong here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

BURST_SECONDS: Final = 1.0
"""What was not used is kept for so long: cuts come once a second, and should not wait for each other."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and requests per second; math.inf where there is no limit."""

    bytes_per_second: float = math.inf
    requests_per_second: float = math.inf


@dataclass(frozen=True, slots=True)
class Bucket:
    """What may be sent at once; below zero it is owed. `at_ns`: when that was so."""

    bytes_left: float = 0.0
    requests_left: float = 0.0
    at_ns: int = 0


def refilled(bucket: Bucket, limits: Limits, now_ns: int) -> Bucket:
    """What the time since `bucket.at_ns` added, under limits that were in force meanwhile."""
    seconds = max(0.0, (now_ns - bucket.at_ns) / 1e9)
    return Bucket(
        bytes_left=_more(bucket.bytes_left, limits.bytes_per_second, seconds),
        requests_left=_more(bucket.requests_left, limits.requests_per_second, seconds),
        at_ns=max(now_ns, bucket.at_ns),
    )


def charged(bucket: Bucket, stored_bytes: int, requests: int = 1) -> Bucket:
    """The bucket after these were sent, whether or not they might."""
    return Bucket(bucket.bytes_left - stored_bytes, bucket.requests_left - requests, bucket.at_ns)


def wait_seconds(bucket: Bucket, limits: Limits) -> float:
    """How long until nothing is owed."""
    return max(
        _seconds(-bucket.bytes_left, limits.bytes_per_second),
        _seconds(-bucket.requests_left, limits.requests_per_second),
    )


def _more(left: float, per_second: float, seconds: float) -> float:
    """Without a limit nothing is owed and nothing is saved up for a limit that comes."""
    if math.isinf(per_second):
        return 0.0
    return min(left + per_second * seconds, per_second * BURST_SECONDS)


def _seconds(owed: float, per_second: float) -> float:
    return 0.0 if owed <= 0 or math.isinf(per_second) else owed / per_second
