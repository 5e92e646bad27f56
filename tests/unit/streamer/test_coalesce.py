"""Coalescing against a model that simply writes into bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.streamer.coalesce import CutExtent, coalesce, take_batch
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX
from cdp_container.journal.position import Position
from cdp_container.journal.record import Kind, Record

SPACE_BYTES = 3 * EXTENT_DATA_BYTES_MAX
KINDS = {Kind.WRITE: ExtentKind.DATA, Kind.ZERO: ExtentKind.ZERO, Kind.DISCARD: ExtentKind.DISCARD}


def record(number: int, kind: Kind, offset: int, span: int, source: int = 0) -> Record:
    length = span if kind is Kind.WRITE else 0
    at, end = Position(1, number), Position(1, number + 1)
    return Record(kind, source, offset, span, 1000 + number, at, end, length, 0, 0, 0)


def byte_of(number: int, offset: int) -> tuple[int, int]:
    """What stands for the byte of a payload: whose it is, and which."""
    return number, offset


def shown_by_writing(records: Sequence[Record], size: int) -> dict[tuple[int, int], object]:
    shown: dict[tuple[int, int], object] = {}
    for number, one in enumerate(records):
        for at in range(one.offset, min(one.offset + one.span, size)):
            data = one.kind is Kind.WRITE
            shown[one.source, at] = byte_of(number, at - one.offset) if data else KINDS[one.kind]
    return shown


def shown_by(extents: Sequence[CutExtent], records: Sequence[Record]) -> dict[tuple[int, int], object]:
    numbers = {one.position: number for number, one in enumerate(records)}
    shown: dict[tuple[int, int], object] = {}
    for extent in extents:
        if extent.kind is not ExtentKind.DATA:
            assert not extent.pieces
            content: list[object] = [extent.kind] * extent.length
        else:
            content = [
                byte_of(numbers[piece.record.position], piece.skip + at)
                for piece in extent.pieces
                for at in range(piece.length)
            ]
        assert len(content) == extent.length
        for at, byte in enumerate(content):
            assert (extent.source, extent.offset + at) not in shown, "extents overlap"
            shown[extent.source, extent.offset + at] = byte
    return shown


def check_shape(extents: Sequence[CutExtent]) -> None:
    places = [(extent.source, extent.offset) for extent in extents]
    assert places == sorted(places)
    for extent in extents:
        assert extent.length > 0
        if extent.kind is ExtentKind.DATA:
            first, last = extent.offset, extent.offset + extent.length - 1
            assert first // EXTENT_DATA_BYTES_MAX == last // EXTENT_DATA_BYTES_MAX
        else:
            assert extent.length <= EXTENT_VOID_BYTES_MAX
        assert 1000 <= extent.first_ns <= extent.last_ns


changes = st.lists(
    st.tuples(st.sampled_from(list(KINDS)), st.integers(0, 60), st.integers(1, 20), st.integers(0, 1)),
    max_size=25,
)


@given(changes)
def test_it_reads_as_if_written_in_order(drawn: list[tuple[Kind, int, int, int]]) -> None:
    records = [
        record(number, kind, at, span, source) for number, (kind, at, span, source) in enumerate(drawn)
    ]
    extents = list(coalesce(records))
    check_shape(extents)
    assert shown_by(extents, records) == shown_by_writing(records, 100)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(KINDS)),
            st.integers(0, SPACE_BYTES // 4096),
            st.sampled_from([4096, 8192, EXTENT_DATA_BYTES_MAX, EXTENT_DATA_BYTES_MAX + 4096]),
        ),
        max_size=12,
    )
)
def test_it_does_so_across_the_limits_of_extents(drawn: list[tuple[Kind, int, int]]) -> None:
    records = [record(number, kind, at * 4096, span) for number, (kind, at, span) in enumerate(drawn)]
    extents = list(coalesce(records))
    check_shape(extents)
    covered = {at for one in records for at in range(one.offset // 4096, (one.offset + one.span) // 4096)}
    assert sum(extent.length for extent in extents) == 4096 * len(covered)


def test_nothing_becomes_nothing() -> None:
    assert list(coalesce([])) == []


def test_neighbours_become_one_extent() -> None:
    records = [record(number, Kind.WRITE, number * 4096, 4096) for number in range(16)]
    (extent,) = coalesce(records)
    assert (extent.offset, extent.length, len(extent.pieces)) == (0, 65_536, 16)
    assert (extent.first_ns, extent.last_ns) == (1000, 1015)


def test_a_huge_discard_is_split_at_the_limit_of_an_extent() -> None:
    (one, other) = coalesce([record(0, Kind.DISCARD, 512, EXTENT_VOID_BYTES_MAX + 512)])
    assert (one.length, other.length) == (EXTENT_VOID_BYTES_MAX, 512)


def test_the_same_block_written_again_and_again_is_sent_once() -> None:
    records = [record(number, Kind.WRITE, 4096, 4096) for number in range(1000)]
    (extent,) = coalesce(records)
    assert extent.pieces[0].record is records[-1]


@pytest.mark.parametrize(("count", "span", "taken"), [(10, 1, 10), (11, 1, 10), (5, 60, 1), (5, 30, 3)])
def test_a_cut_ends_at_its_limits_between_two_records(count: int, span: int, taken: int) -> None:
    records = [record(number, Kind.WRITE, 0, span) for number in range(count)]
    batch = take_batch(iter(records), records_max=10, bytes_max=100)
    assert batch.records == records[:taken]
    assert batch.reached == (taken == count)


def test_a_single_record_is_taken_whatever_its_size() -> None:
    batch = take_batch(iter([record(0, Kind.WRITE, 0, 500)]), bytes_max=100)
    assert len(batch.records) == 1
    assert batch.reached
