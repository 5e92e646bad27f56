"""The directory of a rehearsal: fresh, its alone, and empty again at the end. Never anything outside of it.

What is written into it does not belong here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cdp_container.errors import AccessDenied, AlreadyRunning, DeviceError, TargetNotEmpty, TargetUnsuitable
from rehydrate.localio import os_errors
from rehydrate.mounted import mounts_below
from rehydrate.removal import empty_directory

MARK_NAME: Final = ".dr-test"
"""A file that is there, and locked, as long as a rehearsal has the directory."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DENIED_HINT: Final = (
    "`lsattr -d` of it shows whether it is immutable (`chattr -i`); then remove what is left"
)


class Workspace:
    """A directory that a rehearsal has taken; wherever a check moved it, it is cleared there.

    Args:
        path: where it was taken.
        made: whether it was not there before.
        directory: its descriptor, and that of the mark; they are closed at the end.
        mark: likewise.
    """

    def __init__(self, path: Path, made: bool, directory: int, mark: int) -> None:
        self.path = path
        self._made = made
        self._directory = directory
        self._mark = mark

    def clear(self) -> int:
        """Remove all that is in it, but for the mark; gives how many names went.

        Raises AccessDenied, DeviceError: something is mounted there, or cannot be removed; it is named.
        """
        here = self._here()
        if here is None:
            return 0  # a check did that
        what = f"clear {here}"
        mounts = mounts_below(here)
        if mounts:
            why = f"mounted there: {', '.join(map(str, mounts))}"
            raise DeviceError(what, why, "unmount it, then remove what is left")
        try:
            return empty_directory(self._directory, but=MARK_NAME.encode())
        except PermissionError as error:
            why = f"{error.filename} cannot be removed: {error.strerror}"
            raise AccessDenied(what, why, _DENIED_HINT) from error
        except OSError as error:
            with os_errors(f"{what}: remove {error.filename}"):
                raise

    def leave(self) -> None:
        """Take the mark away, and the directory if it was made and is empty. Raises DeviceError."""
        if self._mark < 0:
            return
        with os_errors(f"leave {self.path}"):
            try:
                with suppress(FileNotFoundError):
                    os.unlink(MARK_NAME, dir_fd=self._directory)
                here = self._here()
                if self._made and here is not None and not os.listdir(self._directory):
                    here.rmdir()
            finally:
                os.close(self._mark)
                os.close(self._directory)
                self._mark = self._directory = -1

    def left(self) -> list[str]:
        """What stands in it still."""
        here = self._here()
        if here is None:
            return []
        return sorted(str(here / name) for name in os.listdir(self._directory) if name != MARK_NAME)

    def _here(self) -> Path | None:
        """Where it is now; None where it was removed."""
        if not os.fstat(self._directory).st_nlink:
            return None
        return Path(os.readlink(f"/proc/self/fd/{self._directory}"))


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
        directory = -1
        try:
            directory = os.open(real, _DIRECTORY)
            mark = _marked(real, what)
        except BaseException:
            if directory >= 0:
                os.close(directory)
            if made:
                real.rmdir()
            raise
    workspace = Workspace(real, made, directory, mark)
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
