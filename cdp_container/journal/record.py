"""The bytes of journal records and of the headers of journal files, docs/journal-format.md. Pure.

What does not belong here: files, order, and when a record may be believed (`reader`).

A record's header carries the checksum of its payload, and a checksum of its own over all of
the header: so a reader can walk the headers without touching the data, and the two together
tie content, generation and position to each other.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from isal.isal_zlib import crc32

from cdp_container.journal.position import Position

# Size of a journal file: large enough that rotation is rare, small enough that little waits to be recycled.
JOURNAL_FILE_BYTES: Final = 64 << 20
# The records begin after one page, so that a header is overwritten without touching one.
FILE_HEADER_BYTES: Final = 4096
# A payload larger than this is cut into several records: what a reader must hold in memory.
PAYLOAD_BYTES_MAX: Final = 4 << 20
# Records begin at multiples of this, so that no field straddles two cache lines or sectors.
ALIGNMENT_BYTES: Final = 8
# One NBD request zeroes or discards at most this; a larger span in a record is damage.
SPAN_BYTES_MAX: Final = 1 << 32

FORMAT: Final = 1
FILE_MAGIC: Final = b"CDPJNL\r\n"
RECORD_MAGIC: Final = 0x4E4A4443  # "CDJN"

# The layouts, as docs/journal-format.md has them: field and type, without gaps.
FILE_HEADER_FIELDS: Final = (
    ("magic", "8s"),
    ("format", "I"),
    ("header_crc", "I"),
    ("domain", "16s"),
    ("number", "Q"),
    ("generation", "Q"),
    ("start", "Q"),
    ("previous_generation", "Q"),
    ("previous_end", "Q"),
    ("boot", "16s"),
    ("wall_ns", "q"),
)
RECORD_FIELDS: Final = (
    ("magic", "I"),
    ("kind", "B"),
    ("flags", "B"),
    ("source", "H"),
    ("length", "I"),
    ("payload_crc", "I"),
    ("generation", "Q"),
    ("position", "Q"),
    ("offset", "Q"),
    ("span", "Q"),
    ("time_ns", "q"),
    ("reserved", "I"),
    ("header_crc", "I"),
)

_FILE_HEADER: Final = struct.Struct("<" + "".join(code for _, code in FILE_HEADER_FIELDS))
_RECORD: Final = struct.Struct("<" + "".join(code for _, code in RECORD_FIELDS))
_RECORD_BEFORE_CRC: Final = struct.Struct("<" + "".join(code for _, code in RECORD_FIELDS[:-1]))
_CRC: Final = struct.Struct("<I")

RECORD_HEADER_BYTES: Final = _RECORD.size
_MAGIC_BYTES: Final = _CRC.pack(RECORD_MAGIC)


class Kind(enum.IntEnum):
    """What a record says."""

    WRITE = 1  # the payload was written at `offset`
    ZERO = 2  # `span` bytes at `offset` read as zeros
    DISCARD = 3  # the same, and the guest does not need them
    NOTE = 4  # for the journal itself: `offset` is a Note
    END_OF_FILE = 5  # the generation goes on in the next file


class Note(enum.IntEnum):
    """What a NOTE says, in its `offset`."""

    REDO_PROGRESS = 1  # a redo is under way: the backing store's mtime is ours
    CLEAN_STOP = 2  # journal and backing store were synced and nothing follows
    DISKS_TAKEN = 3  # the backing stores as they are now: they may be much younger than the record before


_KINDS: Final = {int(kind): kind for kind in Kind}


class Record(NamedTuple):
    """One record (a tuple, because there are a hundred thousand a second).

    Attributes:
        kind: what it says.
        source: index of the source in agent.json.
        offset: first byte in the source's space; of a NOTE the `Note`.
        span: bytes covered; for a WRITE the payload's length.
        time_ns: wall clock when it was written.
        position: of its header in the journal.
        end: the position right after it.
        payload_length: bytes of payload, 0 for what is not a WRITE.
        payload_crc: CRC-32 of the payload.
        file_number: the journal file it lies in.
        payload_at: byte in that file where the payload begins.
    """

    kind: Kind
    source: int
    offset: int
    span: int
    time_ns: int
    position: Position
    end: Position
    payload_length: int
    payload_crc: int
    file_number: int
    payload_at: int


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The beginning of a journal file.

    Attributes:
        domain: the domain's id, 16 bytes.
        number: the number in the file's name.
        generation: whose records follow.
        start: offset in the generation of the first record.
        previous: where the generation before this one ended, NOWHERE if there was none.
        boot: the boot id under which the file was begun, 16 bytes.
        wall_ns: wall clock then.
    """

    domain: bytes
    number: int
    generation: int
    start: int
    previous: Position
    boot: bytes
    wall_ns: int


