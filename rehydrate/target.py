"""What a restore writes into: a new raw image file, or a block device. Refuses what somebody may still need.

A half-done restore must never look done. A file is written as `<target>.partial` and gets its name only after
its fsync. A device has no second name: its first HELD_BACK_BYTES are zeroed first and written last, so that
until then no partition table or file system shows on it.

What is written where does not belong here (plan, restore).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    DeviceError,
    LocalDiskFull,
    TargetNotEmpty,
    TargetUnsuitable,
)

PARTIAL_SUFFIX: Final = ".partial"
HELD_BACK_BYTES: Final = 1 << 20
ZERO_BYTES_MAX: Final = 1 << 20
"""Zeros that are written at once where the device cannot zero by itself."""
SAMPLES: Final = 64
SAMPLE_BYTES: Final = 64 << 10
"""Where a device is looked at to see whether it holds anything: evenly spread places, and both ends."""
_BLKZEROOUT: Final = 0x127F
_BLKGETSIZE64: Final = 0x80081272
_FILE_MODE: Final = 0o600


class Target(Protocol):
    """Bytes of one volume on their way to stable storage. Methods may be called from several threads."""

    path: Path
    known_empty: bool
    """Whether what is not written reads as zeros already."""
    overwrites: str
    """What `--force` agreed to lose, in words; empty if nothing."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes. Raises LocalDiskFull, DeviceError, TargetUnsuitable."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make bytes read as zeros."""
        ...

    def finish(self) -> None:
        """Make everything durable, and only then visible as done."""
        ...

    def abandon(self) -> None:
        """Leave nothing behind that could be taken for a restored volume. Nothing after `finish`."""
        ...


@contextmanager
def open_target(path: Path, size_bytes: int, write_bytes: int, force: bool) -> Iterator[Target]:
    """A target that is fit for a volume; abandoned unless `finish` was called before the end of the block.

    Args:
        path: a file that does not exist or is empty, or a block device.
        size_bytes: of the volume.
        write_bytes: how many of them will be written, to see at once whether there is room.
        force: overwrite what is there (see `Target.overwrites`).

    Raises:
        TargetNotEmpty: it holds something, or is in use, and there is no `force`.
        TargetUnsuitable: too small, of the wrong kind, or its directory does not exist.
        LocalDiskFull: the file system has no room for `write_bytes`.
        AccessDenied: it may not be written.
    """
    what = f"restore into {path}"
    with _os_errors(what):
        real = Path(os.path.realpath(path))
        try:
            status = os.stat(real)
        except FileNotFoundError:
            status = None
        target: Target
        if status is not None and stat.S_ISBLK(status.st_mode):
            target = _open_device(real, size_bytes, force, what)
        elif status is None or stat.S_ISREG(status.st_mode):
            target = _open_file(real, status, size_bytes, write_bytes, force, what)
        else:
            raise TargetUnsuitable(what, "it is neither a file nor a block device")
    try:
        yield target
    finally:
        target.abandon()


# --- files -----------------------------------------------------------------------------------


class FileTarget:
    """See `Target`: a sparse file that has its name only when it is complete."""

    def __init__(self, path: Path, partial: Path, fd: int, overwrites: str, replaces: bool) -> None:
        self.path = path
        self.known_empty = True
        self.overwrites = overwrites
        self._partial = partial
        self._fd = fd
        self._replaces = replaces

    def write(self, offset: int, data: memoryview) -> None:
        """See `Target.write`."""
        with _os_errors(f"write {self._partial}"):
            _write_all(self._fd, offset, data)

    def zero(self, offset: int, length: int) -> None:
        """See `Target.zero`; a hole reads as zeros."""

    def finish(self) -> None:
        """See `Target.finish`: fsync, then the name, then the directory's fsync."""
        with _os_errors(f"finish {self.path}"):
            os.fsync(self._fd)
            self._name()
            _sync_directory(self.path.parent)
        os.close(self._fd)
        self._fd = -1

    def _name(self) -> None:
        if not self._is_ours():
            raise TargetUnsuitable(f"finish {self.path}", f"{self._partial} was replaced by another process")
        if not self._replaces:
            # A link, unlike a rename, fails where somebody has put a file there meanwhile.
            try:
                os.link(self._partial, self.path)
            except FileExistsError:
                raise TargetNotEmpty(
                    f"finish {self.path}", "another process has made this file meanwhile"
                ) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
            else:
                os.unlink(self._partial)
                return
        os.rename(self._partial, self.path)

    def _is_ours(self) -> bool:
        """Whether the partial file's name still stands for the file that we write."""
        try:
            return os.path.samestat(os.stat(self._partial), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def abandon(self) -> None:
        """See `Target.abandon`."""
        if self._fd < 0:
            return
        with _os_errors(f"remove the half-done {self._partial}"):
            if self._is_ours():
                self._partial.unlink()
        os.close(self._fd)
        self._fd = -1


def _open_file(
    path: Path, status: os.stat_result | None, size_bytes: int, write_bytes: int, force: bool, what: str
) -> FileTarget:
    if not path.parent.is_dir():
        raise TargetUnsuitable(what, f"the directory {path.parent} does not exist", "create it first")
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    held = _what_file_holds(path, status)
    if partial.exists():
        held.append(f"{partial}, left by a restore that was killed or is still running")
        held.extend(_users(partial, os.stat(partial)))
    if held and not force:
        raise TargetNotEmpty(what, "; ".join(held))
    _check_room(path.parent, write_bytes, what)
    fd = _take_partial(partial, what)
    target = FileTarget(path, partial, fd, "; ".join(held), replaces=status is not None)
    try:
        os.ftruncate(fd, size_bytes)
    except BaseException:
        target.abandon()
        raise
    return target


def _take_partial(partial: Path, what: str) -> int:
    """A partial file of our own, locked. One that a living restore writes is refused, `--force` or not."""
    if partial.exists():
        old = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink(missing_ok=True)
        except BlockingIOError:
            why = f"another restore is writing {partial}"
            raise TargetNotEmpty(what, why, "wait for it, or choose another target") from None
        finally:
            os.close(old)
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _what_file_holds(path: Path, status: os.stat_result | None) -> list[str]:
    if status is None:
        return []
    held = [f"{path} holds {status.st_size} bytes"] if status.st_size else []
    return held + _users(path, status)


def _check_room(directory: Path, write_bytes: int, what: str) -> None:
    room = os.statvfs(directory)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < write_bytes:
        raise LocalDiskFull(what, f"{write_bytes} bytes will be written and {free_bytes} are free")


# --- devices ---------------------------------------------------------------------------------


class DeviceTarget:
    """See `Target`: a block device, whose beginning is written last."""

    def __init__(self, path: Path, fd: int, size_bytes: int, overwrites: str) -> None:
        self.path = path
        self.known_empty = False
        self.overwrites = overwrites
        self._fd = fd
        self._head = bytearray(min(HELD_BACK_BYTES, size_bytes))
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Zero the beginning durably: from now on the device shows nothing until `finish`."""
        with _os_errors(f"write {self.path}"):
            _write_all(self._fd, 0, memoryview(bytes(len(self._head))))
            os.fsync(self._fd)

    def write(self, offset: int, data: memoryview) -> None:
        """See `Target.write`."""
        ahead = max(0, min(len(data), len(self._head) - offset))
        if ahead:
            with self._lock:
                self._head[offset : offset + ahead] = data[:ahead]
        with _os_errors(f"write {self.path}"):
            _write_all(self._fd, offset + ahead, data[ahead:])

    def zero(self, offset: int, length: int) -> None:
        """See `Target.zero`."""
        ahead = max(0, min(length, len(self._head) - offset))  # the held back part was zeroed by `begin`
        with _os_errors(f"write {self.path}"):
            _zero(self._fd, offset + ahead, length - ahead)

    def finish(self) -> None:
        """See `Target.finish`."""
        with _os_errors(f"finish {self.path}"):
            os.fsync(self._fd)
            _write_all(self._fd, 0, memoryview(self._head))
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def abandon(self) -> None:
        """See `Target.abandon`: the beginning stays zeros."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_device(path: Path, size_bytes: int, force: bool, what: str) -> DeviceTarget:
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
        held.extend(_users(path, os.fstat(fd)))
        if _holds_data(fd, device_bytes):
            held.append(f"{path} holds data")
        if held and not force:
            raise TargetNotEmpty(what, "; ".join(held))
        target = DeviceTarget(path, fd, size_bytes, "; ".join(held))
        target.begin()
    except BaseException:
        os.close(fd)
        raise
    return target


def _holds_data(fd: int, size_bytes: int) -> bool:
    """Whether any looked-at byte is not zero. "No" does not prove emptiness: gaps are zeroed anyway."""
    step = max(size_bytes // SAMPLES, 1)
    offsets = [*range(0, size_bytes, step), max(0, size_bytes - SAMPLE_BYTES)]
    return any(any(os.pread(fd, SAMPLE_BYTES, offset)) for offset in offsets)


def _zero(fd: int, offset: int, length: int) -> None:
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
        _write_all(fd, offset, zeros[:length])
        offset += len(zeros)
        length -= len(zeros)


# --- both ------------------------------------------------------------------------------------


def _users(path: Path, status: os.stat_result) -> list[str]:
    """Who has the file or device open, as far as we may see."""
    found = [f"{path} is attached as {loop}" for loop in _loops_on(path)]
    own = str(os.getpid())
    processes = [process for process in sorted(Path("/proc").glob("[0-9]*")) if process.name != own]
    users = [process for process in processes if _has_open(process, status)]
    return found + [f"{path} is open in process {user.name} ({_name_of(user)})" for user in users]


def _has_open(process: Path, status: os.stat_result) -> bool:
    try:
        entries = list(os.scandir(process / "fd"))
    except OSError:  # it ended, or is not ours to see
        return False
    for entry in entries:
        try:
            opened = os.stat(entry.path)
        except OSError:  # closed meanwhile
            continue
        if stat.S_ISBLK(status.st_mode):
            if stat.S_ISBLK(opened.st_mode) and opened.st_rdev == status.st_rdev:
                return True
        elif (opened.st_dev, opened.st_ino) == (status.st_dev, status.st_ino):
            return True
    return False


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "ended"


def _loops_on(path: Path) -> list[str]:
    found = []
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            attached = backing.read_text().strip()
        except OSError:  # detached meanwhile
            continue
        if attached == str(path):
            found.append(f"/dev/{backing.parent.parent.name}")
    return found


def _write_all(fd: int, offset: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        offset += written
        data = data[written:]


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _os_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _typed(error, what) from error


def _typed(error: OSError, what: str) -> CdpError:
    why = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return LocalDiskFull(what, why)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return AccessDenied(what, why, "check the owner and the permissions of the target")
        case errno.EEXIST:
            return TargetNotEmpty(what, "another restore begins there at this moment")
        case errno.EFBIG | errno.ENAMETOOLONG | errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.ENXIO:
            return TargetUnsuitable(what, why)
        case _:
            return DeviceError(what, why)
