"""Making the plain files of a restored tree, which are most names of most trees; of many, by more processes.

Whoever walks the names hands out those that are new, stand in a directory that we made, and have no other
names; all else he makes himself. What a name needs when something of that is not so does not belong here
(tree_target), nor how a batch is made (plain_files).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Final

from cdp_container.domain.namespace import Entry
from cdp_container.format.names import Name
from rehydrate.plain_files import DONE, NOT_MADE, Batch, make_files, read_outcomes, send_batch
from rehydrate.tree_attributes import Attributes

TOGETHER_MAX: Final = 1_000
"""Names of one directory that are handed out at once."""
ALONE: Final = 2_000
"""Files that are made before others are asked to help, which takes as long as to make these."""
PROCESSES: Final = 2
"""Python runs one thread at a time, and half of the work is Python's: threads would only wait for each other.
With more than two the file system's own locks are what is waited for."""
WAITING_MAX: Final = 4
"""Hand-outs to one process that are not done yet; some 500 KiB each."""
FEW: Final = 8
"""Files of one directory that are made sooner than asked for."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SPECIAL: Final = stat.S_ISUID | stat.S_ISGID
_STATUS: Final = Path("/proc/self/status")
_ROW: Final = itemgetter(*map(Name._fields.index, ("mode", "uid", "gid", "mtime_ns", "size_bytes")))


class Makers:
    """Makes files; to be closed. Errors come as OSError, from whichever call comes next.

    `descend` opens a directory by its path.
    """

    def __init__(self, attributes: Attributes, descend: Callable[[bytes], int]) -> None:
        self._attributes = attributes
        self._descend = descend
        self._refused = _SPECIAL | _umask()
        self._is_root = attributes.me.uid == 0
        self._alone = ALONE if len(os.sched_getaffinity(0)) > 1 else None
        self._processes: deque[_Process] = deque()

    def make(self, parent: bytes, entries: Sequence[Entry]) -> int:
        """Have files made, TOGETHER_MAX at most; gives how many were done since the last call."""
        simple = []
        for entry in entries:
            if entry.what.size_bytes or self._is_simple(entry.what):
                simple.append(entry)
            else:
                self._make_by_hand(parent, entry, is_there=False)
        done = len(entries) - len(simple)
        if not simple:
            return done
        if len(simple) <= FEW or not self._has_help(len(simple)):
            return done + self._finish(parent, simple, make_files(self._descend(parent), _batch(simple)))
        process = self._processes[0]
        self._processes.rotate()
        if len(process.waiting) == WAITING_MAX:
            done += self._collect(process)
        process.hand_out(self._descend(parent), parent, simple)
        return done

    def finish(self) -> int:
        """Wait until all are made; gives how many were done since the last call."""
        done = 0
        for process in self._processes:
            while process.waiting:
                done += self._collect(process)
        return done

    def close(self) -> None:
        """Wait for what is under way, and let go."""
        for process in self._processes:
            process.end()
        self._processes.clear()

    def _has_help(self, count: int) -> bool:
        """Whether there are processes to make so many files; they are begun once it is worth while."""
        if self._processes or self._alone is None:
            return bool(self._processes)
        self._alone -= count
        if self._alone <= 0:
            self._alone = None
            with contextlib.suppress(OSError):  # where there is no room for them we do it alone
                for _ in range(PROCESSES):
                    self._processes.append(_Process())
        return bool(self._processes)

    def _collect(self, process: _Process) -> int:
        parent, entries = process.waiting.popleft()
        return self._finish(parent, entries, process.outcomes())

    def _finish(self, parent: bytes, entries: Sequence[Entry], outcomes: bytes) -> int:
        """What could not be done in few calls."""
        if any(outcomes):
            for entry, outcome in zip(entries, outcomes, strict=True):
                if outcome != DONE:
                    self._make_by_hand(parent, entry, is_there=outcome != NOT_MADE)
        return len(entries)

    def _is_simple(self, name: Name) -> bool:
        """Whether an empty file gets all that it needs by two or three calls, without being opened."""
        if name.xattrs or name.mode & self._refused:
            return False
        return self._is_root or self._attributes.me.owns(name)

    def _make_by_hand(self, parent: bytes, entry: Entry, is_there: bool) -> None:
        """An empty file: what is refused is noted."""
        fd = os.open(entry.name, _OPEN if is_there else _CREATE, 0o600, dir_fd=self._descend(parent))
        try:
            self._attributes.set_open(entry.path, fd, entry.what)
        finally:
            os.close(fd)


class _Process:
    """One that makes files; `waiting` are those whose outcomes were not asked for yet, the oldest first."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, Sequence[Entry]]] = deque()
        self._channel, other = socket.socketpair()
        with other:
            argv = [sys.executable, "-P", "-m", "rehydrate.plain_files", str(other.fileno())]
            try:
                # A group of its own: an interruption is for us, and what it began is done then.
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()], process_group=0
                )
            except OSError:
                self._channel.close()
                raise

    def hand_out(self, directory: int, parent: bytes, entries: Sequence[Entry]) -> None:
        """Have files made in an open directory."""
        self.waiting.append((parent, entries))
        with self._there():
            send_batch(self._channel, directory, _batch(entries))

    def outcomes(self) -> bytes:
        """Of the oldest that waits."""
        with self._there():
            return read_outcomes(self._channel)

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise OSError(f"a process that makes files ended ({self._process.wait()})") from error

    def end(self) -> None:
        """It ends with what it has begun."""
        self._channel.close()
        self._process.wait()


def _batch(entries: Sequence[Entry]) -> Batch:
    return [entry.name for entry in entries], [_ROW(entry.what) for entry in entries]


def _umask() -> int:
    """What the kernel takes from every new mode; all bits where it does not say."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o7777
