"""What is left of a cut's writes once the overwritten bytes are gone: sorted extents, newest wins. PURE.

Only references to data are handled here, never the data. One call is one cut: coalescing across a cut would
make an earlier cut show what was written after it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import CUT_BYTES_MAX, EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX
from cdp_container.journal.record import Kind, Record

CUT_RECORDS_MAX: Final = 131_072
"""Records of one cut: some 40 MiB of memory. A longer backlog becomes several cuts."""

EXTENT_KINDS: Final = {
    Kind.WRITE: ExtentKind.DATA,
    Kind.ZERO: ExtentKind.ZERO,
    Kind.DISCARD: ExtentKind.DISCARD,
}


class Piece(NamedTuple):
    """Bytes of a WRITE's payload: `skip` is where they begin in it."""

    record: Record
    skip: int
    length: int


class CutExtent(NamedTuple):
    """One extent of a cut. `pieces` join to its data; there are none where the kind is not DATA.

    `first_ns` and `last_ns` are the wall clock at the oldest and newest write that shows in it.
    """

    source: int
    offset: int
    length: int
    kind: ExtentKind
    pieces: tuple[Piece, ...]
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that become one cut. `reached`: they are all that there was; else more follow."""

    records: list[Record]
    reached: bool


def take_batch(
    records: Iterable[Record], records_max: int = CUT_RECORDS_MAX, bytes_max: int = CUT_BYTES_MAX
) -> Batch:
    """As many records from the start as one cut may hold, at least one.

    The limit of bytes is applied to what was written, of which coalescing leaves at most that much.
    """
    taken: list[Record] = []
    data_bytes = 0
    for record in records:
        data_bytes += record.payload_length
        if taken and (data_bytes > bytes_max or len(taken) == records_max):
            return Batch(taken, reached=False)
        taken.append(record)
    return Batch(taken, reached=True)


def coalesce(records: Sequence[Record]) -> Iterator[CutExtent]:
    """Sorted extents without overlap that read as the records do, applied in order; made as they are taken.

    Data extents end at multiples of EXTENT_DATA_BYTES_MAX in their space; neighbours are joined.
    """
    by_source: dict[int, list[Record]] = {}
    for record in records:
        by_source.setdefault(record.source, []).append(record)
    for source in sorted(by_source):
        yield from _joined(source, _winners(by_source[source]))


def _winners(records: list[Record]) -> Iterator[tuple[int, int, Record]]:
    """(start, end, record) for every part that shows in the end, sorted and without overlap."""
    count = len(records)
    starts = np.fromiter((record.offset for record in records), dtype=np.int64, count=count)
    ends = starts + np.fromiter((record.span for record in records), dtype=np.int64, count=count)
    # Of records with the same range only the newest can show: databases rewrite the same blocks again and
    # again.
    order = np.lexsort((np.arange(count), ends, starts))
    sorted_starts, sorted_ends = starts[order], ends[order]
    same = (sorted_starts[:-1] == sorted_starts[1:]) & (sorted_ends[:-1] == sorted_ends[1:])
    order = order[np.concatenate((~same, np.array([True])))]
    sorted_starts, sorted_ends = starts[order], ends[order]
    if bool((np.maximum.accumulate(sorted_ends)[:-1] <= sorted_starts[1:]).all()):
        return (
            (start, end, records[index])
            for start, end, index in zip(
                sorted_starts.tolist(), sorted_ends.tolist(), order.tolist(), strict=True
            )
            if end > start
        )
    return _sweep(records, sorted_starts.tolist(), sorted_ends.tolist(), order.tolist())


def _sweep(
    records: list[Record], starts: list[int], ends: list[int], order: list[int]
) -> Iterator[tuple[int, int, Record]]:
    """Goes over the space once, with the records that cover the current byte in a heap, newest first."""
    edges = sorted({*starts, *ends})
    covering: list[tuple[int, int]] = []  # (-index, end)
    following = 0
    run_start, run_end, run_index = 0, 0, -1
    for at, next_edge in itertools.pairwise(edges):
        while following < len(starts) and starts[following] == at:
            heapq.heappush(covering, (-order[following], ends[following]))
            following += 1
        while covering and covering[0][1] <= at:
            heapq.heappop(covering)
        index = -covering[0][0] if covering else -1
        if index == run_index and run_end == at:
            run_end = next_edge
            continue
        if run_index >= 0:
            yield run_start, run_end, records[run_index]
        run_start, run_end, run_index = at, next_edge, index
    if run_index >= 0:
        yield run_start, run_end, records[run_index]


def _joined(source: int, winners: Iterable[tuple[int, int, Record]]) -> Iterator[CutExtent]:
    """Extents of the largest size that the format and the joining of neighbours allow."""
    offset, end, limit, kind = 0, 0, 0, ExtentKind.ZERO
    first_ns, last_ns = 0, 0
    pieces: list[Piece] = []
    for start, stop, record in winners:
        record_kind = EXTENT_KINDS[record.kind]
        time_ns = record.time_ns
        while start < stop:
            if start != end or end == limit or record_kind is not kind:
                if end > offset:
                    yield CutExtent(source, offset, end - offset, kind, tuple(pieces), first_ns, last_ns)
                    pieces = []
                offset, kind, limit = start, record_kind, _limit(start, record_kind)
                first_ns = last_ns = time_ns
            end = min(stop, limit)
            if kind is ExtentKind.DATA:
                pieces.append(Piece(record, start - record.offset, end - start))
            first_ns, last_ns = min(first_ns, time_ns), max(last_ns, time_ns)
            start = end
    if end > offset:
        yield CutExtent(source, offset, end - offset, kind, tuple(pieces), first_ns, last_ns)


def _limit(offset: int, kind: ExtentKind) -> int:
    """Where an extent that begins at `offset` must end at the latest."""
    if kind is ExtentKind.DATA:
        return offset - offset % EXTENT_DATA_BYTES_MAX + EXTENT_DATA_BYTES_MAX
    return offset + EXTENT_VOID_BYTES_MAX
