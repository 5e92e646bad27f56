"""What is worth an alert, how often it is said, and what settings are taken."""

from __future__ import annotations

import pytest

from cdp_agent.alerts.rules import (
    JOURNAL_SHARE,
    REPEAT_SECONDS,
    Kind,
    Look,
    Said,
    after_saying,
    news,
    troubles,
)
from cdp_container.domain.settings import ALERT_WORDS_MAX, parse_settings
from cdp_container.errors import ConfigInvalid

SECOND_NS = 10**9
MIB = 1 << 20
WELL = Look(rpo_target_seconds=30.0, lag_seconds=30.0, used_bytes=799 * MIB, limit_bytes=1000 * MIB)
CONFIG = """\
domain: shop
site: a
store: /srv/shop
journal: {directory: /var/lib/cdp}
volumes: [{name: db, path: /srv/db.raw}]
alerts: %s
"""


@pytest.mark.parametrize(
    ("look", "kind", "message"),
    [
        (Look(30.0, lag_seconds=31.0), Kind.RPO, "31 s would be lost now; target 30 s"),
        (Look(30.0, used_bytes=800 * MIB, limit_bytes=1000 * MIB), Kind.JOURNAL, "80% of the journal"),
        (Look(30.0, used_bytes=193 * MIB, limit_bytes=256 * MIB), Kind.JOURNAL, "75% of the journal"),
        (Look(30.0, overflowed=True), Kind.JOURNAL, "writes go past it"),
        (Look(30.0, down_seconds=12.0), Kind.DOWN, "no volume was served for 12 s: guests' I/O stands still"),
        (Look(30.0, fenced="another run"), Kind.FENCED, "another run"),
        (Look(30.0, refused="it lies"), Kind.REFUSED, "it lies"),
        (Look(30.0, damage="a disk"), Kind.DAMAGE, "a disk"),
        (Look(30.0, collection="3 passes"), Kind.COLLECTION, "3 passes"),
        (Look(30.0, verification="2 objects"), Kind.VERIFICATION, "2 objects"),
        (Look(30.0, vms="a VM hangs"), Kind.VMS, "a VM hangs"),
    ],
)
def test_each_trouble_is_found(look: Look, kind: Kind, message: str) -> None:
    found = troubles(look)
    assert list(found) == [kind]
    assert message in found[kind]


@pytest.mark.parametrize("files", range(4, 200))
def test_every_journal_is_told_of_before_a_start_finds_it_full(files: int) -> None:
    """A start takes a whole file, however little was written into the one before."""
    starts = [
        troubles(Look(30.0, used_bytes=64 * MIB * before + 1, limit_bytes=64 * MIB * files))
        for before in range(files)
    ]
    assert starts[-1]
    assert not starts[0]


def test_what_is_well_or_not_known_is_no_trouble() -> None:
    assert troubles(WELL) == {}
    assert troubles(Look(30.0)) == {}
    assert troubles(Look(30.0, down_seconds=9.9)) == {}
    assert JOURNAL_SHARE == 0.8


def test_a_trouble_is_said_once_then_seldom_and_its_end_once() -> None:
    found = {Kind.RPO: "late"}
    said: dict[Kind, Said] = {}
    heard = []
    for second in range(2 * REPEAT_SECONDS + 1):
        now_ns = second * SECOND_NS
        for one in news(said, found if second < 2 * REPEAT_SECONDS else {}, now_ns):
            said = after_saying(said, one, now_ns)
            heard.append((second, one.on))
    assert heard == [(0, True), (REPEAT_SECONDS, True), (2 * REPEAT_SECONDS, False)]
    assert news(said, {}, 2 * REPEAT_SECONDS * SECOND_NS) == []


def test_a_trouble_that_comes_and_goes_is_not_said_each_time() -> None:
    said: dict[Kind, Said] = {}
    heard = []
    for second in range(REPEAT_SECONDS):
        now_ns = second * SECOND_NS
        for one in news(said, {Kind.RPO: "late"} if second % 10 < 5 else {}, now_ns):
            said = after_saying(said, one, now_ns)
            heard.append((second, one.on))
    assert heard == [(0, True), (5, False)]


def test_kinds_do_not_hold_each_other_back() -> None:
    said = {Kind.RPO: Said(0, on=True)}
    heard = news(said, {Kind.RPO: "late", Kind.FENCED: "gone"}, SECOND_NS)
    assert [(one.kind, one.on) for one in heard] == [(Kind.FENCED, True)]


def test_a_record_of_before_a_reboot_holds_nothing_back() -> None:
    """The boot-time clock began again."""
    assert news({Kind.RPO: Said(10**18, on=True)}, {Kind.RPO: "late"}, SECOND_NS) != []


@pytest.mark.parametrize(
    "alerts",
    [
        "{command: [/usr/local/bin/page, --urgent]}",
        "{webhook: 'https://hooks.example.com/T0/s3cret?x=1'}",
        "{webhook: 'http://[::1]:8080/'}",
    ],
)
def test_good_settings(alerts: str) -> None:
    assert parse_settings((CONFIG % alerts).encode(), "agent.yaml").alerts is not None


@pytest.mark.parametrize(
    ("alerts", "why"),
    [
        ("{}", "either command or webhook"),
        ("{command: [/bin/s3cret], webhook: 'https://x/s3cret'}", "either command or webhook"),
        ("{command: []}", "command"),
        ("{command: [s3cret]}", "absolute path"),
        ("{command: s3cret}", "command"),
        ("{command: [/bin/x, 5]}", "command"),
        (f"{{command: [{', '.join(['/bin/s3cret'] * (ALERT_WORDS_MAX + 1))}]}}", "command"),
        ("{webhook: 'ftp://x/s3cret'}", "is no URL"),
        ("{webhook: 'https://user:s3cret@x/'}", "is no URL"),
        ("{webhook: 'https://x/s3cret y'}", "is no URL"),
        ("{webhook: 'https://x:99999/s3cret'}", "is no URL"),
        ("{webhok: 'https://x/s3cret'}", "did you mean webhook"),
        ("s3cret", "keys and values"),
    ],
)
def test_wrong_settings_are_named_and_not_repeated(alerts: str, why: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_settings((CONFIG % alerts).encode(), "agent.yaml")
    assert "agent.yaml:6: alerts" in str(caught.value)
    assert why in str(caught.value)
    assert "s3cret" not in str(caught.value)
