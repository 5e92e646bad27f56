"""From a cut's references to its bytes: reads payloads from the journal, each as rarely as memory allows.

Extents come sorted by where they lie on the volume, payloads lie in the order of writing: a large write with
small ones upon it would be read once for every gap between them, if its payload were not kept for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from cdp_agent.streamer.coalesce import CutExtent
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX
from cdp_container.journal.position import Position
from cdp_container.journal.record import Record

KEPT_BYTES_MAX: Final = 8 << 20
"""Payloads that are kept: two of the largest."""
KEPT_PAYLOAD_BYTES_MIN: Final = 64 << 10
"""Smaller ones are as quickly read again."""
_ZEROS: Final = bytes(EXTENT_DATA_BYTES_MAX)


class Chunk(NamedTuple):
    """A piece of a cut with its bytes; `data` is None where the kind is not DATA."""

    source: int
    offset: int
    length: int
    kind: ExtentKind
    data: bytes | memoryview | None
    first_ns: int
    last_ns: int


class Journal(Protocol):
    """What the streamer needs of a journal; `cdp_container.journal.reader.JournalReader` is one."""

    @property
    def start(self) -> Position:
        """The oldest position, NOWHERE in an empty journal."""
        ...

    @property
    def is_from_the_beginning(self) -> bool:
        """Whether nothing that was ever captured lay before `start`."""
        ...

    def contains(self, position: Position, tail: Position) -> bool:
        """Whether the position is between two records and not beyond `tail`."""
        ...

    def end_before(self, position: Position) -> Position | None:
        """Where the generation of a position ended, if that was before it."""
        ...

    def distance_bytes(self, earlier: Position, later: Position) -> int:
        """Bytes of records between two positions; raises PositionUnknown."""
        ...

    def records(self, from_position: Position, to_position: Position) -> Iterator[Record]:
        """The records between two positions, oldest first; raises PositionUnknown, JournalDamaged."""
        ...

    def read_payload(self, record: Record, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a WRITE's payload, checked; raises JournalDamaged."""
        ...


def chunks_of(extents: Iterable[CutExtent], journal: Journal) -> Iterator[Chunk]:
    """The extents of a cut with their bytes, read when they are asked for.

    Zeros that were written come as void chunks, neighbours joined: they need no frame, and no block of a
    restored file.
    """
    void: Chunk | None = None
    for chunk in _read(extents, _Kept(journal)):
        if void is not None and _continues(void, chunk):
            first_ns, last_ns = min(void.first_ns, chunk.first_ns), max(void.last_ns, chunk.last_ns)
            void = void._replace(length=void.length + chunk.length, first_ns=first_ns, last_ns=last_ns)
            continue
        if void is not None:
            yield void
        void = chunk if chunk.kind is ExtentKind.ZERO else None
        if void is None:
            yield chunk
    if void is not None:
        yield void


def is_zero(data: bytes | memoryview) -> bool:
    """Whether a piece, of EXTENT_DATA_BYTES_MAX at most, holds nothing but zeros."""
    # Most that does not shows it in its first byte or last; only bytes are compared by memcmp.
    return not data[0] and not data[-1] and bytes(data) == _ZEROS[: len(data)]


def _continues(void: Chunk, chunk: Chunk) -> bool:
    return (
        chunk.kind is ExtentKind.ZERO
        and chunk.source == void.source
        and chunk.offset == void.offset + void.length
        and void.length + chunk.length <= EXTENT_VOID_BYTES_MAX
    )


def _read(extents: Iterable[CutExtent], kept: _Kept) -> Iterator[Chunk]:
    for source, offset, length, kind, pieces, first_ns, last_ns in extents:
        if kind is not ExtentKind.DATA:
            yield Chunk(source, offset, length, kind, None, first_ns, last_ns)
            continue
        data = kept.part(*pieces[0]) if len(pieces) == 1 else b"".join([kept.part(*part) for part in pieces])
        assert len(data) == length, "pieces must join to their extent"
        if is_zero(data):
            yield Chunk(source, offset, length, ExtentKind.ZERO, None, first_ns, last_ns)
        else:
            yield Chunk(source, offset, length, kind, data, first_ns, last_ns)


class _Kept:
    """Payloads that may be wanted again; of those the longest unused go first."""

    __slots__ = ("_bytes", "_journal", "_payloads")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._payloads: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = 0

    def part(self, record: Record, skip: int, length: int) -> bytes | memoryview:
        """Bytes of a payload."""
        if length == record.payload_length or record.payload_length < KEPT_PAYLOAD_BYTES_MIN:
            return self._journal.read_payload(record, skip, length)
        key = (record.position.generation, record.position.offset)
        payload = self._payloads.get(key)
        if payload is None:
            payload = self._payloads[key] = self._journal.read_payload(record)
            self._bytes += len(payload)
            while self._bytes > KEPT_BYTES_MAX:
                self._bytes -= len(self._payloads.popitem(last=False)[1])
        else:
            self._payloads.move_to_end(key)
        return memoryview(payload)[skip : skip + length]
