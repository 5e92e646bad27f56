"""How long a PUT may take: more where puts reach the limit, less again where they are quick."""

from __future__ import annotations

from cdp_container.store.put_pace import PUT_SECONDS, PutPace


def test_a_put_that_used_its_limit_up_gives_the_next_more() -> None:
    pace = PutPace()
    for limit, following in zip(PUT_SECONDS, (*PUT_SECONDS[1:], PUT_SECONDS[-1]), strict=True):
        assert pace.limit_seconds == limit
        pace.failed(limit, limit + 0.01)
        assert pace.limit_seconds == following


def test_a_put_that_failed_early_changes_nothing() -> None:
    pace = PutPace()
    pace.failed(PUT_SECONDS[0], 0.1)
    pace.failed(PUT_SECONDS[0], PUT_SECONDS[0] - 1.0)
    assert pace.limit_seconds == PUT_SECONDS[0]


def test_of_many_that_fail_side_by_side_one_counts() -> None:
    pace = PutPace()
    for _ in range(8):
        pace.failed(PUT_SECONDS[0], PUT_SECONDS[0] + 0.5)
    assert pace.limit_seconds == PUT_SECONDS[1]


def test_quick_puts_bring_the_short_limit_back_step_by_step() -> None:
    pace = PutPace()
    for limit in PUT_SECONDS:
        pace.failed(limit, limit)
    pace.succeeded(PUT_SECONDS[1] / 2)
    assert pace.limit_seconds == PUT_SECONDS[2], "half of the shorter limit would not have done"
    pace.succeeded(1.0)
    assert pace.limit_seconds == PUT_SECONDS[1]
    pace.succeeded(1.0)
    pace.succeeded(1.0)
    assert pace.limit_seconds == PUT_SECONDS[0]
