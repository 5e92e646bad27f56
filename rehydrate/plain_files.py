"""Plain files made in a directory, many at once, by few calls each: here, or in a process that does no more.

    python -P -m rehydrate.plain_files DESCRIPTOR

The process is sent batches over a socket, each with the descriptor of its directory, and knows no paths. So
it imports nothing that takes time. Which files are plain, and what becomes of those that the file system
refuses, does not belong here (tree_making).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import Final, TypeAlias

DONE: Final = 0
NOT_MADE: Final = 1
"""The file system makes no files in this way; nothing is there."""
NOT_SET: Final = 2
"""It is there, and did not get its owner or time."""

Row: TypeAlias = tuple[int, int, int, int, int]
"""What a file is to have: mode, owner, group, time (ns), length. Where it is not empty it gets that alone."""
Batch: TypeAlias = tuple[Sequence[bytes], Sequence[Row]]
"""The names of files in one directory, and as many rows."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NODES: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EPERM})
_ROW: Final = struct.Struct("<HIIqq")
_HEAD: Final = struct.Struct("<II")
"""How many files, and the bytes of their names."""
_REPLY: Final = struct.Struct("<II")
"""The number of the error that ended it, or 0; how many outcomes follow, a byte each."""


def make_files(directory: int, batch: Batch) -> bytes:
    """Make new files; gives what came of each: DONE, NOT_MADE or NOT_SET.

    Raises OSError where one is refused for another reason; those before it are made then.
    """
    names, rows = batch
    outcomes = bytearray(len(names))
    me = os.geteuid(), os.getegid()
    for at, (name, (mode, uid, gid, mtime_ns, size_bytes)) in enumerate(zip(names, rows, strict=True)):
        if size_bytes:
            fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
            try:
                os.ftruncate(fd, size_bytes)
            finally:
                os.close(fd)
            continue
        try:
            os.mknod(name, stat.S_IFREG | mode, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NO_NODES:
                raise
            outcomes[at] = NOT_MADE
            continue
        try:
            if (uid, gid) != me:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)
        except OSError:
            outcomes[at] = NOT_SET
    return bytes(outcomes)


# --- the same in another process --------------------------------------------------------------------


def send_batch(channel: socket.socket, directory: int, batch: Batch) -> None:
    """Have a batch made by the process at the other end. Raises OSError where it is gone."""
    names, rows = batch
    joined = b"\0".join(names)
    data = _HEAD.pack(len(names), len(joined)) + joined + b"".join(starmap(_ROW.pack, rows))
    sent = socket.send_fds(channel, [data], [directory])
    channel.sendall(memoryview(data)[sent:])


def read_outcomes(channel: socket.socket) -> bytes:
    """What came of the oldest batch that was not asked for yet, as `make_files` gives it.

    Raises OSError as `make_files` does, and EOFError where the process is gone.
    """
    code, count = _REPLY.unpack(_exactly(channel, _REPLY.size))
    if code:
        raise OSError(code, os.strerror(code))
    return _exactly(channel, count)


def main() -> None:
    """Make what is asked for, until nobody is there to ask."""
    # Whoever asks is ended by signals and tells of it; we end with him.
    with socket.socket(fileno=int(sys.argv[1])) as channel, contextlib.suppress(ConnectionError, EOFError):
        while True:
            code, outcomes = 0, b""
            directory, batch = _asked(channel)
            try:
                outcomes = make_files(directory, batch)
            except OSError as error:
                code = error.errno or errno.EIO
            finally:
                os.close(directory)
            channel.sendall(_REPLY.pack(code, len(outcomes)) + outcomes)


def _asked(channel: socket.socket) -> tuple[int, Batch]:
    head, descriptors, _, _ = socket.recv_fds(channel, _HEAD.size, 1)
    if not descriptors:
        raise EOFError
    count, names_bytes = _HEAD.unpack(head + _exactly(channel, _HEAD.size - len(head)))
    names = _exactly(channel, names_bytes).split(b"\0")
    rows: Iterable[Row] = _ROW.iter_unpack(_exactly(channel, count * _ROW.size))
    return descriptors[0], (names, list(rows))


def _exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    left = memoryview(data)
    while left:
        taken = channel.recv_into(left)
        if not taken:
            raise EOFError
        left = left[taken:]
    return bytes(data)


if __name__ == "__main__":
    main()
