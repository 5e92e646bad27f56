"""Which cuts are kept: each rule of docs/collection.md, the policy's bytes, and hostile clocks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cdp_container.domain.retention import Circumstances, CutMarker, Kept, PastCut, Why, kept_cuts, marker_of
from cdp_container.domain.retention_policy import (
    KEEP_ALL,
    TERM_SECONDS_MAX,
    Retention,
    build_retention,
    parse_retention,
)
from cdp_container.errors import DamagedObject, NewerFormat
from cdp_container.format.place import NOWHERE, Place

S = 1_000_000_000
HOUR = 3600
DAY = 24 * HOUR
NOW = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * S
OLD = Circumstances(NOW, Place(9, 1, 1))
"""Everything is protected; no hold, no source, no epoch."""


def cut(number: int, age: float, own_age: float | None = None, epoch: int = 1, **more: object) -> PastCut:
    """A cut by its age in seconds by the store's clock, and by its own."""
    stored_ns = NOW - int(age * S)
    time_ns = stored_ns if own_age is None else NOW - int(own_age * S)
    return PastCut(Place(epoch, number, number), time_ns, stored_ns, **more)  # type: ignore[arg-type]


def kept(cuts: list[PastCut], policy: Retention, at: Circumstances = OLD) -> dict[int, Kept]:
    return {place.cut: found for place, found in kept_cuts(cuts, policy, at).items()}


def stamped(number: int, text: str) -> PastCut:
    time_ns = int(datetime.fromisoformat(text).timestamp()) * S
    return PastCut(Place(1, number, number), time_ns, time_ns)


# --- the policy --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"every_seconds": -1},
        {"every_seconds": "24h"},
        {"hourly_seconds": 1.5},
        {"daily_seconds": True},
        {"monthly_seconds": TERM_SECONDS_MAX + 1},
    ],
)
def test_a_policy_that_makes_no_sense_is_damage(change: dict[str, object]) -> None:
    members = {**build_retention(Retention(DAY)), **change}
    with pytest.raises(DamagedObject):
        parse_retention(members, "domain/config/x")


def test_a_policy_without_a_term_is_damage() -> None:
    members = dict(build_retention(Retention(DAY)))
    del members["weekly_seconds"]
    with pytest.raises(DamagedObject, match="weekly_seconds"):
        parse_retention(members, "domain/config/x")


def test_a_term_of_a_later_release_stops_who_would_ignore_it() -> None:
    with pytest.raises(NewerFormat, match="yearly_seconds"):
        parse_retention({**build_retention(Retention(DAY)), "yearly_seconds": 9}, "domain/config/x")


def test_a_policy_is_read_as_it_was_written() -> None:
    policy = Retention(DAY, 7 * DAY, 60 * DAY, 182 * DAY, None, 30 * DAY)
    assert parse_retention(build_retention(policy), "x") == policy
    assert parse_retention({}, "x") == KEEP_ALL
    assert build_retention(KEEP_ALL) == {}


# --- each rule ---------------------------------------------------------------------------------


def test_without_a_policy_every_cut_is_kept_for_ever() -> None:
    found = kept([cut(1, 90 * 365 * DAY), cut(2, 5 * HOUR)], KEEP_ALL)
    assert [one.until_ns for one in found.values()] == [None, None]


def test_a_window_ends_at_its_very_second() -> None:
    found = kept([cut(1, DAY), cut(2, DAY - 1), cut(3, 2 * HOUR)], Retention(DAY))
    assert set(found) == {2, 3}
    assert found[2].why == Why.WINDOW
    assert found[2].until_ns == NOW + S


def test_of_each_hour_the_newest_is_kept() -> None:
    policy = Retention(HOUR, hourly_seconds=DAY)
    cuts = [
        stamped(1, "2026-11-20T08:00:00+00:00"),
        stamped(2, "2026-11-20T08:59:59+00:00"),
        stamped(3, "2026-11-20T09:00:00+00:00"),
        stamped(4, "2026-11-20T10:30:00+00:00"),
    ]
    found = kept(cuts, policy)
    assert set(found) == {2, 3, 4}
    assert found[2].why == Why.HOURLY


def test_weeks_begin_on_mondays_and_months_on_the_first() -> None:
    cuts = [
        stamped(1, "2026-10-25T23:59:59+00:00"),  # a Sunday
        stamped(2, "2026-10-26T00:00:00+00:00"),
        stamped(3, "2026-10-31T23:59:59+00:00"),
        stamped(4, "2026-11-01T00:00:00+00:00"),  # a Sunday
        stamped(5, "2026-11-20T10:00:00+00:00"),
    ]
    assert set(kept(cuts, Retention(HOUR, 0, 0, 400 * DAY))) == {1, 4, 5}
    assert set(kept(cuts, Retention(HOUR, 0, 0, 0, 400 * DAY))) == {3, 5}
    assert set(kept(cuts, Retention(HOUR, 0, 400 * DAY))) == {1, 2, 3, 4, 5}


