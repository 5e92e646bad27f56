"""Lives (test_collection) in which one epoch after the other begins where the last segment was collected."""

from __future__ import annotations

import pytest

from cdp_container.domain.owner_types import EndFound, FindEnd, WorkFailed
from cdp_container.domain.owner_work import do_work
from cdp_container.domain.retention_policy import Retention
from cdp_container.format.place import NOWHERE
from rehydrate.container import Secret, open_container
from tests.containers import PASSPHRASE
from tests.property.test_collection import Collection
from tests.unit.collector.collecting_site import HOUR, CollectedSite

LOST_MAX = 24


def begun(seed: int, life: Collection) -> None:
    """Some epochs that begin at packed cuts."""
    life.begin(seed, encrypted=seed % 3 == 0, policy=Retention(2 * HOUR, hourly_seconds=90 * HOUR))
    for number in range(3):
        life.lose_the_site_twice(seed * 7 + number * 5, cuts=(seed + number) % 3, passes=5 * HOUR)
        life.what_is_promised_is_offered()
    assert life.begun_at_packed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_epochs_that_begin_at_packed_cuts(seed: int) -> None:
    """One after the other, with something written in between or nothing, and passes all the time."""
    life = Collection()
    try:
        begun(seed, life)
    finally:
        life.teardown()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_where_proven_segments_are_lost_what_is_left_restores_exactly(seed: int) -> None:
    """One after the other, the newest first: readers and who claims find the same cut, and none retired."""
    life = Collection()
    try:
        begun(seed, life)
        _lose_one_by_one(life.site, life)
    finally:
        life._scratch.cleanup()


def _lose_one_by_one(site: CollectedSite, life: Collection) -> None:
    site.busy(3, minutes=20, writes=2)
    secret = Secret(PASSPHRASE) if site.encrypted else Secret()
    newest = max(site.images)
    for _ in range(LOST_MAX):
        left = [found.key for found in site.store.list("log/")]
        if not left:
            break
        site.store.delete(left[-1])
        proven, anywhere = (
            do_work(
                site.store, site.store, site.domain,
                FindEnd(site.owner.epoch, protected, site.owner.ledger), site.reader_keys(),
            )
            for protected in (site.owner.protected, NOWHERE)
        )  # fmt: skip
        assert isinstance(proven, WorkFailed | EndFound)
        assert isinstance(anywhere, EndFound), anywhere
        place = anywhere.end.place
        assert place <= newest
        newest = place
        container = open_container(site.store, secret)
        assert container.history.newest == place
        if place:
            assert not site.is_retired(place)
            life._restored(place)
