"""What the kernel asks of a mount, answered: paths as text, errors as error numbers, reads by descriptor.

Everything that would change something is refused by the kernel itself, as the mount is read-only; what is not
answered here does not exist. How the kernel's questions come to be calls of these does not belong here
(driver).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from typing import Final

from cdp_container.errors import CdpError
from rehydrate.mount.shown import BLOCK_BYTES, Attributes, Shown
from rehydrate.ondemand.reader import Opened, Reader

ENCODING: Final = "utf-8"
ERRORS: Final = "surrogateescape"
"""How the binding makes text of names, whatever bytes they have; and we bytes of it again."""

READ_BYTES: Final = 128 << 10
"""What programs are told to read at once."""
_UNIT: Final = 4096
"""What sizes of the whole mount are told in."""
_NAME_BYTES_MAX: Final = 255
_ALWAYS: Final = (".", "..")

XATTRS: Final = frozenset({"getxattr", "listxattr"})
"""Where nothing has any, the kernel is told that there is no such thing, and asks no more: `ls -l` asks for
two of each name."""

Stat = dict[str, int]
"""Members of `struct stat` by name, times in ns."""


class Operations:
    """See `fuse_operations` of libfuse: each method answers, or raises OSError.

    Attributes:
        left_out: methods that libfuse is not to know of.
    """

    use_ns = True

    def __init__(self, shown: Shown, reader: Reader) -> None:
        self._shown = shown
        self._reader = reader
        self._lock = threading.Lock()
        self._opened: dict[int, Opened] = {}  # the kernel limits how many are open
        self._next = 1
        self.left_out = frozenset[str]() if shown.has_xattrs else XATTRS

    def getattr(self, path: str, fh: int | None = None) -> Stat:
        """The attributes of a name."""
        name = _bytes(path)
        return self._stat(name, self._shown.attributes(name))

    def entries(self, path: str, offset: int = 0) -> Iterator[tuple[str, Stat | None, int]]:
        """The names in a directory from an offset on: with their attributes, and the offset behind each.

        Of the two that are always there the attributes are None.
        """
        for number, always in enumerate(_ALWAYS):
            if offset <= number:
                yield always, None, number + 1
        skipped, above = max(offset - len(_ALWAYS), 0), _bytes(path)
        for number, (name, attributes) in enumerate(self._shown.listing(above, skipped), skipped + 1):
            found = stat_of(attributes) if above else self._stat(name, attributes)
            yield name.decode(ENCODING, ERRORS), found, number + len(_ALWAYS)

    def readdir_with_offset(self, path: str, offset: int, fh: int) -> Iterator[tuple[str, Stat | None, int]]:
        """The same as `entries`, for a kernel that asks for attributes one by one."""
        return self.entries(path, offset)

    def readlink(self, path: str) -> str:
        """Where a symlink leads."""
        return self._shown.target(_bytes(path)).decode(ENCODING, ERRORS)

    def listxattr(self, path: str) -> list[str]:
        """The names of extended attributes."""
        return [key.decode(ENCODING, ERRORS) for key, _ in self._shown.xattrs(_bytes(path))]

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """The value of one."""
        wanted = name.encode(ENCODING, ERRORS)
        for key, value in self._shown.xattrs(_bytes(path)):
            if key == wanted:
                return value
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    def open(self, path: str, flags: int) -> int:
        """A file for reading; gives its number."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        opened = self._reader.open(self._shown.content(_bytes(path)))
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._opened[number] = opened
        return number

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes of an open file. Why they cannot be had was told to whoever mounted."""
        with self._lock:
            opened = self._opened[fh]
        try:
            return opened.read(offset, size)
        except CdpError as error:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error

    def lseek(self, path: str, offset: int, whence: int, fh: int) -> int:
        """Where data, or a hole, begins in an open file, at an offset or behind it: no byte is fetched."""
        with self._lock:
            content = self._opened[fh].content
        if not 0 <= offset < content.size_bytes:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        low, high = self._reader.data_from(content, offset)
        if whence == os.SEEK_HOLE:
            return high if low <= offset else offset
        if whence != os.SEEK_DATA:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if low == content.size_bytes:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))  # only a hole is left
        return max(low, offset)

    def release(self, path: str, fh: int) -> int:
        """A file is closed."""
        with self._lock:
            del self._opened[fh]
        return 0

    def _stat(self, path: bytes, attributes: Attributes) -> Stat:
        """Of an image it is told that it is sparse: else programs do not ask where its holes are."""
        found = stat_of(attributes)
        if self._shown.is_image(path):
            data_bytes = self._reader.data_bytes_max(self._shown.content(path))
            found["st_blocks"] = -(-data_bytes // BLOCK_BYTES)
        return found

    def statfs(self, path: str) -> Stat:
        """How large it all is, and that nothing is free."""
        blocks = -(-self._shown.volume_bytes // _UNIT)
        return {
            "f_bsize": _UNIT,
            "f_frsize": _UNIT,
            "f_blocks": blocks,
            "f_files": self._shown.names,
            "f_namemax": _NAME_BYTES_MAX,
        }


def stat_of(attributes: Attributes) -> Stat:
    """The members of `struct stat`; what it takes is what it is long, as nobody counted its holes."""
    mtime_ns = attributes.mtime_ns
    return {
        "st_mode": attributes.mode,
        "st_ino": attributes.inode,
        "st_nlink": attributes.links,
        "st_uid": attributes.uid,
        "st_gid": attributes.gid,
        "st_rdev": attributes.device,
        "st_size": attributes.size_bytes,
        "st_blksize": READ_BYTES,
        "st_blocks": -(-attributes.size_bytes // BLOCK_BYTES),
        "st_atime": mtime_ns,
        "st_mtime": mtime_ns,
        "st_ctime": mtime_ns,
    }


def _bytes(path: str) -> bytes:
    """A path of the kernel's as `Shown` knows it."""
    return path.encode(ENCODING, ERRORS)[1:]
