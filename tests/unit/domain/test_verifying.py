"""Whatever is wrong is found and named, by every mode that covers it; a sample never overstates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.budget import Budget
from cdp_container.domain.history import read_domain, read_history
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.sampling import SEED_BYTES, Turn
from cdp_container.domain.verify_report import About, report_members, verdict
from cdp_container.domain.verify_run import verify_all, verify_branch, verify_sample
from cdp_container.domain.verify_types import Opened, Report, needed_scope
from cdp_container.errors import CdpError, Incomplete, PointsDamaged
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import PlanName, PlanState
from cdp_container.format.frames import StoredFrame
from cdp_container.format.gc import Plan, build_plan, plan_digest
from cdp_container.format.head import object_digest, open_head
from cdp_container.format.index import Entry, Order, Run
from cdp_container.format.keys import gc_key, ledger_key, pack_key, segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.pack import CopiedFrame, PackContent, PackExtent, PackFacts, build_pack
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.seal import NO_KEYS, ReaderKeys
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Container
from tests.containers import Site, in_force, write

pytestmark = pytest.mark.slow

EVERYTHING = Budget(size_bytes=1 << 40)
TURN = Turn(bytes(SEED_BYTES))


def no_plan(objects: int, size_bytes: int) -> Callable[[object], None]:
    return lambda _: None


@pytest.fixture
def site() -> Site:
    """Two epochs; a part of the first was collected, a catalog bundles the rest."""
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 200_000)
    site.begin_epoch()
    for number in range(4):
        site.cut([write(disk, 10_000 * number, site.rng.randbytes(9_000))])
    site.begin_epoch()
    for number in range(3):
        site.cut([write(disk, 50_000 + 10_000 * number, site.rng.randbytes(9_000))])
    site.collect(1, 1, 2)
    site.catalog([segment_key(1, 3), segment_key(1, 4), segment_key(2, 1)])
    site.protect(max(site.images))
    return site


def opened(site: Site, keys: ReaderKeys | None = None) -> Opened:
    reader = site.reader_keys()
    facts = read_domain(site.store)
    ledger = read_ledger(site.store, facts.owner, reader)
    return Container(
        site.store, read_history(site.store, facts), reader if keys is None else keys, True, ledger
    )


def index_only(site: Site) -> ReaderKeys:
    return ReaderKeys(site.reader_keys().index_key)


def by_all(site: Site) -> Report:
    return verify_all(opened(site), no_plan)


def by_index_key(site: Site) -> Report:
    return verify_all(opened(site, index_only(site)), no_plan)


def by_newest(site: Site) -> Report:
    container = opened(site)
    return verify_branch(container, container.history.branch_of(container.history.newest), no_plan, True)


def by_sample(site: Site) -> Report:
    return verify_sample(opened(site), TURN, EVERYTHING, SystemClock(), no_plan).report


def by_small_sample(site: Site) -> Report:
    return verify_sample(opened(site), TURN, Budget(size_bytes=1), SystemClock(), no_plan).report


MODES = {"all": by_all, "index key": by_index_key, "newest": by_newest, "sample": by_sample}
NEEDED = (segment_key(1, 3), segment_key(2, 1), segment_key(2, 3), pack_key(2, 1))


def named(site: Site, by: Callable[[Site], Report]) -> set[str]:
    """What a verification names, or the refusal to begin."""
    try:
        report = by(site)
    except CdpError as error:
        return {error.what}
    assert bool(report.error) == bool(report.findings)
    assert (verdict(report) in ("sound", "nothing found in what was read")) == (not report.findings)
    return {finding.key for finding in report.findings}


def replaced(site: Site, key: str, data: bytes | None) -> None:
    site.store.delete(key)
    if data is not None:
        site.store.put_new(key, data)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# --- every kind of damage, in every mode ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", NEEDED)
@pytest.mark.parametrize(
    "kind", ["frames", "preamble", "index", "trailer", "short", "empty", "gone", "other"]
)
def test_damage_is_found_and_named(site: Site, mode: str, key: str, kind: str) -> None:
    data = site.store.get(key).data
    other = site.store.get(segment_key(2, 2)).data
    head = parse_preamble(data, key).head_length
    damaged: Mapping[str, bytes | None] = {
        "frames": flipped(data, head + 5),
        "preamble": flipped(data, 60),
        "index": flipped(data, head - 40),
        "trailer": flipped(data, len(data) - 1),
        "short": data[:-1],
        "empty": b"",
        "gone": None,
        "other": other,
    }
    assert named(site, MODES[mode]) == set()
    replaced(site, key, damaged[kind])
    assert any(key in name for name in named(site, MODES[mode])), (mode, key, kind)
    with pytest.raises((PointsDamaged, CdpError)):
        raise MODES[mode](site).error or AssertionError("it must not be sound")


@pytest.mark.parametrize("mode", ["all", "index key", "sample"])
@pytest.mark.parametrize("kind", ["flip", "short"])
def test_a_damaged_catalog_or_epoch_record_is_found(site: Site, mode: str, kind: str) -> None:
    for key in ("catalog/0000000002/0-000000000001", ledger_key(2, 1), "domain/epochs/0000000001"):
        data = site.store.get(key).data
        replaced(site, key, flipped(data, len(data) // 2) if kind == "flip" else data[:-1])
        assert any(key in name for name in named(site, MODES[mode])), key
        replaced(site, key, data)


def test_damage_that_no_point_needs_says_so(site: Site) -> None:
    catalog = "catalog/0000000002/0-000000000001"
    replaced(site, catalog, site.store.get(catalog).data[:-1])
    report = by_all(site)
    assert isinstance(report.error, Incomplete)
    assert verdict(report) == "damage that no recovery point needs"


# --- what is sound by itself, and wrong together -----------------------------------------------------------


def test_a_catalog_that_lies_about_a_head_is_found(site: Site) -> None:
    """The digest is right and the head another's: a reader would go by it."""
    key = segment_key(2, 2)
    data, liar = site.store.get(key).data, site.store.get(segment_key(2, 3)).data
    preamble = parse_preamble(data, key)
    head = liar[: parse_preamble(liar, segment_key(2, 3)).head_length]
    entry = Entry(preamble.kind, 2, 2, len(data), object_digest(data), head)
    keys = site._keys
    built = build_catalog(CatalogFacts(2, 1, 1), [entry], keys, bytes(16), Compressor())
    site.store.put_new(built.key, built.data)
    assert built.key in named(site, by_all)
    assert built.key in named(site, by_index_key)


