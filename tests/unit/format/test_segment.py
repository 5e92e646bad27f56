"""Segments: what goes in comes out, at the sizes that the document allows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.errors import KeyMissing, LimitExceeded, RecordTooLarge
from cdp_container.format import layout, limits
from cdp_container.format.assemble import SealedObject
from cdp_container.format.codec import Compressor
from cdp_container.format.frames import FrameReader, open_frame
from cdp_container.format.head import Head, check_object, head_need, object_digest, open_head
from cdp_container.format.index import Extent
from cdp_container.format.layout import Codec, ExtentKind
from cdp_container.format.records import make_record, record_value
from cdp_container.format.seal import NO_KEYS, ReaderKeys
from cdp_container.format.segment import NewExtent, SegmentBuilder, build_segment
from cdp_container.format.sums import block_sums
from tests.unit.format import samples
from tests.unit.format.samples import DISK, DOMAIN, OTHER_DISK, fixed

BOTH = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])
CHOP = limits.EXTENT_DATA_BYTES_MAX


def builder(encrypted: bool = False, codec: Codec = Codec.ZSTD) -> SegmentBuilder:
    return SegmentBuilder(samples.writer(encrypted), fixed("an object", 16), Compressor(codec))


def opened(built: SealedObject, encrypted: bool) -> Head:
    return open_head(built.data, built.key, DOMAIN, samples.reader(encrypted))


def contents(built: SealedObject, encrypted: bool) -> list[tuple[Extent, bytes]]:
    """Every extent with its bytes (none for a void)."""
    head = opened(built, encrypted)
    frames = FrameReader(head, samples.reader(encrypted))
    raw = []
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        raw.append(frames.open(number, memoryview(built.data)[start:end]))
    return [
        (e, b"" if e.frame is None else raw[e.frame][e.position : e.position + e.length])
        for e in head.index.iter_extents()
    ]


@BOTH
@pytest.mark.parametrize("codec", list(Codec))
def test_sample_comes_back(encrypted: bool, codec: Codec) -> None:
    built = samples.segment(encrypted, codec)
    head = opened(built, encrypted)
    facts = samples.facts()
    for name in (
        "epoch", "seq", "cut", "complete", "base", "end", "not_whole", "journal_generation",
        "journal_offset", "cut_time_ns", "first_write_ns", "last_write_ns", "previous_digest",
    ):  # fmt: skip
        assert getattr(head.preamble, name) == getattr(facts, name), name
    assert (head.header["site"], head.header["marker"]) == ("site-a", "before upgrade")
    assert list(head.index.iter_records()) == samples.records()
    assert [record_value(record, built.key)["size_bytes"] for record in samples.records()[:2]] == [
        1 << 30,
        1 << 31,
    ]
    found = contents(built, encrypted)
    given_extents = samples.extents()
    assert [(e.space, e.offset, e.length, e.kind) for e, _ in found] == [
        (e.space, e.offset, e.length, e.kind) for e in given_extents
    ]
    for (extent, data), expected in zip(found, given_extents, strict=True):
        assert data == (expected.data or b"")
        assert extent.sums == (block_sums(expected.offset, data) if data else b"")
    assert check_object(built.data, built.key, DOMAIN) == head.preamble
    assert built.digest == object_digest(built.data)
    assert len(built.head) == built.head_length == head.preamble.head_length


@BOTH
def test_statistics_in_the_header(encrypted: bool) -> None:
    spaces = {one["space"]: one for one in opened(samples.segment(encrypted), encrypted).header["spaces"]}
    assert spaces[DISK.hex()]["raw_bytes"] == 4096 + samples.extents()[2].length
    assert spaces[OTHER_DISK.hex()]["raw_bytes"] == 512


@BOTH
def test_head_is_asked_for_step_by_step(encrypted: bool) -> None:
    built = samples.segment(encrypted)
    steps = [head_need(b"", built.key)]
    while steps[-1] < built.head_length:
        needed = head_need(built.data[: steps[-1]], built.key)
        assert needed > steps[-1]
        steps.append(needed)
    assert len(steps) == 3
    assert head_need(built.head, built.key) == built.head_length
    assert open_head(built.head, built.key, DOMAIN, samples.reader(encrypted)).index.extent_count == 5


def test_keys_that_are_missing() -> None:
    built = samples.segment(encrypted=True)
    check_object(built.data, built.key, DOMAIN)
    with pytest.raises(KeyMissing, match="index is sealed"):
        open_head(built.data, built.key, DOMAIN, NO_KEYS)
    agent = ReaderKeys(index_key=samples.writer(encrypted=True).index_key)
    head = open_head(built.data, built.key, DOMAIN, agent)
    start, end = head.frame_range(0)
    with pytest.raises(KeyMissing, match="private key"):
        open_frame(head, 0, built.data[start:end], agent)
    assert open_frame(head, 0, built.data[start:end], samples.reader(True)).startswith(fixed("aligned", 4096))


@BOTH
def test_contiguous_content_is_chopped_and_framed(encrypted: bool) -> None:
    data = fixed("long", (1 << 20) + 5000)
    target = builder(encrypted)
    assert target.add_data(DISK, 512, data) == len(data)
    built = target.finish(samples.facts())
    found = contents(built, encrypted)
    assert b"".join(part for _, part in found) == data
    index = opened(built, encrypted).index
    assert index.frame_count == 5
    assert index.frame(0).raw_length == limits.FRAME_RAW_BYTES_MAX - 512
    assert sum(len(e.sums) for e, _ in found) == len(block_sums(512, data)), "chopping must lose no sum"


def test_empty_cut() -> None:
    target = builder()
    assert target.is_empty
    assert not target.is_full
    index = opened(target.finish(samples.facts()), encrypted=False).index
    assert (index.extent_count, index.frame_count, index.spaces) == (0, 0, ())


def test_builder_closes_at_the_target() -> None:
    target = builder()
    data = fixed("incompressible", 1 << 20)
    taken = [target.add_data(DISK, at << 20, data) for at in range(9)]
    assert sum(taken) == limits.OBJECT_BYTES_TARGET
    assert target.is_full
    assert target.add_void(DISK, 1 << 40, 4096, ExtentKind.ZERO) == 0
    assert len(target.finish(samples.facts()).data) < limits.OBJECT_BYTES_TARGET + (1 << 20)


def test_builder_closes_when_the_index_is_full() -> None:
    target = builder(codec=Codec.NONE)
    count = 0
    while target.add_void(DISK, count * 8192, 512, ExtentKind.ZERO):
        count += 1
    assert target.is_full
    assert count > 32_000
    built = target.finish(samples.facts())
    raw = opened(built, encrypted=False).preamble.index_raw
    assert limits.INDEX_BYTES_MAX - 1024 < raw <= limits.INDEX_BYTES_MAX


def test_voids_are_chopped_at_their_limit() -> None:
    target = builder()
    length = 2 * limits.EXTENT_VOID_BYTES_MAX + 512
    assert target.add_void(DISK, 512, length, ExtentKind.DISCARD) == length
    found = [(e.offset, e.length) for e in opened(target.finish(samples.facts()), False).index.iter_extents()]
    void = limits.EXTENT_VOID_BYTES_MAX
    assert found == [(512, void), (512 + void, void), (512 + 2 * void, 512)]


def test_records_that_do_not_fit() -> None:
    value = {"note": "x" * (limits.RECORD_VALUE_BYTES_MAX - 20)}
    largest = make_record("vm", bytes(16), value)
    target = builder()
    assert target.add_record(largest)
    assert not target.add_record(largest)
    assert len(list(opened(target.finish(samples.facts()), False).index.iter_records())) == 1
    with pytest.raises(RecordTooLarge):
        make_record("vm", bytes(16), {"note": "x" * limits.RECORD_VALUE_BYTES_MAX})
    with pytest.raises(RecordTooLarge):
        make_record("marker", bytes(limits.RECORD_KEY_BYTES_MAX + 1), {})


def test_faults_of_the_caller() -> None:
    target = builder()
    target.add_data(DISK, 4096, bytes(4096))
    with pytest.raises(AssertionError, match="sorted"):
        target.add_data(DISK, 4095, b"x")
    target.add_data(OTHER_DISK, 0, b"x")
    with pytest.raises(AssertionError, match="sorted"):
        target.add_void(DISK, 1 << 20, 5, ExtentKind.ZERO)
    with pytest.raises(AssertionError, match="length"):
        target.add_extent(NewExtent(OTHER_DISK, 512, 2, ExtentKind.DATA, b"x"))


def test_facts_beyond_the_limits() -> None:
    crowd = tuple(fixed(str(n), 16) for n in range(limits.NOT_WHOLE_MAX + 1))
    assert len(builder().finish(replace(samples.facts(), not_whole=crowd[1:])).data) > 16 * 1024
    with pytest.raises(LimitExceeded, match="NOT_WHOLE_MAX"):
        builder().finish(replace(samples.facts(), not_whole=crowd))
    with pytest.raises(LimitExceeded, match="HEADER_BYTES_MAX"):
        builder().finish(replace(samples.facts(), marker="x" * limits.HEADER_BYTES_MAX))


def test_more_spaces_than_the_header_tells_of() -> None:
    target = builder()
    for number in range(10_000):
        assert target.add_data(fixed(f"file {number}", 16), 0, b"x" * (20 if number == 5000 else 10))
    head = opened(target.finish(samples.facts()), encrypted=False)
    assert len(head.index.spaces) == 10_000
    told = head.header["spaces"]
    assert told[0]["space"] == fixed("file 5000", 16).hex()
    assert [len(told), told[-1]["space"]] == [65, None]
    assert sum(space["raw_bytes"] for space in told) == 100_010
    assert head.preamble.header_raw < 16_384


def test_build_segment_at_once() -> None:
    keys = samples.writer(encrypted=True)
    arguments = (samples.facts(), samples.extents(), samples.records(), keys, fixed("segment id", 16))
    assert build_segment(*arguments) == samples.segment(encrypted=True)
    void = NewExtent(DISK, 0, 1 << 50, ExtentKind.ZERO)
    with pytest.raises(LimitExceeded, match="one segment"):
        build_segment(samples.facts(), [void], [], keys, fixed("another id", 16))


EXTENTS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 512, 4096, 1000]),
        st.sampled_from([1, 511, 512, 4096, 8192, CHOP - 1, CHOP, CHOP + 1, 3 * CHOP + 700]),
        st.sampled_from(list(ExtentKind)),
        st.integers(0, 255),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(EXTENTS, st.booleans(), st.sampled_from(list(Codec)))
def test_any_extents_come_back(
    pieces: list[tuple[int, int, ExtentKind, int]], encrypted: bool, codec: Codec
) -> None:
    target = builder(encrypted, codec)
    image: list[tuple[int, ExtentKind, bytes]] = []
    at = 0
    for gap, length, kind, seed in pieces:
        at += gap
        data = fixed(str(seed), length) if kind is ExtentKind.DATA else None
        assert target.add_extent(NewExtent(DISK, at, length, kind, data)) == length
        image.append((at, kind, data or bytes(length)))
        at += length
    found = contents(target.finish(samples.facts()), encrypted)
    for extent, data in found:
        assert extent.frame is None or extent.length <= CHOP
        assert extent.sums == (block_sums(extent.offset, data) if data else b"")
    flat = [(e.offset, e.kind, data or bytes(e.length)) for e, data in found]
    assert joined(flat) == joined(image)


def joined(extents: list[tuple[int, ExtentKind, bytes]]) -> list[tuple[int, ExtentKind, bytes]]:
    """The extents with neighbours of one kind put together."""
    runs: list[tuple[int, ExtentKind, bytes]] = []
    for offset, kind, data in extents:
        if runs and runs[-1][1] is kind and runs[-1][0] + len(runs[-1][2]) == offset:
            runs[-1] = (runs[-1][0], kind, runs[-1][2] + data)
        else:
            runs.append((offset, kind, data))
    return runs


def test_extent_table_is_what_numpy_views() -> None:
    index = opened(samples.segment(encrypted=False), encrypted=False).index
    assert len(index.extent_table) == index.extent_count * layout.EXTENT_ROW.size_bytes
    assert len(index.frame_table) == index.frame_count * layout.FRAME_ROW.size_bytes
    with pytest.raises(IndexError):
        index.frame(index.frame_count)
