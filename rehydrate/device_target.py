"""A block device as a target.

A device has no second name: its first HELD_BACK_BYTES are zeroed first and written last, so that until then
no partition table or file system shows on it. Files do not belong here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path
from typing import Final

from cdp_container.errors import TargetNotEmpty, TargetUnsuitable
from rehydrate.localio import lock_alone, os_errors, write_all
from rehydrate.resume import Done
from rehydrate.users import users_of

HELD_BACK_BYTES: Final = 1 << 20
LOCK_TRIES: Final = 20
"""udev locks a disk for a moment whenever one who wrote it has closed it: a restore right before this one."""
ZERO_BYTES_MAX: Final = 1 << 20
"""Zeros that are written at once where the device cannot zero by itself."""
SAMPLES: Final = 64
SAMPLE_BYTES: Final = 64 << 10
"""Where a device is looked at to see whether it holds anything: evenly spread places, and both ends."""
_BLKZEROOUT: Final = 0x127F
_BLKGETSIZE64: Final = 0x80081272


class DeviceTarget:
    """See `Target`: a block device, whose beginning is written last."""

    def __init__(self, path: Path, fd: int, size_bytes: int, overwrites: str) -> None:
        self.path = path
        self.known_empty = False
        self.note = ""
        self.done = Done()
        self.overwrites = overwrites
        self._fd = fd
        self._head = bytearray(min(HELD_BACK_BYTES, size_bytes))
        self._lock = threading.Lock()

    def begin(self) -> None:
        """See `Target.begin`: zero the beginning durably, so that the device shows nothing until `finish`."""
        with os_errors(f"write {self.path}"):
            write_all(self._fd, 0, memoryview(bytes(len(self._head))))
            os.fsync(self._fd)

    def write(self, offset: int, data: memoryview) -> None:
        """See `Target.write`."""
        ahead = max(0, min(len(data), len(self._head) - offset))
        if ahead:
            with self._lock:
                self._head[offset : offset + ahead] = data[:ahead]
        with os_errors(f"write {self.path}"):
            write_all(self._fd, offset + ahead, data[ahead:])

    def zero(self, offset: int, length: int) -> None:
        """See `Target.zero`."""
        ahead = max(0, min(length, len(self._head) - offset))  # the held back part was zeroed by `begin`
        with os_errors(f"write {self.path}"):
            zero_range(self._fd, offset + ahead, length - ahead)

    def keep(self, done: Done) -> None:
        """See `Target.keep`: a device has no place beside it, so a restore into it starts anew."""

    def forget(self) -> None:
        """See `Target.forget`."""

    def finish(self) -> None:
        """See `Target.finish`."""
        with os_errors(f"finish {self.path}"):
            os.fsync(self._fd)
            write_all(self._fd, 0, memoryview(self._head))
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def abandon(self) -> None:
        """See `Target.abandon`: the beginning stays zeros."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_device(path: Path, size_bytes: int, force: bool, what: str) -> DeviceTarget:
    """A device that is large enough, and empty or to be overwritten; see `target.open_target`."""
    held = []
    try:
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        held.append(f"{path} is mounted or used by the kernel")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        (device_bytes,) = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))
        if device_bytes < size_bytes:
            raise TargetUnsuitable(what, f"it has {device_bytes} bytes and the volume {size_bytes}")
        lock_alone(fd, path, what, LOCK_TRIES)
        held.extend(users_of(path, os.fstat(fd)))
        if _holds_data(fd, device_bytes):
            held.append(f"{path} holds data")
        if held and not force:
            raise TargetNotEmpty(what, "; ".join(held))
        target = DeviceTarget(path, fd, size_bytes, "; ".join(held))
    except BaseException:
        os.close(fd)
        raise
    return target


def _holds_data(fd: int, size_bytes: int) -> bool:
    """Whether any looked-at byte is not zero. "No" does not prove emptiness: gaps are zeroed anyway."""
    step = max(size_bytes // SAMPLES, 1)
    offsets = [*range(0, size_bytes, step), max(0, size_bytes - SAMPLE_BYTES)]
    return any(any(os.pread(fd, SAMPLE_BYTES, offset)) for offset in offsets)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Make a range of a device or file read as zeros. Raises OSError."""
    if length <= 0:
        return
    try:
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", offset, length))
        return
    except OSError as error:  # not a multiple of the sector, or a device that cannot
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):
            raise
    zeros = memoryview(bytes(min(length, ZERO_BYTES_MAX)))
    while length > 0:
        write_all(fd, offset, zeros[:length])
        offset += len(zeros)
        length -= len(zeros)
