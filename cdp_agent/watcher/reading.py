"""Reading a file until it holds still: the part of a round that knows that files change while they are read.

A file that takes more than one batch is suspended, and gone on with in the next. How content is compared is
in content.py.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from cdp_agent.watcher.content import Reading, read_on
from cdp_agent.watcher.dirty import LOOK, READ
from cdp_agent.watcher.gathered import Gathered
from cdp_agent.watcher.index import BLOCKS, CHUNK_BYTES, UNKNOWN, FileRow, Index
from cdp_agent.watcher.stamp import is_racy, stamp_inode, stamp_of
from cdp_agent.watcher.tree import Suspended, Tree
from cdp_container.clock import Clock
from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.names import SkewedFile

READS_MAX: Final = 3
"""A file that changes under each of so many readings is taken as it was read last."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A file's content as it was read: `proven` if its stamp says that nothing changed since."""

    stat: os.stat_result
    stamp: bytes
    size: int
    proven: bool


class FileReader:
    """Reads files into one batch."""

    def __init__(self, index: Index, clock: Clock, gathered: Gathered) -> None:
        self._index = index
        self._clock = clock
        self._gathered = gathered
        self._known: dict[int, tuple[bytes, int, int]] = {}
        self.read: dict[int, Captured] = {}
        """What was read whole for this batch and has other names, by the row of its file."""
        self.unsteady: dict[tuple[bytes, bytes], SkewedFile] = {}
        """What changed while it was read, again and again."""

    def content(
        self, tree: Tree, path: bytes, file: FileRow, inode: bytes, half: Suspended | None = None
    ) -> Captured:
        """Read a file until it holds still, or READS_MAX times; or suspend it where the batch is full.

        Raises OSError: it cannot be read, or is another file by now.
        """
        fd = tree.open_root.open_file(path)
        try:
            attempts = 1 if half is None else half.attempts
            while True:
                before = os.fstat(fd)
                stamp = stamp_of(before, tree.open_root.device)
                if stamp_inode(stamp) != inode or not stat.S_ISREG(before.st_mode):
                    raise OSError(errno.ESTALE, "another file has its name now")
                if half is not None and stamp != half.stamp and attempts < READS_MAX:
                    half, attempts = None, attempts + 1
                begun, from_ns = (
                    (stamp, self._clock.wall_ns()) if half is None else (half.stamp, half.from_ns)
                )
                reading = Reading(
                    fd, file.id, file.space, before.st_size, half.chunk if half else 0, file.is_new
                )
                if half is None or before.st_size < half.size:
                    self._restart(file, inode, before.st_size)
                else:
                    self._note(file, inode, before.st_size)
                is_whole = self._pass(reading)
                after = os.fstat(fd)
                if is_whole and not reading.is_done:
                    # Only one is gone on with; another one is begun anew.
                    if tree.suspended is not None and tree.suspended.file != file.id:
                        tree.find(tree.suspended.path, LOOK | READ)
                    tree.suspended = Suspended(
                        path, file.id, reading.size, reading.chunk, begun, from_ns, attempts
                    )
                    return Captured(after, begun, reading.size, proven=False)
                ended = stamp_of(after, tree.open_root.device)
                if (is_whole and ended == begun) or attempts >= READS_MAX:
                    break
                half, attempts = None, attempts + 1
            if not is_whole:
                self._restart(file, inode, min(after.st_size, before.st_size))
            return self._captured(
                tree, path, file, begun, after, reading.size if is_whole else after.st_size, from_ns
            )
        finally:
            os.close(fd)

    def doubt(self, file: int | None = None) -> None:
        """What was read of a file (None: of any) within the tick in which it changed counts no more.

        A change in the same tick leaves its stamp as it is, and no event may tell of it.
        """
        rows = list(self.read) if file is None else [file]
        for row in rows:
            if row in self.read and not self.read[row].proven:
                del self.read[row]

    def _captured(
        self,
        tree: Tree,
        path: bytes,
        file: FileRow,
        begun: bytes,
        after: os.stat_result,
        size: int,
        from_ns: int,
    ) -> Captured:
        stamp = stamp_of(after, tree.open_root.device)
        key = tree.id, path
        if stamp == begun:
            self.unsteady.pop(key, None)
        else:
            self.unsteady[key] = SkewedFile(tree.id, path, from_ns, self._clock.wall_ns())
        proven = stamp == begun and not is_racy(after, from_ns)
        captured = Captured(after, stamp, size, proven)
        if after.st_nlink > 1:
            self.read[file.id] = captured
        return captured

    def _restart(self, file: FileRow, inode: bytes, size: int) -> None:
        """A pass begins at the file's beginning: what this batch had of it does not count any more."""
        index, space = self._index, file.space
        # This pass may end before it comes to all of them, and the next batch knows only what the index says.
        for chunk in self._gathered.drop_extents(space):
            index.put_sums(file.id, chunk, UNKNOWN * BLOCKS)
        if size < file.size or file.doubt:
            self._gathered.resize(space, size)
            index.cut_sums(file.id, -(-size // CHUNK_BYTES))
            chunk, rest = divmod(size, CHUNK_BYTES)
            kept = rest // SUM_BLOCK_BYTES * SUM_BYTES
            sums = index.sums(file.id, chunk) if rest else b""
            if len(sums) > kept:
                index.put_sums(file.id, chunk, sums[:kept] + (UNKNOWN if rest % SUM_BLOCK_BYTES else b""))
            self._gathered.touch(space, size // CHUNK_BYTES, -(-file.size // CHUNK_BYTES))
        self._note(file, inode, size)

    def _note(self, file: FileRow, inode: bytes, size: int) -> None:
        known = self._known.get(file.id, (file.inode, file.size, file.doubt))
        if known != (inode, size, 0):
            self._index.set_file(file.id, inode, size)
            self._known[file.id] = inode, size, 0

    def _pass(self, reading: Reading) -> bool:
        gathered = self._gathered
        unknown = gathered.touched(reading.space)
        return read_on(reading, self._index, gathered.extent, unknown, lambda: gathered.has_room)
