"""What one batch holds so far: records, extents, and what of the container they touch.

How it is found out what belongs into it is in round.py and reading.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cdp_agent.watcher.index import CHUNK_BYTES, FileRow, Index, TouchedSpace
from cdp_container.format.index import Record
from cdp_container.format.records import make_record
from cdp_container.format.segment import NewExtent

BATCH_BYTES_MAX: Final = 64 << 20
"""Content of one batch; it is in memory until the batch is written."""
BATCH_RECORDS_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold."""

    content_bytes: int = BATCH_BYTES_MAX
    records: int = BATCH_RECORDS_MAX


class Gathered:
    """One batch; `goes_on` says False where time is up."""

    def __init__(self, limits: Limits, goes_on: Callable[[], bool]) -> None:
        self.limits = limits
        self.goes_on = goes_on
        self._names: dict[tuple[int, bytes], Record] = {}
        self._others: dict[bytes, Record] = {}
        self._trees: set[int] = set()
        self._extents: dict[bytes, list[NewExtent]] = {}
        self._touched: dict[bytes, list[tuple[int, int]]] = {}
        self._removed: set[bytes] = set()
        self.content_bytes = 0

    @property
    def record_count(self) -> int:
        """Records so far."""
        return len(self._names) + len(self._others)

    @property
    def has_room(self) -> bool:
        """Whether content may be added."""
        return self.content_bytes < self.limits.content_bytes and self.goes_on()

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be looked at in this batch."""
        return self.record_count >= self.limits.records or not self.has_room

    @property
    def is_empty(self) -> bool:
        """Whether the container need not be told anything."""
        return not (self._names or self._others or self._extents or self._touched)

    def records(self) -> Iterator[Record]:
        """Trees and spaces first, then names."""
        yield from self._others.values()
        yield from self._names.values()

    def extents(self) -> Iterator[NewExtent]:
        """Of each space together, by offset."""
        for extents in self._extents.values():
            yield from extents

    def name(self, tree_row: int, path: bytes, record: Record) -> None:
        """What the container is told of a name; the last word counts."""
        # orjson leaves the room that it asked for, 4 KiB, with the value: a copy has its own size.
        value = bytes(memoryview(record.value))
        self._names[tree_row, path] = Record(record.name, record.key, value, record.critical)

    def tree(self, tree_row: int, record: Record) -> None:
        """What the container is told of a tree."""
        self._others[record.key] = record
        self._trees.add(tree_row)

    def resize(self, space: bytes, size: int) -> None:
        """A space has nothing beyond this size."""
        self._others[b"=" + space] = make_record("space=", space, {"size_bytes": size})

    def extent(self, extent: NewExtent) -> None:
        """Content; of one space in order."""
        self._extents.setdefault(extent.space, []).append(extent)
        if extent.data is not None:
            self.content_bytes += extent.length
        end = extent.offset + extent.length
        self.touch(extent.space, extent.offset // CHUNK_BYTES, -(-end // CHUNK_BYTES))

    def touch(self, space: bytes, first: int, beyond: int) -> None:
        """What the container has of these chunks is another thing after this batch."""
        touched = self._touched.setdefault(space, [])
        if touched and touched[-1][0] <= first <= touched[-1][1]:
            touched[-1] = touched[-1][0], max(beyond, touched[-1][1])
        else:
            touched.append((first, max(beyond, first + 1)))

    def touched(self, space: bytes) -> tuple[tuple[int, int], ...]:
        """The chunks (first, beyond) that were touched so far."""
        return tuple(self._touched.get(space, ()))

    def drop_extents(self, space: bytes) -> list[int]:
        """The content that was gathered for a space does not count; that it was touched does.

        Gives the chunks that it was of, sorted: what the index says of them is not in the container.
        """
        chunks: set[int] = set()
        for extent in self._extents.pop(space, ()):
            self.content_bytes -= extent.length if extent.data is not None else 0
            beyond = -(-(extent.offset + extent.length) // CHUNK_BYTES)
            chunks.update(range(extent.offset // CHUNK_BYTES, beyond))
        return sorted(chunks)

    def remove_space(self, space: bytes) -> None:
        """A space has no name any more."""
        self.drop_extents(space)
        self._others.pop(b"=" + space, None)
        self._others[b"-" + space] = make_record("space-", space, {})
        self._touched.setdefault(space, [])
        self._removed.add(space)

    def remove_file(self, index: Index, file: FileRow) -> None:
        """A file has no name any more."""
        self.remove_space(file.space)
        index.remove_file(file.id)

    def note(self, index: Index, number: int, epoch: int, cut: int) -> None:
        """Note in the index what the batch touches."""
        spaces = (
            TouchedSpace(space, None if space in self._removed else chunks)
            for space, chunks in self._touched.items()
        )
        index.note_batch(number, epoch, cut, self._names, spaces, self._trees)
