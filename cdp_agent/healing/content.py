"""Where lost content may still be had at this site: the journal's records, volumes and files as they are now.

Whatever is read is only offered: a hole takes what is right (hole). Nothing is written here.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cdp_agent.healing.files import Tail, TreeFiles
from cdp_agent.healing.hole import Hole
from cdp_agent.streamer.coalesce import CUT_RECORDS_MAX, CutExtent, coalesce
from cdp_container.errors import JournalDamaged, PositionUnknown
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX
from cdp_container.journal.position import Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind, Record

_GONE: Final = (PositionUnknown, JournalDamaged)
"""The journal does not hold what was looked for (any more): then it is no source of it."""


def offer_volumes(holes: Iterable[Hole], paths: Mapping[bytes, Path]) -> None:
    """Offer what the volumes hold now; `paths` by space. What cannot be read offers nothing."""
    opened: dict[bytes, int] = {}
    try:
        for hole in holes:
            if not hole.lost_blocks or hole.extent.space not in paths:
                continue
            space = hole.extent.space
            try:
                if space not in opened:
                    opened[space] = os.open(paths[space], os.O_RDONLY | os.O_CLOEXEC)
                offset = hole.extent.offset
                hole.offer(offset, os.pread(opened[space], hole.extent.length, offset))
            except OSError:
                continue  # a disk that fails is no source; whoever serves it says so
    finally:
        for fd in opened.values():
            os.close(fd)


def offer_files(holes: Iterable[Hole], files: TreeFiles, is_newest: Callable[[Hole], bool]) -> None:
    """Offer what the files of trees hold now. What cannot be read offers nothing.

    `is_newest`: whether nothing in the container is newer than a hole's extent, at its end.
    """
    by_space: dict[bytes, list[Hole]] = {}
    for hole in holes:
        if not hole.is_filled:
            by_space.setdefault(hole.extent.space, []).append(hole)
    for space, mine in by_space.items():
        with files.opened(space) as fd:
            if fd is not None:
                _offer_file(fd, mine, files.tail(space), is_newest)


def _offer_file(fd: int, holes: Iterable[Hole], tail: Tail | None, is_newest: Callable[[Hole], bool]) -> None:
    for hole in holes:
        extent = hole.extent
        try:
            data = os.pread(fd, extent.length, extent.offset)
        except OSError:
            continue  # a disk that fails is no source
        hole.offer(extent.offset, data)
        if tail is None or not hole.lacks_end_alone or extent.offset + extent.length != tail.size_bytes:
            continue
        end = data[tail.offset - extent.offset :]
        if tail.is_of(end) and is_newest(hole):
            hole.accept_end(end)


def offer_cut(
    holes: Sequence[Hole], journal: JournalReader, spaces: Sequence[bytes], after: Position, up_to: Position
) -> None:
    """Offer what the very records say that a cut was made of: those from `after` up to `up_to`.

    Args:
        holes: of segments of that cut alone.
        journal: of this site.
        spaces: of the sources, by their numbers in the journal.
        after: the position of the cut before it.
        up_to: the cut's own.
    """
    wanted = {(hole.extent.space, hole.extent.offset, hole.extent.length): hole for hole in holes}
    try:
        records: list[Record] = []
        for record in journal.records(after, up_to):
            if len(records) == CUT_RECORDS_MAX:
                return  # no cut has more
            records.append(record)
        for extent in coalesce(records):
            if extent.kind is not ExtentKind.DATA or extent.source >= len(spaces):
                continue
            hole = wanted.get((spaces[extent.source], extent.offset, extent.length))
            if hole is not None and not hole.is_filled:
                hole.accept(_content(extent, journal))
    except _GONE:
        return


def _content(extent: CutExtent, journal: JournalReader) -> bytes:
    return b"".join(journal.read_payload(*piece) for piece in extent.pieces)


def offer_records(
    holes: Iterable[Hole], journal: JournalReader, spaces: Sequence[bytes], tail: Position
) -> None:
    """Offer every write that the journal still has up to its published tail."""
    by_space: dict[bytes, list[Hole]] = {}
    for hole in sorted(holes, key=lambda hole: hole.extent.offset):
        if hole.lost_blocks:
            by_space.setdefault(hole.extent.space, []).append(hole)
    if not by_space:
        return
    starts = {space: [hole.extent.offset for hole in found] for space, found in by_space.items()}
    try:
        for record in journal.records(journal.start, tail, frozenset({Kind.WRITE})):
            space = spaces[record.source] if record.source < len(spaces) else b""
            for hole in _touched(record, by_space.get(space, ()), starts.get(space, ())):
                if hole.lost_blocks:
                    hole.offer(record.offset, journal.read_payload(record))
    except _GONE:
        return


def _touched(record: Record, holes: Sequence[Hole], starts: Sequence[int]) -> Sequence[Hole]:
    """Those that a record may reach into; no extent of data is longer than EXTENT_DATA_BYTES_MAX."""
    first = bisect_left(starts, record.offset - EXTENT_DATA_BYTES_MAX)
    return holes[first : bisect_right(starts, record.offset + record.span)]
