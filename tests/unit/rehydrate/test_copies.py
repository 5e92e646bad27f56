"""A copy to which a collection came in any order: read by whichever ledger gives the newest whole cut."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from cdp_container.errors import DamagedObject, MissingObject
from cdp_container.format.keys import OWNER_KEY, log_prefix, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Container, Secret, open_container
from rehydrate.failover import Asked, wish_of
from rehydrate.plan import Choice
from rehydrate.points import plan_restore, scope_of
from rehydrate.restore import Source
from tests.containers import PASSPHRASE
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Crash, StopAt
from tests.unit.rehydrate.test_restore import run

pytestmark = pytest.mark.slow

Objects = Mapping[str, bytes]


class Past:
    """What a home held: `states` after each pass of collection, `newest` its newest cut at each."""

    def __init__(self, encrypted: bool = False, passes: int = 1) -> None:
        self.site = CollectedSite(encrypted, seed=3, every_hours=2)
        self.site.add_disk("disk", 1 << 18)
        self.site.begin_epoch()
        self.site.busy(30)
        self.states: list[Objects] = [self.objects()]
        self.newest: list[Place] = [max(self.site.images)]

    def collect(self, directory: Path) -> None:
        self.site.time.sleep(2 * HOUR)
        self.site.run_pass(directory)
        self.states.append(self.objects())
        self.newest.append(max(self.site.images))

    def objects(self) -> Objects:
        return {found.key: self.site.store.get(found.key).data for found in self.site.store.list("")}

    def opened(self, objects: Objects, any_ledger: bool = True) -> Container:
        copy = MemoryStore(self.site.time)
        for key, data in objects.items():
            copy.put_new(key, data)
        secret = Secret(PASSPHRASE) if self.site.encrypted else Secret()
        return open_container(copy, secret, replica=True, any_ledger=any_ledger)

    def restores(self, container: Container, directory: Path) -> None:
        """Its newest cut, byte for byte."""
        with closing(container.gather(scope_of(container.history, Choice()))) as contents:
            plan = plan_restore(container, contents, Choice(), ["disk"])
            [volume] = plan.volumes
            source = Source(container.store, container.keys, contents)
            image = self.site.images[plan.cut.place][volume.volume.space]
            assert run(source, volume, directory) == image


def by_another(container: Container) -> bool:
    return any("read by" in note for note in container.history.notes)


@pytest.mark.parametrize("encrypted", [False, True])
def test_deletes_that_came_before_the_owner(tmp_path: Path, encrypted: bool) -> None:
    past = Past(encrypted)
    past.collect(tmp_path / "a")
    before, after = past.states
    assert set(before) - set(after), "something was deleted"
    copy = {**after, OWNER_KEY: before[OWNER_KEY]}
    container = past.opened(copy)
    assert container.history.newest == past.newest[1]
    assert by_another(container)
    past.restores(container, tmp_path)
    assert past.opened(copy, any_ledger=False).history.newest == NOWHERE, "who takes over goes by the owner's"


@pytest.mark.parametrize("encrypted", [False, True])
def test_deletes_that_came_and_no_owner(tmp_path: Path, encrypted: bool) -> None:
    """What stands in for it names no ledger, and nothing that was proven."""
    past = Past(encrypted)
    past.collect(tmp_path / "a")
    container = past.opened({key: data for key, data in past.states[1].items() if key != OWNER_KEY})
    assert container.history.newest == past.newest[1]
    assert by_another(container)
    past.restores(container, tmp_path)


def test_deletes_of_a_newer_epoch_that_came_before_the_owner(tmp_path: Path) -> None:
    """All that the old owner proved is there still; it knows nothing of what came after."""
    past = Past()
    site = past.site
    before = past.states[0]
    site.begin_epoch()
    site.busy(30)
    past.collect(tmp_path / "a")
    past.collect(tmp_path / "a")
    first = log_prefix(1)
    kept = {key: data for key, data in before.items() if key.startswith(first)}
    container = past.opened({**past.states[2], **kept, OWNER_KEY: before[OWNER_KEY]})
    assert container.history.newest == past.newest[2]
    assert container.history.newest.epoch == 2
    past.restores(container, tmp_path)


def test_an_owner_that_came_before_all_else(tmp_path: Path) -> None:
    past = Past()
    past.collect(tmp_path / "a")
    before, after = past.states
    copy = {**before, OWNER_KEY: after[OWNER_KEY]}
    with pytest.raises(MissingObject):
        past.opened(copy, any_ledger=False)
    container = past.opened(copy)
    assert container.history.newest == past.newest[0]
    assert "read by no ledger" in container.history.notes[-1]
    past.restores(container, tmp_path)


@pytest.mark.parametrize("encrypted", [False, True])
def test_who_takes_over_sees_a_packed_point_that_the_epoch_in_force_begins_at(
    tmp_path: Path, encrypted: bool
) -> None:
    """A failover to a kept point, and then one to another zone before the new epoch has a cut."""
    past = Past(encrypted)
    site = past.site
    site.cut([site._random_write()], marker="keep")
    site.busy(25)
    for _ in range(2):
        past.collect(tmp_path / "a")
        site.busy(25)
    stored = past.objects()
    packed = [
        place
        for place in sorted(set(site.images) - site.gone)
        if segment_key(place.epoch, place.seq) not in stored
    ]
    site.begin_epoch(base=packed[-1])
    site.protect(packed[-1])
    container = past.opened(past.objects(), any_ledger=False)
    assert container.history.newest == packed[-1]
    assert wish_of(Asked("site-b", "", "", None, False), container.history, packed[-1], 1).base == packed[-1]
    past.restores(container, tmp_path)


def test_a_ledger_that_is_gone_with_its_packs(tmp_path: Path) -> None:
    past = Past()
    past.collect(tmp_path / "a")
    past.site.busy(20)
    past.collect(tmp_path / "a")
    past.site.busy(6)
    past.collect(tmp_path / "a")
    named = past.site.owner.ledger
    assert named is not None
    copy = {**past.states[3], OWNER_KEY: past.states[1][OWNER_KEY]}
    container = past.opened(copy)
    assert container.history.newest == past.newest[3]
    assert f"read by the ledger {named.key}" in container.history.notes[-1]
    past.restores(container, tmp_path)


def test_deletes_that_have_not_come_yet_change_nothing(tmp_path: Path) -> None:
    past = Past()
    past.collect(tmp_path / "a")
    before, after = past.states
    container = past.opened({**before, **after})
    assert container.history.newest == past.newest[1]
    assert not by_another(container)
    past.restores(container, tmp_path)


@pytest.mark.parametrize("seed", range(25))
def test_any_part_of_a_pass_may_have_come(tmp_path: Path, seed: int) -> None:
    """Of what it wrote and deleted some; nothing else lacks: then one of both ledgers gives the newest cut.

    Deletes come anyhow only once all that it wrote is there, which is what a pass waits for.
    """
    rng = Random(seed)
    past = Past()
    past.collect(tmp_path / "a")
    before, after = past.states
    written = {key: data for key, data in after.items() if key not in before}
    if rng.random() < 0.5:
        copy = {**before, **{key: data for key, data in written.items() if rng.random() < 0.7}}
    else:
        gone = set(before) - set(after)
        copy = {
            key: data for key, data in {**before, **written}.items() if key not in gone or rng.random() < 0.5
        }
    copy[OWNER_KEY] = rng.choice([before, after])[OWNER_KEY]
    container = past.opened(copy)
    assert container.history.newest in past.newest
    past.restores(container, tmp_path)


def test_a_ledger_that_never_came_into_force_is_not_needed(tmp_path: Path) -> None:
    past = Past()
    past.site.time.sleep(2 * HOUR)
    with contextlib.suppress(Crash):
        past.site.run_pass(tmp_path / "a", effects=StopAt("change"))
    copy = past.objects()
    assert any("ledger" in key for key in copy)
    container = past.opened(copy)
    assert container.history.newest == past.newest[0]
    assert not by_another(container)
    lacking = dict(copy)
    del lacking[segment_key(1, 3)]
    container = past.opened(lacking)
    assert container.history.newest == past.newest[0], "and yet it tells the truth"
    past.restores(container, tmp_path)


def test_damage_is_no_lag(tmp_path: Path) -> None:
    past = Past()
    past.collect(tmp_path / "a")
    copy = dict(past.states[1])
    named = past.site.owner.ledger
    assert named is not None
    copy[named.key] = copy[named.key][:-1] + b"?"
    with pytest.raises(DamagedObject):
        past.opened(copy)


def test_a_lack_that_no_ledger_makes_up_for_is_told(tmp_path: Path) -> None:
    past = Past()
    past.collect(tmp_path / "a")
    copy = {key: data for key, data in past.states[1].items() if not key.startswith("packs/")}
    with pytest.raises(MissingObject, match="ledger"):
        past.opened(copy)
