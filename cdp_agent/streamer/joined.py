"""One watcher of two: the watcher of file trees, and the imager of VMs. See `trees.Watcher`.

What one of them cannot do leaves its own sources not whole, and nothing else: it is left alone for a while,
and told of the epoch anew then. Which batch goes into which cut does not belong here (`trees`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

from cdp_agent.imager.core import FOLDER as IMAGER_FOLDER
from cdp_agent.imager.settings import SOCKET_NAME as IMAGER_SOCKET
from cdp_agent.streamer.trees import AGAIN_NS, DOUBLINGS_MAX, Batch, Look, Watcher
from cdp_agent.streamer.watched import Watched
from cdp_container.clock import Clock
from cdp_container.domain.identity import AgentIdentity
from cdp_container.errors import CdpError, WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
from cdp_container.format.segment import NewExtent
from cdp_container.journal.position import Position

BATCHES_MAX: Final = 16
"""Joined batches whose parts are remembered: one waits, one is swept, and none is placed twice."""


class Held(Watcher, Protocol):
    """A watcher that holds something on this machine."""

    def close(self) -> None: ...  # noqa: D102


def watcher_of(directory: Path, identity: AgentIdentity, clock: Clock) -> Held | None:
    """Who is asked for what does not come by the journal; None where there is nothing of that kind."""
    parts = []
    if identity.active_trees:
        trees = tuple(tree.tree for tree in identity.active_trees)
        parts.append(Part(Watched(directory, holds=bool(identity.active)), trees))
    if identity.active_disks:
        disks = tuple(disk.space for disk in identity.active_disks)
        imager = Watched(directory, False, IMAGER_FOLDER, IMAGER_SOCKET)
        parts.append(Part(imager, disks))
    if len(parts) > 1:
        return Joined(parts, clock)
    return parts[0].watcher if parts else None


@dataclass(slots=True)
class Part:
    """One of the two.

    Attributes:
        watcher: it.
        sources: ids of what it gives.
        begun: its process that knows of the epoch from us; None where none does.
        wanted: it is to be told of the epoch.
        again_ns: it is not asked before this time of the boot-time clock.
        failures: since it did something last.
    """

    watcher: Held
    sources: tuple[bytes, ...]
    begun: int | None = None
    wanted: bool = False
    again_ns: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class JoinedBatch:
    """What both gave; see `trees.Batch`. `silent`: sources of those that gave nothing."""

    number: int
    parts: tuple[Batch, ...]
    silent: tuple[bytes, ...]
    position: Position | None = field(init=False)
    seen_ns: int = field(init=False)

    def __post_init__(self) -> None:
        held = next((part for part in self.parts if part.position is not None), self.parts[0])
        object.__setattr__(self, "position", held.position)
        object.__setattr__(self, "seen_ns", held.seen_ns)

    @property
    def lacking(self) -> tuple[bytes, ...]:
        """See `Batch.lacking`."""
        return (*chain.from_iterable(part.lacking for part in self.parts), *self.silent)

    @property
    def touched(self) -> frozenset[bytes]:
        """See `Batch.touched`."""
        return frozenset(chain.from_iterable(part.touched for part in self.parts))

    @property
    def skewed(self) -> Sequence[SkewedFile]:
        """See `Batch.skewed`."""
        return tuple(chain.from_iterable(part.skewed for part in self.parts))

    @property
    def skewed_more(self) -> int:
        """See `Batch.skewed_more`."""
        return sum(part.skewed_more for part in self.parts)

    @property
    def instants(self) -> Sequence[tuple[bytes, int]]:
        """See `Batch.instants`."""
        return tuple(chain.from_iterable(part.instants for part in self.parts))

    @property
    def compare(self) -> bool:
        """See `Batch.compare`."""
        return any(part.compare for part in self.parts)

    @property
    def more(self) -> bool:
        """See `Batch.more`."""
        return any(part.more for part in self.parts)

    def records(self) -> Iterator[Record]:
        """See `Batch.records`."""
        for part in self.parts:
            yield from part.records()

    def extents(self) -> Iterator[NewExtent]:
        """See `Batch.extents`."""
        for part in self.parts:
            yield from part.extents()

    def close(self) -> None:
        """See `Batch.close`."""
        for part in self.parts:
            part.close()


class Joined:
    """See the module."""

    def __init__(self, parts: Sequence[Part], clock: Clock) -> None:
        self._parts = parts
        self._clock = clock
        self._lock = threading.Lock()
        self._generation = 1
        self._epoch = 0
        self._number = 0
        self._batches: dict[int, list[tuple[Part, int]]] = {}

    # --- called by any thread ------------------------------------------------------------------

    def look(self) -> Look | None:
        """See `Watcher.look`. A part that came anew makes it another generation."""
        found = [(part, part.watcher.look()) for part in self._parts]
        with self._lock:
            now_ns = self._clock.boottime_ns()
            for part, look in found:
                is_anew = look is not None and part.begun != look.generation and now_ns >= part.again_ns
                if is_anew and not part.wanted:
                    part.wanted = True
                    self._generation += 1
            there = [look for _, look in found if look is not None]
            if not there:
                return None
            ready = [look for part, look in found if look is not None and self._is_ready(part, look)]
            return Look(
                generation=self._generation,
                epoch=self._epoch,
                ready=bool(ready),
                changes=sum(look.changes for look in there),
                dirty=any(look.dirty for look in ready),
                runs=len(there) < len(found) or any(look.runs for look in there),
            )

    def _is_ready(self, part: Part, look: Look) -> bool:
        return part.begun == look.generation and look.ready and look.epoch == self._epoch

    # --- called by one thread at a time --------------------------------------------------------

    def begin(self, epoch: int, base: Place) -> None:
        """See `Watcher.begin`: for those that do not know of the epoch."""
        with self._lock:
            if epoch != self._epoch:
                self._epoch = epoch
                for part in self._parts:
                    part.begun, part.again_ns = None, 0
        errors = []
        for part in self._parts:
            look = part.watcher.look()
            if look is None or part.begun == look.generation:
                continue
            try:
                part.watcher.begin(epoch, base)
            except CdpError as error:
                errors.append(error)
                self._lose(part)
            else:
                with self._lock:
                    part.begun, part.wanted = look.generation, False
        if errors and all(part.begun is None for part in self._parts):
            raise errors[0]

    def sweep(self, epoch: int, cut: int) -> Batch:
        """See `Watcher.sweep`."""
        return self._asked(lambda part: part.watcher.sweep(epoch, cut))

    def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
        """See `Watcher.take`."""
        return self._asked(lambda part: part.watcher.take(epoch, cut, since_ns))

    def _asked(self, ask: Callable[[Part], Batch]) -> Batch:
        given: list[tuple[Part, Batch]] = []
        silent: list[bytes] = []
        failed: CdpError = WatcherFailed("nothing can be taken", "nobody is there to be asked")
        for part in self._parts:
            look = part.watcher.look()
            if look is None or not self._is_ready(part, look):
                silent.extend(part.sources)
                continue
            try:
                given.append((part, ask(part)))
            except CdpError as error:
                failed = error
                self._lose(part)
                silent.extend(part.sources)
            else:
                part.failures = 0
        if not given:
            raise failed
        number = 0
        if any(batch.number for _, batch in given):
            self._number += 1
            number = self._number
            self._batches[number] = [(part, batch.number) for part, batch in given if batch.number]
            while len(self._batches) > BATCHES_MAX:
                del self._batches[next(iter(self._batches))]
        return JoinedBatch(number, tuple(batch for _, batch in given), tuple(silent))

    def place(self, batch: int, epoch: int, cut: int) -> None:
        """See `Watcher.place`. Who does not say that it noted that begins anew."""
        for part, number in self._batches.pop(batch, ()):
            try:
                part.watcher.place(number, epoch, cut)
            except CdpError:
                self._lose(part)

    def protected(self, epoch: int, cut: int) -> None:
        """See `Watcher.protected`."""
        for part in self._parts:
            if part.begun is not None:
                try:
                    part.watcher.protected(epoch, cut)
                except CdpError:
                    self._lose(part)

    def close(self) -> None:
        """See `Watcher.close`."""
        for part in self._parts:
            part.watcher.close()

    def _lose(self, part: Part) -> None:
        """It is told of the epoch again, after a while."""
        with self._lock:
            part.begun, part.wanted = None, False
            part.again_ns = self._clock.boottime_ns() + (AGAIN_NS << min(part.failures, DOUBLINGS_MAX))
            part.failures += 1
