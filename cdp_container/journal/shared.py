"""The file `shared`: what splitter and streamer tell each other, two pages with one writer each.

A page has two slots, written in turn, each with a sequence number and a checksum: whoever
reads, even in the middle of a write or after a power loss, gets the newest whole value.
What is published is not durable; with `publish(..., durable=True)` it is, and costs a sync.

The file is read and written, not mapped: a disk that fails or is full then answers with an
error, whereas a mapping would have the kernel kill the process, and guests lose their disks.

What does not belong here: journal content, and facts that are only shown (splitter.json).
"""

from __future__ import annotations

import enum
import errno
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from isal.isal_zlib import crc32

from cdp_container.errors import JournalDamaged
from cdp_container.journal.position import NOWHERE, Position

PAGE_BYTES: Final = 4096
# A slot lies within one sector, the unit that a disk writes whole.
SLOT_BYTES: Final = 512
# A reader that meets two torn slots looks again: the writer would have to write twice within each look.
READ_ATTEMPTS_MAX: Final = 100
NO_BOOT: Final = bytes(16)

_SLOT_HEAD = struct.Struct("<IIQ")  # CRC-32 of what follows, version, sequence
# The layouts, as docs/journal-format.md has them: field and type, without gaps.
SPLITTER_FIELDS: Final = (
    ("generation", "Q"),
    ("tail_generation", "Q"),
    ("tail_offset", "Q"),
    ("synced_generation", "Q"),
    ("synced_offset", "Q"),
    ("overflow_generation", "Q"),
    ("overflow_offset", "Q"),
    ("overflow_ns", "q"),
    ("flags", "I"),
    ("redos", "I"),
    ("used_bytes", "Q"),
    ("limit_bytes", "Q"),
    ("boot", "16s"),
    ("applied_generation", "Q"),
    ("applied_offset", "Q"),
    ("episode", "Q"),
    ("sources", "Q"),
    ("disks", "Q"),
)
STREAMER_FIELDS: Final = (
    ("proven_generation", "Q"),
    ("proven_offset", "Q"),
    ("compared_episode", "Q"),
    ("gate", "Q"),
)
_SPLITTER: Final = struct.Struct("<" + "".join(code for _, code in SPLITTER_FIELDS))
_STREAMER: Final = struct.Struct("<" + "".join(code for _, code in STREAMER_FIELDS))

# What a slot of each version holds; a field that an older one lacks is 0.
_SPLITTER_BYTES: Final = {1: _SPLITTER.size}
_STREAMER_BYTES: Final = {1: 24, 2: _STREAMER.size}

_FLAG_COMPARE_ALL: Final = 1
_FLAG_EXPORTS_OPEN: Final = 2
_FLAG_SYNC_FAILED: Final = 4
_FLAG_RUNNING: Final = 8
_FLAG_WRITES_CLOSED: Final = 16
_REDOS_MASK: Final = 0xFFFFFFFF


class GateLevel(enum.IntEnum):
    """What guests may do; the numbers are those of the page."""

    OPEN = 0
    NO_WRITES = 1
    CLOSED = 2


