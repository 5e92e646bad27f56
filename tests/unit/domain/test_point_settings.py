"""Retention and hooks in the configuration: every fault with its path, and nothing that makes no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.point_settings import HOOKS_MAX, term_seconds, term_text
from cdp_container.domain.retention_policy import KEEP_ALL, TERM_SECONDS_MAX, Retention
from cdp_container.domain.settings import AgentSettings, dump_settings, parse_settings
from cdp_container.errors import ConfigInvalid

GOOD = """\
domain: shop
site: hamburg
store: /srv/containers/shop
journal: {directory: /var/lib/cdp/shop}
volumes: [{name: db01, path: /var/lib/vms/db01.raw}]
"""
DAY = 86400


def settings(extra: str) -> AgentSettings:
    return parse_settings((GOOD + extra).encode(), "agent.yaml")


def refusal(extra: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        settings(extra)
    return str(caught.value)


@pytest.mark.parametrize(
    "term", ["24", "1.5h", "-1d", "0d", "0s", "1 month", "1M", "", "Forever", "9999999999999h", "9h9m"]
)
def test_what_is_no_term(term: str) -> None:
    assert f"retention.every: '{term}' is no term" in refusal(f"retention: {{every: '{term}'}}\n")


@pytest.mark.parametrize("value", ["24", "null", "[1h]", "true"])
def test_what_is_no_text_is_no_term(value: str) -> None:
    assert "retention.hourly: " in refusal(f"retention: {{every: 24h, hourly: {value}}}\n")


def test_a_term_beyond_all_calendars() -> None:
    assert "retention.monthly: '101y' is longer than a hundred years" in refusal(
        "retention: {every: 24h, monthly: 101y}\n"
    )


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ("every: 24h, hourly: 24h", "hourly: 1d keeps nothing that every (1d) does not"),
        ("every: 24h, daily: 60d, weekly: 30d", "weekly: 30d keeps nothing that daily (60d) does not"),
        ("every: forever, monthly: 3y", "monthly: 3y keeps nothing that every (forever) does not"),
        ("every: forever, monthly: forever", "monthly: forever keeps nothing that every (forever) does not"),
        ("every: 1m, hourly: 59m", "hourly: 59m is too short to keep one of each"),
        ("every: 1h, monthly: 30d", "monthly: 30d is too short to keep one of each"),
        ("every: 2d, markers: 1d", "markers: 1d is shorter than every (2d)"),
    ],
)
def test_terms_that_make_no_sense_together(terms: str, why: str) -> None:
    assert f"agent.yaml:6: retention: {why}" in refusal(f"retention: {{{terms}}}\n")


def test_all_faults_of_a_policy_at_once() -> None:
    why = refusal("retention:\n  evry: 24h\n  hourly: 7\n  dayly: 60d\n  markers: 2w3d\n")
    for fault in (
        "agent.yaml:7: retention.evry: unknown key (did you mean every?)",
        "agent.yaml:8: retention.hourly: 7 is no term",
        "agent.yaml:9: retention.dayly: unknown key (did you mean daily?)",
        "agent.yaml:10: retention.markers: '2w3d' is no term",
        "retention.every: is missing",
    ):
        assert fault in why
    pairs = refusal("retention: {every: 60d, hourly: 7d, daily: 60d, markers: 1d}\n")
    assert pairs.count("keeps nothing that") == 2
    assert "markers: 1d is shorter" in pairs


def test_a_policy_as_it_is_meant() -> None:
    found = settings("retention: {every: 24h, hourly: 7d, daily: 60d, weekly: 26w, monthly: 3y}\n").retention
    assert found is not None
    assert found.policy == Retention(DAY, 7 * DAY, 60 * DAY, 182 * DAY, 3 * 365 * DAY, None)


def test_what_is_left_out_keeps_nothing_but_markers() -> None:
    found = settings("retention: {every: 24h, monthly: forever, markers: 90d}\n").retention
    assert found is not None
    assert found.policy == Retention(DAY, 0, 0, 0, None, 90 * DAY)


def test_back_to_everything_and_no_word_at_all() -> None:
    found = settings("retention: {every: forever}\n").retention
    assert found is not None
    assert found.policy == KEEP_ALL
    assert settings("").retention is None


@given(st.integers(1, TERM_SECONDS_MAX))
def test_a_term_reads_as_it_was_written(seconds: int) -> None:
    assert term_seconds(term_text(seconds)) == seconds


HOOKS = """\
marker_hooks:
  - name: files
    before: [/usr/sbin/fsfreeze, --freeze, /srv/data]
    after: [/usr/sbin/fsfreeze, --unfreeze, /srv/data]
  - name: database
    after: [/usr/local/bin/end-backup]
    timeout: 500ms
"""


@pytest.mark.parametrize(
    "extra",
    [HOOKS, "retention: {every: 1h, monthly: forever, markers: 1d}\n", "retention: {every: forever}\n"],
)
def test_what_is_dumped_says_the_same(extra: str) -> None:
    assert parse_settings(dump_settings(settings(extra)), "copy") == settings(extra)


def test_hooks_as_they_are_meant() -> None:
    files, database = settings(HOOKS).marker_hooks
    assert files.before == ["/usr/sbin/fsfreeze", "--freeze", "/srv/data"]
    assert (files.timeout, database.before, database.timeout) == (10.0, None, 0.5)


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("{name: x}", "marker_hooks[0]: needs before, after or both"),
        ("{before: [/bin/true]}", "marker_hooks[0].name: is missing"),
        ("{name: 'a b', before: [/bin/true]}", "marker_hooks[0].name: is no name"),
        ("{name: x, before: [true.sh]}", "before: needs the absolute path of a program"),
        ("{name: x, before: []}", "marker_hooks[0].before: needs 1 item at least"),
        ("{name: x, before: /bin/true}", "marker_hooks[0].before: must be a list"),
        ('{name: x, after: [/bin/a, "b\\0c"]}', "after: needs the absolute path of a program"),
        ("{name: x, after: [/bin/a], timeout: 1h}", "marker_hooks[0].timeout: is too much: 10m or less"),
        ("{name: x, after: [/bin/a], timeout: 10}", "marker_hooks[0].timeout: is not a duration"),
        ("{name: x, aftr: [/bin/a]}", "marker_hooks[0].aftr: unknown key (did you mean after?)"),
        ("{name: x, after: [/bin/a]}, {name: x, after: [/bin/b]}", "marker_hooks: two have the same name: x"),
        (", ".join(f"{{name: h{n}, after: [/a]}}" for n in range(HOOKS_MAX + 1)), "has more than 32 items"),
    ],
)
def test_hooks_that_make_no_sense(hook: str, why: str) -> None:
    assert why in refusal(f"marker_hooks: [{hook}]\n")


def test_a_command_is_never_echoed_for_it_may_hold_a_secret() -> None:
    assert "s3cret" not in refusal("marker_hooks: [{name: x, before: [psql, s3cret]}]\n")
    assert "s3cret" not in refusal("marker_hooks: [{name: x, before: s3cret}]\n")