def padded_bytes(payload_length: int) -> int:
    """Bytes that a payload takes in the journal."""
    return -(-payload_length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def record_bytes(payload_length: int) -> int:
    """Bytes of a whole record with such a payload."""
    return RECORD_HEADER_BYTES + padded_bytes(payload_length)


def payload_crc(payload: bytes | memoryview) -> int:
    """A payload's checksum: a third of a millisecond for a MiB."""
    return crc32(payload)


def encode_record_header(
    kind: Kind,
    source: int,
    at: Position,
    offset: int,
    span: int,
    time_ns: int,
    payload: bytes | memoryview = b"",
    crc: int | None = None,
) -> bytes:
    """The header; the payload and its padding follow it. `crc` is `payload_crc` of it, if that is known."""
    length = len(payload)
    assert length <= PAYLOAD_BYTES_MAX, "split the payload"
    assert (kind is Kind.WRITE) == (length > 0), "writes, and only writes, have a payload"
    fields = _RECORD_BEFORE_CRC.pack(
        RECORD_MAGIC,
        kind,
        0,
        source,
        length,
        crc32(payload) if crc is None else crc,
        at.generation,
        at.offset,
        offset,
        span,
        time_ns,
        0,
    )
    return fields + _CRC.pack(crc32(fields))


def encode_writes(
    source: int,
    at: Position,
    writes: Sequence[tuple[int, bytes | memoryview]],
    time_ns: int,
    room_bytes: int,
) -> tuple[list[bytes | memoryview], list[int]]:
    """The records of a first part of these writes, (offset, payload) each, one behind the other.

    The same as `encode_record_header` for each and their payloads, at half the price.

    Args:
        source: of all of them.
        at: of the first record.
        writes: none with more than PAYLOAD_BYTES_MAX.
        time_ns: wall clock.
        room_bytes: what the records may take; the first that does not fit ends it.

    Returns:
        The bytes in pieces, and where each record ends, counted from the first.
    """
    pieces: list[bytes | memoryview] = []
    ends: list[int] = []
    end, generation, start = 0, at.generation, at.offset
    pack_fields, pack_crc, kind = _RECORD_BEFORE_CRC.pack, _CRC.pack, int(Kind.WRITE)
    for offset, payload in writes:
        length = len(payload)
        assert 0 < length <= PAYLOAD_BYTES_MAX, "split the payload"
        position, padding = start + end, -length % ALIGNMENT_BYTES
        end += RECORD_HEADER_BYTES + length + padding
        if end > room_bytes:
            break
        fields = pack_fields(
            RECORD_MAGIC, kind, 0, source, length, crc32(payload), generation, position, offset, length,
            time_ns, 0,
        )  # fmt: skip
        pieces += (fields + pack_crc(crc32(fields)), payload)
        if padding:
            pieces.append(bytes(padding))
        ends.append(end)
    return pieces, ends


def decode_record_header(
    data: bytes | bytearray | memoryview, at: int, expected: Position, file_number: int, file_offset: int
) -> Record | None:
    """The record whose header is `data[at:]`, or None if no record of this position is there.

    None is what a torn tail, the content of a recycled file and damage look like alike: who
    knows where the journal ends can tell them apart. The payload is not looked at.

    Args:
        data: bytes of a journal file.
        at: where in `data` the header would begin.
        expected: the position that the header must state.
        file_number: the file's number, for the `Record`.
        file_offset: where in the file the header begins.
    """
    if len(data) - at < RECORD_HEADER_BYTES or data[at : at + 4] != _MAGIC_BYTES:
        return None
    (
        _,
        kind_value,
        flags,
        source,
        length,
        payload_crc,
        generation,
        position,
        offset,
        span,
        time_ns,
        _,
        header_crc,
    ) = _RECORD.unpack_from(data, at)
    if generation != expected.generation or position != expected.offset:
        return None
    if crc32(data[at : at + RECORD_HEADER_BYTES - _CRC.size]) != header_crc:
        return None
    kind = _KINDS.get(kind_value)
    if kind is None or flags or not _is_sensible(kind, length, span):
        return None
    return Record(
        kind, source, offset, span, time_ns, expected,
        Position(generation, position + RECORD_HEADER_BYTES + padded_bytes(length)),
        length, payload_crc, file_number, file_offset + RECORD_HEADER_BYTES,
    )  # fmt: skip


def _is_sensible(kind: Kind, length: int, span: int) -> bool:
    if kind is Kind.WRITE:
        return 0 < length <= PAYLOAD_BYTES_MAX and span == length
    return length == 0 and span <= SPAN_BYTES_MAX


def encode_file_header(header: FileHeader) -> bytes:
    """The first FILE_HEADER_BYTES of a journal file."""
    without_crc = _pack_file_header(header, 0)
    return _pack_file_header(header, crc32(without_crc)).ljust(FILE_HEADER_BYTES, b"\0")


def decode_file_header(data: bytes) -> FileHeader | None:
    """The header at the start of `data`, or None if these bytes are none."""
    if len(data) < _FILE_HEADER.size:
        return None
    (
        magic,
        version,
        crc,
        domain,
        number,
        generation,
        start,
        previous_generation,
        previous_end,
        boot,
        wall_ns,
    ) = _FILE_HEADER.unpack_from(data)
    if magic != FILE_MAGIC or version != FORMAT or generation == 0:
        return None
    previous = Position(previous_generation, previous_end)
    header = FileHeader(domain, number, generation, start, previous, boot, wall_ns)
    return header if crc32(_pack_file_header(header, 0)) == crc else None


def _pack_file_header(header: FileHeader, crc: int) -> bytes:
    return _FILE_HEADER.pack(
        FILE_MAGIC, FORMAT, crc, header.domain, header.number, header.generation, header.start,
        header.previous.generation, header.previous.offset, header.boot, header.wall_ns,
    )  # fmt: skip
