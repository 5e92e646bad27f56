"""Building a segment: coalesced, sorted extents and records in, sealed bytes out.

The builder takes what is given until the segment is full, so that the caller can spread one cut over several.
What a cut holds, which writes survive it and which numbers it has is decided by the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from cdp_container.errors import LimitExceeded
from cdp_container.format import layout, limits
from cdp_container.format.assemble import SealedObject, assemble
from cdp_container.format.codec import Compressor
from cdp_container.format.frames import StoredFrame, store_frame
from cdp_container.format.index import Record, build_index
from cdp_container.format.keys import segment_key
from cdp_container.format.layout import NONE_U32, Codec, ExtentKind, ObjectKind
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import NO_DIGEST, Preamble
from cdp_container.format.records import RecordTable, record_bytes
from cdp_container.format.seal import TAG_BYTES, FrameCipher, WriterKeys
from cdp_container.format.sums import block_sums, sum_count

HEADER_SPACES_MAX: Final = 64
"""Spaces of which the header tells statistics, those with most data first; all others are told as one."""
PENDING_FRAMES_MAX: Final = 16
"""Frames of one segment that are being compressed and sealed: 4 MiB of raw bytes."""

Packed: TypeAlias = tuple[StoredFrame, bytes]
"""A frame as it is stored, and the sums of its blocks."""
Pack: TypeAlias = Callable[[Compressor], Packed]
StartPacking: TypeAlias = Callable[[Pack], Callable[[], Packed]]
"""Begins the work, with a compressor that nobody else uses meanwhile; what it gives waits for the outcome."""

_BLOCK: Final = limits.SUM_BLOCK_BYTES
_DIRECTORY_BYTES: Final = layout.INDEX_HEADER.size_bytes + len(layout.PARTS) * layout.PART_ROW.size_bytes
_NEW_ROWS_BYTES: Final = layout.EXTENT_ROW.size_bytes + layout.FRAME_ROW.size_bytes + layout.ID_BYTES
_RESERVED: Final = bytes(3)


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What a segment's preamble and header say besides its data; see the document's table of the preamble."""

    epoch: int
    seq: int
    cut: int
    complete: bool
    base: Place = NOWHERE
    end: Place = NOWHERE
    not_whole: tuple[bytes, ...] = ()
    journal_generation: int = 0
    journal_offset: int = 0
    cut_time_ns: int = 0
    first_write_ns: int = 0
    last_write_ns: int = 0
    previous_digest: bytes = NO_DIGEST
    site: str = ""
    software: str = ""
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class NewExtent:
    """An extent to be written; `data` has `length` bytes where the kind is DATA, and is None elsewhere."""

    space: bytes
    offset: int
    length: int
    kind: ExtentKind
    data: bytes | memoryview | None = None


@dataclass(slots=True)
class _SpaceCount:
    raw: int = 0
    stored: int = 0
    incompressible: int = 0


@dataclass(slots=True)
class _OpenFrame:
    """The frame that is being filled, and how many bytes of it each space row gave."""

    chunks: list[tuple[int, memoryview]] = field(default_factory=list)  # offset in the space, bytes
    length: int = 0
    by_space: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _PendingFrame:
    """A frame that is being packed; it may become `stored_bytes_max` long."""

    length: int
    by_space: dict[int, int]
    stored_bytes_max: int
    packed: Callable[[], Packed]


