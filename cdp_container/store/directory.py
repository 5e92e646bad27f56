"""A store in a directory: one file per object, bytes exactly as in a bucket.

Create-only is `link(2)`, compare-and-swap is a lock file plus `rename(2)`, so both hold between
processes. An answer is given only after the file and its directory are synced. Files whose names
begin with "." are the store's own: `.lock`, and `.tmp/` for what is being written.

Symbolic links below the root are never followed. Retries do not belong here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdp_container.clock import Clock, SystemClock
from cdp_container.errors import (
    LimitExceeded,
    NoSuchBucket,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from cdp_container.store.api import OBJECT_BYTES_MAX, Blob, Found
from cdp_container.store.files import (
    FILE_MODE,
    NewFile,
    make_directory,
    make_later,
    read_at,
    tag_of,
    try_lock,
    typed_error,
    write_all,
)
from cdp_container.store.keys import check_beginning, check_key, is_key

LOCK_WAIT_SECONDS = 10.0
"""How long to wait for another process's compare-and-swap; one that is stopped may hold it for ever."""

LOCK_POLL_SECONDS = 0.002
SYNCED_DIRECTORIES_MAX = 4096
"""How many directories are remembered as durable before they are synced anew."""

_LOCK = ".lock"
_WRITING = ".tmp"
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe that somebody put there must not stop us.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirectoryStore:
    """See `cdp_container.store.api.Store`.

    A tag is the file's time, inode and size. The time of a replacement is made strictly later than
    that of what it replaces, so no tag comes back in the life of an object, whatever the clock does
    and however coarse the file system's times are. (After a delete that would not hold; the objects
    that are compared and swapped are never deleted.) A content digest would need every listing to
    read every byte.

    A key cannot at once be an object and the beginning of another ("a" and "a/b"); ours never are.

    Args:
        path: the root; it must exist, so that a disk that is not mounted is noticed.
        clock: only to give up waiting for the lock.
    """

    def __init__(self, path: str | os.PathLike[str], clock: Clock | None = None) -> None:
        self._root = Path(path).absolute()
        self._clock = clock if clock is not None else SystemClock()
        self._synced: set[str] = set()
        self._unsure: set[str] = set()  # directories whose last sync failed
        self._synced_lock = threading.Lock()
        self._swept = False

    @property
    def address(self) -> str:
        """See `Store.address`."""
        return str(self._root)

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        with self._errors("read", key), self._open(key) as fd:
            found = _found(key, os.fstat(fd))
            if found.size > OBJECT_BYTES_MAX:
                raise LimitExceeded(f"read {key} in {self.address}", f"it has {found.size} bytes")
            return Blob(found=found, data=read_at(fd, 0, found.size))

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        with self._errors("read", key), self._open(key) as fd:
            found = _found(key, os.fstat(fd))
            if found.tag == tag:
                return None
        return self.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        assert min(start, length) >= 0, (start, length)
        with self._errors("read", key), self._open(key) as fd:
            return read_at(fd, start, length)

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        with self._errors("look at", key), self._open(key) as fd:
            return _found(key, os.fstat(fd))

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        errors = self._errors("create", key)
        with errors, self._parent(key, create=True) as parent, self._written(data) as new:
            os.fsync(new.fd)
            try:
                os.link(new.name, _last(key), src_dir_fd=new.directory, dst_dir_fd=parent)
            finally:
                # Also where the key exists: whoever made it may have died, or failed, before this line,
                # and an answer of "it is there" counts as stored.
                self._sync_directories(key, parent)
            return tag_of(os.fstat(new.fd))

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        errors = self._errors("replace", key)
        with errors, self._parent(key) as parent, self._written(data) as new, self._locked():
            old = os.stat(_last(key), dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(old.st_mode) or tag_of(old) != tag:
                self._sync_directories(key, parent)  # the other version must last, too
                raise PreconditionFailed(f"replace {key} in {self.address}", "it is another version")
            make_later(new.fd, old.st_mtime_ns)
            os.fsync(new.fd)
            os.rename(new.name, _last(key), src_dir_fd=new.directory, dst_dir_fd=parent)
            self._sync_directories(key, parent)
            return tag_of(os.fstat(new.fd))

    def delete(self, key: str) -> None:
        """See `Store.delete`; durable like a write, since later deletes may rest on it."""
        try:
            with self._errors("delete", key), self._parent(key) as parent:
                with self._locked():
                    os.unlink(_last(key), dir_fd=parent)
                os.fsync(parent)
        except NotFound:
            return

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`; each directory is read when the listing gets to it."""
        check_beginning(prefix)
        with self._errors("list", prefix):
            os.close(self._open_root())
            yield from self._walk("", prefix, start_after)

    def close(self) -> None:
        """See `Store.close`: nothing is held between calls."""

    # --- reading -----------------------------------------------------------------------------

    def _open_root(self) -> int:
        try:
            return os.open(self._root, _DIRECTORY_FLAGS)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoSuchBucket(
                f"open the store {self.address}",
                "there is no such directory",
                "mount the disk or create the directory, or correct the address",
            ) from error

    @contextmanager
    def _parent(self, key: str, create: bool = False) -> Iterator[int]:
        """The directory that holds the key's file, reached part by part and through no symbolic link."""
        fd = self._open_root()
        try:
            for part in check_key(key).split("/")[:-1]:
                if create:
                    make_directory(part, fd)
                below = os.open(part, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        """A regular file, open for reading; what it shows stays one version."""
        with self._parent(key) as parent:
            if key.rpartition("/")[0] in self._unsure:
                # Who reads back a write of unknown outcome takes what it shows for durable.
                self._sync_directories(key, parent)
            fd = os.open(_last(key), _READ_FLAGS, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a regular file")
            yield fd
        finally:
            os.close(fd)

    def _walk(self, directory: str, prefix: str, start_after: str) -> Iterator[Found]:
        """The keys below `directory` ("" or ending in "/"), in bytewise order."""
        try:
            with os.scandir(self._root / directory) as entries:
                # "/" sorts after "-" and ".": a directory's place is that of its name with the slash.
                names = sorted(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries)
        except FileNotFoundError:
            return
        for name in names:
            key = directory + name
            if not name.endswith("/"):
                if key.startswith(prefix) and key > start_after and is_key(key):
                    yield from self._listed(key)
            elif _may_hold(key, prefix, start_after):
                yield from self._walk(key, prefix, start_after)

    def _listed(self, key: str) -> Iterator[Found]:
        try:
            status = os.stat(self._root / key, follow_symlinks=False)
        except FileNotFoundError:  # deleted since its directory was read
            return
        if stat.S_ISREG(status.st_mode):
            yield _found(key, status)

    # --- writing -----------------------------------------------------------------------------

    @contextmanager
    def _written(self, data: bytes) -> Iterator[NewFile]:
        """A file with these bytes in `.tmp/`, not yet synced; gone at the end unless it was renamed."""
        root = self._open_root()
        try:
            make_directory(_WRITING, root)
            directory = os.open(_WRITING, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=root)
        finally:
            os.close(root)
        try:
            self._sweep_once(directory)
            new = NewFile.create(directory)
            try:
                write_all(new.fd, data)
                yield new
            finally:
                new.discard()
        finally:
            os.close(directory)

    def _sweep_once(self, directory: int) -> None:
        """Remove what killed writers left; a living writer holds a lock on its file."""
        with self._synced_lock:
            if self._swept:
                return
            self._swept = True
        for name in os.listdir(directory):
            try:
                # For writing, or NFS would not lock it.
                fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except (FileNotFoundError, PermissionError):
                continue  # finished meanwhile, or another user's to remove
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=directory)
            except (BlockingIOError, FileNotFoundError):
                continue
            finally:
                os.close(fd)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The store's one lock, between threads and processes."""
        root = self._open_root()
        try:
            fd = os.open(_LOCK, _LOCK_FLAGS, FILE_MODE, dir_fd=root)
        finally:
            os.close(root)
        try:
            deadline_ns = self._clock.boottime_ns() + int(LOCK_WAIT_SECONDS * 1e9)
            while not try_lock(fd):
                if self._clock.boottime_ns() > deadline_ns:
                    raise StoreUnavailable(
                        f"lock the store {self.address}",
                        f"another process has held its lock for {LOCK_WAIT_SECONDS:.0f} s",
                        "look for a stopped process that has the .lock file open (lsof)",
                    )
                self._clock.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(fd)

    def _sync_directories(self, key: str, parent: int) -> None:
        """Make the key's entry durable, and once per run those of the directories above it.

        Also of those that another process made: it may die before it syncs them.
        """
        above = key.rpartition("/")[0]
        with self._synced_lock:
            self._unsure.add(above)
        os.fsync(parent)
        with self._synced_lock:
            self._unsure.discard(above)
            if above in self._synced:
                return
        while above:
            above = above.rpartition("/")[0]
            fd = os.open(self._root / above, _DIRECTORY_FLAGS)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        with self._synced_lock:
            if len(self._synced) >= SYNCED_DIRECTORIES_MAX:
                self._synced.clear()
            self._synced.add(key.rpartition("/")[0])

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise typed_error(error, f"{verb} {key} in {self.address}", verb) from error


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _may_hold(directory: str, prefix: str, start_after: str) -> bool:
    """Whether a wanted key can stand below `directory` (which ends in "/")."""
    if not is_key(directory[:-1]) or not (directory.startswith(prefix) or prefix.startswith(directory)):
        return False
    return directory > start_after or start_after.startswith(directory)


def _found(key: str, status: os.stat_result) -> Found:
    return Found(key=key, size=status.st_size, tag=tag_of(status), modified_ns=status.st_mtime_ns)
