"""Restores of every cut of a busy container, compared byte for byte with the model."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import DamagedObject, WrongPassphrase
from cdp_container.extents import resolve as resolving
from cdp_container.format.keys import segment_key
from cdp_container.format.layout import ExtentKind
from cdp_container.format.place import Place
from cdp_container.format.seal import WriterKeys
from cdp_container.format.segment import NewExtent, SegmentFacts, build_segment
from cdp_container.store.memory import MemoryStore
from rehydrate import plan as planning
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice, Totals, VolumePlan
from rehydrate.points import plan_restore, scope_of
from rehydrate.restore import Source, restore_volume
from rehydrate.target import open_target
from tests.containers import PASSPHRASE, Image, Site, busy_container, write
from tests.unit.rehydrate.conftest import CountingStore


def restored(site: Site, place: Place, directory: Path) -> Image:
    """Every volume of a cut, as files hold them after a restore from nothing but store and passphrase."""
    container = open_container(site.store, Secret(PASSPHRASE) if site.encrypted else Secret())
    choice = Choice(at=(place.epoch, place.cut))
    with closing(container.gather(scope_of(container.history, choice))) as contents:
        source = Source(site.store, container.keys, contents)
        names = [] if not contents.segments[place.epoch, place.seq].not_whole else ["disk"]
        plan = plan_restore(container, contents, choice, names)
        assert plan.cut.place == place
        return {volume.volume.space: run(source, volume, directory) for volume in plan.volumes}


def run(source: Source, plan: VolumePlan, directory: Path) -> bytes:
    path = directory / plan.volume.name
    counted: list[Totals] = []
    with open_target(path, plan.volume.size_bytes, plan.totals.write_bytes, force=True) as target:
        done = restore_volume(source, plan, target, counted.append)
    assert sum(counted, Totals()) == done == plan.totals
    return path.read_bytes()


def assert_all_restored(site: Site, directory: Path) -> None:
    for place, image in site.images.items():
        back = restored(site, place, directory)
        assert back == {space: image[space] for space in back}
        assert back
    assert not list(directory.glob("*.partial"))


@pytest.mark.parametrize("encrypted", [True, False])
def test_every_cut_is_restored_as_the_model_says(encrypted: bool, tmp_path: Path) -> None:
    assert_all_restored(busy_container(MemoryStore(SystemClock()), encrypted=encrypted), tmp_path)


def test_small_windows_and_small_requests_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "WINDOW_EXTENTS_MAX", 3)
    monkeypatch.setattr(resolving, "SLOT_BYTES", 10_000)
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 5_000)
    monkeypatch.setattr(planning, "GAP_BYTES_MAX", 10)
    assert_all_restored(busy_container(MemoryStore(SystemClock())), tmp_path)


def test_packs_and_ledgers_stand_for_what_was_collected(tmp_path: Path) -> None:
    site = busy_container(MemoryStore(SystemClock()))
    site.collect(1, 1, 4, number=1)
    site.collect(1, 5, 5, number=2)
    site.collect(2, 2, 4, number=3)
    assert_all_restored(site, tmp_path)


def test_catalogs_stand_for_heads(tmp_path: Path) -> None:
    site = busy_container(MemoryStore(SystemClock()))
    site.catalog([segment_key(1, seq) for seq in range(1, 6)], level=1)
    site.catalog([segment_key(2, seq) for seq in range(1, 4)])
    assert_all_restored(site, tmp_path)


def test_a_frame_is_fetched_once_and_dead_data_never(tmp_path: Path) -> None:
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 1 << 20)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(1 << 20))])
    last = site.cut([write(disk, 0, site.rng.randbytes(900_000))])
    container = open_container(site.store, Secret(PASSPHRASE))
    with closing(container.gather(container.history.everything())) as contents:
        (plan,) = plan_restore(container, contents, Choice(), []).volumes
    stored = sum(len(built.data) for built in site.objects)
    assert plan.totals.write_bytes == 1 << 20
    assert plan.totals.gets == 2
    assert plan.totals.fetch_bytes < stored - 700_000
    assert restored(site, last, tmp_path) == site.images[last]


def test_a_volume_overwritten_twenty_times_costs_little_more_than_its_live_data(tmp_path: Path) -> None:
    size, step = 2 << 20, 64 << 10
    store = CountingStore(SystemClock())
    site = Site(store)
    disk = site.add_volume("disk", size)
    site.begin_epoch()
    for _ in range(20):
        offsets = site.rng.sample(range(0, size, step), size // step)
        site.cut([write(disk, offset, site.rng.randbytes(step)) for offset in offsets[:12]])
        site.cut([write(disk, offset, site.rng.randbytes(step)) for offset in offsets[12:]])
    last = site.cut([write(disk, 0, site.rng.randbytes(size // 2))])
    container = open_container(site.store, Secret(PASSPHRASE))
    with closing(container.gather(container.history.everything())) as contents:
        for before in (0, 1):
            (plan,) = plan_restore(container, contents, Choice(at=(1, last.cut - before)), []).volumes
            store.asked.clear()
            assert len(run(Source(store, container.keys, contents), plan, tmp_path)) == size
            assert sum(length for _, _, length in store.asked) == plan.totals.fetch_bytes
            assert plan.totals.fetch_bytes <= 1.2 * size, before  # it does not compress
            assert len(store.asked) == plan.totals.gets <= 3


def test_every_resize_covers_and_not_only_the_newest(tmp_path: Path) -> None:
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 60_000)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(60_000))])
    for size in (10_000, 50_000, 30_000, 60_000):
        site.resize(disk, size)
        site.cut([write(disk, size - 1_000, b"tail" * 250)])
    site.collect(1, 1, 2)
    assert_all_restored(site, tmp_path)


def test_every_removal_covers_and_not_only_the_newest(tmp_path: Path) -> None:
    site = Site(MemoryStore(SystemClock()))
    other, disk = site.add_volume("other", 512), site.add_volume("disk", 60_000)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(60_000)), write(other, 0, b"x")])
    for content in (b"second life", b"third life"):
        site.remove(disk)
        site.cut()
        site.add_again(disk, "disk", 60_000)
        site.cut([write(disk, 30_000, content)])
    site.collect(1, 3, 4)
    assert_all_restored(site, tmp_path)


def test_who_holds_a_key_refuses_objects_that_are_not_sealed() -> None:
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 4096)
    site.begin_epoch()
    site.cut([write(disk, 0, b"true")])
    facts = SegmentFacts(epoch=1, seq=2, cut=2, complete=True, previous_digest=site.objects[0].digest)
    extent = NewExtent(disk, 0, 6, ExtentKind.DATA, b"forged")
    forged = build_segment(facts, [extent], [], WriterKeys(site.domain), bytes(16))
    site.store.put_new(forged.key, forged.data)
    container = open_container(site.store, Secret(PASSPHRASE))
    with closing(container.gather(container.history.everything())) as contents:
        with pytest.raises(DamagedObject, match="not sealed"):
            plan_restore(container, contents, Choice(), [])
        assert plan_restore(container, contents, Choice(at=(1, 1)), []).cut.place == Place(1, 1, 1)


def test_who_holds_a_key_refuses_a_domain_that_says_it_is_not_sealed() -> None:
    site = busy_container(MemoryStore(SystemClock()), encrypted=False)
    for secret in (Secret(PASSPHRASE), Secret(private_key=site.private_key)):
        with pytest.raises(WrongPassphrase, match="not encrypted"):
            open_container(site.store, secret)
