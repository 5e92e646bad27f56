"""The directory of a rehearsal: fresh, its alone, and empty again at the end. Never anything outside of it.

What is written into it does not belong here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Final

from cdp_container.errors import AlreadyRunning, DeviceError, TargetNotEmpty, TargetUnsuitable
from rehydrate.localio import os_errors
from rehydrate.mounted import mounts_below

MARK_NAME: Final = ".dr-test"
"""A file that is there, and locked, as long as a rehearsal has the directory."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE: Final = 10_000
"""Names of a directory that are looked at together: it may have millions."""


class Workspace:
    """A directory that a rehearsal has taken."""

    def __init__(self, path: Path, made: bool, mark_fd: int) -> None:
        self.path = path
        self._made = made
        self._mark_fd = mark_fd

    def clear(self) -> int:
        """Remove all that is in it, but for the mark; gives how many names went.

        Raises DeviceError: something is mounted there, or cannot be removed.
        """
        what = f"clear {self.path}"
        mounts = mounts_below(self.path)
        if mounts:
            why = f"mounted there: {', '.join(map(str, mounts))}"
            raise DeviceError(what, why, "unmount it, then remove what is left")
        with os_errors(what):
            root = os.open(self.path, _DIRECTORY)
            try:
                return _emptied(root)
            finally:
                os.close(root)

    def leave(self) -> None:
        """Take the mark away, and the directory if it was made and is empty. Raises DeviceError."""
        if self._mark_fd < 0:
            return
        with os_errors(f"leave {self.path}"):
            (self.path / MARK_NAME).unlink(missing_ok=True)
            os.close(self._mark_fd)
            self._mark_fd = -1
            if self._made and not os.listdir(self.path):
                self.path.rmdir()

    def left(self) -> list[str]:
        """What stands in it still."""
        try:
            return sorted(str(self.path / name) for name in os.listdir(self.path) if name != MARK_NAME)
        except FileNotFoundError:
            return []


def _emptied(root: int) -> int:
    """Remove all but the mark from a directory, whatever its depth: what lies deeper is moved up first.

    Trees may be deeper than Python recurses and than descriptors may be open, and their modes may keep even
    their owner out.
    """
    gone, numbers = 0, count()
    while names := _some(root, but=MARK_NAME):
        for name, is_directory in names:
            if not is_directory:
                os.unlink(name, dir_fd=root)
                gone += 1
                continue
            os.chmod(name, 0o700, dir_fd=root)
            directory = os.open(name, _DIRECTORY, dir_fd=root)
            try:
                gone += _flattened(directory, root, numbers)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=root)
            gone += 1
    return gone


def _flattened(directory: int, root: int, numbers: Iterator[int]) -> int:
    """Remove what is in a directory, and move its directories up; gives how many names were removed."""
    gone = 0
    while names := _some(directory):
        for name, is_directory in names:
            if is_directory:
                os.chmod(name, 0o700, dir_fd=directory)
                os.rename(name, _free_name(root, numbers), src_dir_fd=directory, dst_dir_fd=root)
            else:
                os.unlink(name, dir_fd=directory)
                gone += 1
    return gone


def _some(directory: int, but: str = "") -> list[tuple[str, bool]]:
    """Some of the names in it, and whether each is a directory itself."""
    with os.scandir(directory) as entries:
        others = (entry for entry in entries if entry.name != but)
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(others, _AT_ONCE)]


def _free_name(root: int, numbers: Iterator[int]) -> str:
    """A name for what is moved up."""
    for number in numbers:
        name = f"{MARK_NAME}-{number}"
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name
    raise AssertionError("numbers do not end")


@contextmanager
def taken(path: Path) -> Iterator[Workspace]:
    """A directory that is new or empty; whoever has it clears it.

    Raises:
        TargetNotEmpty: it holds something.
        AlreadyRunning: another rehearsal has it.
        TargetUnsuitable, AccessDenied: it is none, or cannot be made.
    """
    what = f"take {path} for a rehearsal"
    with os_errors(what):
        real = Path(os.path.realpath(path))
        made = _made(real, what)
        try:
            fd = _marked(real, what)
        except BaseException:
            if made:
                real.rmdir()
            raise
    workspace = Workspace(real, made, fd)
    try:
        yield workspace
    finally:
        workspace.leave()


def _made(path: Path, what: str) -> bool:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise TargetUnsuitable(what, "it is no directory") from None
        return False
    except FileNotFoundError:
        raise TargetUnsuitable(what, f"{path.parent} does not exist", "create it first") from None
    return True


def _marked(path: Path, what: str) -> int:
    """The mark, made and locked. One that nobody has was left by a rehearsal that was killed."""
    names = os.listdir(path)
    if names and names != [MARK_NAME]:
        if MARK_NAME in names and _is_locked(path / MARK_NAME):
            raise AlreadyRunning(what, "another rehearsal has it", "choose another directory")
        killed = MARK_NAME in names
        why = f"it holds {names[0]!r}{' and more' if len(names) > 1 else ''}"
        hint = f"a rehearsal that was killed left it: remove {path}" if killed else "choose another directory"
        raise TargetNotEmpty(what, why, hint)
    fd = os.open(path / MARK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyRunning(what, "another rehearsal has it", "choose another directory") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_locked(mark: Path) -> bool:
    fd = os.open(mark, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
