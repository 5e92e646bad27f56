"""Everything in a container flipped, cut, swapped and deleted: found, named, and never restored."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.verify_types import Report
from cdp_container.domain.verifying import to_verify, verify
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    ForeignObject,
    MissingObject,
    NewerFormat,
    PointsDamaged,
)
from cdp_container.format.keys import KeyKind, parse_key, segment_key
from cdp_container.format.layout import PREAMBLE
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import plan_restore, scope_of
from rehydrate.restore import Source, restore_volume
from rehydrate.target import open_target
from tests.containers import CUT_NS, FIRST_CUT_NS, PASSPHRASE, Image, Site, discard, write

Objects = dict[str, bytes]
FLIPS = 30
# A flip in these is not always found, as they carry no digest: they may only never lead to a wrong image.
UNSIGNED = (KeyKind.OWNER, KeyKind.EPOCH_RECORD)


def small_site(store: Store, seed: int = 0) -> Site:
    """Every kind of object, little of each."""
    site = Site(store, seed)
    disk = site.add_volume("disk", 100_000)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(60_000))])
    site.cut([write(disk, 5_000, b"second" * 500), discard(disk, 50_000, 5_000)])
    site.cut([write(disk, 9_000, b"third" * 500)], marker="here")
    site.begin_epoch()
    site.cut([write(disk, 80_000, site.rng.randbytes(10_000))], segments=2)
    last = site.cut([write(disk, 0, b"last")])
    site.protect(last)
    site.collect(1, 2, 2)
    site.catalog([segment_key(1, 1), segment_key(1, 3)])
    return site


@pytest.fixture(scope="module")
def site() -> Site:
    return small_site(MemoryStore(SystemClock()))


@pytest.fixture(scope="module")
def objects(site: Site) -> Objects:
    return {found.key: site.store.get(found.key).data for found in site.store.list("")}


def store_of(objects: Objects) -> MemoryStore:
    store = MemoryStore(SystemClock())
    for key, data in objects.items():
        store.put_new(key, data)
    return store


def verified(store: Store) -> Report:
    container = open_container(store, Secret(PASSPHRASE))
    return verify(container, to_verify(container, None), container.history.everything(), lambda _: None)


def named(store: Store) -> set[str]:
    """What verify (or the refusal to begin) names."""
    try:
        report = verified(store)
    except CdpError as error:
        return {error.what}
    assert report.error or not report.findings
    return {finding.key for finding in report.findings}


def restored(store: Store, directory: Path) -> tuple[tuple[int, int], Image] | None:
    """The latest cut as it is restored, or None where that is refused."""
    try:
        container = open_container(store, Secret(PASSPHRASE))
        with closing(container.gather(scope_of(container.history, Choice()))) as contents:
            plan = plan_restore(container, contents, Choice(), [])
            source = Source(store, container.keys, contents)
            image = {}
            for volume in plan.volumes:
                path = directory / "disk.raw"
                with open_target(path, volume.volume.size_bytes, 0, force=True) as target:
                    restore_volume(source, volume, target, lambda _: None)
                image[volume.volume.space] = path.read_bytes()
    except CdpError:
        return None
    place = plan.cut.place
    return (place.epoch, place.cut), image


def assert_never_wrong(site: Site, store: Store, directory: Path) -> None:
    found = restored(store, directory)
    if found is not None:
        images = {(place.epoch, place.cut): image for place, image in site.images.items()}
        assert found[1] == images[found[0]]


def flips(objects: Objects) -> Iterator[tuple[str, Objects]]:
    rng = random.Random(7)
    for key, data in objects.items():
        for number in range(FLIPS):
            at = rng.randrange(len(data)) if number else len(data) - 1
            yield (
                key,
                {**objects, key: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]},
            )


def test_nothing_is_found_in_a_sound_container(site: Site, tmp_path: Path) -> None:
    report = verified(site.store)
    assert (report.findings, report.ignored, report.error) == ([], [], None)
    assert report.frames == 5
    assert restored(site.store, tmp_path) is not None


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_named(site: Site, objects: Objects, tmp_path: Path) -> None:
    for key, changed in flips(objects):
        store = store_of(changed)
        parsed = parse_key(key)
        assert parsed is not None
        if parsed.kind not in UNSIGNED:
            assert any(key in name for name in named(store)), key
        assert_never_wrong(site, store, tmp_path)


def test_an_object_cut_short_is_found_and_named(site: Site, objects: Objects, tmp_path: Path) -> None:
    rng = random.Random(8)
    for key, data in objects.items():
        for length in (0, rng.randrange(1, len(data)), len(data) - 1):
            store = store_of({**objects, key: data[:length]})
            assert any(key in name for name in named(store)), (key, length)
            assert_never_wrong(site, store, tmp_path)


def test_swapped_objects_are_found_and_named(site: Site, objects: Objects, tmp_path: Path) -> None:
    keys = sorted(objects)
    for one, two in zip(keys, keys[1:] + keys[:1], strict=True):
        store = store_of({**objects, one: objects[two], two: objects[one]})
        names = named(store)
        assert any(one in name or two in name for name in names), (one, two)
        assert_never_wrong(site, store, tmp_path)


def test_a_deleted_object_is_missed_by_name(site: Site, objects: Objects, tmp_path: Path) -> None:
    for key in objects:
        kept = {name: data for name, data in objects.items() if name != key}
        store = store_of(kept)
        parsed = parse_key(key)
        assert parsed is not None
        if parsed.kind in (KeyKind.SEGMENT, KeyKind.LEDGER, KeyKind.EPOCH_RECORD, KeyKind.CONFIG):
            assert any(key in name for name in named(store)), key
        if parsed.kind is not KeyKind.PACK:
            assert_never_wrong(site, store, tmp_path)


def test_a_foreign_object_is_named_as_such(site: Site, objects: Objects) -> None:
    other = small_site(MemoryStore(SystemClock()), seed=99)
    for key in objects:
        parsed = parse_key(key)
        if parsed is not None and parsed.kind is KeyKind.SEGMENT:
            report = verified(store_of({**objects, key: other.store.get(key).data}))
            assert {type(f.error) for f in report.findings if f.key == key} == {ForeignObject}


def newer(data: bytes) -> bytes:
    """The same object of format 2, with every digest right."""
    length = parse_preamble(data, "test").preamble_length
    body = data[:8] + (2).to_bytes(2, "little") + data[10 : length - 32]
    rest = body + hashlib.sha256(body).digest() + data[length:-32]
    return rest + hashlib.sha256(rest).digest()


def test_an_object_of_a_newer_format_is_refused_by_name(objects: Objects) -> None:
    assert PREAMBLE.fields[1].name == "format"
    key = segment_key(1, 1)
    report = verified(store_of({**objects, key: newer(objects[key])}))
    (finding,) = (finding for finding in report.findings if finding.key == key)
    assert isinstance(finding.error, NewerFormat)
    assert finding.kind == "newer"
    assert isinstance(report.error, PointsDamaged)


def test_a_missing_segment_stops_the_plan_before_the_first_byte(objects: Objects) -> None:
    key = segment_key(1, 3)
    store = store_of({name: data for name, data in objects.items() if name != key})
    container = open_container(store, Secret(PASSPHRASE))
    with (
        closing(container.gather(container.history.everything())) as contents,
        pytest.raises(MissingObject, match=key),
    ):
        plan_restore(container, contents, Choice(), [])
    assert isinstance(verified(store).error, PointsDamaged)


def test_a_time_does_not_mean_an_older_cut_where_damage_hides_the_newer(objects: Objects) -> None:
    key = segment_key(1, 3)
    store = store_of({**objects, key: objects[key][:-1]})
    container = open_container(store, Secret(PASSPHRASE))
    first_ns, third_ns = FIRST_CUT_NS, FIRST_CUT_NS + 2 * CUT_NS
    with closing(container.gather(container.history.everything())) as contents:
        for time_ns in (third_ns, third_ns + CUT_NS // 2):
            with pytest.raises(DamagedObject, match=key):
                plan_restore(container, contents, Choice(time_ns=time_ns), [])
        assert plan_restore(container, contents, Choice(time_ns=first_ns), []).cut.place.cut == 1
        assert plan_restore(container, contents, Choice(at=(1, 2)), []).cut.place.cut == 2


def test_a_damaged_frame_is_never_written_as_done(site: Site, objects: Objects, tmp_path: Path) -> None:
    key = segment_key(1, 1)
    data = objects[key]
    store = store_of({**objects, key: data[:-1000] + bytes(8) + data[-992:]})
    container = open_container(store, Secret(PASSPHRASE))
    target_path = tmp_path / "disk.raw"
    with closing(container.gather(container.history.everything())) as contents:
        (plan,) = plan_restore(container, contents, Choice(), []).volumes
        source = Source(store, container.keys, contents)
        with (
            pytest.raises(DamagedObject, match=key),
            open_target(target_path, plan.volume.size_bytes, 0, force=False) as target,
        ):
            restore_volume(source, plan, target, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_protected_cut_is_told_and_only_a_named_point_goes_behind_it(
    site: Site, objects: Objects
) -> None:
    last = max(site.images)
    key = segment_key(last.epoch, last.seq)
    store = store_of({name: data for name, data in objects.items() if name != key})
    container = open_container(store, Secret(PASSPHRASE))
    assert isinstance(container.history.lost, MissingObject)
    with closing(container.gather(container.history.everything())) as contents:
        with pytest.raises(MissingObject):
            plan_restore(container, contents, Choice(), [])
        assert plan_restore(container, contents, Choice(at=(2, 1)), []).cut.place.cut == 1
