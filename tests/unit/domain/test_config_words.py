"""Faults of a configuration in words that need no programmer, and without what may be a secret."""

from __future__ import annotations

import pytest

from cdp_container.domain.settings import parse_settings
from cdp_container.errors import ConfigInvalid

GOOD = """\
domain: shop
site: hamburg
store: /srv/containers/shop
journal: {directory: /var/lib/cdp/shop}
volumes: [{name: db01, path: /var/lib/vms/db01.raw}]
"""


def refusal(text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse_settings(text.encode(), "agent.yaml")
    return caught.value.why


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("domain: shop", "domain: 7", "agent.yaml:1: domain: 7 is no text (put it in quotes)"),
        ("domain: shop", "domain:", "domain: has no value"),
        ("site: hamburg", "site: no", "site: false is no text"),
        ("site: hamburg", "site: a b", "'a b' is no name (1 to 63 letters"),
        ("/srv/containers/shop", "''", "store: is empty"),
        ("cdp/shop}", "cdp/shop, limit: 1MiB}", "1MiB is too little: 256MiB or more"),
        ("cdp/shop}", "cdp/shop, on_full: x}", "'x' must be 'degrade' or 'stop-writes'"),
        ("site:", "rpo_target: 90d\nsite:", "90d is too much: 30d or less"),
        ("site:", "cut_every: 1ms\nsite:", "1ms is too little: 100ms or more"),
        ("site:", "copy_rate: 1B\nsite:", "'1B' is too little: 100kB or more"),
        ("site:", "copy_rate: 20\nsite:", "copy_rate: 20 is not a rate (write a number and a unit"),
        ("site:", "compression_level: 1.5\nsite:", "1.5 is no whole number"),
        ("site:", f"compression_level: 0x{'f' * 9000}\nsite:", "this number is too much: 19 or less"),
        ("site:", "limits: {schedule: {}}\nsite:", "limits.schedule: must be a list"),
        ("site:", "limits: {bytes_per_second: .nan}\nsite:", "this number is not a rate"),
        ("site:", "recipients: [x]\nsite:", "recipients[0]: 'x' is no public key (64 of"),
        ("[{name: db01, path: /var/lib/vms/db01.raw}]", "[]", "volumes: is missing, and so is trees"),
    ],
)
def test_a_fault_of_a_value(before: str, after: str, words: str) -> None:
    why = refusal(GOOD.replace(before, after))
    assert words in why
    for foreign in ("Input should", "String should", "List should", "pattern", "input should"):
        assert foreign not in why


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("site: hamburg\ndomain shop\nstore: x", "line 2: a key without ':'"),
        ("site: hamburg\n domain: shop", "line 2: a ':' too many, or wrong indentation"),
        ("volumes:\n  - name: a\n   path: b\n", "line 3: wrong indentation"),
        ("site:\thamburg\n\tx: 1", "a tab: indent with spaces"),
        ('site: "hamburg\n', "line 1: a quote that is never closed"),
        ("domain: [\n", "a value is missing, or a bracket is never closed"),
        ("domain: [a b: c", "a comma is missing, or a bracket is never closed"),
        ("domain: @x", "line 1: a value that begins with this character needs quotes"),
        ("domain: x\0", "it is not text in UTF-8"),
        ("domain: !x 1", "could not determine a constructor"),
    ],
)
def test_a_page_that_is_no_yaml(text: str, words: str) -> None:
    why = refusal(text)
    assert why.startswith("it is not YAML: ")
    assert words in why


@pytest.mark.parametrize(
    "alerts",
    [
        "alerts: {webhook: 'https://host/T0KEN",
        "alerts:\n  webhook: https://host/T0KEN: x",
        "alerts: {webhook: ['T0KEN']}",
        "alerts: {command: [page, T0KEN]}",
        "alerts: {webhook: 'ftp://host/T0KEN'}",
        "alerts: T0KEN",
        "store: @T0KEN",
    ],
)
def test_what_may_be_a_secret_is_in_no_message(alerts: str) -> None:
    assert "T0KEN" not in refusal(GOOD + alerts)
