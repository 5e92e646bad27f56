"""Appending to the journal: records, files, rotation, recycling.

A file that is overwritten needs no new blocks: syncing it is an order of magnitude quicker than
syncing a growing one. So files are allocated whole and recycled by renaming.

What does not belong here: when to sync, what a failure means, what may be trimmed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_agent.splitter.files import Files
from cdp_agent.splitter.settings import NEXT_FILE_AT, SPARE_FILES_MAX
from cdp_container.errors import JournalFull
from cdp_container.journal.files import JournalFile, file_name
from cdp_container.journal.position import Position
from cdp_container.journal.record import (
    FILE_HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    RECORD_HEADER_BYTES,
    FileHeader,
    Kind,
    Note,
    encode_file_header,
    encode_record_header,
    encode_writes,
    padded_bytes,
)

BLOCK_BYTES: Final = 4096  # the largest sector of a guest's disk
_PADDINGS: Final = tuple(bytes(count) for count in range(8))
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(slots=True)
class _File:
    """A journal file, in the order of the journal; `end` is where its records end so far."""

    number: int
    path: Path
    generation: int
    start: int
    end: int
    size_bytes: int


@dataclass(slots=True)
class _Next:
    """The file that comes next, made ready in a thread. `fd` is -1 until it is, and if it cannot be."""

    number: int
    path: Path
    oldest: Path | None
    fd: int = -1
    ended: threading.Event = field(default_factory=threading.Event)


class JournalWriter:
    """The tail of a journal.

    Args:
        files: the edge to the kernel.
        directory: of the journal files.
        domain: the domain's id, 16 bytes.
        boot: the boot id, 16 bytes.
        wall_ns: the wall clock.
        file_bytes: size of a new journal file.
        limit_bytes: the most that all files may take.
        run: the files that are there, oldest first.
        run_end: where the newest generation ends.
        newest_number: of all files that a reader may remember.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        domain: bytes,
        boot: bytes,
        wall_ns: Callable[[], int],
        file_bytes: int,
        limit_bytes: int,
        run: Sequence[JournalFile],
        run_end: Position,
        newest_number: int = 0,
    ) -> None:
        self._files = files
        self._directory = directory
        self._domain = domain
        self._boot = boot
        self._wall_ns = wall_ns
        self._file_bytes = file_bytes
        self._limit_bytes = limit_bytes
        room = file_bytes - FILE_HEADER_BYTES - 2 * RECORD_HEADER_BYTES
        # Whole blocks: a write of which only the first record survives is torn where a disk would tear it.
        self._payload_bytes_max = min(PAYLOAD_BYTES_MAX, room // BLOCK_BYTES * BLOCK_BYTES)
        ends = [_end_of(file, following) for file, following in itertools.pairwise(run)]
        self._run = deque(map(_of_journal_file, run, [*ends, run_end.offset]))
        self._number = max(newest_number, run[-1].header.number if run else 0)
        self._free = 0  # so many of the oldest files may be recycled
        self._previous = run_end
        self._generation = 0
        self._offset = 0
        self._fd = -1
        self._unsynced: list[int] = []  # descriptors of files before the current one
        self._names_unsynced = False
        self._dirty = False
        self._next: _Next | None = None
        # That of the current file. What a run before left in the page cache may not be on the disk.
        self._header_is_durable = not run

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
        fd = self._begin_file(generation, 0, beyond_limit)
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
        view, before, begun = memoryview(data), (self._run[-1], self._fd), []
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
        file = self._run[-1]
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

    def _take_back(self, offset: int, before: tuple[_File, int], begun: Sequence[tuple[int, int]]) -> None:
        """Let what came before a record that failed be no records, and go on where that began.

        Args:
            offset: where it began.
            before: the file in which that is, and its descriptor.
            begun: what is there, the parts of a write or an END_OF_FILE: descriptor and byte.
        """
        self._wipe(begun)
        file, first_fd = before
        while self._run[-1] is not file:
            self._drop_newest(self._fd)
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
        file, first = self._run[-1], self._offset
        at = FILE_HEADER_BYTES + first - file.start
        before, rotated = (file, self._fd), [(self._fd, at)]
        # Behind every record there is room for the END_OF_FILE that says where to go on.
        if at + needed + RECORD_HEADER_BYTES > file.size_bytes:
            self._rotate(beyond_limit=kind is Kind.NOTE)
            file, at = self._run[-1], FILE_HEADER_BYTES
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
        file = self._run[-1]
        start = self._offset + RECORD_HEADER_BYTES
        fd = self._begin_file(self._generation, start, beyond_limit)  # first: if it fails, nothing happened
        header = encode_record_header(Kind.END_OF_FILE, 0, self.tail, 0, 0, self._wall_ns())
        self._dirty = True
        try:
            self._files.pwritev(self._fd, (header,), FILE_HEADER_BYTES + self._offset - file.start)
        except OSError:
            self._drop_newest(fd)
            raise
        file.end = start
        self._unsynced.append(self._fd)
        self._fd = fd
        self._offset = start

    # --- files -------------------------------------------------------------------------------

    def _begin_file(self, generation: int, start: int, beyond_limit: bool = False) -> int:
        """A file with a durable name and a durable header, in that order.

        Were a rename lost and the header kept, or a header lost and that of the next file kept, a
        power loss would leave a gap amid the files; so a gap is always damage. It costs two syncs, which
        `begin_next` has had done by a thread, if there was time.
        """
        ready = self._take_next()
        if ready is not None:
            return self._begin_next(ready, generation, start)
        if not self._header_is_durable:
            self._sync_header(self._run[-1].path)
        self._number += 1  # never the same again: a reader may remember a file that was dropped
        number = self._number
        path = self._directory / file_name(number)
        header = FileHeader(
            self._domain, number, generation, start, self._previous, self._boot, self._wall_ns()
        )
        try:
            fd = self._recycle(path) if self._free else self._create(path, beyond_limit)
            try:
                self._files.sync_directory(self._directory)
                self._files.pwritev(fd, (encode_file_header(header),), 0)
                self._files.fdatasync(fd)
            except OSError:
                self._discard(path, fd)
                raise
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise JournalFull("making a journal file", f"{path}: {error.strerror}") from error
            raise
        self._run.append(_File(number, path, generation, start, start, self._file_bytes))
        self._names_unsynced = False
        self._header_is_durable = True
        return fd

    def _begin_next(self, ready: _Next, generation: int, start: int) -> int:
        """The same with a file that was made ready: no sync. What follows its header is synced with it."""
        header = FileHeader(
            self._domain, ready.number, generation, start, self._previous, self._boot, self._wall_ns()
        )
        try:
            self._files.pwritev(ready.fd, (encode_file_header(header),), 0)
        except OSError:
            self._discard(ready.path, ready.fd)
            raise
        self._run.append(_File(ready.number, ready.path, generation, start, start, self._file_bytes))
        self._header_is_durable = False
        return ready.fd

    def begin_next(self) -> Callable[[], None] | None:
        """What a thread must run so that going on in the next file takes no sync; None if there is no need.

        That it failed is found out when the next file is needed, and made anew there.
        """
        file = self._run[-1]
        if self._next is not None or self._offset - file.start < file.size_bytes // NEXT_FILE_AT:
            return None
        if not self._free and (len(self._run) + 1) * self._file_bytes > self._limit_bytes:
            return None
        self._number += 1
        oldest = self._run.popleft().path if self._free else None
        self._free -= oldest is not None
        following = self._next = _Next(self._number, self._directory / file_name(self._number), oldest)

        def make_ready() -> None:
            try:
                self._sync_header(file.path)
                following.fd = self._have_name(following)
            except OSError:
                following.fd = -1
            finally:
                following.ended.set()

        return make_ready

    def _sync_header(self, path: Path) -> None:
        """Make a file's header durable.

        Through a descriptor of its own: the kernel tells each of an error once, and that of the
        file's records must be told to the next sync of them.
        """
        fd = self._files.open(path)
        try:
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        self._header_is_durable = True

    def _have_name(self, following: _Next) -> int:
        """The descriptor of an allocated file under its durable name."""
        fd = self._files.open(following.oldest or following.path, create=following.oldest is None)
        try:
            if following.oldest is not None:
                self._files.rename(following.oldest, following.path)
            else:
                self._files.allocate(fd, self._file_bytes)
            self._files.sync_directory(self._directory)
        except OSError:
            self._discard(following.path, fd)
            raise
        return fd

    def _take_next(self) -> _Next | None:
        """The file that was made ready, if it could be; waits for the thread that is at it."""
        ready, self._next = self._next, None
        if ready is None:
            return None
        ready.ended.wait()
        return ready if ready.fd >= 0 else None

    def _recycle(self, path: Path) -> int:
        """The oldest file under a new name. Its old content fits neither its new header nor its positions."""
        oldest = self._run[0]
        fd = self._files.open(oldest.path)
        self._files.rename(oldest.path, path)
        self._run.popleft()
        self._free -= 1
        return fd

    def _create(self, path: Path, beyond_limit: bool) -> int:
        if (len(self._run) + 1) * self._file_bytes > self._limit_bytes and not beyond_limit:
            raise JournalFull(
                "making a journal file", f"the journal is at its limit of {self._limit_bytes} bytes"
            )
        fd = self._files.open(path, create=True)
        try:
            self._files.allocate(fd, self._file_bytes)
        except OSError:
            self._discard(path, fd)
            raise
        return fd

    def _drop_newest(self, fd: int) -> None:
        """Let the newest file be none, so that nobody takes its start for the end of the one before."""
        self._names_unsynced = True  # were it to come back after a power loss, the journal would end there
        self._discard(self._run.pop().path, fd)

    def _discard(self, path: Path, fd: int) -> None:
        """Give up a file that is not used after all. The error that led here counts, not one of this."""
        self._files.close(fd)
        with contextlib.suppress(OSError):
            self._files.unlink(path)

    def trim(self, keep_from: Sequence[Position]) -> bool:
        """Let go of what lies before all of these positions; an unknown one keeps everything.

        Returns:
            Whether a file can be had without going nearer to the limit.
        """
        free = min((self._files_before(position) for position in keep_from), default=0)
        self._free = max(0, min(free, len(self._run) - 1))
        while self._free and (self._free > SPARE_FILES_MAX or self._run[0].size_bytes != self._file_bytes):
            self._drop_oldest()
            self._free -= 1
        return self._free > 0

    def forget_older_generations(self) -> None:
        """Delete every file of earlier generations, durably."""
        while self._run[0].generation != self._generation:
            self._drop_oldest()
        self._free = 0
        self._files.sync_directory(self._directory)

    def _drop_oldest(self) -> None:
        self._files.unlink(self._run.popleft().path)
        self._names_unsynced = True

    def _files_before(self, position: Position) -> int:
        for index in range(len(self._run) - 1, -1, -1):
            file = self._run[index]
            if file.generation == position.generation and file.start <= position.offset <= file.end:
                return index
        return 0

    @property
    def used_bytes(self) -> int:
        """What is in use of the limit: whole files, as `_create` counts them, but for the newest."""
        newest, before = self._run[-1], len(self._run) - self._free - 1
        return before * self._file_bytes + FILE_HEADER_BYTES + newest.end - newest.start

    # --- syncing -----------------------------------------------------------------------------

    def begin_sync(self) -> Callable[[], None]:
        """What a thread must run to make everything appended until now durable; it raises OSError."""
        self._dirty = False
        before, self._unsynced = self._unsynced, []
        names, self._names_unsynced = self._names_unsynced, False
        current = self._fd

        def sync() -> None:
            try:
                for fd in (*before, current):
                    self._files.fdatasync(fd)
                if names:
                    self._files.sync_directory(self._directory)
            except OSError:
                self._dirty = True
                self._names_unsynced |= names
                self._unsynced[:0] = before  # oldest first, the file before the current one last
                raise
            for fd in before:
                self._files.close(fd)

        return sync

    def close(self) -> None:
        """Close the files; what is not synced stays so."""
        ready = self._take_next()
        if ready is not None:
            self._discard(ready.path, ready.fd)
        for fd in (*self._unsynced, self._fd):
            if fd >= 0:
                self._files.close(fd)
        self._unsynced, self._fd = [], -1


def _end_of(file: JournalFile, following: JournalFile) -> int:
    same = file.header.generation == following.header.generation
    return following.header.start if same else following.header.previous.offset


def _of_journal_file(file: JournalFile, end: int) -> _File:
    header = file.header
    size_bytes = file.capacity_bytes + FILE_HEADER_BYTES
    return _File(header.number, file.path, header.generation, header.start, end, size_bytes)
