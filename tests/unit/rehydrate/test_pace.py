"""How many requests are in flight: what the measurements make of it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rehydrate.pace import IN_FLIGHT_MAX, IN_FLIGHT_MIN, PROBE_AFTER, STEP, Pace, Sample, next_pace

SAMPLES = st.builds(
    Sample,
    st.floats(0.01, 100.0),
    st.integers(0, 10**6),
    st.integers(0, 10**12),
    st.sampled_from([0, 0, 0, 1, 100]),
)


@given(st.lists(SAMPLES, max_size=60))
def test_the_pace_stays_within_its_limits_and_changes_by_steps(samples: list[Sample]) -> None:
    pace = Pace()
    for sample in samples:
        after = next_pace(pace, sample)
        assert IN_FLIGHT_MIN <= after.in_flight <= IN_FLIGHT_MAX
        assert after.in_flight - pace.in_flight <= STEP
        if sample.refusals:
            assert after.in_flight == max(pace.in_flight // 2, IN_FLIGHT_MIN)
        assert 0 <= after.held < PROBE_AFTER
        pace = after


def settled(rate_at: dict[str, float], samples: int = 200) -> list[int]:
    """In flight after each sample, on a store that serves so many operations and bytes a second at most.

    Each request takes 50 ms and fetches `request_bytes`.
    """
    pace, seen = Pace(), []
    for _ in range(samples):
        bound = min(pace.in_flight / 0.05, rate_at["operations"], rate_at["bytes"] / rate_at["request_bytes"])
        pace = next_pace(pace, Sample(1.0, int(bound), int(bound * rate_at["request_bytes"])))
        seen.append(pace.in_flight)
    return seen


@given(knee=st.integers(400, 5_000))
def test_a_start_doubles_while_that_pays_and_ends_near_the_best(knee: int) -> None:
    pace, seen = Pace(starting=True), []
    for _ in range(8):
        rate = int(min(pace.in_flight / 0.05, knee))
        pace = next_pace(pace, Sample(1.0, rate, rate * 4096))
        seen.append(pace.in_flight)
    assert seen[0] == 2 * IN_FLIGHT_MIN
    assert all(after <= 2 * before for before, after in itertools.pairwise(seen))
    assert not pace.starting
    # Nowhere is a tenth lost, and never are there more than twice as many as help, and one step.
    assert min(seen[-1] / 0.05, knee) >= 0.9 * min(knee, IN_FLIGHT_MAX / 0.05)
    assert seen[-1] <= max(IN_FLIGHT_MIN, 2 * knee * 0.05) + STEP


def test_a_start_that_does_not_pay_ends_where_it_began() -> None:
    pace, seen = Pace(starting=True), []
    while pace.starting:
        pace = next_pace(pace, Sample(1.0, 500, 0))
        seen.append(pace.in_flight)
    assert seen == [2 * IN_FLIGHT_MIN, 4 * IN_FLIGHT_MIN, 8 * IN_FLIGHT_MIN, IN_FLIGHT_MIN]


def test_one_low_sample_does_not_end_a_start() -> None:
    pace, seen = Pace(starting=True), []
    for operations in (300, 600, 590, 1200, 1100, 1150):
        pace = next_pace(pace, Sample(1.0, operations, 0))
        seen.append(pace.in_flight)
    assert seen == [32, 64, 128, 256, 128, 128]


def test_a_start_ends_at_the_most_that_may_be_in_flight() -> None:
    pace = Pace(IN_FLIGHT_MAX, 500.0, starting=True, best=128)
    assert next_pace(pace, Sample(1.0, 700, 0)).in_flight == IN_FLIGHT_MAX
    assert next_pace(pace, Sample(1.0, 500, 0)).in_flight == 128
    assert not next_pace(pace, Sample(1.0, 700, 0)).starting


def test_a_store_that_refuses_ends_a_start() -> None:
    pace = next_pace(Pace(128, starting=True), Sample(1.0, 500, 0, refusals=1))
    assert (pace.in_flight, pace.starting) == (64, False)


def test_latency_is_met_by_more_in_flight() -> None:
    assert settled({"operations": 1e9, "bytes": 1e12, "request_bytes": 4096})[-1] == IN_FLIGHT_MAX


@given(knee=st.integers(400, 5_000))
def test_it_settles_where_more_does_not_help(knee: int) -> None:
    for limits in (
        {"operations": knee, "bytes": 1e12, "request_bytes": 4096},
        {"operations": 1e9, "bytes": knee * 1e6, "request_bytes": 1e6},
    ):
        seen = settled(limits)
        best = max(IN_FLIGHT_MIN, knee * 0.05)
        assert all(best / 1.1 - STEP <= number <= best + 2 * STEP for number in seen[40:])


def test_a_throttling_store_is_asked_less_and_then_tried_again() -> None:
    pace = Pace(200, 4_000.0, 4e6)
    pace = next_pace(pace, Sample(1.0, 4_000, 4_000_000, refusals=1))
    assert pace.in_flight == 100
    pace = next_pace(pace, Sample(1.0, 2_000, 2_000_000))
    assert pace.in_flight == 100 + STEP


def test_a_store_that_becomes_slower_for_good_is_no_reason_to_give_up_probing() -> None:
    pace = Pace(64, 10_000.0, 1e9)
    probed = False
    for _ in range(2 * PROBE_AFTER):
        after = next_pace(pace, Sample(1.0, 100, 10**6))
        probed = probed or after.in_flight > pace.in_flight
        pace = after
    assert probed


def test_a_start_ends_with_the_best_also_where_every_doubling_gains_little() -> None:
    pace = Pace(starting=True)
    rates = {16: 1000, 32: 1020, 64: 1040, 128: 1060}
    while pace.starting:
        pace = next_pace(pace, Sample(1.0, rates[pace.in_flight], 0))
    assert pace.in_flight == 128
