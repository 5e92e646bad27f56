"""A disk that is read and written where it is: the volume of a site that gets its domain back.

A restore makes a new file and gives it its name at the end (target); this one changes the old one, because
nearly all of it is right. What keeps a half-done disk from being served stands in failback.json.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from cdp_container.domain.carried import CarriedVolume, look_at
from cdp_container.errors import BackingUnreadable, TargetNotEmpty, TargetUnsuitable
from rehydrate.device_target import LOCK_TRIES, zero_range
from rehydrate.localio import lock_alone, os_errors, read_up_to, write_all
from rehydrate.users import users_of

_STOP_IT: Final = "stop what uses it first: its bytes would change under it"


class Disk:
    """One open disk, locked as an agent locks what it serves. Threads may call `write` and `zero`."""

    def __init__(self, path: Path, space: bytes, fd: int, is_device: bool, size_bytes: int) -> None:
        self.path = path
        self.space = space
        self.is_device = is_device
        self.size_bytes = size_bytes
        self._fd = fd

    @property
    def mtime_ns(self) -> int | None:
        """When it was written last; None for a device, which does not know."""
        return None if self.is_device else os.fstat(self._fd).st_mtime_ns

    @property
    def status(self) -> os.stat_result:
        """As `os.fstat` gives it."""
        return os.fstat(self._fd)

    def look(self) -> CarriedVolume:
        """As it is now, for a later look to be compared with. Raises BackingUnreadable."""
        return look_at(str(self.path), self.space)

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes; fewer at its end. Raises DeviceError."""
        with os_errors(f"read {self.path}"):
            return read_up_to(self._fd, offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes. Raises LocalDiskFull, DeviceError."""
        with os_errors(f"write {self.path}"):
            write_all(self._fd, offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Make bytes read as zeros. Raises LocalDiskFull, DeviceError."""
        with os_errors(f"write {self.path}"):
            zero_range(self._fd, offset, length)

    def resize(self, size_bytes: int) -> None:
        """Give a file this size. Raises TargetUnsuitable for a device of another one."""
        self.check_size(size_bytes)
        if size_bytes != self.size_bytes:
            with os_errors(f"resize {self.path}"):
                os.ftruncate(self._fd, size_bytes)
                os.fsync(self._fd)
            self.size_bytes = size_bytes

    def check_size(self, size_bytes: int) -> None:
        """Raises TargetUnsuitable where it is a device of another size, which nobody can change from here."""
        if self.is_device and size_bytes != self.size_bytes:
            what = f"bring {self.path} to the size of its volume"
            why = f"the device has {self.size_bytes} bytes, the volume {size_bytes}"
            raise TargetUnsuitable(what, why, "give the device just that size, and run this again")

    def sync(self) -> None:
        """Return when everything is on stable storage. Raises DeviceError."""
        with os_errors(f"sync {self.path}"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the disk and its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_disk(path: Path, space: bytes) -> Disk:
    """A disk that is there and that nobody uses.

    Raises:
        BackingUnreadable: it is not there.
        AlreadyRunning, TargetNotEmpty: an agent serves it, or something else has it open.
        TargetUnsuitable, AccessDenied: it is neither file nor device, or may not be written.
    """
    what = f"bring {path} to the container's newest cut"
    with os_errors(what):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            hint = "make an empty file there, or attach the device: what it lacks is fetched"
            raise BackingUnreadable(what, "there is no such file or device", hint) from None
        is_device = stat.S_ISBLK(status.st_mode)
        if not is_device and not stat.S_ISREG(status.st_mode):
            raise TargetUnsuitable(what, "it is neither a file nor a block device")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_device else 0))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise TargetNotEmpty(what, "it is mounted or used by the kernel", _STOP_IT) from error
        try:
            lock_alone(fd, path, what, LOCK_TRIES if is_device else 1)
            users = users_of(path, status)
            if users:
                raise TargetNotEmpty(what, "; ".join(users), _STOP_IT)
            size_bytes = os.lseek(fd, 0, os.SEEK_END)
        except BaseException:
            os.close(fd)
            raise
    return Disk(path, space, fd, is_device, size_bytes)
