"""What one look tells of real containers: reasons, holds, garbage, doubts; and every byte of them counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdp_agent.collector.choose import SMALL_OBJECT_BYTES
from cdp_agent.collector.pass_types import Wishes
from cdp_agent.usage.kinds import DEAD_KINDS, SPLIT, Kind, Lock, Part, Usage, account
from cdp_agent.usage.look import Look, look_at
from cdp_container.domain.retention_policy import Retention
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, segment_key
from cdp_container.format.place import Place
from cdp_container.store.inventory import Taken
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, write
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Time
from tests.unit.usage.account_site import around

DISK = 300_000


def items(site: CollectedSite) -> Iterator[Taken]:
    for found in site.store.list(""):
        yield Taken(found.key, found.size, found.modified_ns)


def looked(site: CollectedSite, tmp_path: Path) -> tuple[Look, Usage]:
    found = look_at(around(site, tmp_path / "collector"), Wishes())
    usage = account([Part(items(site), Lock(None, found.now_ns))], found.known, SMALL_OBJECT_BYTES)
    assert usage.total.bytes == sum(one.size for one in site.store.list(""))
    assert usage.total.objects == len(list(site.store.list("")))
    return found, usage


def a_site(encrypted: bool = False, seed: int = 0, cuts: int = 30, every_hours: float = 4) -> CollectedSite:
    site = CollectedSite(encrypted, seed, every_hours)
    site.add_disk("disk", DISK)
    site.add_disk("log", 60_000)
    site.begin_epoch()
    site.busy(cuts)
    return site


def told(usage: Usage, *kinds: Kind) -> int:
    return sum(usage.amounts[kind].bytes for kind in kinds)


@pytest.mark.parametrize("encrypted", [False, True])
def test_before_and_after_a_pass(tmp_path: Path, encrypted: bool) -> None:
    site = a_site(encrypted)
    before, usage = looked(site, tmp_path)
    assert not before.doubts
    assert before.retention == site.retention
    assert told(usage, Kind.LIVE) > 100_000
    assert told(usage, Kind.WINDOW) > 10_000
    assert told(usage, Kind.DEAD, Kind.SHARED) > 10_000
    assert told(usage, Kind.INFORMATION) > 0
    assert told(usage, Kind.UNTOLD, Kind.FOREIGN, Kind.HOLDS, Kind.MARKERS) == 0
    kept = (Kind.LIVE, Kind.RULES, Kind.WINDOW)
    site.run_pass(tmp_path, Wishes(private_key=site.private_key if encrypted else None))
    site.run_pass(tmp_path, Wishes(private_key=site.private_key if encrypted else None))
    _, after = looked(site, tmp_path)
    assert told(after, *DEAD_KINDS) < told(usage, *DEAD_KINDS) / 2
    assert told(after, *kept) == pytest.approx(told(usage, *kept), rel=0.3)


def test_a_look_changes_neither_the_container_nor_what_a_pass_remembers(tmp_path: Path) -> None:
    site = a_site()
    first, usage = looked(site, tmp_path)
    listed = [(one.key, one.tag) for one in site.store.list("")]
    results = (tmp_path / "collector" / "facts.db").read_bytes()
    second, again = looked(site, tmp_path)
    assert (tmp_path / "collector" / "facts.db").read_bytes() == results
    assert again == usage
    assert [(one.key, one.tag) for one in site.store.list("")] == listed
    assert first.found is not None
    assert second.found is not None
    assert first.found.chosen == second.found.chosen


def test_each_reason_has_its_bytes(tmp_path: Path) -> None:
    """Cuts that overwrite all of a disk: each needs its own segment, and nothing else."""
    site = CollectedSite()
    site.retention = Retention(every_seconds=2 * HOUR, daily_seconds=30 * 24 * HOUR)
    disk = site.add_disk("disk", DISK)
    site.begin_epoch()
    site.cut()  # what it says of the volume is needed for ever

    def fill(hours: float, marker: str | None = None) -> Place:
        site.time.sleep(hours * HOUR)
        return site.cut([write(disk, 0, site.rng.randbytes(DISK))], marker=marker)

    dead, _, held = fill(24), fill(24, "installed"), fill(24)
    site.time.sleep(40 * 24 * HOUR)
    days = [fill(24), fill(24)]
    site.time.sleep(24 * HOUR)
    window, young, newest = fill(0), fill(1.5), fill(0.1)
    site.protect(newest)
    site.hold("0" * 32, held)
    found, usage = looked(site, tmp_path)
    assert found.found is not None
    assert [cut.place for cut in found.found.retired][1:] == [dead]
    assert set(found.found.kept) >= {*days, window, young, newest}
    whole = {kind: round(amount.bytes / DISK) for kind, amount in usage.amounts.items() if amount.objects}
    assert whole == {
        Kind.LIVE: 1, Kind.RULES: 1, Kind.WINDOW: 1, Kind.THINNED: 2, Kind.MARKERS: 1, Kind.INFORMATION: 0,
        Kind.HOLDS: 2,  # what it shows, and what its reader may look for
    }  # fmt: skip
    _, halves = looked_at_half(site, tmp_path, disk)
    assert halves == [Kind.LIVE, Kind.RULES]


def looked_at_half(site: CollectedSite, tmp_path: Path, disk: bytes) -> tuple[int, list[Kind]]:
    """Half of the newest cut is overwritten: it is parted between the newest and the one before."""
    before = max(site.images)
    site.protect(site.cut([write(disk, 0, site.rng.randbytes(DISK // 2))]))
    found, _ = looked(site, tmp_path)
    assert found.known is not None
    row = next(row for row, one in enumerate(found.known.objects) if one["number"] == before.seq)
    shares = found.known.shares[row].tolist()
    parted = [kind for kind, share in zip(SPLIT, shares, strict=True) if share]
    assert shares[0] == pytest.approx(shares[1], rel=0.05)
    return row, parted


def test_what_nothing_names_waits_for_a_hold(tmp_path: Path) -> None:
    site = a_site()
    site.run_pass(tmp_path)
    site.hold("1" * 32, max(site.images), site.owner.ledger)
    site.time.sleep(30 * HOUR)
    site.busy(3)
    _, held = looked(site, tmp_path)
    assert told(held, Kind.HOLDS) > 0
    site.unhold()
    _, freed = looked(site, tmp_path)
    assert told(freed, Kind.HOLDS) == 0
    assert told(freed, *DEAD_KINDS) > told(held, *DEAD_KINDS)


def test_doubts_are_told_and_every_byte_is_counted_even_so(tmp_path: Path) -> None:
    site = a_site()
    first = min(site.images)
    site.store.delete(segment_key(first.epoch, first.seq))
    found, usage = looked(site, tmp_path)
    assert "what is live is not known" in found.doubts[0]
    assert found.known is None
    assert told(usage, Kind.UNTOLD) > told(usage, Kind.INFORMATION) > 0
    assert told(usage, Kind.LIVE, *DEAD_KINDS) == 0
    site.store.delete(HOLDS_KEY)
    assert any("what is held is not known" in doubt for doubt in looked(site, tmp_path)[0].doubts)
    site.store.delete(OWNER_KEY)
    assert looked(site, tmp_path)[0].now_ns == 0


def test_names_and_content_of_others_are_foreign(tmp_path: Path) -> None:
    site, other = a_site(), Site(MemoryStore(Time()), seed=7)
    other.add_volume("disk", 4096)
    other.begin_epoch()
    other.cut()
    site.store.put_new(segment_key(1, 999), other.objects[0].data)
    site.store.put_new(segment_key(1, 998), b"notes of somebody")
    site.store.put_new("packs/0000000009/000000000001", b"notes of somebody")
    site.store.put_new("notes", b"12345")
    site.store.put_new("domain/probe/" + "0" * 32, b"1")
    site.begin_epoch()
    _, usage = looked(site, tmp_path)
    assert usage.amounts[Kind.FOREIGN].objects == 4


def test_what_is_written_after_the_look_is_young(tmp_path: Path) -> None:
    site = a_site()
    found, _ = looked(site, tmp_path)
    site.cut([write(site.disks[0][0], 0, b"x" * 4096)])
    usage = account([Part(items(site), Lock(None, found.now_ns))], found.known, SMALL_OBJECT_BYTES)
    assert told(usage, Kind.UNTOLD) == 0
    assert usage.total.bytes == sum(one.size for one in site.store.list(""))


def test_what_was_remembered_and_is_damaged_is_read_again(tmp_path: Path) -> None:
    site = a_site()
    _, usage = looked(site, tmp_path)
    with closing(sqlite3.connect(tmp_path / "collector" / "facts.db")) as database, database:
        database.execute("UPDATE objects SET crc = crc + 1")
    found, again = looked(site, tmp_path)
    assert not found.doubts
    assert again == usage


@pytest.mark.parametrize("encrypted", [False, True])
def test_frames_that_only_the_key_splits(tmp_path: Path, encrypted: bool) -> None:
    """A sliver of a segment lives, in one of its two frames: without the key a pack takes all of that."""
    site = CollectedSite(encrypted)
    disk = site.add_disk("disk", DISK)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(DISK))])
    site.time.sleep(24 * HOUR)
    site.cut([write(disk, 0, site.rng.randbytes(DISK - 4096))])
    site.time.sleep(24 * HOUR)
    site.cut([write(disk, 0, b"new")])
    site.protect(max(site.images))
    _, usage = looked(site, tmp_path)
    assert told(usage, Kind.UNSPLIT, Kind.SHARED) == pytest.approx(DISK - 4096, rel=0.02)
    assert told(usage, Kind.UNSPLIT) == (pytest.approx(DISK / 2, rel=0.1) if encrypted else 0)
