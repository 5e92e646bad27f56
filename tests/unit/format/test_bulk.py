"""Packs, catalogs and ledgers: what goes in comes out, and a copied frame opens as it was sealed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from cdp_container.errors import DamagedObject, KeyMissing, LimitExceeded
from cdp_container.format import limits
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import ObjectName, parse_epoch_record
from cdp_container.format.frames import StoredFrame, open_frame
from cdp_container.format.head import Head, check_object, open_head
from cdp_container.format.index import Entry, Extent, Order, Run
from cdp_container.format.layout import ExtentKind, ObjectKind, RunKind
from cdp_container.format.ledger import LedgerFacts, build_ledger, predecessor_of
from cdp_container.format.pack import CopiedFrame, PackContent, PackExtent, PackFacts, build_pack
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.seal import ReaderKeys
from tests.unit.format import samples
from tests.unit.format.samples import BASE, DISK, DOMAIN, END, OTHER_DISK, fixed

BOTH = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])


def opened(built: SealedObject, encrypted: bool) -> Head:
    assert check_object(built.data, built.key, DOMAIN) == parse_preamble(built.data, built.key)
    return open_head(built.head, built.key, DOMAIN, samples.reader(encrypted))


def raw_frames(built: SealedObject, head: Head, keys: ReaderKeys) -> list[bytes]:
    ranges = [head.frame_range(number) for number in range(head.index.frame_count)]
    return [open_frame(head, n, built.data[start:end], keys) for n, (start, end) in enumerate(ranges)]


@BOTH
def test_pack_comes_back(encrypted: bool) -> None:
    built = samples.pack(encrypted)
    head = opened(built, encrypted)
    assert (head.preamble.kind, head.preamble.base, head.preamble.end) == (ObjectKind.PACK, BASE, END)
    assert list(head.index.iter_orders()) == [Order(3, 1, 1), Order(3, 2, 1)]
    found = [(e.order, e.space, e.offset, e.length, e.kind) for e in head.index.iter_extents()]
    first = [(0, e.space, e.offset, e.length, e.kind) for e in samples.extents()]
    second = [(1, OTHER_DISK, 0, 4096, ExtentKind.ZERO), (1, DISK, 0, 8192, ExtentKind.DATA)]
    assert sorted(found) == sorted(first + second)
    assert [(r.order, r.name) for r in head.index.iter_records()] == [
        (0, "space+"),
        (0, "space="),
        (0, "marker"),
        (1, "space-"),
    ]
    carried = samples.segment(encrypted)
    source = open_head(carried.data, carried.key, DOMAIN, samples.reader(encrypted))
    frames = raw_frames(built, head, samples.reader(encrypted))
    assert frames == [*raw_frames(carried, source, samples.reader(encrypted)), fixed("own frame", 8192)]
    sums = {e.offset: e.sums for e in source.index.iter_extents()}
    assert [e.sums for e in head.index.iter_extents() if e.order == 0] == list(sums.values())


def test_a_copied_frame_needs_the_private_key() -> None:
    built = samples.pack(encrypted=True)
    head = opened(built, encrypted=True)
    with pytest.raises(KeyMissing):
        raw_frames(built, head, ReaderKeys(samples.writer(True).index_key))


def test_a_copied_frame_under_another_origin_does_not_open() -> None:
    built = samples.pack(encrypted=True)
    head = opened(built, encrypted=True)
    start, end = head.frame_range(0)
    table = head.index.seal_table
    for seals in (b"\1" + table[1:], table[:16] + b"\1" + table[17:]):
        index = replace(head.index, seal_table=seals)
        with pytest.raises(DamagedObject, match="seal"):
            open_frame(replace(head, index=index), 0, built.data[start:end], samples.reader(True))


def test_a_sealed_pack_carries_no_frame_that_was_never_sealed() -> None:
    plain = samples.segment(encrypted=False)
    head = open_head(plain.data, plain.key, DOMAIN, samples.reader(False))
    frame = head.index.frame(0)
    start, end = head.frame_range(0)
    stored = StoredFrame(plain.data[start:end], frame.raw_length, frame.crc32, frame.codec)
    content = PackContent([CopiedFrame(stored, head.preamble.object_id, 0, None)], [], [])
    build_pack(PackFacts(5, 3), content, samples.writer(False), fixed("plain", 16), Compressor())
    with pytest.raises(DamagedObject, match="no key"):
        build_pack(PackFacts(5, 3), content, samples.writer(True), fixed("sealed", 16), Compressor())


def test_a_pack_that_is_too_large() -> None:
    content = PackContent([fixed(str(n), limits.FRAME_RAW_BYTES_MAX) for n in range(65)], [], [])
    with pytest.raises(LimitExceeded):
        build_pack(PackFacts(5, 3), content, samples.writer(False), fixed("too large", 16), Compressor())


def test_a_pack_whose_extents_overlap_is_not_built() -> None:
    extents = [PackExtent(Order(1, 1, 1), Extent(DISK, at, 512, ExtentKind.ZERO)) for at in (0, 511)]
    with pytest.raises(DamagedObject):
        build_pack(
            PackFacts(5, 3), PackContent([], extents, []), samples.writer(False), bytes(16), Compressor()
        )


@BOTH
def test_catalog_gives_heads_back(encrypted: bool) -> None:
    built = samples.catalog(encrypted)
    head = opened(built, encrypted)
    assert (head.header["first"], head.header["last"], head.header["level"]) == ([3, 1], [5, 2], 0)
    record, segment, pack = head.index.iter_entries()
    assert (record.kind, record.epoch, record.seq) == (ObjectKind.EPOCH_RECORD, 3, 0)
    assert parse_epoch_record(record.head, "k", DOMAIN).epoch == 3
    assert record.digest == hashlib.sha256(record.head).digest()
    for entry, whole in ((segment, samples.segment(encrypted)), (pack, samples.pack(encrypted))):
        assert (entry.digest, entry.object_length) == (whole.digest, len(whole.data))
        inner = open_head(entry.head, whole.key, DOMAIN, samples.reader(encrypted))
        assert inner == open_head(whole.data, whole.key, DOMAIN, samples.reader(encrypted))


def test_a_catalog_that_is_too_large() -> None:
    head = fixed("head", 1 << 20)
    entries = [Entry(ObjectKind.SEGMENT, 1, seq, 1, bytes(32), head) for seq in range(1, 65)]
    with pytest.raises(LimitExceeded):
        build_catalog(CatalogFacts(1, 0, 1), entries, samples.writer(False), bytes(16), Compressor())


@BOTH
def test_ledger_comes_back(encrypted: bool) -> None:
    head = opened(samples.ledger(encrypted), encrypted)
    assert [(run.kind, run.epoch, run.first, run.last) for run in head.index.iter_runs()] == [
        (1, 3, 1, 40),
        (1, 3, 44, 44),
        (2, 4, 1, 2),
        (3, 5, 2, 2),
    ]
    before = predecessor_of(head)
    assert before == ObjectName("packs/0000000004/ledger-000000000001", fixed("ledger before", 32))
    assert head.header["n"] == 2


def test_retired_cuts_stand_beside_what_was_collected_and_have_no_digest() -> None:
    facts, keys = LedgerFacts(1, 1, None), samples.writer(False)
    runs = [Run(kind, 1, 1, 9, bytes(32)) for kind in (RunKind.SEGMENT_COLLECTED, RunKind.CUTS_RETIRED)]
    head = opened(build_ledger(facts, runs, keys, bytes(16), Compressor()), encrypted=False)
    assert list(head.index.iter_runs()) == runs
    with pytest.raises(DamagedObject, match="have a digest"):
        build_ledger(facts, [replace(runs[1], digest=b"d" * 32)], keys, bytes(16), Compressor())


def test_the_first_ledger_has_no_predecessor() -> None:
    run = Run(RunKind.SEGMENT_COLLECTED, 1, 1, 1, bytes(32))
    built = build_ledger(LedgerFacts(1, 1, None), [run], samples.writer(False), bytes(16), Compressor())
    head = opened(built, encrypted=False)
    assert predecessor_of(head) is None
    with pytest.raises(DamagedObject, match="predecessor"):
        predecessor_of(replace(head, header={}))
