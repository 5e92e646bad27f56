"""The journal and the volumes as the guests see them: the model that every restore is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
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
UNSYNCED_RECORDS_MAX = 150
"""What a power loss takes at most."""


WriteDisk = Callable[[int, int, bytes], None]


@dataclass
class Change:
    """One record, with its payload. What is not captured is known to the disks and to this model alone."""

    record: Record
    payload: bytes
    captured: bool = True
    lost: bool = False


@dataclass
class SimJournal:
    """See `cdp_agent.streamer.payloads.Journal`. It lets go of records the moment it may."""

    time: VirtualTime
    initial: list[bytes]
    changes: list[Change] = field(default_factory=list)
    tail: Position = NOWHERE
    trimmed: int = 0
    applied_count: int = 0
    dirty: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    _number_of: dict[Position, int] = field(default_factory=dict)
    _lost: set[Position] = field(default_factory=set)

    # --- the splitter's part -------------------------------------------------------------------

    def begin_generation(self, generation: int) -> None:
        self.tail = Position(generation, 0)
        self._number_of[self.tail] = len(self.changes)

    def append(
        self, kind: Kind, source: int, offset: int, span: int, payload: bytes, captured: bool = True
    ) -> None:
        at = self.tail
        length = RECORD_HEADER_BYTES + padded_bytes(len(payload))
        if captured:
            self.tail = Position(at.generation, at.offset + length)
        record = Record(
            kind, source, offset, span, self.time.wall_ns(), at, self.tail, len(payload), crc32(payload), 0, 0
        )
        self.changes.append(Change(record, payload, captured))
        if not captured:
            self.dirty[source].update(range(offset // 4096, -(-(offset + span) // 4096)))
        if captured:
            self._number_of[self.tail] = len(self.changes)

    def random_change(self, rng: Random, captured: bool = True) -> None:
        """What a guest does: mostly writes, often to the same places, sometimes zeros and discards."""
        source = rng.randrange(len(self.initial))
        sectors = rng.choice((1, 1, 2, 8, rng.randint(1, WRITE_SECTORS_MAX)))
        first = min(int(rng.expovariate(0.04)), VOLUME_BYTES // SECTOR - sectors)
        kind = rng.choices((Kind.WRITE, Kind.ZERO, Kind.DISCARD), (8, 1, 2))[0]
        span = sectors * SECTOR
        payload = (bytes([rng.randrange(1, 256)]) * SECTOR + rng.randbytes(SECTOR))[:SECTOR] * sectors
        self.append(kind, source, first * SECTOR, span, payload if kind is Kind.WRITE else b"", captured)

    @property
    def applied(self) -> Position:
        """Applied-up-to: where the first record is that the disks lack."""
        if self.applied_count < len(self.changes):
            return self.changes[self.applied_count].record.position
        return self.tail

    def apply(self, write: WriteDisk, count: int) -> None:
        """Put the next records over the disks."""
        for change in self.changes[self.applied_count : self.applied_count + count]:
            record = change.record
            write(record.source, record.offset, change.payload or bytes(record.span))
            self.applied_count += 1

    def apply_all(self, write: WriteDisk) -> None:
        """Put all over the disks."""
        self.apply(write, len(self.changes) - self.applied_count)

    def redo(self, rng: Random, write: WriteDisk) -> None:
        """What a start of the splitter does: some that were applied are applied again, and the rest."""
        self.applied_count -= rng.randrange(min(self.applied_count, 10) + 1)
        self.apply_all(write)

    def lose_end(self, rng: Random, write: WriteDisk, records_max: int, reverted: bool) -> None:
        """Of the last records the journal loses the end, and the disks lose any of what they hold.

        A power loss leaves marks of where that was; a host that was `reverted` lost all of it, and the marks.
        """
        count = rng.randrange(min(len(self.changes) - self.trimmed, records_max) + 1)
        first = len(self.changes) - count
        while count and not all(map(self._may_be_lost, self.changes[first:])):
            first, count = first + 1, count - 1
        if not count:
            self.apply_all(write)
            return
        kept = rng.choice((0, rng.randrange(count + 1), max(0, count - rng.randrange(8))))
        self.tail = self.changes[first + kept].record.position if kept < count else self.tail
        lost = self.changes[first + kept :]
        for change in lost:
            change.lost = True
            self._lost.add(change.record.position)
            self._lost.add(change.record.end)
        self._lost.discard(self.tail)
        self.apply_all(write)
        before, now = self.images_at(first + kept), self.images_at(len(self.changes))
        for change in lost:  # the disk has it, or not; the model calls that a change that nobody captured
            record = change.record
            place = slice(record.offset, record.offset + record.span)
            kept_marks = {source: set(blocks) for source, blocks in self.dirty.items()}
            content = bytes((before if reverted else rng.choice((before, now)))[record.source][place])
            self.append(Kind.WRITE, record.source, record.offset, record.span, content, captured=False)
            if reverted:
                self.dirty = defaultdict(set, kept_marks)
        self.apply_all(write)

    def _may_be_lost(self, change: Change) -> bool:
        """Whatever an earlier start of the splitter found was synced by that start."""
        return change.captured and change.record.position.generation == self.tail.generation

    def trim(self, proven: Position) -> None:
        """Let go of what is proven and synced; the newest records never are."""
        if proven != NOWHERE:
            synced = max(0, len(self.changes) - UNSYNCED_RECORDS_MAX)
            self.trimmed = max(self.trimmed, min(self._number_of[proven], synced))

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
        known = number is not None and position not in self._lost
        return known and self.trimmed <= (number or 0) <= self._number_of[tail]

    def end_before(self, position: Position) -> Position | None:
        number = self._number_of.get(position)
        if number is None or position not in self._lost:
            return None
        kept = [at for at in self._number_of if at.generation == position.generation and at not in self._lost]
        return max(kept, key=lambda at: at.offset)

    def distance_bytes(self, earlier: Position, later: Position) -> int:
        return sum(
            RECORD_HEADER_BYTES + c.record.span for c in self.changes[self._at(earlier) : self._at(later)]
        )

    def records(self, from_position: Position, to_position: Position) -> Iterator[Record]:
        for change in self.changes[self._at(from_position) : self._at(to_position)]:
            if change.captured and not change.lost:
                yield change.record

    def read_payload(self, record: Record, start: int = 0, length: int | None = None) -> bytes:
        payload = next(c.payload for c in self.changes[self._at(record.position) :] if c.record is record)
        return payload[start : len(payload) if length is None else start + length]

    def _at(self, position: Position) -> int:
        number = self._number_of.get(position)
        if number is None or number < self.trimmed or position in self._lost:
            raise PositionUnknown("read the journal", f"{position} was trimmed, or never there")
        return number