def test_a_marker_is_kept_for_its_own_term_or_that_of_the_policy() -> None:
    cuts = [
        cut(1, 50 * DAY, markers=(CutMarker("by-policy"),)),
        cut(2, 50 * DAY, markers=(CutMarker("short", own=True, keep_seconds=DAY),)),
        cut(3, 50 * DAY, markers=(CutMarker("for-ever", own=True),)),
        cut(4, 50 * DAY, markers=(CutMarker("short", True, DAY), CutMarker("long", True, 51 * DAY))),
        cut(5, 2 * HOUR),
    ]
    assert set(kept(cuts, Retention(DAY, markers_seconds=60 * DAY))) == {1, 3, 4, 5}
    found = kept(cuts, Retention(DAY, markers_seconds=40 * DAY))
    assert set(found) == {3, 4, 5}
    assert found[3].until_ns is None
    assert found[4].until_ns == NOW + DAY * S
    assert found[4].words == "marker"


def test_a_held_cut_is_kept() -> None:
    found = kept(
        [cut(1, 9 * DAY), cut(2, 9 * DAY), cut(3, 9 * DAY)],
        Retention(DAY),
        Circumstances(NOW, Place(9, 1, 1), held=[Place(1, 2, 2), Place(7, 7, 7)]),
    )
    assert set(found) == {2, 3}
    assert (found[2].why, found[2].until_ns) == (Why.HELD, 0)


def test_the_newest_whole_cut_of_each_source_is_kept() -> None:
    a, b, gone = b"a" * 16, b"b" * 16, b"c" * 16
    cuts = [
        cut(1, 9 * DAY),
        cut(2, 9 * DAY, not_whole=(gone,)),
        cut(3, 9 * DAY, not_whole=(b,)),
        cut(4, 9 * DAY, not_whole=(a, b)),
        cut(5, 9 * DAY, not_whole=(a, b)),
    ]
    found = kept(cuts, Retention(DAY), Circumstances(NOW, Place(9, 1, 1), sources=[a, b]))
    assert {number: one.whole for number, one in found.items()} == {2: (b,), 3: (a,), 5: ()}


def test_the_base_of_a_branch_with_a_kept_cut_is_kept() -> None:
    ends = {
        1: (NOWHERE, Place(1, 9, 9)),
        2: (Place(1, 4, 4), Place(2, 3, 3)),
        3: (Place(2, 3, 3), Place(3, 2, 2)),
        4: (Place(1, 6, 6), Place(4, 1, 1)),
    }
    main = [cut(number, 9 * DAY) for number in range(1, 10)]
    cuts = [*main, cut(3, 9 * DAY, epoch=2), cut(1, 9 * DAY, epoch=4), cut(2, 5 * HOUR, epoch=3)]
    at = Circumstances(NOW, Place(9, 1, 1), epochs=ends)
    found = kept_cuts(cuts, Retention(DAY), at)
    # 3 is kept by age, and stands on the end of 2, which stands on 1.4; 4.1 is the newest, and stands on 1.6.
    assert list(found) == [Place(1, 4, 4), Place(1, 6, 6), Place(3, 2, 2), Place(4, 1, 1)]
    assert found[Place(1, 4, 4)].why == Why.BASE


def test_an_epoch_without_a_cut_keeps_where_it_begins() -> None:
    ends = {1: (NOWHERE, Place(1, 9, 9)), 2: (Place(1, 4, 4), NOWHERE)}
    cuts = [cut(number, 9 * DAY) for number in range(1, 10)]
    at = Circumstances(NOW, Place(9, 1, 1), epochs=ends)
    found = kept_cuts(cuts, Retention(DAY), at)
    assert {place.cut: one.why for place, one in found.items()} == {4: Why.NEWEST | Why.BASE, 9: Why.NEWEST}


def test_what_is_young_or_not_protected_is_kept_whatever_the_policy_is() -> None:
    cuts = [cut(1, 2 * HOUR), cut(2, 2 * HOUR), cut(3, 2 * HOUR), cut(4, HOUR - 1), cut(5, 2 * HOUR)]
    found = kept(cuts, Retention(1), Circumstances(NOW, Place(2, 1, 1)))
    assert {number: one.why for number, one in found.items()} == {4: Why.YOUNG, 5: Why.NEWEST}
    assert set(kept(cuts, Retention(1), Circumstances(NOW, Place(1, 3, 3)))) == {3, 4, 5}
    assert set(kept(cuts, Retention(1), Circumstances(NOW, NOWHERE))) == {1, 2, 3, 4, 5}


def test_no_cuts_are_no_trouble() -> None:
    assert kept_cuts([], Retention(DAY), OLD) == {}


# --- clocks that lie ---------------------------------------------------------------------------


def test_a_clock_that_stood_still_thins_nothing_away_that_the_store_saw() -> None:
    cuts = [cut(number, (10 - number) * HOUR, own_age=20 * DAY) for number in range(1, 9)]
    assert set(kept(cuts, Retention(1, hourly_seconds=60 * DAY))) == set(range(1, 9))