def test_a_segment_that_breaks_the_chain_is_found(site: Site) -> None:
    """Sound by itself, and of another history."""
    other = Site(MemoryStore(SystemClock()))
    disk = other.add_volume("disk", 200_000)
    other.begin_epoch()
    other.cut([write(disk, 0, b"other")])
    other.begin_epoch()
    for _ in range(3):
        other.cut([write(disk, 0, b"other")])
    key = segment_key(2, 2)
    replaced(site, key, other.store.get(key).data)
    for by in MODES.values():
        assert any("log/0000000002/" in name for name in named(site, by))


def test_a_pack_whose_content_is_not_that_of_its_sums_is_found(site: Site) -> None:
    """Every digest and CRC is right; only who opens the frame can tell."""
    built = _swapped_pack(site)
    site.write_ledger([site.run(1, 3, 3), *site._packs, in_force(built)], 2)
    assert built.key in {name.split(",")[0] for name in named(site, by_all)}


def _swapped_pack(site: Site) -> SealedObject:
    """The frame of segment 1.3 under the index of another content."""
    key = segment_key(1, 3)
    data = site.store.get(key).data
    head = open_head(data, key, site.domain, site.reader_keys())
    wrong = open_head(
        site.store.get(segment_key(1, 4)).data, segment_key(1, 4), site.domain, site.reader_keys()
    )
    frame = head.index.frame(0)
    start, end = head.frame_range(0)
    copied = CopiedFrame(
        StoredFrame(data[start:end], frame.raw_length, frame.crc32, frame.codec),
        head.preamble.object_id,
        0,
        head.preamble.wrapped_content_key,
    )
    extents = [PackExtent(Order(1, 3, 3), extent) for extent in wrong.index.iter_extents()]
    assert any(extent.extent.sums for extent in extents)
    content = PackContent([copied], extents, [])
    built = build_pack(PackFacts(2, 9), content, site._epoch_keys(), site.rng.randbytes(16), Compressor())
    site.store.put_new(built.key, built.data)
    return built


def test_an_executing_plan_that_is_gone_is_found(site: Site) -> None:
    ledger = site.owner.ledger
    assert ledger is not None
    plan = Plan(
        site.domain, 2, 1, 5, "site-a", None, ledger, (), (segment_key(1, 1),), (), site.owner.protected
    )
    data = build_plan(plan)
    site.write_owner(plan=PlanName(2, 1, plan_digest(data), PlanState.EXECUTING))
    assert gc_key(2, 1) in named(site, by_all)
    site.store.put_new(gc_key(2, 1), data)
    assert named(site, by_all) == set()
    replaced(site, gc_key(2, 1), data[:-1])
    assert gc_key(2, 1) in named(site, by_all)


# --- retained and retired cuts --------------------------------------------------------------------------


def retire(site: Site, epoch: int, first: int, last: int) -> None:
    site.write_ledger(
        [site.run(1, 3, 3), *site._packs, Run(RunKind.CUTS_RETIRED, epoch, first, last, bytes(32))], 2
    )


