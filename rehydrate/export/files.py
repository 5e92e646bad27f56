"""Where an image grows and gets its name: `NAME.partial/NAME`, synced, then renamed.

A directory of its own, because a VMDK holds the name under which it was made. Raw restores have their own
rules (rehydrate.file_target); what is written into the image does not belong here (convert).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.errors import TargetNotEmpty, TargetUnsuitable, counted
from rehydrate.file_target import check_room, name_new, partial_path
from rehydrate.localio import lock_alone, os_errors, sync_directory
from rehydrate.users import users_of

LOCK_NAME: Final = "export.lock"
_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700


@dataclass(slots=True)
class Place:
    """Where one image grows: `inner` is for whoever writes it; `overwrites` what `force` agreed to lose.

    `replaces`: something has the name already; without `force` that was empty, and must be so still.
    """

    path: Path
    inner: Path
    overwrites: str
    replaces: bool
    force: bool

    def finish(self) -> None:
        """Make the image durable, and only then give it its name. Raises as `os_errors`, TargetNotEmpty."""
        with os_errors(f"finish {self.path}"):
            fd = os.open(self.inner, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fchmod(fd, _MODE)
                os.fsync(fd)
            finally:
                os.close(fd)
            if self.replaces:
                check_target(self.path, self.force)
                os.rename(self.inner, self.path)
            else:
                name_new(self.inner, self.path)
            sync_directory(self.path.parent)


def check_target(path: Path, force: bool) -> str:
    """What `force` would lose at a path; empty for nothing. Nothing is changed.

    Raises:
        TargetNotEmpty: it holds something, and there is no `force`.
        TargetUnsuitable: its directory does not exist, or it is no file.
    """
    what = f"export into {path}"
    with os_errors(what):
        if not path.parent.is_dir():
            raise TargetUnsuitable(what, f"the directory {path.parent} does not exist", "create it first")
        if path.is_symlink():
            raise TargetUnsuitable(what, f"it is a link to {os.path.realpath(path)}", "name that itself")
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return ""
        if not stat.S_ISREG(status.st_mode):
            why = "it is no file" + (": `restore` writes to devices" if stat.S_ISBLK(status.st_mode) else "")
            raise TargetUnsuitable(what, why)
        held = [f"{path} holds {counted(status.st_size, 'byte')}"] if status.st_size else []
        held += users_of(path, status)
        if held and not force:
            raise TargetNotEmpty(what, "; ".join(held))
        return "; ".join(held)


@contextmanager
def image_place(path: Path, write_bytes: int, force: bool) -> Iterator[Place]:
    """A place for an image; what is left of it at the end of the block is removed.

    Args:
        path: where the image is to be.
        write_bytes: how many it will take at least, to see at once whether there is room.
        force: replace what is there.

    Raises:
        TargetNotEmpty, TargetUnsuitable: see `check_target`; somebody else's thing lies in the way.
        AlreadyRunning: another export makes this very image, or an agent serves what is there.
        LocalDiskFull: the file system has no room for it.
    """
    what = f"export into {path}"
    overwrites = check_target(path, force)
    directory = partial_path(path)
    fds: list[int] = []
    try:
        with os_errors(what):
            replaces = path.exists()
            if replaces:
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
                lock_alone(fds[-1], path, what)
            fds.append(_own_directory(directory, path.name, what))
        try:
            with os_errors(what):
                check_room(path.parent, write_bytes, what)
            yield Place(path, directory / path.name, overwrites, replaces, force)
        finally:
            _remove(directory, path.name)
    finally:
        for fd in fds:
            os.close(fd)


def _own_directory(directory: Path, name: str, what: str) -> int:
    """A directory that only this export uses, empty but for its lock; gives the lock.

    What an export that was killed left there goes; what nobody of us put there does not.
    """
    try:
        os.mkdir(directory, _DIRECTORY_MODE)
    except FileExistsError:
        if directory.is_symlink() or not directory.is_dir():
            why = f"{directory}, where the image is made until it is whole, is something else"
            raise TargetUnsuitable(what, why, "remove it, or choose another target") from None
    strange = sorted(set(os.listdir(directory)) - {name, LOCK_NAME})
    if strange:
        why = f"{directory}, where the image is made until it is whole, holds {strange[0]}"
        raise TargetUnsuitable(what, why, "remove it, or choose another target")
    lock = directory / LOCK_NAME
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        lock_alone(fd, lock, what)
        (directory / name).unlink(missing_ok=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _remove(directory: Path, name: str) -> None:
    """What cannot be removed is in nobody's way: the next export of this name takes it over."""
    with suppress(OSError):
        (directory / name).unlink(missing_ok=True)
        (directory / LOCK_NAME).unlink(missing_ok=True)
        directory.rmdir()
