"""Any part of a container, as a copy may hold it: a restore gives the image of a cut that is complete there.

The model is brute force: which segments are there, and which cuts need which.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_container.clock import SystemClock
from cdp_container.domain.history import read_history
from cdp_container.errors import CdpError, NoSuchDomain
from cdp_container.format.domain import parse_epoch_record
from cdp_container.format.keys import EPOCHS_PREFIX, LOG_PREFIX, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import plan_restore, scope_of
from rehydrate.restore import Source
from tests.containers import PASSPHRASE, Site, busy_container
from tests.unit.rehydrate.test_restore import run

SITE: Site = busy_container(MemoryStore(SystemClock()))
KEYS = [found.key for found in SITE.store.list("")]
SEGMENTS = [key for key in KEYS if key.startswith(LOG_PREFIX)]
BASES = {
    record.epoch: record.base
    for key in KEYS
    if key.startswith(EPOCHS_PREFIX)
    for record in [parse_epoch_record(SITE.store.get(key).data, key, None)]
}
CUTS = {
    preamble.place
    for key in SEGMENTS
    for preamble in [parse_preamble(SITE.store.get(key).data, key)]
    if preamble.complete
}
MAIN = read_history(SITE.store).branch_of(read_history(SITE.store).newest)


def copy_of(keys: set[str]) -> MemoryStore:
    store = MemoryStore(SystemClock())
    for key in keys:
        store.put_new(key, SITE.store.get(key).data)
    return store


def is_complete(place: Place, keys: set[str]) -> bool:
    while place:
        if not all(segment_key(place.epoch, seq) in keys for seq in range(1, place.seq + 1)):
            return False
        place = BASES[place.epoch]
    return True


def newest_on_the_main_line(keys: set[str]) -> Place:
    line = [place for place in CUTS if place.seq <= MAIN.get(place.epoch, 0) and is_complete(place, keys)]
    return max(line, default=NOWHERE)


def check(keys: set[str], directory: Path) -> None:
    store = copy_of(keys)
    try:
        container = open_container(store, Secret(PASSPHRASE), replica=True)
    except CdpError:
        # Neither owner nor record, or nothing that could hold the keys.
        assert not any(key in keys for key in SEGMENTS)
        return
    newest = container.history.newest
    assert not newest or newest in CUTS
    assert is_complete(newest, keys), "a segment is missing"
    assert newest >= newest_on_the_main_line(keys), "a newer cut is complete"
    if not newest:
        return
    with closing(container.gather(scope_of(container.history, Choice()))) as contents:
        plan = plan_restore(container, contents, Choice(), ["disk"])
        source = Source(store, container.keys, contents)
        assert is_complete(plan.cut.place, keys)
        if plan.cut.place in SITE.images:  # that of a zombie, whose end did not arrive, has no model
            volume = plan.volumes[0]
            assert run(source, volume, directory) == SITE.images[plan.cut.place][volume.volume.space]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(absent=st.sets(st.sampled_from(KEYS)))
def test_any_part_of_a_container(absent: set[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check(set(KEYS) - absent, Path(directory))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=st.permutations(KEYS), count=st.integers(0, len(KEYS)))
def test_any_order_of_arrival(order: list[str], count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check(set(order[:count]), Path(directory))


def test_each_object_that_is_late() -> None:
    for key in KEYS:
        with tempfile.TemporaryDirectory() as directory:
            check(set(KEYS) - {key}, Path(directory))


def test_everything_arrived() -> None:
    assert open_container(SITE.store, Secret(PASSPHRASE), replica=True).history.newest == max(
        place for place in CUTS if place.epoch == 6
    )
    assert newest_on_the_main_line(set(KEYS)) == read_history(SITE.store).newest


def test_nothing_arrived() -> None:
    with pytest.raises(NoSuchDomain):
        open_container(copy_of(set()), Secret(PASSPHRASE), replica=True)
