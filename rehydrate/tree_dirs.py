"""Directories of a restored tree by descriptors: opened one component at a time, no link ever followed.

Whatever the container says and whatever stands in the target, what is opened here lies below its root. What
is made in a directory does not belong here (tree_target).
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from typing import Final

OPEN_MAX: Final = 128
"""Directories that are kept open: neighbours share their beginnings."""

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNERS: Final = stat.S_IRWXU


class Directories:
    """The directories below a root; `root` is its descriptor, which is closed at the end.

    Errors come as OSError: NotADirectoryError or ELOOP where something else stands in the way.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.RLock()

    def open_in(self, path: bytes, name: bytes, flags: int) -> int:
        """Open a file in a directory, while nobody else uses any: others wait."""
        with self._lock:
            return os.open(name, flags, dir_fd=self._descend(path))

    def descend(self, path: bytes) -> int:
        """The same for who works alone; it stays open until OPEN_MAX others were asked for."""
        return self._descend(path)

    def forget(self, path: bytes) -> None:
        """A directory that goes, or that was replaced, and all below it."""
        for known in [known for known in self._open if known == path or known.startswith(path + b"/")]:
            os.close(self._open.pop(known))

    def close(self) -> None:
        """Close all."""
        for fd in (*self._open.values(), self.root):
            os.close(fd)
        self._open.clear()

    def _descend(self, path: bytes) -> int:
        if not path:
            return self.root
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        above = path
        missing: list[bytes] = []
        while above and above not in self._open:
            above, _, name = above.rpartition(b"/")
            missing.append(name)
        fd = self._open[above] if above else self.root
        for name in reversed(missing):
            above = above + b"/" + name if above else name
            fd = _opened(name, fd)
            self._open[above] = fd
            if len(self._open) > OPEN_MAX:
                _, oldest = self._open.popitem(last=False)
                os.close(oldest)
        return fd


def _opened(name: bytes, above: int) -> int:
    """Open a directory of which we make use: where its mode keeps us out and it is ours, we let ourselves in.

    Whoever restores sets the modes of directories last. Root needs no mode.
    """
    try:
        fd = os.open(name, _FLAGS, dir_fd=above)
    except PermissionError:
        closed = os.open(name, os.O_PATH | _FLAGS, dir_fd=above)
        try:
            let_in(closed)
        finally:
            os.close(closed)
        fd = os.open(name, _FLAGS, dir_fd=above)
    try:
        let_in(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def let_in(fd: int) -> None:
    """Have a directory that is ours let its owner in, whoever else it lets in; others', and root's, stay."""
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() != 0 and status.st_mode & _OWNERS != _OWNERS:
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(status.st_mode) | _OWNERS)  # also of an O_PATH
