"""Rescue: the newest complete cut, byte for byte, from whatever objects are left, and never a wrong one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import (
    CdpError,
    ForeignObject,
    KeyMissing,
    MissingObject,
    NoSuchDomain,
    StoreRefused,
    WrongPassphrase,
)
from cdp_container.format.domain import parse_epoch_record
from cdp_container.format.keys import epoch_key, segment_key
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Secret
from rehydrate.plan import Choice
from rehydrate.points import plan_restore
from rehydrate.rescue import open_rescued
from rehydrate.restore import Source
from tests.containers import PASSPHRASE, Image, Site, discard, write
from tests.unit.rehydrate.test_restore import run

SIZE = 20_000


def a_site(encrypted: bool = True, epochs: int = 3, name: str = "shop", seed: int = 0) -> Site:
    """Some epochs of three cuts each; the second cut of each has two segments."""
    site = Site(MemoryStore(SystemClock()), seed=seed, encrypted=encrypted, name=name)
    disk = site.add_volume("disk", SIZE)
    for epoch in range(epochs):
        site.begin_epoch()
        for number in range(3):
            at = 3_000 * epoch + 1_000 * number
            writes = [write(disk, at, site.rng.randbytes(5_000)), discard(disk, at + 7_000, 500)]
            site.cut(writes, segments=2 if number == 1 else 1)
    site.protect(max(site.images))
    return site


def bare(site: Site) -> Site:
    """Without domain/ and catalogs."""
    for found in list(site.store.list("")):
        if found.key.startswith(("domain/", "catalog/")):
            site.store.delete(found.key)
    return site


def rescued(site: Site, directory: Path, secret: Secret | None = None) -> tuple[Place, Image, str]:
    """The place, the content and all that was said."""
    given = Secret(PASSPHRASE) if site.encrypted else Secret()
    found = open_rescued(site.store, given if secret is None else secret)
    with closing(found.contents) as contents:
        plan = plan_restore(found.container, contents, Choice(), [])
        source = Source(found.container.store, found.container.keys, contents)
        image = {volume.volume.space: run(source, volume, directory) for volume in plan.volumes}
        return plan.cut.place, image, "\n".join(found.container.history.notes)


def assert_rescued(site: Site, directory: Path, place: Place) -> str:
    found, image, notes = rescued(site, directory)
    assert found == place
    assert image == site.images[place]
    assert image
    return notes


def newest_complete(site: Site, lost: set[str]) -> Place:
    """By brute force: the newest cut of which every segment of every epoch before it is there."""
    newest = Place(0, 0, 0)
    for place in sorted(site.images):
        ends = {p.epoch: max(q.seq for q in site.images if q.epoch == p.epoch) for p in site.images}
        needed = [
            segment_key(epoch, seq)
            for epoch, last in ends.items()
            if epoch <= place.epoch
            for seq in range(1, (place.seq if epoch == place.epoch else last) + 1)
        ]
        if not lost & set(needed):
            newest = place
    return newest


@pytest.mark.parametrize("encrypted", [True, False])
def test_neither_domain_nor_catalogs_are_needed(encrypted: bool, tmp_path: Path) -> None:
    site = bare(a_site(encrypted))
    assert "nothing under domain/ was used" in assert_rescued(site, tmp_path, max(site.images))


def test_wrong_catalogs_and_a_wrong_owner_do_no_harm(tmp_path: Path) -> None:
    site = a_site()
    catalog = site.catalog([segment_key(1, 1)])
    for key in (catalog.key, "domain/owner", epoch_key(2)):
        site.store.delete(key)
        site.store.put_new(key, b"nonsense")
    assert_rescued(site, tmp_path, max(site.images))


@pytest.mark.parametrize("seed", range(25))
def test_any_subset_gives_its_newest_complete_cut_or_says_that_there_is_none(
    seed: int, tmp_path: Path
) -> None:
    site, rng = bare(a_site(encrypted=False)), Random(seed)
    keys = [found.key for found in site.store.list("log/")]
    lost = set(rng.sample(keys, rng.randrange(1, 4)))
    for key in lost:
        site.store.delete(key)
    expected = newest_complete(site, lost)
    if expected:
        assert_rescued(site, tmp_path, expected)
    else:
        with pytest.raises(MissingObject, match="no cut is complete"):
            rescued(site, tmp_path)


@pytest.mark.parametrize("where", [20, 200, 700, -1])
def test_an_object_with_a_damaged_head_counts_as_gone(where: int, tmp_path: Path) -> None:
    site = bare(a_site())
    key = segment_key(3, 2)
    data = bytearray(site.store.get(key).data)
    if where == -1:
        del data[-1:]
    else:
        data[where] ^= 1
    site.store.delete(key)
    site.store.put_new(key, bytes(data))
    notes = assert_rescued(site, tmp_path, newest_complete(site, {key}))
    assert key in notes


def test_objects_are_known_by_what_they_say_wherever_they_lie(tmp_path: Path) -> None:
    site = bare(a_site())
    for number, found in enumerate(list(site.store.list("log/"))):
        data = site.store.get(found.key).data
        site.store.delete(found.key)
        site.store.put_new(f"found/{number}", data)
    site.store.put_new("found/notes.txt", b"nothing of ours")
    notes = assert_rescued(site, tmp_path, max(site.images))
    assert "found/0 is log/0000000001/000000000001" in notes
    assert "notes.txt" not in notes


def test_of_two_that_claim_one_place_the_sound_one_counts(tmp_path: Path) -> None:
    site = bare(a_site())
    key = segment_key(3, 4)
    data = site.store.get(key).data
    site.store.delete(key)
    site.store.put_new(key, data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    site.store.put_new("copy/of-it", data)
    site.store.put_new("copy/twice", data)
    assert "both are" not in assert_rescued(site, tmp_path, max(site.images))


def test_of_two_sound_ones_the_one_where_it_belongs_counts_and_people_are_told(tmp_path: Path) -> None:
    """A clone of a host wrote the same segment with something else in it."""
    site, twin = bare(a_site()), a_site()
    key = segment_key(3, 4)
    disk = next(iter(twin.images[max(twin.images)]))
    twin.store.delete(key)
    twin._seq, twin._cut = 3, 2
    twin.cut([write(disk, 0, b"twin" * 100)])
    site.store.put_new("a/clone", twin.store.get(key).data)
    assert "both are" in assert_rescued(site, tmp_path, max(site.images))


def collected(site: Site, epoch: int, first: int, last: int, number: int) -> str:
    """Collect segments, and give the key of the ledger."""
    site.collect(epoch, first, last, number=number)
    assert site.owner.ledger is not None
    return site.owner.ledger.key


def test_ledgers_and_packs_stand_for_what_was_collected(tmp_path: Path) -> None:
    site = a_site()
    collected(site, 1, 1, 2, 1)
    collected(site, 2, 1, 3, 2)
    assert_rescued(bare(site), tmp_path, max(site.images))


def test_a_ledger_whose_pack_is_gone_is_not_used(tmp_path: Path) -> None:
    site = a_site()
    kept = {key: site.store.get(key).data for key in (segment_key(2, 1), segment_key(2, 2))}
    ledger = collected(site, 2, 1, 2, 1)
    for key, data in kept.items():
        site.store.put_new(key, data)
    pack = next(found.key for found in site.store.list("packs/") if "ledger" not in found.key)
    site.store.delete(pack)
    assert ledger in assert_rescued(bare(site), tmp_path, max(site.images))


def test_a_pack_that_is_gone_is_never_zeros(tmp_path: Path) -> None:
    site = a_site(epochs=1)
    collected(site, 1, 1, 2, 1)
    pack = next(found.key for found in site.store.list("packs/") if "ledger" not in found.key)
    site.store.delete(pack)
    with pytest.raises(MissingObject, match="no cut is complete") as caught:
        rescued(bare(site), tmp_path)
    assert "1 pack" in caught.value.hint


def test_packs_remember_an_epoch_of_which_no_segment_is_left(tmp_path: Path) -> None:
    site = a_site()
    record = parse_epoch_record(site.store.get(epoch_key(2)).data, epoch_key(2), site.domain)
    site.collect(2, 1, 4, epochs=[record])
    assert_rescued(bare(site), tmp_path, max(site.images))


def test_a_zombie_beyond_an_end_that_a_later_segment_tells_does_not_count(tmp_path: Path) -> None:
    site = a_site(epochs=1)
    disk = next(iter(site.images[max(site.images)]))
    site.zombie([write(disk, 0, b"late" * 100)])
    site.begin_epoch()
    site.cut([write(disk, 9_000, b"right" * 100)])
    assert_rescued(bare(site), tmp_path, max(site.images))


def test_two_domains_are_not_mixed(tmp_path: Path) -> None:
    site, other = bare(a_site()), a_site(name="other", seed=1)
    for item in other.store.list("log/"):
        site.store.put_new(f"other/{item.key}", other.store.get(item.key).data)
    with pytest.raises(ForeignObject, match=site.domain.hex()):
        rescued(site, tmp_path)
    found = open_rescued(site.store, Secret(PASSPHRASE), site.domain)
    with closing(found.contents):
        assert found.container.history.newest == max(site.images)
    with pytest.raises(NoSuchDomain, match="no object of such a domain"):
        open_rescued(site.store, Secret(PASSPHRASE), bytes(16))


def test_what_is_sealed_needs_its_secret(tmp_path: Path) -> None:
    site = bare(a_site())
    with pytest.raises(KeyMissing):
        open_rescued(site.store, Secret())
    with pytest.raises(WrongPassphrase):
        open_rescued(site.store, Secret("another one"))
    with pytest.raises(WrongPassphrase, match="no object that was found is sealed"):
        open_rescued(bare(a_site(encrypted=False)).store, Secret(PASSPHRASE))
    place, image, _ = rescued(site, tmp_path, Secret(private_key=site.private_key))
    assert image == site.images[place]


def test_an_empty_place_holds_nothing_and_nothing_is_written() -> None:
    store = MemoryStore(SystemClock())
    with pytest.raises(NoSuchDomain):
        open_rescued(store, Secret())
    site = bare(a_site())
    found = open_rescued(site.store, Secret(PASSPHRASE))
    with closing(found.contents):
        view = found.container.store
        for change in (
            lambda: view.put_new("a", b""),
            lambda: view.put_if("a", b"", ""),
            lambda: view.delete("a"),
        ):
            with pytest.raises(StoreRefused):
                change()
        with pytest.raises(CdpError):
            view.get("domain/owner")
