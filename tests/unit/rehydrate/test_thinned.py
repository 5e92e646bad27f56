"""Which points a person is shown: the latest, some of each age, all names, the sound ones first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.image import Cut
from cdp_container.format.place import Place
from rehydrate.thinned import LATEST, Candidate, gaps, picked

S = 1_000_000_000
NOW = 1_800_000_000
HOUR, DAY = 3600, 86400


def cut(number: int, age_seconds: float, *names: str, epoch: int = 1) -> Cut:
    return Cut(Place(epoch, number, number), int((NOW - age_seconds) * S), (), names)


def candidates(*ages: float) -> list[Candidate]:
    ordered = sorted(ages, reverse=True)
    return [Candidate(cut(number, age), True, True) for number, age in enumerate(ordered, 1)]


def test_a_day_of_one_a_second_fits_on_a_screen() -> None:
    found = candidates(*range(DAY))
    shown = picked(found)
    assert len(shown) < 60
    assert shown[-LATEST:] == list(range(DAY - LATEST, DAY))
    assert min(shown) < HOUR  # the oldest hour has one


def test_years_are_shown_by_the_month() -> None:
    ages = [*range(0, 5 * 365 * DAY, 6 * HOUR)]
    assert 59 + 31 <= len(picked(candidates(*ages))) <= 62 + 31 + 24 + LATEST


def test_few_are_all_shown() -> None:
    assert picked(candidates(*range(LATEST))) == list(range(LATEST))
    assert picked([]) == []


def test_a_name_is_always_shown() -> None:
    found = candidates(*range(1000))
    found[10] = Candidate(cut(11, 989, "before-upgrade"), True, True)
    assert 10 in picked(found)


def test_a_broken_point_takes_the_place_of_none_that_is_sound() -> None:
    found = candidates(*range(40 * DAY, 40 * DAY + 100), *range(LATEST))
    found = [Candidate(one.cut, True, number < 50 or number >= 100) for number, one in enumerate(found)]
    assert picked(found)[0] == 49  # the newest of its month that can be restored


def test_the_newest_sound_one_is_shown_where_all_later_ones_are_broken() -> None:
    found = [Candidate(one.cut, True, number == 900) for number, one in enumerate(candidates(*range(1000)))]
    assert 900 in picked(found)


def test_a_side_branch_does_not_hide_the_main_one() -> None:
    main = [Candidate(cut(number, 40 * DAY - number), True, True) for number in range(1, 50)]
    side = [Candidate(cut(number, 40 * DAY - 60 - number, epoch=2), False, True) for number in range(1, 50)]
    now = [Candidate(cut(number, 20 - number, epoch=3), True, True) for number in range(1, 20)]
    shown = [(main + side + now)[number].cut.place for number in picked(main + side + now)]
    assert Place(1, 49, 49) in shown
    assert Place(2, 49, 49) in shown


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.booleans()), max_size=60))
def test_any_times_and_any_damage_give_some(rows: list[tuple[int, bool, bool]]) -> None:
    found = [
        Candidate(Cut(Place(1, number, number), time_ns, (), ()), main, sound)
        for number, (time_ns, main, sound) in enumerate(rows, 1)
    ]
    shown = picked(found)
    assert shown == sorted(set(shown))
    assert len(shown) >= min(len(found), LATEST)
    assert any(found[number].sound for number in shown) == any(one.sound for one in found)
    gaps([one.cut for one in found], shown)


# --- gaps --------------------------------------------------------------------------------------


def test_some_minutes_without_a_point_are_a_line_among_minutes_and_none_among_hours() -> None:
    cuts = [one.cut for one in candidates(*range(120), *range(840, 900), *range(5000, 5100), 9 * HOUR)]
    shown = picked([Candidate(one, True, True) for one in cuts])
    assert list(gaps(cuts, shown).values()) == [9 * HOUR - 5099, 840 - 119]


def test_a_gap_is_one_between_points_that_are_there_and_not_between_those_that_are_shown() -> None:
    cuts = [one.cut for one in candidates(*range(0, 40 * DAY, HOUR))]
    assert gaps(cuts, [0, len(cuts) - 1]) == {}
    holed = [one.cut for one in candidates(*range(0, 2 * DAY, HOUR), *range(12 * DAY, 14 * DAY, HOUR))]
    (hole,) = gaps(holed, [0, 10, 60, len(holed) - 1]).values()
    assert hole == 10 * DAY + HOUR


def test_a_clock_that_went_back_makes_no_gap() -> None:
    cuts = [cut(1, 0), cut(2, 5 * DAY), cut(3, 5 * DAY - 1)]
    assert gaps(cuts, [0, 1, 2]) == {}
