"""Lives (test_collection) in which one epoch after the other begins where the last segment was collected."""

from __future__ import annotations

import pytest

from cdp_container.domain.retention import Retention
from tests.property.test_collection import Collection
from tests.unit.collector.collecting_site import HOUR


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_epochs_that_begin_at_packed_cuts(seed: int) -> None:
    """One after the other, with something written in between or nothing, and passes all the time."""
    life = Collection()
    life.begin(seed, encrypted=seed % 3 == 0, policy=Retention(2 * HOUR, hourly_seconds=90 * HOUR))
    try:
        for number in range(3):
            life.lose_the_site_twice(seed * 7 + number * 5, cuts=(seed + number) % 3, passes=5 * HOUR)
            life.what_is_promised_is_offered()
        assert life.begun_at_packed
    finally:
        life.teardown()
