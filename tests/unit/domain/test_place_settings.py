"""The data place in a configuration: where it is, and whether its lock holds for long enough."""

from __future__ import annotations

import math

import pytest

from cdp_container.domain.place_settings import lock_fault
from cdp_container.domain.settings import AgentSettings, dump_settings, parse_settings
from cdp_container.errors import ConfigInvalid
from cdp_container.store.address import parse_address
from cdp_container.store.s3_settings import S3Settings

DAY = 86_400


def settings(*lines: str) -> AgentSettings:
    text = "\n".join([
        "domain: shop", "site: a", "journal: {directory: /j}", "volumes: [{name: db, path: /d}]", *lines
    ])  # fmt: skip
    return parse_settings(text.encode(), "agent.yaml")


def test_the_data_place_becomes_part_of_every_address_of_the_container() -> None:
    found = settings(
        "store: s3://control/shop?endpoint=https://h",
        "data_store: s3://locked/shop?versions=oldest&endpoint=https://h",
        "collection: {store: 's3://control/shop?endpoint=https://h&profile=collector'}",
        "lock: {outage: 14d}",
    )
    for address in (found.store, found.collection.store):
        assert address is not None
        place = parse_address(address)
        assert isinstance(place, S3Settings)
        assert place.data == "s3://locked/shop?versions=oldest"
    assert found.lock is not None
    assert found.lock.outage == 14 * DAY
    assert parse_settings(dump_settings(found), "again") == found


def test_without_one_nothing_changes() -> None:
    assert settings("store: s3://control/shop").store == "s3://control/shop"


def test_an_address_that_names_its_own_keeps_it() -> None:
    own = "s3://control/shop?endpoint=https://h&data=s3://mine/x"
    assert settings(f"store: {own}", "data_store: s3://other/x").store == own


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (("store: s3://control/shop", "data_store: s3://control/shop"), "data_store"),
        (("store: /backup", "data_store: s3://locked/shop"), "data_store"),
        (("store: s3://control/shop", "data_store: 5"), "data_store"),
        (("store: s3://control/shop", "lock: {outage: 5}"), "lock.outage"),
        (("store: s3://control/shop", "lock: {outrage: 5d}"), "did you mean outage"),
    ],
)
def test_faults_are_named(lines: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        settings(*lines)
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("days", "every", "outage", "faulty"),
    [
        (15, DAY, 14 * DAY, False),
        (14, DAY, 14 * DAY, True),
        (14, DAY + 1, 13 * DAY, True),
        (1, 0, DAY, False),
        (None, DAY, DAY, True),
        (9999, None, DAY, True),
        (9999, DAY, math.inf, True),
    ],
)
def test_a_lock_holds_for_the_window_and_the_outage(
    days: int | None, every: int | None, outage: float, faulty: bool
) -> None:
    assert (lock_fault(days, every, outage) is not None) == faulty