class SegmentBuilder:
    """Takes records, and extents sorted by (space, offset) without overlap; `finish` seals them.

    `object_id` is 16 random bytes, never used for another object. A memoryview given as data must not
    change before `finish`.

    Frames are packed by `start`, which may do so side by side; without it, here and at once. The segment is
    the same, byte for byte: frames are taken in their order, and where it ends depends on their stored bytes.
    """

    def __init__(
        self, keys: WriterKeys, object_id: bytes, compressor: Compressor, start: StartPacking | None = None
    ) -> None:
        assert len(object_id) == layout.ID_BYTES, len(object_id)
        self._keys = keys
        self._object_id = object_id
        self._compressor = compressor
        self._start = self._pack_now if start is None else start
        self._cipher = None if keys.content_key is None else FrameCipher(keys.content_key, object_id)
        self._spaces: dict[bytes, int] = {}
        self._counts: list[_SpaceCount] = []
        self._last = (0, 0)
        self._extents = bytearray()
        self._sums = bytearray()
        self._sums_bytes = 0  # with those of frames that are not packed yet
        self._frame_rows = bytearray()
        self._frames: list[bytes] = []
        self._frames_stored = 0
        self._pending: deque[_PendingFrame] = deque()
        self._pending_bytes_max = 0
        self._open = _OpenFrame()
        self._records = RecordTable()

    @property
    def stored_bytes(self) -> int:
        """An upper estimate of the frames' stored bytes so far."""
        return self._frames_stored + self._pending_bytes_max + self._open.length

    @property
    def index_bytes(self) -> int:
        """The raw index so far, and what closing the open frame will add."""
        frame_rows = (self._frame_count + 1) * layout.FRAME_ROW.size_bytes
        rows = len(self._extents) + self._sums_bytes + frame_rows + len(self._spaces) * layout.ID_BYTES
        return _DIRECTORY_BYTES + rows + self._records.index_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added yet."""
        return not self._extents and not len(self._records)

    @property
    def pending_frames(self) -> int:
        """Frames that are being packed, PENDING_FRAMES_MAX at most."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether to finish the segment: the target is reached, or the index has no room for an extent."""
        return not self._has_room(limits.EXTENT_DATA_BYTES_MAX // _BLOCK)

    def add_data(self, space: bytes, offset: int, data: bytes | memoryview) -> int:
        """Add content; returns how many bytes of it were taken: fewer than all when the segment is full."""
        row = self._begin(space, offset)
        view = memoryview(data)
        assert len(view) > 0, "an extent has at least one byte"
        taken = 0
        while taken < len(view):
            length = self._piece(offset + taken, len(view) - taken)
            if not self._has_room(length // _BLOCK):
                break
            self._append_data(row, offset + taken, view[taken : taken + length])
            taken += length
        self._last = (row, offset + taken)
        return taken

    def add_void(self, space: bytes, offset: int, length: int, kind: ExtentKind) -> int:
        """Add zeros or a discard; returns how many bytes of it were taken, as `add_data` does."""
        assert kind is not ExtentKind.DATA
        assert length > 0, "an extent has at least one byte"
        row = self._begin(space, offset)
        taken = 0
        while taken < length and self._has_room(0):
            piece = min(length - taken, limits.EXTENT_VOID_BYTES_MAX)
            self._extents += layout.EXTENT_ROW.struct.pack(
                offset + taken, piece, row, NONE_U32, 0, NONE_U32, kind, _RESERVED
            )
            taken += piece
        self._last = (row, offset + taken)
        return taken

    def add_extent(self, extent: NewExtent) -> int:
        """`add_data` or `add_void`, as the extent's kind says."""
        if extent.kind is not ExtentKind.DATA:
            return self.add_void(extent.space, extent.offset, extent.length, extent.kind)
        assert extent.data is not None
        assert len(extent.data) == extent.length, "an extent's length must be that of its data"
        return self.add_data(extent.space, extent.offset, extent.data)

    def add_record(self, record: Record) -> bool:
        """Add a record; False when the index has no room for it. An empty segment has room for any."""
        assert record.order is None, "only records of packs have an order row"
        if self.index_bytes + record_bytes(record) > limits.INDEX_BYTES_MAX:
            return False
        self._records.add(record)
        return True

    def finish(self, facts: SegmentFacts) -> SealedObject:
        """Seal everything into one object; the builder must not be used afterwards.

        Raises:
            LimitExceeded: the facts are too large (more than NOT_WHOLE_MAX sources, a huge header).
        """
        if len(facts.not_whole) > limits.NOT_WHOLE_MAX:
            raise LimitExceeded("a cut", f"{len(facts.not_whole)} sources are not whole (NOT_WHOLE_MAX)")
        self._close_frame()
        while self._pending:
            self._take_packed()
        index_raw = build_index(
            {
                "spaces": b"".join(self._spaces),
                "extents": self._extents,
                "sums": self._sums,
                "frames": self._frame_rows,
                **self._records.parts,
            }
        )
        return assemble(
            segment_key(facts.epoch, facts.seq),
            self._preamble(facts),
            self._header(facts),
            index_raw,
            self._frames,
            self._keys,
            self._compressor,
        )

    def _begin(self, space: bytes, offset: int) -> int:
        """The row of a space, new where it was not named before; extents must come in their order."""
        row = self._spaces.setdefault(space, len(self._spaces))
        if row == len(self._counts):
            assert len(space) == layout.ID_BYTES, len(space)
            self._counts.append(_SpaceCount())
        assert (row, offset) >= self._last, "extents must be sorted by space and offset, without overlap"
        return row

    def _has_room(self, sums: int) -> bool:
        if not self._extents:
            return self.index_bytes + _NEW_ROWS_BYTES + sums * layout.SUM_BYTES <= limits.INDEX_BYTES_MAX
        index_bytes = self.index_bytes + _NEW_ROWS_BYTES + sums * layout.SUM_BYTES
        if index_bytes > limits.INDEX_BYTES_MAX:
            return False
        while self.stored_bytes >= limits.OBJECT_BYTES_TARGET and self._pending:
            self._take_packed()  # it is an estimate: where the segment ends must not depend on who was quick
        return self.stored_bytes < limits.OBJECT_BYTES_TARGET

    def _piece(self, offset: int, length: int) -> int:
        """How long the next data extent is, that begins at `offset` with at most `length` bytes.

        A piece that is not the last ends on a block's boundary: no block loses its sum to the chopping.
        """
        room = limits.FRAME_RAW_BYTES_MAX - self._open.length
        piece = min(length, room, limits.EXTENT_DATA_BYTES_MAX)
        if piece < length:
            piece -= (offset + piece) % _BLOCK
        if piece > 0:
            return piece
        self._close_frame()
        return self._piece(offset, length)

    def _append_data(self, row: int, offset: int, data: memoryview) -> None:
        frame = self._open
        length = len(data)
        self._extents += layout.EXTENT_ROW.struct.pack(
            offset, length, row, self._frame_count, frame.length, NONE_U32, ExtentKind.DATA, _RESERVED
        )
        self._sums_bytes += sum_count(offset, length) * layout.SUM_BYTES
        frame.chunks.append((offset, data))
        frame.length += length
        frame.by_space[row] = frame.by_space.get(row, 0) + length
        if frame.length == limits.FRAME_RAW_BYTES_MAX:
            self._close_frame()

    @property
    def _frame_count(self) -> int:
        """Frames that are closed."""
        return len(self._frames) + len(self._pending)

    def _close_frame(self) -> None:
        frame = self._open
        if not frame.length:
            return
        if len(self._pending) == PENDING_FRAMES_MAX:
            self._take_packed()
        sealed_more = 0 if self._cipher is None else TAG_BYTES
        work = partial(_pack, self._frame_count, frame.chunks, self._cipher)
        pending = _PendingFrame(frame.length, frame.by_space, frame.length + sealed_more, self._start(work))
        self._pending.append(pending)
        self._pending_bytes_max += pending.stored_bytes_max
        self._open = _OpenFrame()

    def _pack_now(self, work: Pack) -> Callable[[], Packed]:
        packed = work(self._compressor)
        return lambda: packed

    def _take_packed(self) -> None:
        """Wait for the oldest frame that is being packed."""
        frame = self._pending.popleft()
        self._pending_bytes_max -= frame.stored_bytes_max
        stored, sums = frame.packed()
        assert len(stored.stored) <= frame.stored_bytes_max, "what is estimated must not be too little"
        self._sums += sums
        self._frame_rows += stored.row(self._frames_stored)
        self._frames.append(stored.stored)
        self._frames_stored += len(stored.stored)
        for row, raw_bytes in frame.by_space.items():
            count = self._counts[row]
            count.raw += raw_bytes
            count.stored += len(stored.stored) * raw_bytes // frame.length
            count.incompressible += raw_bytes if stored.codec is Codec.NONE else 0

    def _preamble(self, facts: SegmentFacts) -> Preamble:
        return Preamble(
            kind=ObjectKind.SEGMENT,
            domain=self._keys.domain,
            object_id=self._object_id,
            epoch=facts.epoch,
            seq=facts.seq,
            base=facts.base,
            end=facts.end,
            cut=facts.cut,
            complete=facts.complete,
            not_whole=facts.not_whole,
            journal_generation=facts.journal_generation,
            journal_offset=facts.journal_offset,
            cut_time_ns=facts.cut_time_ns,
            first_write_ns=facts.first_write_ns,
            last_write_ns=facts.last_write_ns,
            previous_digest=facts.previous_digest,
        )

    def _header(self, facts: SegmentFacts) -> dict[str, Any]:
        """For people and for statistics only."""
        counted = sorted(zip(self._spaces, self._counts, strict=True), key=lambda pair: -pair[1].raw)
        told = [_told(space.hex(), [count]) for space, count in counted[:HEADER_SPACES_MAX]]
        others = [count for _, count in counted[HEADER_SPACES_MAX:]]
        header: dict[str, Any] = {
            "site": facts.site,
            "software": facts.software,
            "spaces": [*told, _told(None, others)] if others else told,
        }
        if facts.marker is not None:
            header["marker"] = facts.marker
        return header


def _told(space: str | None, counts: Sequence[_SpaceCount]) -> dict[str, Any]:
    """What the header tells of a space, or of several together."""
    return {
        "space": space,
        "raw_bytes": sum(count.raw for count in counts),
        "stored_bytes": sum(count.stored for count in counts),
        "incompressible_bytes": sum(count.incompressible for count in counts),
    }


def _pack(
    number: int, chunks: list[tuple[int, memoryview]], cipher: FrameCipher | None, compressor: Compressor
) -> Packed:
    sums = b"".join([block_sums(offset, data) for offset, data in chunks])
    return store_frame(number, b"".join([data for _, data in chunks]), compressor, cipher), sums


def build_segment(
    facts: SegmentFacts,
    extents: Iterable[NewExtent],
    records: Iterable[Record],
    keys: WriterKeys,
    object_id: bytes,
) -> SealedObject:
    """One segment of little content; LimitExceeded where it needs several (use `SegmentBuilder` then)."""
    builder = SegmentBuilder(keys, object_id, Compressor())
    fits = all(builder.add_record(record) for record in records)
    if not fits or any(builder.add_extent(extent) < extent.length for extent in extents):
        raise LimitExceeded(segment_key(facts.epoch, facts.seq), "its content does not fit into one segment")
    return builder.finish(facts)
