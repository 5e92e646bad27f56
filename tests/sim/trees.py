"""A file tree, its history, and a watcher of it that may fail at any call: what cuts are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from cdp_agent.streamer.trees import Batch, Look
from cdp_agent.watcher.client import ASK_TIMEOUT_SECONDS, SWEEP_TIMEOUT_SECONDS, TAKE_TIMEOUT_SECONDS
from cdp_container.errors import WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.layout import ExtentKind
from cdp_container.format.names import Name, NameType, SkewedFile, name_added, name_gone
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.records import make_record
from cdp_container.format.segment import NewExtent
from cdp_container.journal.position import Position
from tests.sim.clock import VirtualTime
from tests.sim.journal import SimJournal

BLOCK = 512
FILE_BLOCKS_MAX = 12
BATCH_PATHS_MAX = 5
TAKE_PATHS_MAX = 3
"""A take ends earlier than a sweep."""
SWEEP_SECONDS = 5.0
SLOW_TAKE_SECONDS = 0.5

Files: TypeAlias = dict[bytes, tuple[bytes, bytes]]
"""Space and content, by path."""


@dataclass(frozen=True)
class SimBatch:
    """See `cdp_agent.streamer.trees.Batch`."""

    number: int
    position: Position | None
    seen_ns: int
    lacking: tuple[bytes, ...]
    touched: frozenset[bytes]
    said: Sequence[Record]
    content: Sequence[NewExtent]
    skewed: Sequence[SkewedFile] = ()
    skewed_more: int = 0
    more: bool = False
    instants: Sequence[tuple[bytes, int]] = ()
    compare: bool = False

    def records(self) -> Iterator[Record]:
        return iter(self.said)

    def extents(self) -> Iterator[NewExtent]:
        return iter(self.content)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Noted:
    """A batch that may have to be undone: the cut that it is for, and what it touched."""

    number: int
    cut: int
    paths: list[bytes]


@dataclass
class SimTree:
    """A tree of a domain, and its watcher. `failing`: how often, of one, a call of the watcher fails.

    `hangs`: it answers nothing. `slow`: it takes as long as it may. `took_seconds`: by calls of late.
    `states` are what the tree was, each with the number of captured changes of volumes when it began.
    """

    id: bytes
    time: VirtualTime
    journal: SimJournal
    rng: Random
    failing: float = 0.05
    hangs: bool = False
    slow: bool = False
    took_seconds: float = 0.0
    now: Files = field(default_factory=dict)
    states: list[tuple[int, Files]] = field(default_factory=lambda: [(0, {})])
    generation: int = 1
    changes: int = 0
    ready: bool = True
    epoch: int = 0
    base: Place = NOWHERE
    ever: set[bytes] = field(default_factory=set)
    index: dict[bytes, tuple[bytes, bytes] | None] = field(default_factory=dict)  # None: not known any more
    noted: list[_Noted] = field(default_factory=list)
    batches: int = 0
    _unplaced: int = 0

    # --- programs that use it ------------------------------------------------------------------

    def change(self) -> None:
        """One thing is done to a file: made, written, cut, renamed, deleted, replaced."""
        rng, now = self.rng, self.now
        path = b"f%d" % rng.randrange(12)
        kind = rng.choice(("write", "write", "write", "cut", "rename", "delete", "replace"))
        if path not in now or kind == "replace":
            now[path] = self._new_space(), self._content()
        elif kind == "write":
            space, content = now[path]
            at = rng.randrange(0, FILE_BLOCKS_MAX * BLOCK - 700)
            grown = content.ljust(at, b"\0")
            now[path] = space, grown[:at] + rng.randbytes(rng.randrange(1, 700)) + grown[at + 700 :]
        elif kind == "cut":
            space, content = now[path]
            now[path] = space, content[: rng.randrange(len(content) + 1)]
        elif kind == "rename":
            now[b"f%d" % rng.randrange(12)] = now.pop(path)
        else:
            del now[path]
        self.changes += 1
        self.note_state()

    def _new_space(self) -> bytes:
        """An id that no volume has: the world draws the same numbers from the same seed."""
        return bytes(byte ^ 0xFF for byte in self.rng.randbytes(16))

    def _content(self) -> bytes:
        return self.rng.randbytes(self.rng.randrange(FILE_BLOCKS_MAX * BLOCK))

    def note_state(self) -> None:
        self.states.append((self.journal.number_of(self.journal.tail), dict(self.now)))

    def states_at(self, number: int) -> list[dict[bytes, bytes]]:
        """What the tree may have been at an instant with that many changes of volumes."""
        ends = [first for first, _ in self.states[1:]] + [1 << 62]
        return [
            {path: content for path, (_, content) in files.items()}
            for (first, files), end in zip(self.states, ends, strict=True)
            if first <= number <= end
        ]

    # --- the watcher ---------------------------------------------------------------------------

    def restart(self) -> None:
        """The watcher's process died, and is started again: what it noted durably is there."""
        self.generation += 1
        self.ready = False

    def look(self) -> Look | None:
        if self.rng.random() < 0.01:
            return None
        return Look(self.generation, self.epoch, self.ready, self.changes, bool(self._different()))

    def begin(self, epoch: int, base: Place) -> None:
        self._takes(0.0, ASK_TIMEOUT_SECONDS)
        self._may_fail()
        if base in (self.base, NOWHERE) or base.epoch == self.epoch:
            up_to = 0 if base in (self.base, NOWHERE) else base.cut
            undone = [path for noted in self.noted if noted.cut > up_to for path in noted.paths]
        else:
            up_to, undone = 0, list(self.ever)  # it knows nothing of that cut: everything is made anew
        self.index.update(dict.fromkeys(undone))
        # A batch of an older epoch is settled or undone when the next one begins.
        self.noted = [noted for noted in self.noted if noted.cut <= up_to and epoch == self.epoch]
        self.base = base if epoch != self.epoch else self.base
        self.epoch, self.ready = epoch, True
        self._may_fail()

    def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
        self._takes(SLOW_TAKE_SECONDS, TAKE_TIMEOUT_SECONDS)
        position = self.journal.tail if self._different() else None
        return self._taken(epoch, cut, position, TAKE_PATHS_MAX)

    def sweep(self, epoch: int, cut: int) -> Batch:
        self._takes(SWEEP_SECONDS, SWEEP_TIMEOUT_SECONDS)
        return self._taken(epoch, cut, None, BATCH_PATHS_MAX)

    def _taken(self, epoch: int, cut: int, position: Position | None, paths_max: int) -> Batch:
        self._may_fail()
        assert self.ready, "it was looked at"
        assert epoch == self.epoch, "it was begun"
        different = self._different()
        chosen = different[:paths_max]
        batch = self._batch(position, chosen, is_whole=len(chosen) == len(different))
        if batch.number:
            self.noted.append(_Noted(batch.number, cut, chosen))
        self._may_fail()
        return batch

    def place(self, batch: int, epoch: int, cut: int) -> None:
        self._takes(0.0, TAKE_TIMEOUT_SECONDS)
        self._may_fail()
        noted = next((noted for noted in self.noted if noted.number == batch), None)
        assert noted is not None, "it was taken, and is neither settled nor undone"
        noted.cut = cut
        self._may_fail()

    def protected(self, epoch: int, cut: int) -> None:
        self._takes(0.0, ASK_TIMEOUT_SECONDS)
        self._may_fail()
        self.noted = [noted for noted in self.noted if epoch != self.epoch or noted.cut > cut]

    def _takes(self, slow_seconds: float, timeout_seconds: float) -> None:
        self.took_seconds += timeout_seconds if self.hangs else slow_seconds * self.slow
        if self.hangs:
            raise WatcherFailed("the simulated watcher", "it hangs")

    def _may_fail(self) -> None:
        if self.rng.random() < self.failing:
            if self.rng.random() < 0.3:
                self.restart()
            raise WatcherFailed("the simulated watcher", "it failed")

    def _different(self) -> list[bytes]:
        paths = sorted({*self.now, *self.index})
        known = self.index.get
        return [path for path in paths if known(path) is None or known(path) != self.now.get(path)]

    def _batch(self, position: Position | None, paths: list[bytes], is_whole: bool) -> SimBatch:
        said: list[Record] = []
        content: dict[bytes, list[NewExtent]] = {}
        self.ever.update(paths)
        for path in paths:
            known, found = self.index.get(path), self.now.get(path)
            if found is None:
                said.append(name_gone(self.id, path))
                self.index.pop(path)
                continue
            space, data = found
            before = known[1] if known is not None and known[0] == space else None
            named = Name(NameType.FILE, 0o644, size_bytes=len(data), space=space)
            if before is None or len(data) < len(before):
                said.append(make_record("space=", space, {"size_bytes": len(data)}))
            said.append(name_added(self.id, path, named))
            content[space] = _different_blocks(space, before, data)
            self.index[path] = found
        self.batches += bool(paths)
        return SimBatch(
            number=self.batches if paths else 0,
            position=position,
            seen_ns=self.time.wall_ns(),
            lacking=() if is_whole else (self.id,),
            more=not is_whole,
            touched=frozenset({self.id} if paths else ()),
            said=said,
            content=[extent for extents in content.values() for extent in extents],
        )


def _different_blocks(space: bytes, before: bytes | None, data: bytes) -> list[NewExtent]:
    extents = []
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        if before is None or before[at : at + BLOCK] != block:
            extents.append(NewExtent(space, at, len(block), ExtentKind.DATA, block))
    return extents
