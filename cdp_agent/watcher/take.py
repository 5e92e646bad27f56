"""One take: what the trees have at one instant, under a hold of the guests' writes where there are some.

First everything that is dirty is looked at without hurry. Then, under the hold, events are drained and what
changed meanwhile is looked at, until a drain brings nothing: the trees are at that instant as they were
gathered, and the volumes are at the held tail. Where that does not come in time, the instant is the last
drain under the hold, and what changed between it and its being read is skewed. How a path is looked at does
not belong here (round.py), nor what becomes of the batch (core.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cdp_agent.watcher.dirty import Dirty
from cdp_agent.watcher.events import Events
from cdp_agent.watcher.gathered import Gathered, Limits
from cdp_agent.watcher.hold_client import HOLD_SECONDS_MAX
from cdp_agent.watcher.index import Index
from cdp_agent.watcher.round import Round
from cdp_agent.watcher.tree import Tree
from cdp_container.clock import Clock
from cdp_container.errors import WatcherFailed
from cdp_container.format.names import SkewedFile
from cdp_container.journal.position import Position

PASSES_MAX: Final = 4
"""Passes without a hold: what is dirty after them is written all the time."""
HELD_PASSES_MAX: Final = 8
"""Passes under one hold."""
HELD_WORK_SECONDS: Final = 0.04
"""After this no other pass is begun under the hold; one that lasts longer lets go of it."""

Work = dict[int, dict[bytes, int]]
"""Dirty paths and their bits, by the number of their tree."""


class Hold(Protocol):
    """The splitter's hold, as `HoldClient` has it."""

    def hold(self) -> Position: ...  # noqa: D102

    def release(self) -> bool: ...  # noqa: D102


@dataclass(slots=True)
class Outcome:
    """What a take came to.

    Attributes:
        gathered: the batch.
        position: the tail under the hold.
        seen_ns: the instant, by the wall clock.
        skewed: what changed between the instant and its being read.
        changed: numbers of the trees with anything to look at.
        unheld: no hold was to be had.
        full: a limit ended it: there was no instant for what changed.
    """

    gathered: Gathered
    position: Position | None = None
    seen_ns: int = 0
    skewed: dict[tuple[bytes, bytes], SkewedFile] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    unheld: bool = False
    full: bool = False