@dataclass(frozen=True, slots=True)
class SplitterPage:
    """What the splitter publishes.

    Attributes:
        generation: the running splitter's, or the last one's; 0 until redo is done for the first time.
        tail: every record below it is complete; what the streamer may read.
        synced: journal and backing stores are on stable storage below it.
        overflow_at: where the journal stopped to hold what guests write, NOWHERE while it holds everything.
            Durable; stays until the journal goes on.
        overflow_ns: wall clock since when the container may lack what the journal does not hold, until that
            was compared; 0 if it lacks nothing.
        compare_all: nobody knows which blocks the newest episode left in doubt, so all of them are. Durable.
            Otherwise the dirty maps say it.
        exports_open: guests may be writing.
        sync_failed: a sync or a backing write failed and was not mended yet; flushes fail.
        running: the splitter has opened its journal and did not stop since (or was killed).
        used_bytes: of the limit: files that may not be recycled yet, the newest as far as it is written.
        limit_bytes: the journal's limit, in whole files.
        boot: the boot id under which the splitter runs, 16 bytes.
        applied: applied-up-to: below it every backing write has returned. Stands still while one has failed.
        redos: how often old records were put over the backing stores, counted before each time: what was
            read of them meanwhile may be older than what guests see.
        episode: names the newest event since which the records up to the tail do not hold everything that
            guests wrote; 0 if there was none. Durable.
        sources: a digest of the volumes that are served.
        disks: a digest of which disks they are.
        writes_closed: no write is let in any more, and all that were are below `tail`, synced. Durable.
    """

    generation: int = 0
    tail: Position = NOWHERE
    synced: Position = NOWHERE
    overflow_at: Position = NOWHERE
    overflow_ns: int = 0
    compare_all: bool = False
    exports_open: bool = False
    sync_failed: bool = False
    running: bool = False
    used_bytes: int = 0
    limit_bytes: int = 0
    boot: bytes = NO_BOOT
    applied: Position = NOWHERE
    redos: int = 0
    episode: int = 0
    sources: int = 0
    disks: int = 0
    writes_closed: bool = False

    @property
    def overflowed(self) -> bool:
        """Whether something was written that the journal does not hold."""
        return self.overflow_at != NOWHERE


@dataclass(frozen=True, slots=True)
class StreamerPage:
    """What the streamer publishes.

    Attributes:
        proven: the journal position of the newest protected cut: what lies below may be trimmed.
        compared_episode: the newest episode after which everything in doubt was compared, and what differed
            is protected.
        gate: what guests may do, as notes.json has it: look there, as this is not durable.
    """

    proven: Position = NOWHERE
    compared_episode: int = 0
    gate: GateLevel = GateLevel.OPEN


def encode_splitter_page(page: SplitterPage) -> bytes:
    """The content of a slot of the splitter's page."""
    flags = (
        _FLAG_COMPARE_ALL * page.compare_all
        | _FLAG_EXPORTS_OPEN * page.exports_open
        | _FLAG_SYNC_FAILED * page.sync_failed
        | _FLAG_RUNNING * page.running
        | _FLAG_WRITES_CLOSED * page.writes_closed
    )
    return _SPLITTER.pack(
        page.generation, page.tail.generation, page.tail.offset, page.synced.generation, page.synced.offset,
        page.overflow_at.generation, page.overflow_at.offset, page.overflow_ns, flags,
        page.redos & _REDOS_MASK, page.used_bytes, page.limit_bytes, page.boot,
        page.applied.generation, page.applied.offset, page.episode, page.sources, page.disks,
    )  # fmt: skip


def decode_splitter_page(data: bytes) -> SplitterPage:
    """The page of a slot's content."""
    (
        generation, tail_g, tail, synced_g, synced, over_g, over, over_ns, flags, redos, used, limit,
        boot, applied_g, applied, episode, sources, disks,
    ) = _SPLITTER.unpack(data)  # fmt: skip
    return SplitterPage(
        generation=generation,
        tail=Position(tail_g, tail),
        synced=Position(synced_g, synced),
        overflow_at=Position(over_g, over),
        overflow_ns=over_ns,
        compare_all=bool(flags & _FLAG_COMPARE_ALL),
        exports_open=bool(flags & _FLAG_EXPORTS_OPEN),
        sync_failed=bool(flags & _FLAG_SYNC_FAILED),
        running=bool(flags & _FLAG_RUNNING),
        used_bytes=used,
        limit_bytes=limit,
        boot=boot,
        applied=Position(applied_g, applied),
        redos=redos,
        episode=episode,
        sources=sources,
        disks=disks,
        writes_closed=bool(flags & _FLAG_WRITES_CLOSED),
    )


