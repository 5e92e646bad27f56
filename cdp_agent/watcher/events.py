"""What the kernel tells of changes (inotify), as dirty paths; and how to be sure that all of it was heard.

One instance watches every directory of every tree, and the directory of the sentinel. A watch follows its
directory wherever that is moved, so the path that goes with it is what was true when it was set last: a
directory that was moved is walked again, which sets it anew before it looks at anything there. Only the path
of an event counts here; what happened to it is found out by looking.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from watchdog.observers.inotify_c import InotifyConstants as In
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD, Mask, inotify_add_watch, inotify_rm_watch

from cdp_agent.watcher.dirty import DEEP, LOOK, READ, Dirty
from cdp_container.clock import Clock
from cdp_container.domain.tree_patterns import Patterns
from cdp_container.errors import WatcherFailed

DRAIN_SECONDS_MAX: Final = 10.0
"""A sentinel that was not heard of by then: events are not to be trusted."""
DRAINS_MAX: Final = 5
"""Overflows in a row while one sentinel is waited for; all trees are in doubt anyway by then."""
LIMIT_FILE: Final = Path("/proc/sys/fs/inotify/max_user_watches")
WATCHES_ADVISED: Final = 1 << 20
"""What the limit should at least be raised to: a watch that is used takes the kernel about 1 KiB."""
SENTINEL_FOLDER: Final = "sentinel"

_CONTENT: Final = In.IN_MODIFY | In.IN_CLOSE_WRITE
_ENTRIES: Final = In.IN_CREATE | In.IN_DELETE | In.IN_MOVED_FROM | In.IN_MOVED_TO
_APPEARED: Final = In.IN_CREATE | In.IN_MOVED_TO
_ROOT_GONE: Final = In.IN_DELETE_SELF | In.IN_MOVE_SELF
_MASK: Final = Mask(_CONTENT | _ENTRIES | In.IN_ATTRIB | In.IN_ONLYDIR | In.IN_EXCL_UNLINK)


class WatchLimit(Exception):
    """The kernel allows no more watches, or none here."""


class _Inotify(InotifyFD):
    """Gives events on in the pieces in which they are read; keeps no books of its own."""

    def __init__(self, sink: Callable[[Sequence[InotifyEvent]], None]) -> None:
        super().__init__()
        self.name = "events"
        self._sink = sink

    def run(self) -> None:
        while self.should_keep_running():
            events = self.read_events()
            if events:
                self._sink(events)

    def add(self, path: bytes, mask: Mask) -> int:
        wd = int(inotify_add_watch(self._inotify_fd, path, mask))
        if wd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return wd

    def remove(self, wd: int) -> None:
        inotify_rm_watch(self._inotify_fd, wd)  # type: ignore[arg-type]  # one that is gone already is no error


def _advice(error: OSError) -> str:
    if error.errno != errno.ENOSPC:
        return f"the kernel tells of no changes there: {error.strerror}"
    try:
        limit = int(LIMIT_FILE.read_text())
    except (OSError, ValueError):
        limit = WATCHES_ADVISED // 2
    wanted = max(2 * limit, WATCHES_ADVISED)
    return f"it has more directories than may be watched: sysctl fs.inotify.max_user_watches={wanted}"


class Events:
    """Watches directories, and marks what changes as dirty.

    Args:
        folder: the watcher's own, where the sentinel appears.
        dirty: shared; whoever uses it holds `lock`.
        patterns: of each tree: what they leave out is no change.
        clock: to give up waiting.
        changed: called by the thread of events when something became dirty.
    """

    def __init__(
        self,
        folder: Path,
        dirty: Dirty,
        patterns: Sequence[Patterns],
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.lock = threading.Lock()
        self._heard = threading.Condition(self.lock)
        self._dirty = dirty
        self._patterns = patterns
        self._clock = clock
        self._changed = changed
        self._where: dict[int, tuple[int, bytes]] = {}
        self._watches: list[dict[bytes, int]] = [{} for _ in patterns]
        self._sentinels = 0
        self._seen = b""
        self.overflows = 0
        self._folder = folder / SENTINEL_FOLDER
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.iterdir():
            left.unlink()
        try:
            self._inotify = _Inotify(self._take)
            self._sentinel_wd = self._inotify.add(os.fsencode(self._folder), Mask(In.IN_CREATE))
        except OSError as error:
            raise WatcherFailed(
                "cannot watch file trees", error.strerror or "inotify is refused",
                "raise the limit: sysctl fs.inotify.max_user_instances=1024",
            ) from error  # fmt: skip
        self._inotify.start()

    @property
    def watches(self) -> int:
        """How many directories are watched."""
        return len(self._where)

    def close(self) -> None:
        """Stop watching."""
        self._inotify.stop()
        self._inotify.join()

    def watch(self, tree: int, path: bytes, fd: int) -> None:
        """Watch an open directory, of which this is the path now.

        Raises:
            WatchLimit: the kernel's limit is reached, or the file system tells nothing.
        """
        mask = _MASK if path else Mask(_MASK | _ROOT_GONE)
        with self.lock:
            try:
                wd = self._inotify.add(b"/proc/self/fd/%d" % fd, mask)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return  # it was removed meanwhile: its directory tells
                raise WatchLimit(_advice(error)) from error
            before = self._where.get(wd)
            if before is not None and self._watches[before[0]].get(before[1]) == wd:
                del self._watches[before[0]][before[1]]
            self._where[wd] = tree, path
            self._watches[tree][path] = wd

    def is_watched(self, tree: int, path: bytes) -> bool:
        """Whether some directory is watched that was at this path when it was looked through."""
        return path in self._watches[tree]

    def forget(self, tree: int, path: bytes) -> None:
        """There is no directory at this path any more, or none that belongs to the tree."""
        with self.lock:
            wd = self._watches[tree].pop(path, None)
            if wd is not None and self._where.get(wd) == (tree, path):
                del self._where[wd]
                self._inotify.remove(wd)

    def drain(self) -> None:
        """Return when everything that was done before was heard of. Raises WatcherFailed, OSError."""
        until_ns = self._clock.boottime_ns() + int(DRAIN_SECONDS_MAX * 1e9)
        for _ in range(DRAINS_MAX):
            overflows = self.overflows
            self._sentinels += 1
            name = b"%d" % self._sentinels
            path = os.path.join(os.fsencode(self._folder), name)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            os.unlink(path)
            with self.lock:
                while self._seen != name and self.overflows == overflows:
                    left = (until_ns - self._clock.boottime_ns()) / 1e9
                    if left <= 0 or not self._inotify.is_alive():
                        self._dirty.doubt_all()
                        raise WatcherFailed("file trees are not watched", "the kernel's events do not come")
                    self._heard.wait(min(left, 1.0))
                if self._seen == name:
                    return

    def overflow(self) -> None:
        """Events were lost: everything is in doubt."""
        self.overflows += 1
        self._dirty.doubt_all()
        self._heard.notify_all()

    def _take(self, events: Sequence[InotifyEvent]) -> None:
        with self.lock:
            before = self._dirty.changes
            for event in events:
                self._take_one(event.wd, event.mask, event.name)
            changed = self._dirty.changes != before
        if changed:
            self._changed()

    def _take_one(self, wd: int, mask: int, name: bytes) -> None:
        if mask & In.IN_Q_OVERFLOW:
            self.overflow()
            return
        if wd == self._sentinel_wd:
            self._seen = name
            self._heard.notify_all()
            return
        where = self._where.get(wd)
        if where is None:
            return
        tree, path = where
        if mask & In.IN_IGNORED:
            del self._where[wd]
            if self._watches[tree].get(path) == wd:
                del self._watches[tree][path]
            return
        add = self._dirty.add
        if not name:
            add(tree, path, LOOK)
            return
        below = path + b"/" + name if path else name
        is_directory = bool(mask & In.IN_ISDIR)
        if self._patterns[tree].excludes(below, is_directory):
            return
        bits = LOOK
        if mask & _CONTENT:
            bits |= READ
        elif mask & _ENTRIES:
            add(tree, path, LOOK)  # its time changed, and no event says so
            if is_directory and mask & _APPEARED:
                bits |= DEEP
        add(tree, below, bits)