def test_an_outage_that_was_caught_up_with_thins_nothing_away_that_its_own_time_keeps() -> None:
    cuts = [cut(number, 5 * HOUR, own_age=(30 - number) * HOUR) for number in range(1, 9)]
    assert set(kept(cuts, Retention(1, hourly_seconds=60 * DAY))) == set(range(1, 9))


def test_a_clock_that_went_back_within_an_hour_keeps_what_either_calls_the_newest() -> None:
    """By its own time the second is the newest of its hour; by the store's the third."""
    hour = NOW - 5 * HOUR * S
    cuts = [
        PastCut(Place(1, number, number), hour + own * 60 * S, hour + stored * 60 * S)
        for number, own, stored in ((1, 10, 10), (2, 50, 20), (3, 30, 30))
    ]
    cuts.append(cut(4, 2 * HOUR))
    assert set(kept(cuts, Retention(1, hourly_seconds=DAY))) == {2, 3, 4}


def test_of_cuts_with_one_time_the_last_in_order_is_the_newest() -> None:
    cuts = [cut(number, 5 * HOUR) for number in (3, 1, 2)]
    assert set(kept([*cuts, cut(4, 2 * HOUR)], Retention(1, hourly_seconds=DAY))) == {3, 4}


def test_what_was_stored_in_the_future_or_nobody_knows_when_is_young() -> None:
    cuts = [cut(1, -9 * DAY), PastCut(Place(1, 2, 2), NOW, 0), PastCut(Place(1, 3, 3), 0, -5), cut(4, DAY)]
    found = kept(cuts, Retention(1))
    assert {number: bool(one.why & Why.YOUNG) for number, one in found.items()} == {
        1: True, 2: True, 3: True, 4: False,
    }  # fmt: skip


def test_times_at_the_ends_of_their_range_do_no_harm() -> None:
    ends = (-(2**63), 2**63 - 1)
    cuts = [
        PastCut(Place(1, number, number), own, stored)
        for number, (own, stored) in enumerate(((a, b) for a in ends for b in ends), 1)
    ]
    found = kept(cuts, Retention(TERM_SECONDS_MAX, None, None, None, None, None))
    assert set(found) == {1, 2, 3, 4}


@pytest.mark.parametrize("seconds", ["30d", True, -1, 1.5, 1 << 80, [], None])
def test_a_marker_whose_term_makes_no_sense_is_kept_for_ever(seconds: object) -> None:
    marker = marker_of("m", {"keep_seconds": seconds})
    assert marker == CutMarker("m", own=True, keep_seconds=None)
    assert set(kept([cut(1, 50 * DAY, markers=(marker,)), cut(2, DAY)], Retention(1, markers_seconds=1))) == {
        1,
        2,
    }


def test_the_term_of_a_marker() -> None:
    assert marker_of("m", {}) == CutMarker("m", own=False)
    assert marker_of("m", {"keep_seconds": 5}) == CutMarker("m", own=True, keep_seconds=5)


def test_the_newest_cut_at_which_all_are_whole_is_kept_too() -> None:
    """Copied anew one after the other, each volume has a newer whole cut, and none is common to both."""
    a, b = bytes([1]) * 16, bytes([2]) * 16
    not_whole: list[tuple[bytes, ...]] = [(), (), (a,), (a, b), (b,), (b,)]
    cuts = [
        PastCut(Place(1, number, number), number, number, gone) for number, gone in enumerate(not_whole, 1)
    ]
    at = Circumstances(10**18, Place(1, 6, 6), frozenset(), (a, b), {1: (Place(0, 0, 0), Place(1, 6, 6))})
    kept = kept_cuts(cuts, Retention(0, 0, 0, 0, 0, 0), at)
    assert {place.cut: why.whole for place, why in kept.items() if why.whole} == {2: (a, b), 3: (b,), 6: (a,)}


def test_of_the_whole_cuts_those_of_the_main_line_count() -> None:
    """What a takeover of an older cut left on a side branch is newer, and nobody goes on from it."""
    a, b = bytes([1]) * 16, bytes([2]) * 16
    cuts = [
        PastCut(Place(1, 1, 1), 1, 1),
        PastCut(Place(1, 2, 2), 2, 2, (b,)),
        PastCut(Place(1, 3, 3), 3, 3),  # the side branch
        PastCut(Place(2, 1, 1), 4, 4, (a, b)),
    ]
    epochs = {1: (NOWHERE, Place(1, 3, 3)), 2: (Place(1, 2, 2), Place(2, 1, 1))}
    at = Circumstances(10**18, Place(2, 1, 1), frozenset(), (a, b), epochs)
    kept = kept_cuts(cuts, Retention(0, 0, 0, 0, 0, 0), at)
    assert {place: why.whole for place, why in kept.items() if why.whole} == {
        Place(1, 2, 2): (a,),
        Place(1, 1, 1): (b,),
    }
    assert Place(1, 3, 3) not in kept
    at = replace(at, epochs={1: epochs[1], 2: (NOWHERE, Place(2, 1, 1))})
    kept = kept_cuts(cuts, Retention(0, 0, 0, 0, 0, 0), at)
    assert kept[Place(1, 3, 3)].whole == (a, b), "better there than nowhere"