def test_what_only_retired_cuts_need_is_not_missed(site: Site) -> None:
    """Cuts 2.2 and 2.3 are retired by a forced return to 2.1: nothing offered needs their segments."""
    retire(site, 2, 2, 3)
    container = opened(site)
    assert needed_scope(container.history, container.ledger) == {1: 4, 2: 1}
    replaced(site, segment_key(2, 2), None)
    assert segment_key(2, 2) not in {finding.key for finding in by_all(site).findings if finding.needed}


def test_retired_cuts_below_retained_ones_are_needed(site: Site) -> None:
    retire(site, 2, 1, 2)
    container = opened(site)
    assert needed_scope(container.history, container.ledger) == {1: 4, 2: 3}
    replaced(site, segment_key(2, 2), None)
    assert segment_key(2, 2) in named(site, by_all)


def test_points_are_counted(site: Site) -> None:
    report = by_all(site)
    assert (report.points, report.sound_points) == (7, 7)
    replaced(site, segment_key(2, 2), site.store.get(segment_key(2, 2)).data[:-1])
    report = by_all(site)
    assert report.sound_points == 5
    assert "2.1 is the newest point that is sound" in report.way_out


# --- what keys there are -------------------------------------------------------------------------------


def test_a_report_says_what_could_not_be_opened(site: Site) -> None:
    def checks(keys: ReaderKeys | None) -> Mapping[str, str]:
        container = opened(site, keys)
        members = report_members(container, verify_all(container, no_plan), About("x 1", "here", "all", 1, 2))
        found = members["checks"]
        assert isinstance(found, Mapping)
        return found

    assert checks(None)["frames"].startswith("opened, ")
    assert "their CRC-32, and not opened" in checks(index_only(site))["frames"]
    assert "no index key" in checks(NO_KEYS)["catalogs"]
    assert "by the object's digest" in checks(NO_KEYS)["frames"]


# --- samples ---------------------------------------------------------------------------------------------


def test_a_sample_never_says_that_all_is_well(site: Site) -> None:
    report = by_small_sample(site)
    assert report.error is None
    assert verdict(report) == "nothing found in what was read"
    coverage = report.coverage
    assert coverage is not None
    assert 0 < coverage.read_objects < coverage.objects
    assert coverage.read_bytes < coverage.stored_bytes


def test_a_sample_misses_whatever_is_not_there_and_reads_the_newest(site: Site) -> None:
    newest, any_other = segment_key(2, 3), segment_key(1, 3)
    data = site.store.get(newest).data
    replaced(site, newest, flipped(data, len(data) - 100))
    assert newest in named(site, by_small_sample)
    replaced(site, any_other, None)
    assert any_other in named(site, by_small_sample)


def test_every_object_comes_up_whatever_the_budget(site: Site) -> None:
    damaged = segment_key(1, 4)
    data = site.store.get(damaged).data
    replaced(site, damaged, flipped(data, len(data) - 100))
    turn, found, runs = TURN, set[str](), 0
    while turn.round == 1:
        sampled = verify_sample(opened(site), turn, Budget(size_bytes=1), SystemClock(), no_plan)
        found |= {finding.key for finding in sampled.report.findings}
        assert sampled.turn != turn
        turn, runs = sampled.turn, runs + 1
        assert runs < 100
    assert damaged in found
    assert runs > 3


def test_a_replaced_object_that_a_catalog_bundles_is_found_in_a_sample(site: Site) -> None:
    other = Site(MemoryStore(SystemClock()), seed=0)
    disk = other.add_volume("disk", 200_000)
    other.begin_epoch()
    for number in range(4):
        other.cut([write(disk, 10_000 * number, bytes([number]) + site.rng.randbytes(8_999))])
    key = segment_key(1, 4)
    fresh = other.store.get(key).data
    assert fresh != site.store.get(key).data
    replaced(site, key, fresh)
    assert any("log/0000000001/" in name or name == key for name in named(site, by_sample))


def test_the_document_names_all_that_an_auditor_asks_for(site: Site) -> None:
    container = opened(site)
    report = verify_all(container, no_plan)
    members = report_members(
        container, report, About("rehydrate 9", "dr-1", "all", 10**18, 2 * 10**18, held="ab")
    )
    assert members["verdict"] == "sound"
    assert members["software"] == "rehydrate 9"
    assert members["began"] == "2001-09-09T01:46:40Z"
    assert members["container"] == site.store.address
    assert members["ledger"]["key"] == ledger_key(2, 1)
    assert members["protected"] == {"epoch": 2, "cut": 3, "seq": 3}
    assert (members["points"], members["sound_points"]) == (7, 7)
    assert members["coverage"] is None
