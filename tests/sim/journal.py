"""The journal and the volumes as the guests see them: the model that every restore is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from cdp_container.errors import PositionUnknown
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.record import RECORD_HEADER_BYTES, Kind, Record, padded_bytes
from tests.sim.clock import VirtualTime

SECTOR = 512
VOLUME_BYTES = 48 << 10
WRITE_SECTORS_MAX = 12


@dataclass
class Change:
    """One record, with its payload."""

    record: Record
    payload: bytes


@dataclass
class SimJournal:
    """See `cdp_agent.streamer.payloads.Journal`. It lets go of records the moment it may."""

    time: VirtualTime
    initial: list[bytes]
    changes: list[Change] = field(default_factory=list)
    tail: Position = NOWHERE
    trimmed: int = 0
    _number_of: dict[Position, int] = field(default_factory=dict)

    # --- the splitter's part -------------------------------------------------------------------

    def begin_generation(self, generation: int) -> None:
        self.tail = Position(generation, 0)
        self._number_of[self.tail] = len(self.changes)

    def append(self, kind: Kind, source: int, offset: int, span: int, payload: bytes) -> None:
        at = self.tail
        length = RECORD_HEADER_BYTES + padded_bytes(len(payload))
        self.tail = Position(at.generation, at.offset + length)
        record = Record(
            kind, source, offset, span, self.time.wall_ns(), at, self.tail, len(payload), crc32(payload), 0, 0
        )
        self.changes.append(Change(record, payload))
        self._number_of[self.tail] = len(self.changes)

    def random_change(self, rng: Random) -> None:
        """What a guest does: mostly writes, often to the same places, sometimes zeros and discards."""
        source = rng.randrange(len(self.initial))
        sectors = rng.choice((1, 1, 2, 8, rng.randint(1, WRITE_SECTORS_MAX)))
        first = min(int(rng.expovariate(0.04)), VOLUME_BYTES // SECTOR - sectors)
        kind = rng.choices((Kind.WRITE, Kind.ZERO, Kind.DISCARD), (8, 1, 2))[0]
        span = sectors * SECTOR
        payload = (bytes([rng.randrange(1, 256)]) * SECTOR + rng.randbytes(SECTOR))[:SECTOR] * sectors
        self.append(kind, source, first * SECTOR, span, payload if kind is Kind.WRITE else b"")

    def trim(self, proven: Position) -> None:
        if proven != NOWHERE:
            self.trimmed = max(self.trimmed, self._number_of[proven])

    # --- the model -----------------------------------------------------------------------------

    def number_of(self, position: Position) -> int:
        """How many changes lie before a position."""
        return self._number_of[position]

    def images_at(self, number: int) -> list[bytes]:
        """Every volume after that many changes."""
        images = [bytearray(image) for image in self.initial]
        for change in self.changes[:number]:
            record = change.record
            end = record.offset + record.span
            images[record.source][record.offset : end] = change.payload or bytes(record.span)
        return [bytes(image) for image in images]

    # --- the streamer's part -------------------------------------------------------------------

    @property
    def start(self) -> Position:
        if self.trimmed < len(self.changes):
            return self.changes[self.trimmed].record.position
        return self.tail

    @property
    def is_from_the_beginning(self) -> bool:
        return self.trimmed == 0

    def contains(self, position: Position, tail: Position) -> bool:
        number = self._number_of.get(position)
        return number is not None and self.trimmed <= number <= self._number_of[tail]

    def distance_bytes(self, earlier: Position, later: Position) -> int:
        return sum(
            RECORD_HEADER_BYTES + c.record.span for c in self.changes[self._at(earlier) : self._at(later)]
        )

    def records(self, from_position: Position, to_position: Position) -> Iterator[Record]:
        for change in self.changes[self._at(from_position) : self._at(to_position)]:
            yield change.record

    def read_payload(self, record: Record, start: int = 0, length: int | None = None) -> bytes:
        number = self._at(record.position)
        payload = self.changes[number].payload
        return payload[start : len(payload) if length is None else start + length]

    def _at(self, position: Position) -> int:
        number = self._number_of.get(position)
        if number is None or number < self.trimmed:
            raise PositionUnknown("read the journal", f"{position} was trimmed, or never there")
        return number
