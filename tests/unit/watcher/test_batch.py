"""A batch comes back as it was written; whatever is wrong with one is found."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_agent.watcher.batch import check_batch, read_chunks, read_records, write_batch
from cdp_container.errors import WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.layout import ExtentKind
from cdp_container.format.names import name_gone, tree_added
from cdp_container.format.segment import NewExtent

TREE = bytes(range(16))
RECORDS = [tree_added(TREE, "home"), name_gone(TREE, b"a/\xff"), name_gone(TREE, b"b")]


def space(number: int) -> bytes:
    return number.to_bytes(16, "big")


def data(owner: int, offset: int, content: bytes) -> NewExtent:
    return NewExtent(space(owner), offset, len(content), ExtentKind.DATA, content)


EXTENTS = [
    data(2, 0, b"hello"),
    NewExtent(space(2), 4096, 1 << 40, ExtentKind.ZERO),
    data(1, 7, b"x" * 65536),
]


def written(records: Sequence[Record], extents: Sequence[NewExtent]) -> io.BytesIO:
    file = io.BytesIO()
    write_batch(file, 9, records, extents)
    return file


def test_a_batch_that_is_cut_anywhere_is_refused() -> None:
    whole = written(RECORDS, [data(2, 0, b"hello"), NewExtent(space(2), 9, 5, ExtentKind.ZERO)]).getvalue()
    for length in range(len(whole)):
        with pytest.raises(WatcherFailed):
            check_batch(io.BytesIO(whole[:length]))


def test_a_batch_with_any_bit_flipped_is_refused() -> None:
    whole = written(RECORDS, [data(2, 0, b"hello"), NewExtent(space(2), 9, 5, ExtentKind.ZERO)]).getvalue()
    for bit in range(8 * len(whole)):
        torn = bytearray(whole)
        torn[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WatcherFailed):
            check_batch(io.BytesIO(torn))


def test_a_batch_that_goes_on_after_its_end_is_refused() -> None:
    with pytest.raises(WatcherFailed):
        check_batch(io.BytesIO(written(RECORDS, EXTENTS).getvalue() + b"x"))


@pytest.mark.parametrize(
    "extents",
    [
        [data(1, 5, b"ab"), data(1, 6, b"c")],
        [data(1, 5, b"ab"), data(1, 0, b"c")],
        [data(1, 0, b"a"), data(2, 0, b"b"), data(1, 9, b"c")],
    ],
)
def test_extents_out_of_order_are_refused(extents: list[NewExtent]) -> None:
    with pytest.raises(WatcherFailed):
        check_batch(written([], extents))


def test_what_is_read_is_what_was_written() -> None:
    file = written(RECORDS, EXTENTS)
    facts = check_batch(file)
    assert (facts.number, facts.records, facts.extents, facts.content_bytes) == (9, 3, 3, 65541)
    assert list(read_records(file)) == RECORDS
    assert list(read_chunks(file, facts)) == EXTENTS


def test_an_empty_batch_is_one() -> None:
    file = written([], [])
    assert list(read_records(file)) == []
    assert list(read_chunks(file, check_batch(file))) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=200)), max_size=30))
def test_any_extents_come_back(pieces: list[tuple[int, bytes]]) -> None:
    extents = []
    ends = dict.fromkeys(range(4), 0)
    for owner, content in sorted(pieces, key=lambda piece: piece[0]):
        extents.append(data(owner, ends[owner], content))
        ends[owner] += len(content)
    file = written(RECORDS, extents)
    assert list(read_chunks(file, check_batch(file))) == extents
