"""The last error: the newer of two, its age, and whether it is over; never over while something fails."""

from __future__ import annotations

import pytest

from cdp_agent.cli.last_error import QUIET_SECONDS_MIN, LastError, newest_error

NOW_NS = 10**18
MINUTE_NS = 60 * 10**9


def error(text: str, ago_ns: int) -> dict[str, object]:
    return {"last_error": text, "last_error_ns": NOW_NS - ago_ns}


@pytest.mark.parametrize("facts", [{}, {"last_error": ""}, {"last_error": "", "last_error_ns": 5}])
def test_none(facts: dict[str, object]) -> None:
    assert newest_error(facts, {}, NOW_NS, well=True) == LastError()
    assert str(LastError()) == "-"


def test_while_something_fails_nothing_is_over() -> None:
    found = newest_error(error("put: refused", 5 * MINUTE_NS), {}, NOW_NS, well=False)
    assert not found.over
    assert str(found) == "put: refused (5 min ago)"


def test_what_may_come_again_at_once_is_not_over_yet() -> None:
    assert not newest_error(error("put", MINUTE_NS - 1), {}, NOW_NS, well=True).over


def test_it_is_over_and_when_it_was_is_told() -> None:
    found = newest_error({}, error("overflow: full", 5 * MINUTE_NS), NOW_NS, well=True)
    assert found == LastError("overflow: full", 300.0, over=True)
    assert str(found) == "overflow: full (5 min ago; it is over)"
    assert QUIET_SECONDS_MIN <= 300


def test_the_newer_of_both_is_shown() -> None:
    old, new = error("old", 9 * MINUTE_NS), error("new", MINUTE_NS)
    assert newest_error(old, new, NOW_NS, well=True).text == "new"
    assert newest_error(new, old, NOW_NS, well=True).text == "new"


def test_facts_that_do_not_say_when() -> None:
    found = newest_error({}, {"last_error": "disk"}, NOW_NS, well=True)
    assert str(found) == "disk"
    assert not found.over


def test_a_clock_that_was_set_back_makes_it_new() -> None:
    found = newest_error(error("put", -MINUTE_NS), {}, NOW_NS, well=True)
    assert found == LastError("put", 0.0)
