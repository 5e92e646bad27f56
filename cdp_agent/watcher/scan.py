"""Looking through a directory and all below it: what differs from the index is found, in steps.

Every directory is watched before it is listed, so what changes later is heard of. What the index knows and
the scan did not meet comes last: most of it was renamed, and its content is still known then. Nothing is read
here but names and what `lstat` says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from typing import Final

from cdp_agent.watcher.dirty import LOOK, READ
from cdp_agent.watcher.events import Events, WatchLimit
from cdp_agent.watcher.index import FILE, ChildRow, Index, joined
from cdp_agent.watcher.mounts import MountChanged
from cdp_agent.watcher.rooted import is_gone
from cdp_agent.watcher.stamp import stamp_of, type_of
from cdp_agent.watcher.tree import FOUND_MAX, Tree

STEP_NAMES: Final = 500
"""Names between two steps: a millisecond or two."""


class Scan:
    """A scan of a tree from one directory on; `read`: of all files the content, too."""

    def __init__(
        self, tree: Tree, index: Index, events: Events, path: bytes = b"", read: bool = False
    ) -> None:
        self._tree = tree
        self._index = index
        self._events = events
        self.path = path
        self._bits = LOOK | READ if read else LOOK
        self._gone: list[bytes] = []
        self._steps = self._walk()
        self.names = 0
        self.is_done = False
        """Whether it has looked at everything."""
        self.watched = True
        """Whether every directory that it met is watched."""

    def step(self) -> bool:
        """Go on for a moment; False when it is done, or waits until what it found was taken."""
        if self.waits:
            return False
        self.is_done = next(self._steps, None) is None
        return not self.is_done

    @property
    def reads(self) -> bool:
        """Whether it has all content compared."""
        return bool(self._bits & READ)

    @property
    def waits(self) -> bool:
        """Whether what it found must be taken before it goes on."""
        return len(self._tree.found) >= FOUND_MAX

    def close(self) -> None:
        """Give it up."""
        self._steps.close()

    def _walk(self) -> Generator[int, None, None]:
        self._tree.find(self.path, LOOK)
        stack = [self.path]
        while stack:
            yield from self._directory(stack.pop(), stack)
        for path in self._gone:
            self._tree.find(path, LOOK)

    def _directory(self, path: bytes, stack: list[bytes]) -> Iterator[int]:
        tree = self._tree
        try:
            fd = tree.open_root.open_listing(path)
        except MountChanged as error:
            tree.mount_changed(error)
            return
        except OSError as error:
            if is_gone(error):
                tree.find(path, LOOK)
            else:
                tree.trouble(path, error.strerror or "unreadable")
            return
        try:
            try:
                self._events.watch(tree.number, path, fd)
            except WatchLimit as error:
                self.watched = False
                tree.unwatched = str(error)
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
            tree.troubles.pop(path, None)
            yield from self._merge(path, fd, names, stack)
        except OSError as error:
            tree.trouble(path, error.strerror or "unreadable")
        finally:
            os.close(fd)

    def _merge(self, path: bytes, fd: int, names: list[bytes], stack: list[bytes]) -> Iterator[int]:
        rows = self._rows(path)
        row = next(rows, None)
        for count, name in enumerate(names, start=1):
            while row is not None and row.name < name:
                self._miss(joined(path, row.name))
                row = next(rows, None)
            known = None
            if row is not None and row.name == name:
                known, row = row, next(rows, None)
            self._compare(joined(path, name), name, fd, known, stack)
            self.names += 1
            if count % STEP_NAMES == 0:
                yield count
        while row is not None:
            self._miss(joined(path, row.name))
            row = next(rows, None)
        yield len(names)

    def _rows(self, path: bytes) -> Iterator[ChildRow]:
        after = b""
        while rows := self._index.children(self._tree.row, path, after):
            yield from rows
            after = rows[-1].name

    def _miss(self, path: bytes) -> None:
        self._gone.append(path)
        if len(self._gone) >= FOUND_MAX:
            for gone in self._gone:
                self._tree.find(gone, LOOK)
            self._gone.clear()

    def _compare(self, path: bytes, name: bytes, fd: int, known: ChildRow | None, stack: list[bytes]) -> None:
        root = self._tree.open_root
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        is_directory = found is not None and stat.S_ISDIR(found.st_mode)
        if found is None or type_of(found) is None or self._tree.patterns.excludes(path, is_directory):
            if known is not None:
                self._miss(path)
            return
        foreign = root.is_foreign(found)
        if is_directory and not foreign:
            stack.append(path)
        if found.st_nlink > 1 and not is_directory:
            self._tree.note_links(path, found)
        is_read = self._bits & READ and known is not None and known.type == FILE
        if known is None or is_read or foreign or known.stamp != stamp_of(found, root.device):
            self._tree.find(path, self._bits)
