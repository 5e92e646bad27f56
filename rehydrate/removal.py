"""Removing directories with all that is in them, whatever their depth, modes and numbers of names.

By descriptors, without following links, and without recursion: what lies deeper is moved up first, within
what is removed. What is mounted there is to be refused before, by whoever calls: a mount ends it half-way.
What may be removed does not belong here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count, islice
from typing import Final

AT_ONCE: Final = 10_000
"""Names of a directory that are looked at together: it may have millions."""
MOVED_PREFIX: Final = ".removed"
"""What is moved up is called so, and a number."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_directory(parent: int, name: bytes) -> int:
    """Remove a directory and all in it; gives how many names went.

    Raises OSError; its `filename` is the whole path of what cannot be removed, where it stands now.
    """
    directory = _opened(parent, name)
    try:
        gone = empty_directory(directory)
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        raise _placed(error, parent, name) from error
    return gone + 1


def empty_directory(root: int, but: bytes = b"") -> int:
    """Remove all but one name from an open directory; otherwise as `remove_directory`."""
    gone, numbers = 0, count()
    while names := _some(root, but):
        for name, is_directory in names:
            try:
                if is_directory:
                    directory = _opened(root, name)
                    try:
                        gone += _flattened(directory, root, numbers)
                    finally:
                        os.close(directory)
                    os.rmdir(name, dir_fd=root)
                else:
                    os.unlink(name, dir_fd=root)
            except OSError as error:
                raise _placed(error, root, name) from error
            gone += 1
    return gone


def _flattened(directory: int, root: int, numbers: Iterator[int]) -> int:
    """Remove what is in a directory, and move its directories up; gives how many names were removed."""
    gone = 0
    while names := _some(directory):
        for name, is_directory in names:
            try:
                if is_directory:
                    os.chmod(name, 0o700, dir_fd=directory)  # what cannot be written cannot be moved
                    os.rename(name, _free_name(root, numbers), src_dir_fd=directory, dst_dir_fd=root)
                else:
                    os.unlink(name, dir_fd=directory)
                    gone += 1
            except OSError as error:
                raise _placed(error, directory, name) from error
    return gone


def _opened(parent: int, name: bytes) -> int:
    """Open a directory, though its mode may keep even its owner out."""
    try:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        raise _placed(error, parent, name) from error


def _some(directory: int, but: bytes = b"") -> list[tuple[bytes, bool]]:
    """Some of the names in it, and whether each is a directory itself."""
    with os.scandir(directory) as entries:
        found = ((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries)
        return list(islice((one for one in found if one[0] != but), AT_ONCE))


def _free_name(root: int, numbers: Iterator[int]) -> bytes:
    """A name for what is moved up."""
    for number in numbers:
        name = b"%s-%d" % (MOVED_PREFIX.encode(), number)
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name
    raise AssertionError("numbers do not end")


def _placed(error: OSError, directory: int, name: bytes) -> OSError:
    """The same error, of a path that people can look at."""
    if isinstance(error.filename, str) and os.path.isabs(error.filename):
        return error
    above = os.readlink(f"/proc/self/fd/{directory}")
    return OSError(error.errno, error.strerror, os.path.join(above, os.fsdecode(name)))
