"""Appending to the journal: records at its tail, from file to file, and what makes them durable.

What is appended is wholly in the journal on return, or nothing of it is: what a failure leaves is taken back.

What does not belong here: making and recycling files (`journal_run`), when to sync, what a failure means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cdp_agent.splitter.journal_run import JournalRun, RunFile
from cdp_container.errors import JournalFull
from cdp_container.journal.position import Position
from cdp_container.journal.record import (
    FILE_HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    RECORD_HEADER_BYTES,
    Kind,
    Note,
    encode_record_header,
    encode_writes,
    padded_bytes,
)
from nbd_export.files import Files

BLOCK_BYTES: Final = 4096  # the largest sector of a guest's disk
_PADDINGS: Final = tuple(bytes(count) for count in range(8))


class JournalWriter:
    """The tail of a journal.

    Args:
        files: the edge to the kernel.
        wall_ns: the wall clock.
        run: the journal's files; none is begun but by this writer.
    """

    def __init__(self, files: Files, wall_ns: Callable[[], int], run: JournalRun) -> None:
        self.run = run
        self._in_order = run.in_order  # of its files, as each write looks at the newest
        self._files = files
        self._wall_ns = wall_ns
        room = run.file_bytes - FILE_HEADER_BYTES - 2 * RECORD_HEADER_BYTES
        # Whole blocks: a write of which only the first record survives is torn where a disk would tear it.
        self._payload_bytes_max = min(PAYLOAD_BYTES_MAX, room // BLOCK_BYTES * BLOCK_BYTES)
        self._generation = 0
        self._offset = 0  # where the newest file ends, too
        self._fd = -1
        self._unsynced: list[int] = []  # descriptors of files before the current one
        self._dirty = False

    @property
    def tail(self) -> Position:
        """Where the next record goes."""
        return Position(self._generation, self._offset)

    @property
    def is_dirty(self) -> bool:
        """Whether something was appended since `begin_sync`."""
        return self._dirty

    def begin_generation(self, generation: int, beyond_limit: bool = False) -> None:
        """Begin a generation in a file of its own, durably.

        Raises:
            JournalFull: there is no room for its file.
            OSError: the disk failed.
        """
        fd = self.run.begin_file(generation, 0, beyond_limit)
        self._generation, self._offset, self._fd = generation, 0, fd

    def append_write(
        self, source: int, offset: int, data: bytes | memoryview, crc: int | None = None
    ) -> Position:
        """Append a write; returns the position of its first record. All of it is in the journal on return.

        Args:
            source: index of the source.
            offset: of its first byte in the source.
            data: what was written.
            crc: its `payload_crc`, if that is known.

        Raises:
            JournalFull: there is no room; the journal is as it was before.
            OSError: the disk failed; likewise.
        """
        first = self.tail
        if len(data) <= self._payload_bytes_max:
            self._append(Kind.WRITE, source, offset, len(data), data, crc)
            return first
        view, before, begun = memoryview(data), (self._in_order[-1], self._fd), []
        try:
            for at in range(0, len(view), self._payload_bytes_max):
                part = view[at : at + self._payload_bytes_max]
                begun.append(self._append(Kind.WRITE, source, offset + at, len(part), part))
        except (JournalFull, OSError):
            self._take_back(first.offset, before, begun)
            raise
        return first

    def append_writes(self, source: int, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
        """Append small writes with one call, as many as the file has room for; returns how many.

        Raises:
            OSError: the disk failed; the journal is as it was before.
        """
        file = self._in_order[-1]
        begin = FILE_HEADER_BYTES + self._offset - file.start
        room_bytes = file.size_bytes - begin - RECORD_HEADER_BYTES
        pieces, ends = encode_writes(source, self.tail, writes, self._wall_ns(), room_bytes)
        if not ends:
            return 0
        self._dirty = True
        try:
            self._files.pwritev(self._fd, pieces, begin)
        except OSError:
            self._wipe([(self._fd, begin + start) for start in (0, *ends[:-1])])
            raise
        self._offset += ends[-1]
        file.end = self._offset
        return len(ends)

    def _take_back(self, offset: int, before: tuple[RunFile, int], begun: Sequence[tuple[int, int]]) -> None:
        """Let what came before a record that failed be no records, and go on where that began.

        Args:
            offset: where it began.
            before: the file in which that is, and its descriptor.
            begun: what is there, the parts of a write or an END_OF_FILE: descriptor and byte.
        """
        self._wipe(begun)
        file, first_fd = before
        while self._in_order[-1] is not file:
            self.run.drop_newest(self._fd)
            self._fd = self._unsynced.pop()
        assert self._fd == first_fd, "back in the file where the write began"
        self._offset = file.end = offset

    def _wipe(self, begun: Iterable[tuple[int, int]]) -> None:
        """Let records that were not wholly written, each at descriptor and byte, be none."""
        for fd, at in begun:
            # What is behind the tail counts for nothing while we run, but would after a kill. If the
            # disk takes not even this, it stays: content of a write that the guest was never told of.
            with contextlib.suppress(OSError):
                self._files.pwritev(fd, (bytes(RECORD_HEADER_BYTES),), at)

    def append_range(self, kind: Kind, source: int, offset: int, span: int) -> Position:
        """Append a ZERO or DISCARD; otherwise like `append_write`."""
        first = self.tail
        self._append(kind, source, offset, span, b"")
        return first

    def append_note(self, note: Note) -> None:
        """Append a note; otherwise like `append_write`."""
        self._append(Kind.NOTE, 0, note, 0, b"")

    def _append(
        self,
        kind: Kind,
        source: int,
        offset: int,
        span: int,
        payload: bytes | memoryview,
        crc: int | None = None,
    ) -> tuple[int, int]:
        """Append one record; returns where it is: descriptor and byte."""
        length = len(payload)
        needed = RECORD_HEADER_BYTES + padded_bytes(length)
        file, first = self._in_order[-1], self._offset
        at = FILE_HEADER_BYTES + first - file.start
        before, rotated = (file, self._fd), [(self._fd, at)]
        # Behind every record there is room for the END_OF_FILE that says where to go on.
        if at + needed + RECORD_HEADER_BYTES > file.size_bytes:
            self._rotate(beyond_limit=kind is Kind.NOTE)
            file, at = self._in_order[-1], FILE_HEADER_BYTES
        header = encode_record_header(kind, source, self.tail, offset, span, self._wall_ns(), payload, crc)
        self._dirty = True
        try:
            self._files.pwritev(self._fd, (header, payload, _PADDINGS[-length % 8]), at)
        except OSError:
            if file is not before[0]:  # or a journal given up here would end before its newest file
                self._take_back(first, before, rotated)
            raise
        self._offset += needed
        file.end = self._offset
        return self._fd, at

    def _rotate(self, beyond_limit: bool) -> None:
        file = self._in_order[-1]
        start = self._offset + RECORD_HEADER_BYTES
        # First: if it fails, nothing happened.
        fd = self.run.begin_file(self._generation, start, beyond_limit)
        header = encode_record_header(Kind.END_OF_FILE, 0, self.tail, 0, 0, self._wall_ns())
        self._dirty = True
        try:
            self._files.pwritev(self._fd, (header,), FILE_HEADER_BYTES + self._offset - file.start)
        except OSError:
            self.run.drop_newest(fd)
            raise
        file.end = start
        self._unsynced.append(self._fd)
        self._fd = fd
        self._offset = start

    # --- syncing -----------------------------------------------------------------------------

    def begin_sync(self) -> Callable[[], None]:
        """What a thread must run to make everything appended until now durable; it raises OSError."""
        self._dirty = False
        before, self._unsynced = self._unsynced, []
        names, self.run.names_unsynced = self.run.names_unsynced, False
        current = self._fd

        def sync() -> None:
            try:
                for fd in (*before, current):
                    self._files.fdatasync(fd)
                if names:
                    self._files.sync_directory(self.run.directory)
            except OSError:
                self._dirty = True
                self.run.names_unsynced |= names
                self._unsynced[:0] = before  # oldest first, the file before the current one last
                raise
            for fd in before:
                self._files.close(fd)

        return sync

    def close(self) -> None:
        """Close the files; what is not synced stays so."""
        self.run.drop_next()
        for fd in (*self._unsynced, self._fd):
            if fd >= 0:
                self._files.close(fd)
        self._unsynced, self._fd = [], -1
