"""The token bucket: what is sent in any span is bounded, whatever is asked for and when."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.streamer.pace import BURST_SECONDS, Bucket, Limits, charged, refilled, wait_seconds

SECOND = 1_000_000_000


def test_without_limits_nobody_waits_and_nothing_is_saved_up() -> None:
    bucket = refilled(charged(Bucket(), 1 << 40, 1000), Limits(), SECOND)
    assert wait_seconds(bucket, Limits()) == 0
    later = refilled(bucket, Limits(), 100 * SECOND)
    assert (later.bytes_left, later.requests_left) == (0, 0), "a limit that comes begins with an empty bucket"


def test_large_object_passes_whole_and_the_next_one_waits_for_it() -> None:
    limits = Limits(bytes_per_second=1e6)
    bucket = Bucket()
    assert wait_seconds(bucket, limits) == 0
    bucket = charged(bucket, 8_000_000)
    assert wait_seconds(bucket, limits) == 8
    assert wait_seconds(refilled(bucket, limits, 3 * SECOND), limits) == 5


def test_the_stricter_limit_counts() -> None:
    limits = Limits(bytes_per_second=1e6, requests_per_second=2)
    assert wait_seconds(charged(Bucket(), 10, requests=5), limits) == 2.5
    assert wait_seconds(charged(Bucket(), 4_000_000, requests=1), limits) == 4


def test_clock_that_stands_still_or_goes_back_adds_nothing() -> None:
    limits = Limits(bytes_per_second=1e6)
    bucket = charged(Bucket(at_ns=5 * SECOND), 1_000_000, requests=0)
    assert refilled(bucket, limits, 4 * SECOND) == bucket


def test_debt_is_kept_when_another_limit_comes_into_force() -> None:
    bucket = charged(Bucket(), 10_000_000)
    assert wait_seconds(bucket, Limits(bytes_per_second=1e6)) == 10
    assert wait_seconds(bucket, Limits(bytes_per_second=5e6)) == 2
    assert wait_seconds(bucket, Limits()) == 0


@given(
    st.lists(st.tuples(st.integers(0, 20_000_000), st.floats(0, 3)), max_size=60),
    st.sampled_from([1e5, 1e6, 2e7, math.inf]),
    st.sampled_from([2.0, 50.0, math.inf]),
)
def test_no_span_holds_more_than_the_limit_a_burst_and_one_object(
    asked: list[tuple[int, float]], bytes_per_second: float, requests_per_second: float
) -> None:
    limits = Limits(bytes_per_second, requests_per_second)
    bucket, now_ns = Bucket(), 0
    sent: list[tuple[int, int]] = []
    for size, idle_seconds in asked:
        now_ns += int(idle_seconds * SECOND)
        bucket = refilled(bucket, limits, now_ns)
        now_ns += math.ceil(wait_seconds(bucket, limits) * SECOND)
        bucket = charged(refilled(bucket, limits, now_ns), size)
        sent.append((now_ns, size))
    for first in range(len(sent)):
        total, span_ns = 0, 0
        for count, (at_ns, size) in enumerate(sent[first:], start=1):
            total, span_ns = total + size, at_ns - sent[first][0]
            seconds = span_ns / SECOND + BURST_SECONDS + 1e-6
            assert total - size <= bytes_per_second * seconds
            assert count - 1 <= requests_per_second * seconds + 1e-6
