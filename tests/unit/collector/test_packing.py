"""Packs hold exactly what lives in victims: trimmed, split or copied, sealed as it was, from packs, too."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cdp_agent.collector.alive_types import LIVE, Interval
from cdp_agent.collector.packing import CutFacts, Packing, PackWriter, check_pack, cut_record
from cdp_agent.collector.warmth import Grouping, alike
from cdp_container.domain.contents import Contents
from cdp_container.domain.heads import Seen
from cdp_container.domain.ledgers import ledger_of
from cdp_container.errors import DamagedObject
from cdp_container.extents.tables import Table, order_rows
from cdp_container.format.assemble import SealedObject
from cdp_container.format.codec import Compressor
from cdp_container.format.frames import FrameReader
from cdp_container.format.head import Head, object_digest, open_head
from cdp_container.format.index import Run
from cdp_container.format.layout import NONE_U32, ExtentKind, ObjectKind, RunKind
from cdp_container.format.pack import PackFacts
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys, WriterKeys
from cdp_container.format.segment import NewExtent, SegmentBuilder
from cdp_container.format.sums import block_sums
from tests.unit.format import samples
from tests.unit.format.samples import DISK, DOMAIN

BLOCK = 4096
Span = tuple[int, int]


@dataclass
class Fake:
    """What is said to be live: parts of the space, by object; all records."""

    live: dict[str, list[Span]]
    heads: dict[str, Head]
    needed_voids: bool = True

    @property
    def objects(self) -> Table:
        raise AssertionError("not asked for")

    @property
    def intervals(self) -> Sequence[Interval]:
        return ()

    def pieces(self, key: str) -> Table:
        head = self.heads[key]
        found = []
        for number, extent in enumerate(head.index.iter_extents()):
            for first, last in self.live[key]:
                start, end = max(extent.offset, first), min(extent.offset + extent.length, last)
                if start < end:
                    place = place_of(head, extent.order)
                    frame = NONE_U32 if extent.frame is None else extent.frame
                    void = extent.kind is not ExtentKind.DATA
                    found.append(
                        (number, start, end, frame, void, extent.space, place.epoch, place.seq, place.cut)
                    )
        return np.array(found, dtype=LIVE)

    def records(self, key: str) -> list[int]:
        return list(range(len(list(self.heads[key].index.iter_records()))))

    def over_data(self, pieces: Table) -> NDArray[np.bool_]:
        return np.full(len(pieces), self.needed_voids)

    def needed_by(self, cuts: Collection[Place]) -> set[str]:
        raise AssertionError("not asked for")


def place_of(head: Head, order: int | None) -> Place:
    if head.preamble.kind is not ObjectKind.PACK:
        return head.preamble.place
    row = order_rows(head.index.order_table)[order or 0]
    return Place(int(row["epoch"]), int(row["cut"]), int(row["seq"]))


@dataclass
class Case:
    """One domain: what writes, and what reads (`keys` are the collector's)."""

    encrypted: bool
    private: bool

    @property
    def keys(self) -> ReaderKeys:
        full = samples.reader(self.encrypted)
        return full if self.private else replace(full, private_key=None)

    def writer(self) -> PackWriter:
        numbers = iter(range(1, 1000))

        def keys() -> WriterKeys:
            return samples.writer(self.encrypted, f"pack {os.urandom(4).hex()}")

        return PackWriter(
            DOMAIN, lambda: PackFacts(5, next(numbers)), keys, os.urandom, Compressor(), self.keys
        )

    def segment(self, extents: list[NewExtent], seq: int = 1) -> SealedObject:
        builder = SegmentBuilder(samples.writer(self.encrypted), os.urandom(16), Compressor())
        for record in samples.records():
            builder.add_record(record)
        for extent in extents:
            assert builder.add_extent(extent) == extent.length
        return builder.finish(replace(samples.facts(), seq=seq))

    def head(self, built: SealedObject) -> Head:
        return open_head(built.data, built.key, DOMAIN, samples.reader(self.encrypted))

    def content(self, built: SealedObject) -> dict[int, bytes | None]:
        """By its offset the first 512 bytes of each 512 of the disk; every checksum is looked at."""
        head = self.head(built)
        reader = FrameReader(head, samples.reader(self.encrypted))
        found: dict[int, bytes | None] = {}
        for extent in head.index.iter_extents():
            raw: bytes | None = None
            if extent.frame is not None:
                start, end = head.frame_range(extent.frame)
                frame = reader.open(extent.frame, built.data[start:end])
                raw = frame[extent.position : extent.position + extent.length]
                assert block_sums(extent.offset, raw) == extent.sums
            for at in range(0, extent.length, 512):
                found[extent.offset + at] = None if raw is None else raw[at : at + 512]
        return found

    def pack(
        self,
        victims: list[SealedObject],
        live: list[Span],
        cut: CutFacts | None = None,
        bytes_target: int = 8 << 20,
        needed_voids: bool = True,
        groups: Grouping = alike,
    ) -> tuple[list[SealedObject], Packing]:
        heads = {one.key: self.head(one) for one in victims}
        alive = Fake(dict.fromkeys(heads, live), heads, needed_voids)
        packing = Packing(self.writer(), alive, bytes_target, groups)
        packs = []
        for one in victims:
            packs += list(
                packing.take(one.key, one.data, one.digest, () if cut is None else (cut_record(cut),))
            )
        return [*packs, *packing.close()], packing


CASES = pytest.mark.parametrize(
    "case", [Case(False, False), Case(True, False), Case(True, True)], ids=["none", "no key", "key"]
)


def data(offset: int, length: int) -> NewExtent:
    return NewExtent(DISK, offset, length, ExtentKind.DATA, os.urandom(length))


def extents() -> list[NewExtent]:
    return [
        data(0, 65536),
        data(70_000 // 512 * 512, 65536),
        NewExtent(DISK, 200 * 1024, 64 * 1024, ExtentKind.DISCARD),
        *(data(1 << 20 | at * 65536, 65536) for at in range(6)),
    ]


def within(content: dict[int, bytes | None], live: list[Span]) -> dict[int, bytes | None]:
    return {at: raw for at, raw in content.items() if any(first <= at < last for first, last in live)}


LIVE_PARTS = [
    [(0, 1 << 30)],
    [(BLOCK, 3 * BLOCK)],
    [(512, 65536), (1 << 20, (1 << 20) + 512)],
    [(100 * 512, 150 * 512), (210 * 1024, 220 * 1024), ((1 << 20) + 65536 * 2 + 1024, 1 << 21)],
]


@CASES
@pytest.mark.parametrize("live", LIVE_PARTS)
def test_what_lives_comes_back_and_nothing_else(case: Case, live: list[Span]) -> None:
    victim = case.segment(extents())
    [pack], packing = case.pack([victim], live)
    assert case.content(pack) == within(case.content(victim), live)
    if case.encrypted and not case.private:
        assert packing.counted.split_frames == 0
        assert (packing.counted.kept_dead_bytes > 0) == (live != LIVE_PARTS[0])
    else:
        assert packing.counted.kept_dead_bytes < BLOCK
    assert case.head(pack).preamble.last_write_ns == samples.facts().last_write_ns


@CASES
def test_a_pack_of_packs_keeps_the_seals_of_who_wrote_first(case: Case) -> None:
    victim = case.segment(extents())
    once, _ = case.pack([victim], [(0, 1 << 30)])
    twice, _ = case.pack(once, [(0, (1 << 20) + 8192)])
    thrice, _ = case.pack(twice, [(0, 66_000 // 512 * 512)])
    assert case.content(thrice[0]) == within(case.content(victim), [(0, 66_000 // 512 * 512)])


@CASES
@pytest.mark.parametrize("live", LIVE_PARTS)
@pytest.mark.parametrize("bytes_target", [1 << 30, 100_000])
def test_what_is_parted_comes_back_as_well(case: Case, live: list[Span], bytes_target: int) -> None:
    def every_other_block(pieces: Table) -> NDArray[np.int64]:
        groups: NDArray[np.int64] = 1 + pieces["start"] // BLOCK % 2
        return groups

    victims = [case.segment(extents()), case.segment([data(1 << 24, 8192)], 2)]
    live = [*live, *([(1 << 24, (1 << 24) + 8192)] if live != LIVE_PARTS[0] else [])]
    packs, _ = case.pack(victims, live, bytes_target=bytes_target, groups=every_other_block)
    contents = [case.content(pack) for pack in packs]
    assert len(packs) > 1, "one of them is of records"
    assert sum(map(len, contents)) == len({at for content in contents for at in content})
    found = {at: raw for content in contents for at, raw in content.items()}
    assert found == within(case.content(victims[0]) | case.content(victims[1]), live)


@CASES
def test_many_victims_fill_several_packs(case: Case) -> None:
    victims = [case.segment([data(seq << 20, 65536)], seq) for seq in range(1, 8)]
    packs, packing = case.pack(victims, [(0, 1 << 30)], bytes_target=200_000)
    assert len(packs) == packing.counted.packs > 1
    found: dict[int, bytes | None] = {}
    for pack in packs:
        found |= case.content(pack)
    assert found == {at: raw for one in victims for at, raw in case.content(one).items()}


def test_a_void_over_nothing_is_dropped() -> None:
    case = Case(False, False)
    victim = case.segment(extents())
    [pack], _ = case.pack([victim], [(0, 1 << 30)], needed_voids=False)
    assert case.content(pack) == {at: raw for at, raw in case.content(victim).items() if raw is not None}


@CASES
def test_records_are_carried_on_and_a_retained_cut_gets_its_own(case: Case) -> None:
    victim = case.segment(extents())
    place = case.head(victim).preamble.place
    cut = CutFacts(place, (samples.OTHER_DISK,), 123, 456)
    [pack], _ = case.pack([victim], [], cut)
    [again], _ = case.pack([pack], [])
    runs = [
        Run(RunKind.SEGMENT_COLLECTED, place.epoch, place.seq, place.seq, victim.digest),
        Run(RunKind.PACK_IN_FORCE, 5, 1, 1, again.digest),
    ]
    contents = Contents(DOMAIN, ledger=ledger_of(runs))
    head = case.head(again)
    contents.add(Seen(again.key, head.preamble, head, again.digest))
    segment = contents.segments[place.epoch, place.seq]
    assert (segment.place, segment.complete, segment.cut_time_ns) == (place, True, 123)
    assert (segment.stored_ns, segment.not_whole) == (456, (samples.OTHER_DISK,))
    assert [record.name for record in contents.space_records] == ["space+", "space="]
    assert [marker.name for marker in contents.markers] == ["before upgrade"]
    contents.close()


def test_a_victim_that_is_not_what_was_looked_at() -> None:
    case = Case(False, False)
    one, other = case.segment(extents()), case.segment(extents())
    packing = Packing(case.writer(), Fake({one.key: []}, {one.key: case.head(one)}))
    with pytest.raises(DamagedObject, match="looked at"):
        list(packing.take(one.key, one.data, other.digest))
    with pytest.raises(DamagedObject):
        list(packing.take(one.key, one.data[:-100] + bytes(100), one.digest))


def test_a_pack_that_says_something_else_is_refused() -> None:
    case = Case(False, False)
    victim = case.segment(extents())
    [pack], _ = case.pack([victim], [(0, 1 << 30)])
    assert object_digest(pack.data) == pack.digest
    with pytest.raises(DamagedObject, match="not the extents"):
        check_pack(pack, [], [], case.writer())
