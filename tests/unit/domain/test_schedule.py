"""Crontab lines: the newest and the next time, over weekends, in other zones, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.schedule import CalendarTimes, newest, next_change

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 8 * *", "wrong number of fields"),
        ("61 8 * * *", "higher than the maximum"),
        ("whenever", "wrong number of fields"),
        ("", "wrong number of fields"),
        ("0 8 * * 1-5", "numbers"),
        ("0 8 * * */2", "numbers"),
        ("0 8 * * monday", "is no crontab line"),
    ],
)
def test_line_is_refused(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        CalendarTimes(line, "UTC")


def test_unknown_zone_is_refused() -> None:
    for zone in ("Europe/Nowhere", "../../etc/passwd", "Europe"):
        with pytest.raises(ValueError, match="is not a time zone"):
            CalendarTimes("0 8 * * *", zone)


def test_last_and_next_over_a_weekend() -> None:
    times = CalendarTimes("0 8 * * mon-fri", "UTC")
    assert times.last(MONDAY) == MONDAY - timedelta(days=3) + timedelta(hours=8)
    assert times.next(MONDAY) == MONDAY + timedelta(hours=8)
    assert times.last(MONDAY + timedelta(hours=8)) == MONDAY + timedelta(hours=8)


def test_time_of_another_zone_and_its_summer() -> None:
    times = CalendarTimes("0 8 * * *", "Europe/Berlin")
    winter, summer = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 29, 12, tzinfo=UTC)
    assert times.last(winter) == datetime(2026, 3, 28, 7, tzinfo=UTC)
    assert times.last(summer) == datetime(2026, 3, 29, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    "line", ["0 8 * * *", "0 0 29 2 *", "0 0 29 2 mon", "59 23 31 1,4 sun", "0 0 last * *"]
)
def test_even_the_rarest_day_comes(line: str) -> None:
    assert CalendarTimes(line, "UTC").ever_come


def test_day_that_never_comes() -> None:
    times = CalendarTimes("0 8 30 2 *", "UTC")
    assert not times.ever_come
    assert not CalendarTimes("0 0 31 2,4,6,9,11 *", "UTC").ever_come
    assert times.last(MONDAY) is None
    assert times.next(MONDAY) is None
    assert newest([times], MONDAY) is None
    assert next_change([times], MONDAY) is None


def test_newest_of_several_and_the_later_in_the_list_where_two_come_at_once() -> None:
    day, night = CalendarTimes("0 8 * * *", "UTC"), CalendarTimes("0 18 * * *", "UTC")
    assert newest([day, night], MONDAY) == 1
    assert newest([day, night], MONDAY + timedelta(hours=9)) == 0
    assert newest([day, day], MONDAY + timedelta(hours=9)) == 1
    assert next_change([day, night], MONDAY + timedelta(hours=8)) == MONDAY + timedelta(hours=18)
    assert newest([], MONDAY) is None


@given(
    st.sampled_from(["*/7 * * * *", "0 8 * * mon-fri", "30 2 * * sun", "0 0 1 * *", "15 3 1 1 *"]),
    st.integers(-800_000, 800_000),
)
def test_nothing_comes_between_the_last_time_and_now(line: str, minutes: int) -> None:
    times = CalendarTimes(line, "Europe/Berlin")
    now = MONDAY + timedelta(minutes=minutes)
    last = times.last(now)
    assert last is not None
    assert last <= now
    following = times.next(last.astimezone(UTC) + timedelta(seconds=1))
    assert following is None or following > now
