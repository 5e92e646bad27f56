"""Reading a journal: positions, records, payloads. It writes nothing.

What does not belong here: how far a journal may be believed. While the splitter runs that is its
published tail (`shared`), after it the end that `find_end` finds. A record at a position below
that which is not valid is damage, never the end.

A reader is used by one thread at a time.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from isal.isal_zlib import crc32

from cdp_container.errors import JournalDamaged, PositionUnknown
from cdp_container.journal.files import JournalFile, list_numbers, read_file, runs_of
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.record import RECORD_HEADER_BYTES, Kind, Note, Record, decode_record_header

# Headers are read with the small payloads between them: fewer, larger reads are cheaper than exact ones.
READ_BYTES: Final = 256 << 10
OPEN_FILES_MAX: Final = 16
# What changes a source; the rest is the journal's own.
CHANGES: Final = frozenset({Kind.WRITE, Kind.ZERO, Kind.DISCARD})


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """Where a journal ends: `last_time_ns` is 0, and `clean_stop` false, if nothing was met on the way."""

    position: Position
    last_time_ns: int
    clean_stop: bool


@dataclass(slots=True)
class _Window:
    """Bytes of one file that were read together."""

    number: int = -1
    at: int = 0
    data: bytes = b""


class JournalReader:
    """A journal's files, read-only; `refresh` looks for files that came or went.

    Args:
        directory: of the journal files.
        domain: the domain's id, 16 bytes.

    Raises:
        JournalDamaged: the directory cannot be read, or holds another domain's files.
    """

    def __init__(self, directory: Path, domain: bytes) -> None:
        self._directory = directory
        self._domain = domain
        self._known: dict[int, JournalFile] = {}
        self._run: Sequence[JournalFile] = ()
        self._first_number = 0
        self._open: OrderedDict[int, int] = OrderedDict()  # file number -> descriptor
        self._payload: tuple[Position, bytes] = (NOWHERE, b"")
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def files(self) -> Sequence[JournalFile]:
        """The journal's files, oldest first, each going on where the one before ends."""
        return self._run

    @property
    def runs(self) -> Sequence[Sequence[JournalFile]]:
        """All files that were there at the last look, see `runs_of`."""
        return runs_of(self._known)

    def follow(self, run: Sequence[JournalFile]) -> None:
        """Read this run of files instead of the oldest."""
        self._first_number = run[0].header.number
        self.refresh()

    @property
    def start(self) -> Position:
        """The oldest position, NOWHERE in an empty journal. Looks at the directory anew."""
        self.refresh()  # a journal that was empty when we looked last may hold guests' writes by now
        if not self._run:
            return NOWHERE
        return Position(self._run[0].header.generation, self._run[0].header.start)

    @property
    def is_from_the_beginning(self) -> bool:
        """Whether nothing was ever written before `start`: no older file was let go of, or lost."""
        start = self.start
        return start != NOWHERE and start.offset == 0 and self._run[0].header.previous == NOWHERE

    def refresh(self) -> None:
        """Look at the directory again; `records` and the others do so when they miss a position."""
        try:
            paths = list_numbers(self._directory)
        except OSError as error:
            raise JournalDamaged("opening the journal", f"{self._directory}: {error.strerror}") from error
        known = {}
        for number, path in paths.items():
            file = self._known.get(number) or read_file(path, number, self._domain)
            if file:
                known[number] = file
        self._known = known
        self._run = next((run for run in self.runs if run[-1].header.number >= self._first_number), ())
        for number in [number for number in self._open if number not in known]:
            os.close(self._open.pop(number))

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    # --- positions ---------------------------------------------------------------------------

    def contains(self, position: Position, tail: Position) -> bool:
        """Whether `position` is between two records of this journal and not beyond `tail`.

        False is what a reverted or another host looks like, and a journal that lost its end.
        """
        try:
            self.distance_bytes(position, tail)
            if position == tail or self._begins_or_ends_a_file(position):
                return True
            if self._is_between_records(position):
                return True
            # A file may have been begun since the last look, at a position that the one before had room for.
            self.refresh()
            return self._is_between_records(position)
        except PositionUnknown:
            return False

    def end_before(self, position: Position) -> Position | None:
        """Where the generation of a position ended, if before it: a power loss took what followed."""
        for file in self._run:
            previous = file.header.previous
            if previous.generation == position.generation != file.header.generation:
                return previous if previous.offset < position.offset else None
        return None

    def distance_bytes(self, earlier: Position, later: Position) -> int:
        """Bytes of records between two positions.

        Raises:
            PositionUnknown: one of them is not in this journal, or they are in the wrong order.
        """
        first, last = self._indexes_of(earlier, later)
        total = -self._offset_in(first, earlier)
        for index in range(first, last):
            total += self._length_of(index)
        total += self._offset_in(last, later)
        if last < first or total < 0:
            raise PositionUnknown("measuring the journal", f"{earlier} is not before {later}")
        return total

    def _indexes_of(self, earlier: Position, later: Position) -> tuple[int, int]:
        """Both in one list of files: a look at the directory moves every index, as old files are gone."""
        while True:
            run = self._run
            indexes = self._index_of(earlier), self._index_of(later)
            if run is self._run:
                return indexes

    def _index_of(self, position: Position) -> int:
        """The file that holds `position`; of two that meet there the newer one."""
        for refreshed in (False, True):
            if refreshed:
                self.refresh()
            for index in range(len(self._run) - 1, -1, -1):
                if self._run[index].holds(position) and self._offset_in(index, position) <= self._length_of(
                    index
                ):
                    return index
        raise PositionUnknown("reading the journal", f"{position} is not in {self._directory}")

    def _offset_in(self, index: int, position: Position) -> int:
        return position.offset - self._run[index].header.start

    def _length_of(self, index: int) -> int:
        """Bytes of records in a file; of the newest one, how many it could hold."""
        header = self._run[index].header
        if index + 1 == len(self._run):
            return self._run[index].capacity_bytes
        following = self._run[index + 1].header
        same = following.generation == header.generation
        return (following.start if same else following.previous.offset) - header.start

    def _begins_or_ends_a_file(self, position: Position) -> bool:
        index = self._index_of(position)
        offset = self._offset_in(index, position)
        return offset == 0 or (index + 1 < len(self._run) and offset == self._length_of(index))

    def _is_between_records(self, position: Position) -> bool:
        return self._header_in(self._run[self._index_of(position)], position, _Window()) is not None

    # --- records -----------------------------------------------------------------------------

    def records(
        self, from_position: Position, to_position: Position, kinds: Collection[Kind] = CHANGES
    ) -> Iterator[Record]:
        """The records from one position up to another, across files and generations, oldest first.

        Payloads are not read. Both positions must be between records, `to_position` at most the
        published tail.

        Raises:
            PositionUnknown: a position is not in the journal.
            JournalDamaged: a record between the two is not valid.
        """
        self.distance_bytes(from_position, to_position)
        if from_position == to_position or self._is_start_after(from_position, to_position):
            return
        for record in self._walk(from_position):
            if record is None:
                raise JournalDamaged("reading the journal", f"the record before {to_position} is not valid")
            at = record.end
            if at.offset > to_position.offset and at.generation == to_position.generation:
                raise PositionUnknown("reading the journal", f"{to_position} is not between two records")
            if record.kind in kinds:
                yield record
            if at == to_position or self._is_start_after(at, to_position):
                return

    def find_end(self, from_position: Position) -> JournalEnd:
        """Where the valid records from `from_position` on end, payloads checked: for a journal nobody writes.

        Raises:
            PositionUnknown: `from_position` is not in the journal.
        """
        at, time_ns, clean = from_position, 0, False
        for record in self._walk(from_position):
            if record is None or not self._payload_is_sound(record):
                break
            at = record.end
            time_ns = max(time_ns, record.time_ns)
            clean = record.kind is Kind.NOTE and record.offset == Note.CLEAN_STOP
        newest = self._run[-1].header
        if newest.start == 0 and newest.previous == at:  # a generation that was begun and holds nothing yet
            at = Position(newest.generation, 0)
        return JournalEnd(at, time_ns, clean)

    def read_payload(self, record: Record, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a WRITE's payload, from `start` on; the whole payload is checked.

        Raises:
            JournalDamaged: the payload is not what was written.
        """
        if self._payload[0] != record.position:
            payload = self._read(record.file_number, record.payload_at, record.payload_length)
            if len(payload) != record.payload_length or crc32(payload) != record.payload_crc:
                raise JournalDamaged(
                    "reading the journal", f"the payload at {record.position} is not what was written"
                )
            self._payload = (record.position, payload)
        end = record.payload_length if length is None else start + length
        assert 0 <= start <= end <= record.payload_length, "outside of the payload"
        payload = self._payload[1]
        return payload if end - start == len(payload) else payload[start:end]

    def _payload_is_sound(self, record: Record) -> bool:
        payload = self._read(record.file_number, record.payload_at, record.payload_length)
        return len(payload) == record.payload_length and crc32(payload) == record.payload_crc

    def _is_start_after(self, end: Position, start: Position) -> bool:
        """Whether `start` begins the generation that follows the one that ends at `end`."""
        return start.offset == 0 and any(
            file.header.generation == start.generation
            and file.header.start == 0
            and file.header.previous == end
            for file in self._run
        )

    def _walk(self, at: Position) -> Iterator[Record | None]:
        """The records from `at` on, END_OF_FILE included, then None where nothing valid follows."""
        window = _Window()
        while True:
            index = self._index_of(at)
            file = self._run[index]
            limit = file.header.start + self._length_of(index)
            while at.offset < limit:
                record = self._header_in(file, at, window)
                yield record
                if record is None:
                    return
                at = record.end
                if record.kind is Kind.END_OF_FILE:
                    break
            following = self._start_after(file, at)
            if following is None:
                yield None
                return
            at = following

    def _start_after(self, file: JournalFile, at: Position) -> Position | None:
        """Where the file that follows `file` begins; `at` is the end of `file`."""
        if file.header.number == self._run[-1].header.number:
            self.refresh()  # it may have been the newest one only when we looked last
        for following in self._run:
            if following.header.number > file.header.number:
                if following.header.generation == at.generation and following.header.start == at.offset:
                    return at
                is_next = following.header.start == 0 and following.header.previous == at
                return Position(following.header.generation, 0) if is_next else None
        return None

    def _header_in(self, file: JournalFile, position: Position, window: _Window) -> Record | None:
        byte, number = file.byte_of(position), file.header.number
        if (
            window.number != number
            or not window.at <= byte <= window.at + len(window.data) - RECORD_HEADER_BYTES
        ):
            window.number, window.at = number, byte
            window.data = self._read(number, byte, READ_BYTES)
        return decode_record_header(window.data, byte - window.at, position, number, byte)

    def _read(self, number: int, byte: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file, or if it was cut short."""
        try:
            return os.pread(self._descriptor(number), length, byte)
        except OSError as error:
            raise JournalDamaged("reading the journal", f"{self._directory}: {error.strerror}") from error

    def _descriptor(self, number: int) -> int:
        fd = self._open.get(number)
        if fd is None:
            if len(self._open) >= OPEN_FILES_MAX:
                os.close(self._open.popitem(last=False)[1])
            fd = os.open(self._known[number].path, os.O_RDONLY | os.O_CLOEXEC)
            self._open[number] = fd
        return fd
