"""The watcher without its process: what each request does, and what is done while there is none.

One thread: requests and `idle` take turns. The thread of events only marks what is dirty. What is in the
container is known by the index; whatever goes wrong with that, it is made anew, and until then no take is
answered. Where the machine fails it (a full disk) it is kept, and tried again. Sockets and signals do not
belong here (server.py, process.py).
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cdp_agent.watcher.anew import Image, make_anew
from cdp_agent.watcher.batch import write_batch
from cdp_agent.watcher.client import SWEEP_SECONDS_MAX, TAKE_SECONDS_MAX, Taken
from cdp_agent.watcher.dirty import DEEP, DIRTY_MAX, LOOK, READ, Dirty
from cdp_agent.watcher.events import Events
from cdp_agent.watcher.gathered import Limits
from cdp_agent.watcher.index import INDEX_NAME, WAL_PAGES_MAX, Index, is_passing
from cdp_agent.watcher.mounts import MountTable, path_below
from cdp_agent.watcher.page import FOLDER, Page, PageWriter
from cdp_agent.watcher.scan import Scan
from cdp_agent.watcher.settings import WatcherSettings
from cdp_agent.watcher.showing import shown
from cdp_agent.watcher.take import Hold, Outcome, Take
from cdp_agent.watcher.tree import Tree
from cdp_agent.watcher.tree_root import open_root
from cdp_agent.watcher.undo import begin_epoch, note_epoch, settle
from cdp_container.clock import Clock
from cdp_container.domain.tree_patterns import Patterns
from cdp_container.errors import CdpError, WatcherFailed
from cdp_container.format.limits import SKEWED_FILES_MAX
from cdp_container.format.place import Place

IDLE_SECONDS: Final = 0.02
"""For how long a scan goes on before requests are looked at again."""
TROUBLE_SECONDS: Final = 10.0
"""How often roots that are not there, paths that cannot be read, and a full disk are tried again."""
PAGE_BYTES: Final = 4096
ROOM_HINT: Final = "make room for the journal directory, or mend its disk; it is tried again"


class Watcher:
    """Everything of one process.

    Args:
        settings: which trees, and where.
        clock: of the machine.
        entropy: for ids.
        new_hold: gives what guests are held by.
        open_image: the trees as they are at a cut in the container, for an index that must be made anew.
        limits: of a batch.
        dirty_max: paths that may be dirty.
    """

    def __init__(
        self,
        settings: WatcherSettings,
        clock: Clock,
        entropy: Callable[[int], bytes],
        new_hold: Callable[[], Hold],
        open_image: Callable[[Place], Image],
        limits: Limits | None = None,
        dirty_max: int = DIRTY_MAX,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._new_hold = new_hold
        self._open_image = open_image
        self._limits = limits or Limits()
        self._folder = settings.directory / FOLDER
        self._page = PageWriter(settings.directory)
        self._publishing = threading.Lock()
        self._shown: Page | None = None
        self._more = 0
        self._generation = self._new_generation()
        self._epoch = 0
        self._ready = False
        self._anew: tuple[int, Place] | None = None
        self._anew_due_ns = 0
        self._again: tuple[int, Place] | None = None
        self._again_due_ns = 0
        self._undone: list[tuple[int, bytes]] = []
        self._undone_all = False
        self._dead = False
        self.last_error = ""
        self.trees = [
            Tree(number, tree, Patterns(tree.include, tree.exclude))
            for number, tree in enumerate(settings.trees)
        ]
        self._index = self._open_index()
        self._mounts = MountTable()
        self.dirty = Dirty(len(self.trees), dirty_max)
        self.events = Events(
            self._folder, self.dirty, [tree.patterns for tree in self.trees], clock, self._publish
        )
        self._publish()

    def close(self) -> None:
        """Let go of everything."""
        self.events.close()
        for tree in self.trees:
            tree.reset()
        self._index.close()
        self._mounts.close()
        self._page.close()

    # --- requests ---------------------------------------------------------------------------

    def begin(self, epoch: int, base: Place) -> None:
        """See `WatcherClient.begin`. Where the disk failed a moment ago it is done when it is tried again."""
        self._ready = False
        self._anew = None
        self._epoch, self._again = epoch, (epoch, base)
        if self._clock.boottime_ns() >= self._again_due_ns:
            self._begin(epoch, base)
        self._publish()

    def _begin(self, epoch: int, base: Place) -> None:
        self._again = None
        self._publish()
        known = False
        try:
            if self._index.is_closed:
                self._index = Index(self._index.path)
            self._index.begin()
            if self._index.meta("domain") == self._settings.domain:
                known = begin_epoch(self._index, epoch, base, self._found)
            if known:
                self._number_trees()
                self._index.commit()
            else:
                self._index.rollback()
        except sqlite3.Error as error:
            if is_passing(error):
                self._let_rest(error)
                self._again = epoch, base
                return
            self._drop_index(error)
            known = False
        if known:
            self._ready = True
        else:
            self._anew, self._anew_due_ns = (epoch, base), 0
            if not base:
                self._make_anew()

    def take(self, epoch: int, cut: int, hold: bool) -> Taken:
        """See `WatcherClient.take`; the batch's descriptor is the caller's. Raises WatcherFailed."""
        return self._answered(epoch, cut, hold, sweeps=False)

    def sweep(self, epoch: int, cut: int) -> Taken:
        """See `WatcherClient.sweep`; as `take`."""
        return self._answered(epoch, cut, hold=False, sweeps=True)

    def _answered(self, epoch: int, cut: int, hold: bool, sweeps: bool) -> Taken:
        if epoch != self._epoch:
            raise WatcherFailed("nothing can be taken", f"epoch {epoch} was not begun here")
        if not self._ready:
            why = self.last_error or "the index is being made anew"
            raise WatcherFailed("nothing can be taken", why)
        try:
            taken = self._take(epoch, cut, hold, sweeps)
        except (sqlite3.Error, OSError, CdpError) as error:
            self._fail(error)
            raise WatcherFailed("nothing can be taken", str(error)) from error
        self.last_error = ""  # what was wrong is over
        return taken

    def place(self, batch: int, epoch: int, cut: int) -> None:
        """See `WatcherClient.place`. Raises WatcherFailed: it is not noted; the streamer begins again."""
        with self._dropping():
            self._index.place_batch(batch, epoch, cut)

    def protected(self, epoch: int, cut: int) -> None:
        """See `WatcherClient.protected`; as `place`."""
        with self._dropping():
            self._index.begin()
            settle(self._index, epoch, cut)
            self._index.commit()

    def status(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "ready": self._ready,
            "generation": self._generation,
            "epoch": self._epoch,
            "error": self.last_error,
            "dirty": self.dirty.count,
            "watches": self.events.watches,
            "overflows": self.events.overflows,
            "trees": [shown(tree, self.dirty.is_in_doubt(tree.number)) for tree in self.trees],
        }

    # --- between requests -------------------------------------------------------------------

    def idle(self) -> bool:
        """Do a little of what is due; whether there is more to be done at once."""
        now_ns = self._clock.boottime_ns()
        if self._again is not None and now_ns >= self._again_due_ns:
            self._begin(*self._again)
            self._publish()
        if self._anew is not None and now_ns >= self._anew_due_ns:
            self._make_anew()
        if not self._ready:
            return False
        try:
            self._hear_of_mounts()
            busy = [self._idle_tree(tree) for tree in self.trees]
            self._work_log_in()
        except (sqlite3.Error, OSError, CdpError) as error:
            self._fail(error)
            return False
        self._publish()  # what a scan found, or is tried again, is known from nothing else
        return any(busy)

    def _idle_tree(self, tree: Tree) -> bool:
        now_ns = self._clock.boottime_ns()
        in_doubt = self.dirty.is_in_doubt(tree.number)
        if now_ns >= tree.retry_ns:
            tree.retry_ns = now_ns + int(TROUBLE_SECONDS * 1e9)
            for path in tree.troubles:
                tree.find(path, LOOK)
            for path in tree.mount_faults:
                tree.look_again(path)
            if tree.root_fault or tree.accept_root:
                open_root(tree, self._index, self.dirty, self.events)
        if tree.root_fault:
            return False
        is_due = tree.scan_wanted or now_ns >= tree.scan_due_ns
        if in_doubt or (tree.scan is None and is_due):
            self._begin_scan(tree, in_doubt)
        scan = tree.scan
        if scan is None:
            tree.let_go()
            return False
        until_ns = now_ns + int(IDLE_SECONDS * 1e9)
        while scan.step() and self._clock.boottime_ns() < until_ns:
            pass
        if scan.is_done:
            self._end_scan(tree, scan)
        return not scan.is_done and not scan.waits

    def _begin_scan(self, tree: Tree, in_doubt: bool) -> None:
        if in_doubt:
            tree.reset()
        if not open_root(tree, self._index, self.dirty, self.events):
            return
        with self.events.lock:
            self.dirty.begin_scan(tree.number)
        if tree.troubles or tree.troubles_more:
            tree.scanned = False  # whether they can be read is not known before it met them again
        tree.troubles.clear()
        tree.troubles_more = 0
        for path in tree.mount_faults:
            tree.look_again(path)
        tree.scan = Scan(tree, self._index, self.events, read=tree.read_all)
        tree.read_all = tree.scan_wanted = False
        tree.scans_begun += 1

    def _end_scan(self, tree: Tree, scan: Scan) -> None:
        tree.scan = None
        tree.scanned = True
        tree.scans_done = tree.scans_begun
        tree.names = scan.names
        if scan.watched:
            tree.unwatched = ""
        seconds = tree.settings.scan_seconds if scan.watched else self._settings.scan_unwatched_seconds
        tree.scan_due_ns = self._clock.boottime_ns() + int(seconds * 1e9)
        tree.let_go()
        self._more += 1

    def _hear_of_mounts(self) -> None:
        """Where something was mounted or unmounted is to be looked at; nothing else says so."""
        for point in self._mounts.changed():
            for tree in self.trees:
                path = path_below(point, os.path.realpath(os.fsencode(tree.settings.path)))
                if path is not None:
                    with self.events.lock:
                        self.dirty.add(tree.number, path, LOOK | DEEP)

    def _work_log_in(self) -> None:
        log = Path(f"{self._index.path}-wal")
        if log.exists() and log.stat().st_size > WAL_PAGES_MAX * PAGE_BYTES:
            self._index.checkpoint()

    # --- taking -----------------------------------------------------------------------------

    def _take(self, epoch: int, cut: int, hold: bool, sweeps: bool) -> Taken:
        for tree in self.trees:
            tree.left = False
        self._hear_of_mounts()
        usable = [tree for tree in self.trees if open_root(tree, self._index, self.dirty, self.events)]
        self._index.begin()
        seconds_max = SWEEP_SECONDS_MAX if sweeps else TAKE_SECONDS_MAX
        take = Take(
            usable, self.trees, self._index, self.events, self.dirty, self._clock, self._entropy,
            self._limits, self._new_hold() if hold else None, seconds_max,
        )  # fmt: skip
        outcome = take.run()
        fd, batch, records, content_bytes = self._give(outcome, epoch, cut)
        for tree in usable:
            if tree.number in outcome.changed and (outcome.full or outcome.unheld):
                tree.left = True
            tree.let_go()
        not_whole = tuple(tree.id for tree in self.trees if not self.is_whole(tree))
        for tree in self.trees:
            if tree.id not in not_whole:
                tree.whole()
            if tree.unwatched and not sweeps:
                tree.scanned = False  # what changes from now on is not heard of
                due_ns = self._clock.boottime_ns() + int(self._settings.scan_unwatched_seconds * 1e9)
                tree.scan_due_ns = min(tree.scan_due_ns, due_ns)
        self._dead = self._index.has_dead()
        self._more += bool(not_whole) or self._dead
        self._publish()
        skewed = [file for key, file in sorted(outcome.skewed.items()) if key[0] not in not_whole]
        return Taken(
            batch, fd, outcome.position, outcome.seen_ns, not_whole,
            tuple(skewed[:SKEWED_FILES_MAX]), max(0, len(skewed) - SKEWED_FILES_MAX), records, content_bytes,
            outcome.full,
        )  # fmt: skip

    def _give(self, outcome: Outcome, epoch: int, cut: int) -> tuple[int | None, int, int, int]:
        """Write the batch and note it durably; gives descriptor, number, records and bytes."""
        gathered = outcome.gathered
        if gathered.is_empty:
            self._index.commit()
            return None, 0, 0, 0
        last = self._index.meta("batch")
        number = (last if isinstance(last, int) else 0) + 1
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
            facts = write_batch(file, number, gathered.records(), gathered.extents())
            self._index.set_meta("batch", number)
            gathered.note(self._index, number, epoch, cut)
            # Durable before it is given away: what the container may get is always known here.
            self._index.commit()
            file.seek(0)
            return os.dup(file.fileno()), number, facts.records, facts.content_bytes

    def is_whole(self, tree: Tree) -> bool:
        """Whether the container holds all of a tree with what was gathered last."""
        return not (
            tree.root_fault
            or not tree.scanned
            or tree.left
            or tree.found
            or tree.deep
            or tree.suspended
            or tree.troubles
            or tree.troubles_more
            or tree.mount_faults
            or self.dirty.is_in_doubt(tree.number)
        )

    # --- the index --------------------------------------------------------------------------

    def _open_index(self) -> Index:
        """At the start. Raises WatcherFailed where the machine fails it: the index may be sound."""
        path = self._folder / INDEX_NAME
        try:
            try:
                return Index(path)
            except sqlite3.Error as error:
                if is_passing(error):
                    raise
                self.last_error = f"the index was damaged: {error}"
                _remove_database(path)
                return Index(path)
        except (sqlite3.Error, OSError) as error:
            raise WatcherFailed("file trees cannot be watched", f"{path}: {error}", ROOM_HINT) from error

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """What could not be noted is as if it had not been asked for: the streamer begins again."""
        if self._index.is_closed:
            raise WatcherFailed("nothing can be noted", self.last_error)
        try:
            yield
        except sqlite3.Error as error:
            self._fail(error)
            raise WatcherFailed("nothing can be noted", str(error)) from error

    def _drop_index(self, error: Exception) -> None:
        self.last_error = f"the index is damaged: {error}"
        self._index.close()
        try:
            self._index = self._empty_index()
        except (sqlite3.Error, OSError) as worse:
            self._let_rest(worse)

    def _empty_index(self) -> Index:
        _remove_database(self._index.path)
        return Index(self._index.path)

    def _let_rest(self, error: Exception) -> None:
        """The disk fails: what is in the index stays, and is looked at again in a while."""
        self._index.close()
        self.last_error = f"{self._index.path} cannot be used: {error}; it is tried again"
        self._again_due_ns = self._clock.boottime_ns() + int(TROUBLE_SECONDS * 1e9)

    def _make_anew(self) -> None:
        assert self._anew is not None
        epoch, base = self._anew
        self._index.close()
        try:
            self._index = self._empty_index()
            self._index.begin()
            if base:
                make_anew(self._index, self._open_image(base))
            self._index.set_meta("domain", self._settings.domain)
            note_epoch(self._index, epoch, base)
            self._index.commit()
        except (CdpError, sqlite3.Error, OSError) as error:
            self._index.close()  # what is in it is of no domain yet
            self.last_error = f"the index cannot be made anew: {error}"
            self._anew_due_ns = self._clock.boottime_ns() + int(TROUBLE_SECONDS * 1e9)
            return
        self._anew = None
        self._number_trees()
        self._doubt_all()
        self._ready = True
        self.last_error = ""
        self._publish()

    def _number_trees(self) -> None:
        known = {row.tree: row for row in self._index.trees() if not row.gone}
        for tree in self.trees:
            row = known.get(tree.id)
            tree.row = self._index.add_tree(tree.id) if row is None else row.number
        numbers = {tree.row: tree.number for tree in self.trees}
        with self.events.lock:
            for row_number, path in self._undone:
                if row_number in numbers:
                    self.dirty.add(numbers[row_number], path, LOOK | READ)
            if self._undone_all:
                self.dirty.doubt_all()
        self._undone.clear()
        self._undone_all = False

    def _found(self, tree_row: int, path: bytes) -> None:
        if len(self._undone) < DIRTY_MAX:
            self._undone.append((tree_row, path))
        else:
            self._undone_all = True

    def _doubt_all(self) -> None:
        with self.events.lock:
            self.dirty.doubt_all()
        for tree in self.trees:
            tree.reset()

    def _fail(self, error: Exception) -> None:
        """Something unexpected: whatever was under way did not happen, and the streamer begins again."""
        self.last_error = str(error)
        fault = error
        if not isinstance(error, sqlite3.Error):
            try:
                self._index.rollback()
            except sqlite3.Error as worse:
                fault = worse
        if isinstance(fault, sqlite3.Error):
            (self._let_rest if is_passing(fault) else self._drop_index)(fault)
        self._doubt_all()
        self._ready = False
        self._generation = self._new_generation()
        self._publish()

    def _new_generation(self) -> int:
        return int.from_bytes(self._entropy(8), "little") or 1

    def _publish(self) -> None:
        with self._publishing:
            changes = self.dirty.changes + self._more
            page = Page(self._generation, changes, self._epoch, self._ready, self._is_dirty())
            if page != self._shown:
                self._page.publish(page)
                self._shown = page

    def _is_dirty(self) -> bool:
        waiting = any(tree.found or tree.deep or tree.suspended or tree.left for tree in self.trees)
        return waiting or self._dead or self.dirty.anything


def _remove_database(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
