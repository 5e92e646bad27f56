"""What the trees of this site have of files whose content is lost, by the watcher's index.

The index knows the paths of every space, and what the container has of a file's last, partial block, of which
heads have no checksum. It is looked at as it was before the container was read: what a later batch told does
not count. Nothing is written here; whatever is read is only offered (hole).
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_agent.watcher.content import tail_sum
from cdp_agent.watcher.index import BLOCKS, INDEX_NAME, VERSION, ZERO, joined
from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES

PATHS_MAX: Final = 16
"""Names of one file that are tried: the first that is there serves."""

_FILE: Final = "SELECT files.id, files.tree, files.size, files.doubt FROM files WHERE space=?"
_PATHS: Final = "SELECT parent, name FROM names WHERE file=? LIMIT ?"
_SUMS: Final = "SELECT sums FROM sums WHERE file=? AND chunk=?"
_TOUCHED: Final = "SELECT 1 FROM touched_spaces WHERE space=? LIMIT 1"
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Tail:
    """What the container has at the end of a file: its size, and the sum of its last, partial block."""

    size_bytes: int
    sum: bytes

    @property
    def offset(self) -> int:
        """Of the partial block."""
        return self.size_bytes - self.size_bytes % SUM_BLOCK_BYTES

    def is_of(self, data: bytes) -> bool:
        """Whether these bytes are that block."""
        if len(data) != self.size_bytes % SUM_BLOCK_BYTES:
            return False
        return self.sum == (tail_sum(data) if any(data) else ZERO)


class TreeFiles:
    """The files of this site's trees; to be used while `open_files` lasts.

    Args:
        index: a connection within one transaction, so that it goes on showing one instant.
        roots: the directories of trees, by the numbers that the index has of them.
        epoch: whose batches the index knows of.
    """

    def __init__(self, index: sqlite3.Connection, roots: Mapping[int, Path], epoch: int) -> None:
        self._index = index
        self._roots = roots
        self.epoch = epoch

    def tail(self, space: bytes) -> Tail | None:
        """What the container has at a file's end; None where the index cannot tell."""
        row = self._index.execute(_FILE, (space,)).fetchone()
        if row is None or self._index.execute(_TOUCHED, (space,)).fetchone() is not None:
            return None  # what is on its way may be in the container, and may not
        number, _, size_bytes, doubt = row
        if doubt or not size_bytes % SUM_BLOCK_BYTES:
            return None
        chunk, block = divmod(size_bytes // SUM_BLOCK_BYTES, BLOCKS)
        found = self._index.execute(_SUMS, (number, chunk)).fetchone()
        sums = b"" if found is None else bytes(found[0])
        return Tail(size_bytes, sums[block * SUM_BYTES : (block + 1) * SUM_BYTES] or ZERO)

    @contextmanager
    def opened(self, space: bytes) -> Iterator[int | None]:
        """The file of a space as it is now, open for reading; None where none of its names can be opened."""
        fd = self._open(space)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _open(self, space: bytes) -> int | None:
        row = self._index.execute(_FILE, (space,)).fetchone()
        root = None if row is None else self._roots.get(row[1])
        if root is None:
            return None
        for parent, name in self._index.execute(_PATHS, (row[0], PATHS_MAX)):
            path = os.path.join(os.fsencode(root), joined(parent, name))
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    continue  # to open a device may do something
                fd = os.open(path, _FLAGS)
            except OSError:
                continue
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        return None


@contextmanager
def open_files(folder: Path, trees: Mapping[bytes, Path]) -> Iterator[TreeFiles | None]:
    """The files of trees as the index in `folder` knows them now; None where there is no index to go by.

    `trees`: their directories, by id.
    """
    path = folder / INDEX_NAME
    if not trees or not path.is_file():
        yield None
        return
    try:
        index = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error:
        yield None
        return
    with closing(index):
        files = _begin(index, trees)
        yield files


def _begin(index: sqlite3.Connection, trees: Mapping[bytes, Path]) -> TreeFiles | None:
    """Fix the instant that is looked at. What cannot be read is no source; the watcher makes it anew."""
    try:
        if index.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            return None
        index.execute("BEGIN")
        found = index.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()
        rows = index.execute("SELECT number, tree FROM trees WHERE NOT gone").fetchall()
    except sqlite3.Error:
        return None
    if found is None:
        return None
    roots = {number: trees[tree] for number, tree in rows if tree in trees}
    return TreeFiles(index, roots, int(found[0]))