def encode_streamer_page(page: StreamerPage) -> bytes:
    """The content of a slot of the streamer's page."""
    return _STREAMER.pack(page.proven.generation, page.proven.offset, page.compared_episode, page.gate)


def decode_streamer_page(data: bytes) -> StreamerPage:
    """The page of a slot's content."""
    generation, offset, episode, gate = _STREAMER.unpack(data)
    return StreamerPage(Position(generation, offset), episode, GateLevel(min(gate, GateLevel.CLOSED)))


PageT = TypeVar("PageT")


@dataclass(slots=True)
class SharedPage(Generic[PageT]):
    """One page of the file. Only its one writer may call `publish`."""

    fd: int
    _page_offset: int
    _content_bytes: Mapping[int, int]
    _encode: Callable[[PageT], bytes]
    _decode: Callable[[bytes], PageT]
    _sequence: int = field(default=0, init=False)

    def publish(self, page: PageT, durable: bool = False) -> None:
        """Make `page` what readers see; with `durable`, return when it outlasts a power loss.

        Raises:
            OSError: the disk failed; readers see the value before.
        """
        if self._sequence == 0:
            newest = self._newest(self._slots())
            self._sequence = newest[0] if newest else 0
        self._sequence += 1
        version = max(self._content_bytes)
        body = version.to_bytes(4, "little") + self._sequence.to_bytes(8, "little") + self._encode(page)
        at = self._page_offset + (self._sequence % 2) * SLOT_BYTES
        slot = crc32(body).to_bytes(4, "little") + body
        if os.pwrite(self.fd, slot, at) != len(slot):
            raise OSError(errno.EIO, "the page was written in part")
        if durable:
            os.fdatasync(self.fd)

    def read(self) -> PageT | None:
        """The newest whole value, or None if nothing was ever published.

        Raises:
            JournalDamaged: neither slot holds a whole value.
            OSError: the disk failed.
        """
        for _ in range(READ_ATTEMPTS_MAX):
            data = self._slots()
            newest = self._newest(data)
            if newest:
                return self._decode(newest[1])
            if not any(data):
                return None
        raise JournalDamaged("reading what splitter and streamer share", "neither slot of the page is whole")

    def _slots(self) -> bytes:
        return os.pread(self.fd, 2 * SLOT_BYTES, self._page_offset)

    def _newest(self, slots: bytes) -> tuple[int, bytes] | None:
        return max(filter(None, (self._slot(slots, 0), self._slot(slots, SLOT_BYTES))), default=None)

    def _slot(self, slots: bytes, at: int) -> tuple[int, bytes] | None:
        head = slots[at : at + _SLOT_HEAD.size]
        if len(head) < _SLOT_HEAD.size:
            return None
        crc, version, sequence = _SLOT_HEAD.unpack(head)
        content_bytes = self._content_bytes.get(version)
        if sequence == 0 or content_bytes is None:
            return None
        data = slots[at : at + _SLOT_HEAD.size + content_bytes]
        if crc32(data[4:]) != crc:
            return None
        newest_bytes = max(self._content_bytes.values())
        return sequence, data[_SLOT_HEAD.size :].ljust(newest_bytes, b"\0")


class SharedPages:
    """The open file: `splitter` and `streamer` are its pages. Made if it is absent."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < 2 * PAGE_BYTES:
                os.posix_fallocate(fd, 0, 2 * PAGE_BYTES)  # a hole could meet a full disk when it is written
                os.fsync(fd)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self.splitter = SharedPage(fd, 0, _SPLITTER_BYTES, encode_splitter_page, decode_splitter_page)
        self.streamer = SharedPage(
            fd, PAGE_BYTES, _STREAMER_BYTES, encode_streamer_page, decode_streamer_page
        )

    def close(self) -> None:
        """Close it; what was published stays in the file."""
        if self._fd >= 0:
            os.close(self._fd)
        # The number may soon be that of another file: nothing must be written there.
        self._fd = self.splitter.fd = self.streamer.fd = -1
