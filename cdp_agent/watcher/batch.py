"""The bytes of a batch: what the watcher hands to the streamer for one cut. PURE, over a file that is given.

A head, then records, then extents (those of one space together, by offset), then the end: counts, and a
CRC-32 of everything before it. A batch lives in an unlinked file for seconds, and never leaves the machine:
the checks are against a writer that died halfway and against our own mistakes. `check_batch` reads it once;
who reads what it passed needs no more checks. How the file gets from one process to the other does not
belong here (client.py, server.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from isal.isal_zlib import crc32

from cdp_container.errors import WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.layout import RECORD_KINDS, ExtentKind
from cdp_container.format.limits import (
    EXTENT_DATA_BYTES_MAX,
    RECORD_KEY_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX,
    SPACE_BYTES_MAX,
)
from cdp_container.format.segment import NewExtent

MAGIC: Final = b"CDPBATCH"
VERSION: Final = 1
FLUSH_BYTES: Final = 1 << 20
"""What is gathered before it is written and summed: a small file's extent is a few hundred bytes."""

_HEAD: Final = struct.Struct("<8sIIQ")  # magic, version, zero, number
_RECORD: Final = struct.Struct("<8sII")
_DATA: Final = struct.Struct("<16sQI")
_ZERO: Final = struct.Struct("<16sQQ")
_END: Final = struct.Struct("<QQQ")  # records, extents, bytes of content
_CRC: Final = struct.Struct("<I")
_TAG_RECORD: Final = b"r"
_TAG_DATA: Final = b"d"
_TAG_ZERO: Final = b"z"
_TAG_END: Final = b"e"


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What a batch holds; `extents_at` is where the first extent (or the end) lies in the file."""

    number: int
    records: int
    extents: int
    content_bytes: int
    extents_at: int


def write_batch(
    file: BinaryIO, number: int, records: Iterable[Record], extents: Iterable[NewExtent]
) -> BatchFacts:
    """Write a batch from where the file stands, its beginning.

    Args:
        file: empty; raises OSError itself.
        number: of the batch, by which it is named later.
        records: of known kinds.
        extents: DATA or ZERO; of one space together, sorted, disjoint.
    """
    out = _Out(file)
    out.add(_HEAD.pack(MAGIC, VERSION, 0, number))
    record_count = extent_count = content_bytes = 0
    for record in records:
        name = record.name.encode("ascii")
        out.add(_TAG_RECORD, _RECORD.pack(name, len(record.key), len(record.value)), record.key, record.value)
        record_count += 1
    extents_at = out.length
    for extent in extents:
        assert extent.length > 0, extent.length
        if extent.data is None:
            out.add(_TAG_ZERO, _ZERO.pack(extent.space, extent.offset, extent.length))
        else:
            assert extent.length == len(extent.data) <= EXTENT_DATA_BYTES_MAX, extent.length
            out.add(_TAG_DATA, _DATA.pack(extent.space, extent.offset, extent.length), extent.data)
            content_bytes += extent.length
        extent_count += 1
    out.add(_TAG_END, _END.pack(record_count, extent_count, content_bytes))
    out.close()
    return BatchFacts(number, record_count, extent_count, content_bytes, extents_at)


class _Out:
    """Gathers pieces, sums and writes them in large ones."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._open = bytearray()
        self._crc = 0
        self._written = 0

    @property
    def length(self) -> int:
        return self._written + len(self._open)

    def add(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self._open += piece
        if len(self._open) >= FLUSH_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.write(_CRC.pack(self._crc))
        self._file.flush()

    def _flush(self) -> None:
        self._crc = crc32(self._open, self._crc)
        self._file.write(self._open)
        self._written += len(self._open)
        self._open.clear()


def check_batch(file: BinaryIO) -> BatchFacts:
    """Read a batch through once, in bounded memory. Raises WatcherFailed where anything of it is wrong."""
    reader = _Reader(file)
    number = reader.head()
    records = extents = content_bytes = 0
    extents_at = reader.at
    spaces = _Spaces()
    while (tag := reader.take(1)) != _TAG_END:
        if tag == _TAG_RECORD and not extents:
            reader.record()
            records += 1
            extents_at = reader.at
        elif tag in (_TAG_DATA, _TAG_ZERO):
            extent = reader.extent(tag)
            spaces.see(extent)
            extents += 1
            content_bytes += 0 if extent.data is None else extent.length
        else:
            raise _damaged(f"what is at byte {reader.at - 1} is nothing known, or in the wrong place")
    facts = BatchFacts(number, records, extents, content_bytes, extents_at)
    if _END.unpack(reader.take(_END.size)) != (records, extents, content_bytes):
        raise _damaged("its end counts other things than are in it")
    crc = reader.crc
    if _CRC.unpack(reader.take(_CRC.size))[0] != crc:
        raise _damaged("its checksum is wrong")
    if file.read(1):
        raise _damaged("it goes on after its end")
    return facts


def read_records(file: BinaryIO) -> Iterator[Record]:
    """The records of a batch that `check_batch` has passed."""
    reader = _Reader(file)
    reader.head()
    while reader.take(1) == _TAG_RECORD:
        yield reader.record()


def read_chunks(file: BinaryIO, facts: BatchFacts) -> Iterator[NewExtent]:
    """The extents of a batch that `check_batch` has passed, each read when it is asked for."""
    reader = _Reader(file, facts.extents_at)
    while (tag := reader.take(1)) != _TAG_END:
        yield reader.extent(tag)


class _Reader:
    def __init__(self, file: BinaryIO, at: int = 0) -> None:
        file.seek(at)
        self._read: Callable[[int], bytes] = file.read
        self.at = at
        self.crc = 0

    def take(self, length: int) -> bytes:
        data = self._read(length)
        if len(data) != length:
            raise _damaged(f"it ends after {self.at + len(data)} bytes")
        self.at += length
        self.crc = crc32(data, self.crc)
        return data

    def head(self) -> int:
        magic, version, zero, number = _HEAD.unpack(self.take(_HEAD.size))
        if (magic, version, zero) != (MAGIC, VERSION, 0):
            raise _damaged("it does not begin like a batch of this version")
        return int(number)

    def record(self) -> Record:
        name_bytes, key_bytes, value_bytes = _RECORD.unpack(self.take(_RECORD.size))
        name = name_bytes.rstrip(b"\0").decode("ascii", "replace")
        if name not in RECORD_KINDS:
            raise _damaged(f"it has a record of the unknown kind {name!r}")
        if key_bytes > RECORD_KEY_BYTES_MAX or value_bytes > RECORD_VALUE_BYTES_MAX:
            raise _damaged("a record of it is longer than any may be")
        data = self.take(key_bytes + value_bytes)
        return Record(name, data[:key_bytes], data[key_bytes:], RECORD_KINDS[name])

    def extent(self, tag: bytes) -> NewExtent:
        if tag == _TAG_ZERO:
            space, offset, length = _ZERO.unpack(self.take(_ZERO.size))
            _check_range(offset, length, SPACE_BYTES_MAX)
            return NewExtent(space, offset, length, ExtentKind.ZERO)
        space, offset, length = _DATA.unpack(self.take(_DATA.size))
        _check_range(offset, length, EXTENT_DATA_BYTES_MAX)
        return NewExtent(space, offset, length, ExtentKind.DATA, self.take(length))


class _Spaces:
    """Whether the extents of each space come together, in order and without overlap."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._space = b""
        self._end = 0

    def see(self, extent: NewExtent) -> None:
        if extent.space != self._space:
            if extent.space in self._seen:
                raise _damaged("the extents of a space are not together")
            self._seen.add(extent.space)
            self._space, self._end = extent.space, 0
        if extent.offset < self._end:
            raise _damaged("the extents of a space overlap, or are not in order")
        self._end = extent.offset + extent.length


def _check_range(offset: int, length: int, length_max: int) -> None:
    if not 0 < length <= length_max or offset + length > SPACE_BYTES_MAX:
        raise _damaged("an extent of it is too long, or beyond what a space can hold")


def _damaged(why: str) -> WatcherFailed:
    return WatcherFailed("a batch of file trees is damaged", why)
