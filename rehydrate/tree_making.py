"""Making the plain files of a restored tree, several directories at once: most names of most trees.

Whoever walks the names hands out those that are new, stand in a directory that we made, and have no other
names; all else he makes himself. What a name needs when something of that is not so does not belong here
(tree_target).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cdp_container.domain.namespace import Entry
from cdp_container.format.names import Name
from rehydrate.tree_attributes import Attributes

THREADS: Final = 2
"""Python itself is half of the work, and that part runs in one thread at a time."""
TOGETHER_MAX: Final = 1_000
"""Names of one directory that are handed out at once."""
WAITING_MAX: Final = 4 * THREADS
"""Hand-outs that are not done yet; a descriptor each, and some 500 KiB."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SPECIAL: Final = stat.S_ISUID | stat.S_ISGID
_NO_NODES: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EPERM})
_STATUS: Final = Path("/proc/self/status")


class Makers:
    """Makes files; to be closed. Errors come as OSError, from whichever call comes next."""

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = attributes
        self._refused = _SPECIAL | _umask()
        self._is_root = attributes.me.uid == 0
        self._me = (attributes.me.uid, attributes.me.gid)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="names")
        self._waiting: deque[Future[int]] = deque()
        self._parent = b""
        self._directory = -1
        self._open: list[Entry] = []

    def add(self, entry: Entry) -> bool:
        """Have a file made beside the last one; False where it is not so: then its directory is needed."""
        if entry.parent != self._parent or not 0 < len(self._open) < TOGETHER_MAX:
            return False
        self._open.append(entry)
        return True

    def begin(self, entry: Entry, directory: int) -> int:
        """Have a file made in an open directory; gives how many were done since the last call."""
        done = self._hand_out() if self._open else 0
        self._parent, self._directory = entry.parent, os.dup(directory)
        self._open.append(entry)
        return done

    def finish(self) -> int:
        """Wait until all are made; gives how many were done since the last call."""
        done = self._hand_out() if self._open else 0
        while self._waiting:
            done += self._waiting.popleft().result()
        return done

    def close(self) -> None:
        """Wait for what is under way, and let go; what was not handed out is not made."""
        self._pool.shutdown(cancel_futures=False)
        if self._open:
            os.close(self._directory)
            self._open = []

    def _hand_out(self) -> int:
        self._waiting.append(self._pool.submit(self._make_all, self._directory, self._open))
        self._open = []
        done = 0
        while self._waiting and (len(self._waiting) > WAITING_MAX or self._waiting[0].done()):
            done += self._waiting.popleft().result()
        return done

    def _make_all(self, directory: int, entries: Sequence[Entry]) -> int:
        """In a thread; the descriptor is closed at the end."""
        try:
            for entry in entries:
                name = entry.what
                if not name.size_bytes and self._is_simple(name) and self._make_node(directory, entry):
                    continue
                fd = os.open(entry.name, _CREATE, 0o600, dir_fd=directory)
                try:
                    if name.size_bytes:
                        os.ftruncate(fd, name.size_bytes)
                    else:
                        self._attributes.set_open(entry.path, fd, name)
                finally:
                    os.close(fd)
        finally:
            os.close(directory)
        return len(entries)

    def _is_simple(self, name: Name) -> bool:
        """Whether an empty file gets all that it needs by two or three calls, without being opened."""
        if name.xattrs or name.mode & self._refused:
            return False
        return self._is_root or self._attributes.me.owns(name)

    def _make_node(self, directory: int, entry: Entry) -> bool:
        """Make it so; False where the file system makes no files in this way."""
        _, base, name = entry
        try:
            os.mknod(base, stat.S_IFREG | name.mode, dir_fd=directory)
        except OSError as error:
            if error.errno in _NO_NODES:
                return False
            raise
        try:
            if (name.uid, name.gid) != self._me:
                os.chown(base, name.uid, name.gid, dir_fd=directory, follow_symlinks=False)
            times = (name.mtime_ns, name.mtime_ns)
            os.utime(base, ns=times, dir_fd=directory, follow_symlinks=False)
        except OSError:
            fd = os.open(base, _OPEN, dir_fd=directory)
            try:
                self._attributes.set_open(entry.path, fd, name)  # each by itself: it notes what is refused
            finally:
                os.close(fd)
        return True


def _umask() -> int:
    """What the kernel takes from every new mode; all bits where it does not say."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o7777
