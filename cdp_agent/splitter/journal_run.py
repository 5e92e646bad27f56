"""The files of the journal, from the oldest to the newest: making, recycling, dropping.

A file that is overwritten needs no new blocks: syncing it is an order of magnitude quicker than
syncing a growing one. So files are allocated whole and recycled by renaming.

What does not belong here: the records in them (`journal_writer`), what may be trimmed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_agent.splitter.settings import NEXT_FILE_AT, SPARE_FILES_MAX
from cdp_container.errors import JournalFull
from cdp_container.journal.files import JournalFile, file_name
from cdp_container.journal.position import Position
from cdp_container.journal.record import FILE_HEADER_BYTES, FileHeader, encode_file_header
from nbd_export.files import Files

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(slots=True)
class RunFile:
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


class JournalRun:
    """The files that there are, in their order, which others may look at: `in_order`.

    Args:
        files: the edge to the kernel.
        directory: of the journal files.
        domain: the domain's id, 16 bytes.
        boot: the boot id, 16 bytes.
        wall_ns: the wall clock.
        file_bytes: size of a new journal file.
        limit_bytes: the most that all files may take.
        found: the files that are there, oldest first.
        found_end: where the newest generation ends.
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
        found: Sequence[JournalFile],
        found_end: Position,
        newest_number: int = 0,
    ) -> None:
        self.directory = directory
        self.file_bytes = file_bytes
        self._files = files
        self._domain = domain
        self._boot = boot
        self._wall_ns = wall_ns
        self._limit_bytes = limit_bytes
        ends = [_end_of(file, following) for file, following in itertools.pairwise(found)]
        self.in_order = deque(map(_of_journal_file, found, [*ends, found_end.offset]))
        self.names_unsynced = False  # a sync of the directory is due, with that of the records
        self._number = max(newest_number, found[-1].header.number if found else 0)
        self._free = 0  # so many of the oldest files may be recycled
        self._previous = found_end
        self._next: _Next | None = None
        # That of the current file. What a run before left in the page cache may not be on the disk.
        self._header_is_durable = not found

    def begin_file(self, generation: int, start: int, beyond_limit: bool = False) -> int:
        """A file with a durable name and a durable header, in that order.

        Were a rename lost and the header kept, or a header lost and that of the next file kept, a
        power loss would leave a gap amid the files; so a gap is always damage. It costs two syncs, which
        `begin_next` has had done by a thread, if there was time.

        Args:
            generation: whose records follow.
            start: the offset of the first of them.
            beyond_limit: make it even where the limit is reached.

        Returns:
            Its descriptor.

        Raises:
            JournalFull: there is no room for it.
            OSError: the disk failed.
        """
        ready = self._take_next()
        if ready is not None:
            return self._begin_next(ready, generation, start)
        if not self._header_is_durable:
            self._sync_header(self.in_order[-1].path)
        self._number += 1  # never the same again: a reader may remember a file that was dropped
        number = self._number
        path = self.directory / file_name(number)
        header = FileHeader(
            self._domain, number, generation, start, self._previous, self._boot, self._wall_ns()
        )
        try:
            fd = self._recycle(path) if self._free else self._create(path, beyond_limit)
            try:
                self._files.sync_directory(self.directory)
                self._files.pwritev(fd, (encode_file_header(header),), 0)
                self._files.fdatasync(fd)
            except OSError:
                self._discard(path, fd)
                raise
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise JournalFull("making a journal file", f"{path}: {error.strerror}") from error
            raise
        self.in_order.append(RunFile(number, path, generation, start, start, self.file_bytes))
        self.names_unsynced = False
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
        self.in_order.append(RunFile(ready.number, ready.path, generation, start, start, self.file_bytes))
        self._header_is_durable = False
        return ready.fd

    def begin_next(self) -> Callable[[], None] | None:
        """What a thread must run so that going on in the next file takes no sync; None if there is no need.

        That it failed is found out when the next file is needed, and made anew there.
        """
        file = self.in_order[-1]
        if self._next is not None or file.end - file.start < file.size_bytes // NEXT_FILE_AT:
            return None
        if not self._free and (len(self.in_order) + 1) * self.file_bytes > self._limit_bytes:
            return None
        self._number += 1
        oldest = self.in_order.popleft().path if self._free else None
        self._free -= oldest is not None
        following = self._next = _Next(self._number, self.directory / file_name(self._number), oldest)

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
                self._files.allocate(fd, self.file_bytes)
            self._files.sync_directory(self.directory)
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
        oldest = self.in_order[0]
        fd = self._files.open(oldest.path)
        self._files.rename(oldest.path, path)
        self.in_order.popleft()
        self._free -= 1
        return fd

    def _create(self, path: Path, beyond_limit: bool) -> int:
        if (len(self.in_order) + 1) * self.file_bytes > self._limit_bytes and not beyond_limit:
            raise JournalFull(
                "making a journal file", f"the journal is at its limit of {self._limit_bytes} bytes"
            )
        fd = self._files.open(path, create=True)
        try:
            self._files.allocate(fd, self.file_bytes)
        except OSError:
            self._discard(path, fd)
            raise
        return fd

    def drop_newest(self, fd: int) -> None:
        """Let the newest file be none, so that nobody takes its start for the end of the one before."""
        self.names_unsynced = True  # were it to come back after a power loss, the journal would end there
        self._discard(self.in_order.pop().path, fd)

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
        self._free = max(0, min(free, len(self.in_order) - 1))
        while self._free and (self._free > SPARE_FILES_MAX or self.in_order[0].size_bytes != self.file_bytes):
            self._drop_oldest()
            self._free -= 1
        return self._free > 0

    def forget_older_generations(self) -> None:
        """Delete every file of earlier generations, durably."""
        while self.in_order[0].generation != self.in_order[-1].generation:
            self._drop_oldest()
        self._free = 0
        self._files.sync_directory(self.directory)

    def _drop_oldest(self) -> None:
        self._files.unlink(self.in_order.popleft().path)
        self.names_unsynced = True

    def _files_before(self, position: Position) -> int:
        for index in range(len(self.in_order) - 1, -1, -1):
            file = self.in_order[index]
            if file.generation == position.generation and file.start <= position.offset <= file.end:
                return index
        return 0

    @property
    def used_bytes(self) -> int:
        """What is in use of the limit: whole files, as `_create` counts them, but for the newest."""
        newest, before = self.in_order[-1], len(self.in_order) - self._free - 1
        return before * self.file_bytes + FILE_HEADER_BYTES + newest.end - newest.start

    def drop_next(self) -> None:
        """Give up the file that was made ready."""
        ready = self._take_next()
        if ready is not None:
            self._discard(ready.path, ready.fd)


def _end_of(file: JournalFile, following: JournalFile) -> int:
    same = file.header.generation == following.header.generation
    return following.header.start if same else following.header.previous.offset


def _of_journal_file(file: JournalFile, end: int) -> RunFile:
    header = file.header
    size_bytes = file.capacity_bytes + FILE_HEADER_BYTES
    return RunFile(header.number, file.path, header.generation, header.start, end, size_bytes)
