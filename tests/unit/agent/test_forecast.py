"""The forecast of a full journal: says nothing where it knows nothing, and never a negative time."""

from __future__ import annotations

import pytest

from cdp_agent.cli.forecast import seconds_until_full, spoken

GIB = 1 << 30


@pytest.mark.parametrize(
    ("lag_seconds", "lag_bytes"), [(None, GIB), (100.0, None), (100.0, 0), (9.9, GIB), (0.0, 0)]
)
def test_no_forecast_where_nothing_grows_or_is_known(
    lag_seconds: float | None, lag_bytes: int | None
) -> None:
    assert seconds_until_full(lag_seconds, lag_bytes, GIB, 20 * GIB) is None


def test_the_rate_is_that_of_what_waits() -> None:
    # 1 GiB in 100 s; 18 GiB of room.
    assert seconds_until_full(100.0, GIB, 2 * GIB, 20 * GIB) == 1800.0


def test_a_journal_beyond_its_limit_is_full_now() -> None:
    assert seconds_until_full(100.0, GIB, 21 * GIB, 20 * GIB) == 0.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (12_600, "3.5 h"), (181_440, "2.1 days")],
)
def test_spoken(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
