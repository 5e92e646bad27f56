"""An export's edge to the kernel: reading, writing, syncing files and block devices.

Behind a protocol, so that a test can lose what was not synced, tear a write, or fail any call.
What does not belong here: which file, which offset, and what an error means.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview

# Zeros for what cannot be zeroed by the file system; also how much of a redo or a range is in memory at once.
ZEROS_BYTES: Final = 1 << 20

_FALLOC_KEEP_SIZE: Final = 1
_FALLOC_PUNCH_HOLE: Final = 2
_FALLOC_ZERO_RANGE: Final = 16
# What a file system or device answers that cannot punch or zero this range: then zeros are written.
_CANNOT_ZERO: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM})

# And what one answers that does not know its holes.
_CANNOT_TELL: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class Files(Protocol):
    """What an export does with descriptors. Every method raises OSError as the kernel does."""

    def open(self, path: Path, create: bool = False) -> int:
        """Open for reading and writing; the descriptor is the caller's."""
        ...

    def close(self, fd: int) -> None:
        """Close it."""
        ...

    def size_bytes(self, fd: int) -> int:
        """The size of a file or block device."""
        ...

    def mtime_ns(self, fd: int) -> int | None:
        """When a file's content was last changed; None for a block device, which does not know."""
        ...

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Exactly `length` bytes; a file shorter than that is an error."""
        ...

    def pread_cached(self, fd: int, into: bytearray | memoryview, offset: int) -> bool:
        """Fill a buffer if it takes no waiting for a disk; else False, and anything may be in it."""
        ...

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of the buffers one behind the other."""
        ...

    def zero(self, fd: int, offset: int, length: int, may_trim: bool) -> None:
        """Make a range read as zeros; with `may_trim` its storage may be given up."""
        ...

    def next_data(self, fd: int, offset: int) -> int | None:
        """Where, from `offset` on, a part begins that is no hole; None if none follows."""
        ...

    def next_hole(self, fd: int, offset: int) -> int:
        """Where, from `offset` on, a hole begins, or the end of the file."""
        ...

    def will_need(self, fd: int, offset: int, length: int) -> None:
        """Begin to bring a range into the page cache."""
        ...

    def forget_cached(self, fd: int) -> None:
        """Let go of what the page cache holds of a file, but for what is not written yet."""
        ...

    def allocate(self, fd: int, length: int) -> None:
        """Make the file `length` bytes long, with storage behind all of it."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Return when everything written is on stable storage."""
        ...

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name, in place of what had it."""
        ...

    def unlink(self, path: Path) -> None:
        """Delete a file."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are on stable storage."""
        ...


class OsFiles:
    """The real thing."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fallocate = libc.fallocate
        self._fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        self._fallocate.restype = ctypes.c_int

    def open(self, path: Path, create: bool = False) -> int:
        """See `Files.open`; a device that is mounted cannot be opened, nor mounted while it is open."""
        flags = os.O_CREAT if create else os.O_EXCL if _is_device(path) else 0
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)

    def close(self, fd: int) -> None:
        """See `Files.close`."""
        os.close(fd)

    def size_bytes(self, fd: int) -> int:
        """See `Files.size_bytes`."""
        return os.lseek(fd, 0, os.SEEK_END)

    def mtime_ns(self, fd: int) -> int | None:
        """See `Files.mtime_ns`."""
        status = os.fstat(fd)
        return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else None

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See `Files.pread`."""
        data = os.pread(fd, length, offset)
        if len(data) == length:
            return data
        parts = [data]
        missing = length - len(data)
        while missing:
            data = os.pread(fd, missing, offset + length - missing)
            if not data:
                raise OSError(errno.EIO, "the file is shorter than it was")
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def pread_cached(self, fd: int, into: bytearray | memoryview, offset: int) -> bool:
        """See `Files.pread_cached`."""
        try:
            return os.preadv(fd, (into,), offset, os.RWF_NOWAIT) == len(into)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """See `Files.pwritev`."""
        wanted = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        written = os.pwritev(fd, buffers, offset)
        if written != wanted:
            _write_rest(fd, b"".join(buffers), written, offset)

    def zero(self, fd: int, offset: int, length: int, may_trim: bool) -> None:
        """See `Files.zero`; both modes work on files and, through the kernel, on block devices."""
        mode = _FALLOC_KEEP_SIZE | (_FALLOC_PUNCH_HOLE if may_trim else _FALLOC_ZERO_RANGE)
        if self._fallocate(fd, mode, offset, length) == 0:
            return
        code = ctypes.get_errno()
        if code not in _CANNOT_ZERO:
            raise OSError(code, os.strerror(code))
        zeros = bytes(min(length, ZEROS_BYTES))
        for at in range(0, length, len(zeros)):
            part = memoryview(zeros)[: min(len(zeros), length - at)]
            self.pwritev(fd, (part,), offset + at)

    def next_data(self, fd: int, offset: int) -> int | None:
        """See `Files.next_data`; where the file system or device cannot tell, all is data."""
        try:
            return os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            if error.errno in _CANNOT_TELL:
                return offset
            raise

    def next_hole(self, fd: int, offset: int) -> int:
        """See `Files.next_hole`."""
        try:
            return os.lseek(fd, offset, os.SEEK_HOLE)
        except OSError as error:
            if error.errno in _CANNOT_TELL:
                return self.size_bytes(fd)
            raise

    def will_need(self, fd: int, offset: int, length: int) -> None:
        """See `Files.will_need`."""
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)

    def forget_cached(self, fd: int) -> None:
        """See `Files.forget_cached`."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def allocate(self, fd: int, length: int) -> None:
        """See `Files.allocate`."""
        os.posix_fallocate(fd, 0, length)

    def fdatasync(self, fd: int) -> None:
        """See `Files.fdatasync`."""
        os.fdatasync(fd)

    def rename(self, path: Path, to: Path) -> None:
        """See `Files.rename`."""
        path.rename(to)

    def unlink(self, path: Path) -> None:
        """See `Files.unlink`."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """See `Files.sync_directory`."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_rest(fd: int, data: bytes, written: int, offset: int) -> None:
    """Go on after a short write, which a full disk or a signal causes."""
    while written < len(data):
        count = os.pwrite(fd, memoryview(data)[written:], offset + written)
        if count == 0:
            raise OSError(errno.EIO, "the kernel wrote nothing")
        written += count


def _is_device(path: Path) -> bool:
    return stat.S_ISBLK(os.stat(path).st_mode)
