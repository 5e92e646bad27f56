"""Catalogs are bundled anew once they are many, without what is collected; readers find all heads there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.collector import catalogs, choose
from cdp_agent.collector.catalogs import COLLECTED_LEVEL, NARROW_MIN, READ_MAX, WIDE_MAX, superseded_catalogs
from cdp_container.domain.heads import Seen, read_catalogs
from cdp_container.format.keys import CATALOG_PREFIX, catalog_key, parse_key
from cdp_container.store.api import Found
from tests.containers import write
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Crash, StopAt


def found(count: int, level: int = 0, epoch: int = 1) -> list[Found]:
    return [Found(catalog_key(epoch, level, n), 10, "t", 5) for n in range(1, count + 1)]


def test_when_they_are_many() -> None:
    assert not superseded_catalogs(found(NARROW_MIN - 1), lambda _: True)
    assert len(superseded_catalogs(found(NARROW_MIN), lambda _: True)) == NARROW_MIN
    assert not superseded_catalogs(found(NARROW_MIN), lambda _: False), "too young"
    wide = found(WIDE_MAX, COLLECTED_LEVEL)
    assert superseded_catalogs([*found(NARROW_MIN), *wide], lambda _: True) == [
        one.key for one in found(NARROW_MIN)
    ]
    wide = found(WIDE_MAX + 1, COLLECTED_LEVEL)
    assert superseded_catalogs(wide, lambda _: True) == [one.key for one in wide]
    assert len(superseded_catalogs(found(READ_MAX + 9), lambda _: True)) == READ_MAX


def test_a_pass_bundles_them_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "MERGE_MIN", 1_000_000)
    site = CollectedSite()
    site.add_disk("disk", 300_000)
    site.begin_epoch()
    site.busy(NARROW_MIN, minutes=5)
    keys = [built.key for built in site.objects]
    for number in range(NARROW_MIN):
        site.catalog(keys[number : number + 8], number=number + 1)
    site.store.put_new(catalog_key(1, 1, 1), b"no catalog at all")
    site.time.sleep(HOUR)
    site.busy(1)
    site.run_pass(tmp_path)
    site.sound(tmp_path / "out", most=4)
    [left] = [one.key for one in site.store.list(CATALOG_PREFIX)]
    parsed = parse_key(left)
    assert parsed is not None
    assert parsed.level == COLLECTED_LEVEL
    wanted = {one.key: one for one in site.store.list("log/")}
    assert len(wanted) < len(keys)
    told = [
        seen.key
        for seen in read_catalogs(site.store, CATALOG_PREFIX, site.domain, site.reader_keys(), dict(wanted))
        if isinstance(seen, Seen)
    ]
    assert set(told) == set(wanted) & set(keys[: NARROW_MIN + 7])
    assert told


def test_killed_when_the_first_one_is_written_and_the_next_pass_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else tells that its number was used: the pass after it would find another's catalog there."""
    monkeypatch.setattr(catalogs, "NARROW_MIN", 2)
    site = CollectedSite(every_hours=0)
    disk = site.add_disk("disk", 100_000)
    site.begin_epoch()
    for number in range(30):
        site.time.sleep(300)
        site.cut([write(disk, number % 4 * 8192, site.rng.randbytes(8192))])
    site.protect(max(site.images))
    site.time.sleep(2 * HOUR)
    site.run_pass(tmp_path)  # from here on there is nothing to pack
    left = [one.key for one in site.store.list("log/")]
    for number in (1, 2):
        site.catalog(left, number=number)
    site.time.sleep(HOUR * 2)
    with pytest.raises(Crash):
        site.run_pass(tmp_path, effects=StopAt("put packs/"))
    written = [one.key for one in site.store.list(CATALOG_PREFIX)]
    assert any((parsed := parse_key(key)) and parsed.level == COLLECTED_LEVEL for key in written)
    assert site.run_pass(tmp_path).finished is not None
    left = [one.key for one in site.store.list(CATALOG_PREFIX)]
    assert all((parsed := parse_key(key)) and parsed.level == COLLECTED_LEVEL for key in left)
    site.sound(tmp_path / "out", most=4)
