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
from cdp_container.journal.position import Position
from cdp_container.journal.record import Record

KEPT_BYTES_MAX: Final = 32 << 20
"""Payloads that are kept: eight of the largest."""
KEPT_PAYLOAD_BYTES_MIN: Final = 64 << 10
"""Smaller ones are as quickly read again."""


class Chunk(NamedTuple):
    """A piece of a cut with its bytes; `data` is None where the kind is not DATA."""

    source: int
    offset: int
    length: int
    kind: ExtentKind
    data: bytes | None
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
    """The extents of a cut with their bytes, read when they are asked for."""
    kept = _Kept(journal)
    for extent in extents:
        data = None
        if extent.kind is ExtentKind.DATA:
            parts = [kept.part(*piece) for piece in extent.pieces]
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            assert len(data) == extent.length, "pieces must join to their extent"
        yield Chunk(
            extent.source, extent.offset, extent.length, extent.kind, data, extent.first_ns, extent.last_ns
        )


class _Kept:
    """Payloads that may be wanted again; of those the longest unused go first."""

    __slots__ = ("_bytes", "_journal", "_payloads")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._payloads: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes = 0

    def part(self, record: Record, skip: int, length: int) -> bytes:
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
        return payload[skip : skip + length]