class Take:
    """Runs once.

    Args:
        trees: those with an open root.
        protected: all of the domain, those too that nothing can be said of now.
        index: within a transaction.
        events: watch the trees.
        dirty: shared with `events`.
        clock: for limits of time.
        entropy: for ids.
        limits: of the batch.
        hold: to be asked for; None where guests need not be held.
        seconds_max: for how long it looks and reads.
    """

    def __init__(
        self,
        trees: Sequence[Tree],
        protected: Sequence[Tree],
        index: Index,
        events: Events,
        dirty: Dirty,
        clock: Clock,
        entropy: Callable[[int], bytes],
        limits: Limits,
        hold: Hold | None,
        seconds_max: float,
    ) -> None:
        self._trees = trees
        self._protected = protected
        self._events = events
        self._dirty = dirty
        self._clock = clock
        self._hold = hold
        self._held_ns = 0
        self._kept = True
        self._until_ns = clock.boottime_ns() + int(seconds_max * 1e9)
        gathered = Gathered(limits, self._goes_on)
        self._round = Round(index, events, clock, entropy, gathered)
        self._outcome = Outcome(gathered)

    def run(self) -> Outcome:
        """Take. Raises WatcherFailed, OSError, sqlite3.Error: then nothing of it counts."""
        outcome = self._outcome
        try:
            work = self._drained()
            for _ in range(PASSES_MAX):
                if not self._is_any(work):
                    break
                self._pass(work)
                work = {}
                if outcome.gathered.is_full:
                    break
                work = self._drained()
            if outcome.changed and not outcome.gathered.is_full:
                self._take_instant(work)
            else:
                self._put_back(work)  # time ran out while it was drained
        finally:
            self._release()
        outcome.full = outcome.gathered.is_full
        self._round.finish(self._protected)
        outcome.skewed.update(self._round.unsteady)
        return outcome

    # --- passes -----------------------------------------------------------------------------

    def _drained(self) -> Work:
        """Everything that was done until now, as far as it is not taken yet."""
        self._outcome.seen_ns = self._clock.wall_ns()
        self._events.drain()
        return self._swapped()

    def _swapped(self) -> Work:
        with self._events.lock:
            work = {tree.number: self._dirty.take(tree.number) for tree in self._trees}
        for tree in self._trees:
            if work[tree.number]:
                self._outcome.changed.add(tree.number)
        return work

    def _is_any(self, work: Mapping[int, Mapping[bytes, int]]) -> bool:
        waiting = any(tree.found or tree.deep or tree.suspended or tree.missed_name for tree in self._trees)
        return waiting or any(work.values())

    def _pass(self, work: Work) -> None:
        """Look at all of it, and at what scans find; what is too much becomes dirty again."""
        full = self._outcome.gathered
        for tree in self._trees:
            if tree.found or tree.deep or tree.suspended or tree.missed_name:
                self._outcome.changed.add(tree.number)
            if not full.is_full:
                self._round.resume(tree)
            self._look(tree, work.get(tree.number, {}))
            while not full.is_full and (tree.found or tree.deep):
                if tree.found:
                    found, tree.found = tree.found, {}
                    self._look(tree, found)
                elif not tree.deep[-1].step():
                    tree.deep = [scan for scan in tree.deep if not scan.is_done]
            if tree.missed_name and not full.is_full:
                self._round.doubt()
                self._look(tree, tree.take_linked())
                tree.missed_name = False
            tree.open_root.let_go()

    def _look(self, tree: Tree, items: Mapping[bytes, int]) -> None:
        gathered, look = self._outcome.gathered, self._round.look
        left = {path: bits for path, bits in items.items() if gathered.is_full or not look(tree, path, bits)}
        if left:
            tree.left = True
            with self._events.lock:
                for path, bits in left.items():
                    self._dirty.add(tree.number, path, bits)

    def _put_back(self, work: Work) -> None:
        with self._events.lock:
            for number, items in work.items():
                for path, bits in items.items():
                    self._dirty.add(number, path, bits)

    # --- the instant ------------------------------------------------------------------------

    def _take_instant(self, work: Work) -> None:
        """From here on guests are held, if they are to be; `work` was drained before."""
        outcome = self._outcome
        self._take_hold()
        during: set[tuple[int, bytes]] = set()
        instant_ns, drained_seconds = outcome.seen_ns, 0.0
        for turn in range(HELD_PASSES_MAX):
            more = self._drained()
            instant_ns = outcome.seen_ns
            drained_seconds = self._held_seconds()
            for number, items in more.items():
                mine = work.setdefault(number, {})
                for path, bits in items.items():
                    mine[path] = mine.get(path, 0) | bits
                    during.add((number, path))
            if not self._is_any(work) or outcome.gathered.is_full:
                self._put_back(work)
                break
            if turn == HELD_PASSES_MAX - 1 or self._held_seconds() > HELD_WORK_SECONDS:
                self._release()
            self._round.instant_ns = instant_ns
            self._round.late.clear()
            self._pass(work)
            if turn == HELD_PASSES_MAX - 1 or self._is_over():
                self._compare(work, instant_ns)
                break
            work = {}
        self._release()
        if not self._kept and drained_seconds >= HOLD_SECONDS_MAX:
            self._skew(during, instant_ns)  # guests wrote again before the trees were seen

    def _take_hold(self) -> None:
        if self._hold is None:
            return
        self._held_ns = self._clock.boottime_ns()
        try:
            self._outcome.position = self._hold.hold()
        except WatcherFailed:
            self._outcome.unheld = True
            self._hold = None

    def _release(self) -> None:
        if self._hold is not None and self._held_ns:
            self._kept = self._hold.release()
            self._hold = None

    def _held_seconds(self) -> float:
        return (self._clock.boottime_ns() - self._held_ns) / 1e9 if self._held_ns else 0.0

    def _is_over(self) -> bool:
        """Whether there was a hold and is none any more."""
        return bool(self._held_ns) and self._hold is None

    def _goes_on(self) -> bool:
        """Asked while it is worked: lets go of a hold that lasts too long. False where time is up."""
        if self._hold is not None and self._held_ns and self._held_seconds() > HELD_WORK_SECONDS:
            self._release()
        return self._clock.boottime_ns() < self._until_ns

    def _compare(self, work: Work, instant_ns: int) -> None:
        """What of the last pass changed since the instant is skewed, and stays dirty."""
        self._events.drain()
        later = self._swapped()
        self._put_back(later)
        changed = {
            (number, path) for number, items in work.items() for path in items if path in later[number]
        }
        walked = {key for key in self._round.late if key[1] not in work.get(key[0], {})}
        self._skew(changed | walked, instant_ns)

    def _skew(self, paths: set[tuple[int, bytes]], from_ns: int) -> None:
        to_ns = self._clock.wall_ns()
        ids = {tree.number: tree.id for tree in self._trees}
        for number, path in paths:
            key = ids[number], path
            self._outcome.skewed[key] = SkewedFile(ids[number], path, from_ns, to_ns)
