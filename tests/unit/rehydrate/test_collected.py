"""Containers of which a part was collected: what counts, what is damage, and what is no recovery point."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.contents import Contents
from cdp_container.domain.heads import Seen, read_heads
from cdp_container.domain.ledgers import ledger_of
from cdp_container.domain.verify_types import Finding
from cdp_container.domain.verifying import to_verify, verify
from cdp_container.errors import DamagedObject, MissingObject, NoSuchPoint
from cdp_container.format.index import Run
from cdp_container.format.keys import pack_key, segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.place import Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import RestorePlan, plan_restore, scope_of
from tests.containers import PASSPHRASE, Site, in_force, write
from tests.reader import Container, ReaderError
from tests.unit.rehydrate.test_restore import assert_all_restored, restored


@pytest.fixture
def site() -> Site:
    """Three cuts in epoch 1 and two in epoch 2, each over a part of the one before."""
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 20_000)
    site.begin_epoch()
    for number in range(3):
        site.cut([write(disk, 1_000 * number, site.rng.randbytes(5_000))])
    site.begin_epoch()
    for number in range(2):
        site.cut([write(disk, 10_000 + 1_000 * number, site.rng.randbytes(5_000))])
    site.protect(max(site.images))
    return site


def planned(site: Site, choice: Choice | None = None) -> RestorePlan:
    choice = choice or Choice()
    container = open_container(site.store, Secret(PASSPHRASE))
    with closing(container.gather(scope_of(container.history, choice))) as contents:
        return plan_restore(container, contents, choice, [])


def findings(site: Site) -> list[Finding]:
    container = open_container(site.store, Secret(PASSPHRASE))
    found = to_verify(container, None)
    return verify(container, found, container.history.everything(), lambda _: None).findings


def reader_of(site: Site) -> Container:
    """What the independent reader finds."""
    keys = [found.key for found in site.store.list("")]
    return Container(lambda key: site.store.get(key).data, lambda: keys, PASSPHRASE)


def replaced(site: Site, key: str, data: bytes) -> None:
    site.store.delete(key)
    site.store.put_new(key, data)


def test_a_lost_pack_is_missed_and_never_zeros(site: Site) -> None:
    pack = site.collect(1, 1, 2)
    site.store.delete(pack.key)
    with pytest.raises(MissingObject, match=pack.key):
        planned(site)
    assert pack.key in {finding.key for finding in findings(site)}


def test_another_pack_under_the_key_of_one_in_force_is_damage(site: Site) -> None:
    pack = site.pack(1, 1, 2)
    site.store.delete(pack.key)
    other = site.pack(1, 1, 2)  # sound, of the same content, and not the one that is named
    assert (other.key, len(other.data)) == (pack.key, len(pack.data))
    site.write_ledger([site.run(1, 1, 2), in_force(pack)])
    with pytest.raises(DamagedObject, match=pack.key):
        planned(site)
    assert pack.key in {finding.key for finding in findings(site)}


def test_a_catalog_proves_no_pack(site: Site) -> None:
    pack = site.pack(1, 1, 2)
    site.catalog([pack.key])
    site.store.delete(pack.key)
    site.pack(1, 1, 2)
    site.write_ledger([site.run(1, 1, 2), in_force(pack)])
    with pytest.raises(DamagedObject, match=pack.key):
        planned(site)


def test_a_pack_that_no_ledger_lists_counts_for_nothing(site: Site, tmp_path: Path) -> None:
    pack = site.pack(1, 1, 2)
    assert_all_restored(site, tmp_path)
    assert findings(site) == []
    replaced(site, pack.key, b"not even a pack")
    assert_all_restored(site, tmp_path)
    assert [finding.needed for finding in findings(site)] == [False]


def test_packs_of_an_older_ledger_count_only_if_the_newest_lists_them(site: Site) -> None:
    site.collect(1, 1, 2)
    site.write_ledger([], number=2)
    with pytest.raises(NoSuchPoint):
        planned(site, Choice(at=(1, 1)))


def test_what_older_ledgers_say_was_collected_stays_so(site: Site, tmp_path: Path) -> None:
    site.collect(1, 1, 1)
    site.collect(1, 2, 2, number=2)
    assert_all_restored(site, tmp_path)
    assert findings(site) == []


def test_a_pack_in_force_may_be_of_any_epoch(site: Site, tmp_path: Path) -> None:
    site.collect(1, 1, 2)
    site.begin_epoch()
    site.begin_epoch()
    assert_all_restored(site, tmp_path)


def test_collected_packs_are_no_collected_segments(site: Site) -> None:
    site.write_ledger([Run(RunKind.PACK_COLLECTED, 1, 1, 3, bytes(32))])
    site.store.delete(segment_key(1, 2))
    with pytest.raises(MissingObject, match=segment_key(1, 2)):
        planned(site)


def test_a_collected_segment_counts_as_such_where_it_can_still_be_read(site: Site, tmp_path: Path) -> None:
    pack = site.pack(1, 1, 2)
    site.write_ledger([site.run(1, 1, 2), in_force(pack)])
    assert_all_restored(site, tmp_path)
    replaced(site, segment_key(1, 2), b"half deleted")
    assert_all_restored(site, tmp_path)
    assert not any(finding.needed for finding in findings(site))


def test_what_was_collected_is_not_taken_in_whoever_reads_it(site: Site) -> None:
    container = open_container(site.store, Secret(PASSPHRASE))
    found = [site.store.head(segment_key(1, seq)) for seq in (1, 2)]
    ledger = ledger_of([site.run(1, 1, 1)])
    with closing(Contents(container.history.domain, ledger=ledger)) as contents:
        for seen in read_heads(site.store, found, container.history.domain, container.keys):
            assert isinstance(seen, Seen)
            contents.add(seen)
        assert set(contents.segments) == {(1, 2)}
        assert len(contents.objects) == 1


def test_the_segment_after_a_run_names_the_digest_of_the_run(site: Site) -> None:
    pack = site.pack(1, 1, 2)
    site.write_ledger([replace(site.run(1, 1, 2), digest=bytes(32)), in_force(pack)])
    with pytest.raises(DamagedObject, match=segment_key(1, 3)):
        planned(site)


def test_of_packs_only_what_stands_for_collected_segments_is_used(site: Site) -> None:
    pack = site.pack(1, 1, 2)
    site.write_ledger([site.run(1, 1, 1), in_force(pack)])
    container = open_container(site.store, Secret(PASSPHRASE))
    with closing(container.gather(container.history.everything())) as contents:
        (disk,) = site.images[Place(1, 1, 1)]
        runs = contents.runs(disk)
        assert sorted((row["epoch"], row["seq"]) for row in runs) == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
        assert [record.name for record in contents.space_records] == ["space+"]
        pack_number = [head.key for head in contents.objects].index(pack_key(2, 1))
        assert [row["seq"] for row in runs if row["object"] == pack_number] == [1]


def test_a_collected_cut_without_its_record_is_no_recovery_point(site: Site, tmp_path: Path) -> None:
    pack = site.pack(1, 1, 2, cut_records=False)
    site.write_ledger([site.run(1, 1, 2), in_force(pack)])
    for number in (1, 2):
        with pytest.raises(NoSuchPoint):
            planned(site, Choice(at=(1, number)))
    for place in (Place(1, 3, 3), Place(2, 2, 2)):
        assert restored(site, place, tmp_path) == site.images[place]


def test_the_newest_cut_may_be_a_collected_one(site: Site, tmp_path: Path) -> None:
    site.collect(2, 1, 2)
    assert planned(site).cut.place == Place(2, 2, 2)
    assert_all_restored(site, tmp_path)
    (disk,) = site.images[Place(2, 2, 2)]
    site.cut([write(disk, 0, b"later")])
    assert planned(site).cut.place == Place(2, 3, 3)


def test_collected_cuts_count_as_present_where_nothing_is_proven(site: Site) -> None:
    site.protect(Place(1, 3, 3))
    site.collect(2, 1, 2)
    assert planned(site).cut.place == Place(2, 2, 2)


def test_a_protected_cut_that_was_collected_without_its_record_is_lost(site: Site, tmp_path: Path) -> None:
    pack = site.pack(2, 1, 2, cut_records=False)
    site.write_ledger([site.run(2, 1, 2), in_force(pack)])
    with pytest.raises(MissingObject, match=segment_key(2, 2)) as caught:
        planned(site)
    assert "--at" in caught.value.hint
    assert restored(site, Place(1, 3, 3), tmp_path) == site.images[Place(1, 3, 3)]


def test_what_a_pack_says_beyond_an_end_never_counts(site: Site, tmp_path: Path) -> None:
    (disk,) = site.images[Place(1, 1, 1)]
    site.zombie([write(disk, 0, b"zombie" * 1000)])
    site.begin_epoch()
    last = site.cut([write(disk, 19_000, b"x")])
    site.protect(last)
    site.collect(2, 1, 3)
    assert_all_restored(site, tmp_path)
    with pytest.raises(NoSuchPoint):
        planned(site, Choice(at=(2, 3)))


def test_a_missing_segment_before_the_protected_cut_is_told_with_what_to_do(site: Site) -> None:
    site.store.delete(segment_key(2, 1))
    with pytest.raises(MissingObject, match=segment_key(2, 1)) as caught:
        planned(site)
    assert "--at" in caught.value.hint


def test_a_damaged_newest_cut_is_no_reason_to_take_an_older_one(site: Site) -> None:
    key = segment_key(2, 2)
    data = site.store.get(key).data
    index_end = parse_preamble(data, key).head_length - 40
    replaced(site, key, data[:index_end] + bytes([data[index_end] ^ 1]) + data[index_end + 1 :])
    with pytest.raises(DamagedObject, match=key):
        planned(site)
    assert planned(site, Choice(at=(2, 1))).cut.place == Place(2, 1, 1)


@pytest.mark.parametrize("is_collected", [False, True])
def test_a_retired_cut_is_not_offered_though_its_segment_is_there(site: Site, is_collected: bool) -> None:
    runs = [Run(RunKind.CUTS_RETIRED, 1, 2, 2, bytes(32))]
    if is_collected:
        runs += [site.run(1, 1, 2), in_force(site.pack(1, 1, 2))]
    site.write_ledger(runs)
    with pytest.raises(NoSuchPoint):
        planned(site, Choice(at=(1, 2)))
    offered = [cut for cut in site.images if cut != Place(1, 2, 2)]
    assert len(offered) == 4
    for place in offered:
        assert planned(site, Choice(at=(place.epoch, place.cut))).cut.place == place
    assert findings(site) == []
    with pytest.raises(ReaderError, match="no cut 2"):
        reader_of(site).cut(1, 2)
    assert [cut.place[:2] for cut in reader_of(site).cuts] == [(p.epoch, p.cut) for p in offered]
