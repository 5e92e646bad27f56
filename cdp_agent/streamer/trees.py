"""The trees' part of cuts: what the watcher is asked for, and what waits for the cut that it goes into.

Three threads use it. The engine's looks at what the watcher published. The builder's takes batches, for
which the watcher has little time, as volumes' cuts wait, and places them. One of its own asks for what may
take long, while cuts go on: never amid a take, nor while a batch waits. What the watcher gives belongs to no
cut before it was placed there, durably on its side, and a batch is placed just before a cut takes it: so
whatever fails in between, the watcher gives it again. When a cut is taken does not belong here (`steps`), nor
how the watcher is talked to (`watched`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from cdp_agent.streamer.tree_step_types import TreesSwept
from cdp_container.clock import Clock
from cdp_container.errors import CdpError
from cdp_container.format.index import Record
from cdp_container.format.keys import NUMBER_MAX
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
from cdp_container.format.segment import NewExtent
from cdp_container.journal.position import Position

NO_CUT: Final = NUMBER_MAX
"""No epoch comes to it: what is taken for this cut belongs to none yet."""
AGAIN_NS: Final = 1_000_000_000
"""Between two attempts to ask a watcher that failed us; or, where a cut of the volumes waited for it, twice
as long as that, and twice as long again for each that failed before."""
DOUBLINGS_MAX: Final = 5
"""So volumes' cuts are not late by more than two seconds in two minutes, however often it fails."""


class Look(NamedTuple):
    """What the watcher published.

    `generation`: of its process. `epoch`: the one that it was told of. `ready`: takes for that are answered.
    `changes`: grows whenever there is something new. `dirty`: a take would find something. `runs`: a VM
    that is captured by images may have written since its newest one.
    """

    generation: int
    epoch: int
    ready: bool
    changes: int
    dirty: bool
    runs: bool = False


class Taken(NamedTuple):
    """A batch, where its cut ends, and the time of that.

    `taken_ns`: what was acknowledged before this time of the wall clock lies below `position`. `until_ns`:
    its instant came before this time of the boot-time clock. `swept`: it is of no instant, and no tree is
    whole with it.
    """

    batch: Batch
    position: Position
    taken_ns: int
    until_ns: int
    swept: bool = False


class Looked(NamedTuple):
    """Whether the watcher can be asked, and that is worth it; `anew`: it is to be told of the epoch."""

    ready: bool
    changed: bool
    anew: bool = False


class Batch(Protocol):
    """What the watcher gives for one cut. Records are to be read to their end before extents."""

    @property
    def number(self) -> int:
        """By which it is placed; 0 where there is nothing for the container."""
        ...

    @property
    def position(self) -> Position | None:
        """The journal's tail while writes were held for it; None where they were not."""
        ...

    @property
    def seen_ns(self) -> int:
        """The wall clock before the tail was told, or before the trees were looked at."""
        ...

    @property
    def lacking(self) -> tuple[bytes, ...]:
        """Trees that are not whole with it."""
        ...

    @property
    def touched(self) -> frozenset[bytes]:
        """Trees of which it says something new."""
        ...

    @property
    def skewed(self) -> Sequence[SkewedFile]:
        """Files that changed while they were read."""
        ...

    @property
    def skewed_more(self) -> int:
        """How many others did."""
        ...

    @property
    def more(self) -> bool:
        """Whether a limit ended it: there is more to be read."""
        ...

    @property
    def instants(self) -> Sequence[tuple[bytes, int]]:
        """Volumes that are of an instant of their own, and its time by the wall clock."""
        ...

    @property
    def compare(self) -> bool:
        """Whether only what the base cut has otherwise is to be sent of volumes."""
        ...

    def records(self) -> Iterator[Record]:
        """What goes before the extents."""
        ...

    def extents(self) -> Iterator[NewExtent]:
        """Of one space together, sorted and disjoint."""
        ...

    def close(self) -> None:
        """Give its space back."""
        ...


class Watcher(Protocol):
    """The watcher as the streamer sees it. All but `look` raise WatcherFailed."""

    def look(self) -> Look | None:
        """What it published; None where there is nothing to be read."""
        ...

    def begin(self, epoch: int, base: Place) -> None:
        """Batches belong to this epoch; what was placed in cuts beyond `base` is in none that counts."""
        ...

    def sweep(self, epoch: int, cut: int) -> Batch:
        """What changed since the last batch, at no instant; it may take long."""
        ...

    def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
        """What changed since the last batch, at one instant.

        `since_ns`: of the boot-time clock; a source that is of an earlier instant is not whole.
        """
        ...

    def place(self, batch: int, epoch: int, cut: int) -> None:
        """Durably: the batch is in this cut, if the cut comes to be."""
        ...

    def protected(self, epoch: int, cut: int) -> None:
        """What was placed up to this cut is in the container for good."""
        ...


class Unprotected:
    """Since when there may be something in the trees that is not protected: what of them would be lost now.

    `since_ns`: of the wall clock; None where there is nothing.
    """

    def __init__(self) -> None:
        self.since_ns: int | None = None

    def look(self, is_all_protected: bool, wall_ns: int) -> None:
        """What is known at this moment; asked several times a second."""
        if is_all_protected:
            self.since_ns = None
        elif self.since_ns is None:
            self.since_ns = wall_ns

    def protected(self, trees_ns: int) -> None:
        """What was done before this time is protected."""
        if self.since_ns is not None:
            self.since_ns = max(self.since_ns, trees_ns)


class Trees:
    """The trees in one epoch.

    Args:
        watcher: where batches come from.
        clock: of this machine.
        epoch: of which the batches' cuts are.
        base: its base cut.

    Attributes:
        skewed: how many files changed while the newest batch was taken.
        behind_ns: by how much the oldest image of a VM was older than the newest cut that it went into.
        runs: a VM that is captured by images may have written since its newest one.
        trouble: why the watcher could not be asked, "" while it can.
        unprotected: what of the trees would be lost.
    """

    def __init__(self, watcher: Watcher, clock: Clock, epoch: int, base: Place) -> None:
        self._watcher = watcher
        self._clock = clock
        self._epoch = epoch
        self._settled = base
        self._has_placed = False
        self._begun: int | None = None  # the watcher's process that knows of this epoch from us
        self._changes: int | None = None  # when it was asked last
        self._again_ns: int | None = None
        self._failures = 0  # that a cut waited for, since the last take
        self._swept: Batch | None = None
        self._waiting: Taken | None = None
        self._open: Batch | None = None
        self.unprotected = Unprotected()
        self.skewed = 0
        self.behind_ns = 0
        self.runs = True
        self.trouble = ""

    # --- the engine's thread -------------------------------------------------------------------

    def look(self) -> Looked:
        """What the watcher published."""
        found = self._watcher.look()
        self.runs = found is None or found.runs
        again_ns = self._again_ns
        if found is None or (again_ns is not None and self._clock.boottime_ns() < again_ns):
            return Looked(ready=False, changed=False)
        if self._begun != found.generation:
            return Looked(ready=True, changed=True, anew=True)
        return Looked(self._is_ready(found), found.dirty or self._changes != found.changes)

    def _is_ready(self, found: Look) -> bool:
        return found.ready and found.epoch == self._epoch

    # --- a thread of its own -------------------------------------------------------------------

    def protected(self, place: Place) -> None:
        """The watcher may forget what it noted for cuts up to this one; told again if it does not hear it."""
        if not self._has_placed:
            return  # of the trees it holds what the base cut does
        self._settled = place
        if self._begun is None:
            return
        try:
            self._watcher.protected(place.epoch, place.cut)
        except CdpError as error:
            self._fail(error, AGAIN_NS)

    def sweep(self) -> TreesSwept:
        """Have what is dirty read, however long that takes. Told of the epoch first, if it does not know."""
        try:
            if not self._begin():
                return TreesSwept(done=False)
            batch = self._watcher.sweep(self._epoch, NO_CUT)
        except CdpError as error:
            self._fail(error, AGAIN_NS)
            return TreesSwept(done=False)
        self._again_ns, self.trouble = None, ""
        if not batch.number:
            batch.close()
            return TreesSwept(done=True)
        self._swept = batch
        return TreesSwept(done=True, given=True)

    def _begin(self) -> bool:
        """Tell the watcher of the epoch, if it does not know; whether it is ready."""
        found = self._watcher.look()
        if found is not None and self._begun != found.generation:
            self._watcher.begin(self._epoch, self._settled)
            self._begun = found.generation
            found = self._watcher.look()
        return self._knows(found)

    def _knows(self, found: Look | None) -> bool:
        return found is not None and self._begun == found.generation and self._is_ready(found)

    # --- the builder's thread ------------------------------------------------------------------

    def take(self, position: Position, taken_ns: int, since_ns: int = 0) -> Taken | None:
        """A batch for the next cut, one that waits first; None where the watcher gives none soon enough.

        `position`, `taken_ns`: of the tail that was seen before this was called. `since_ns`: see `Watcher`.
        """
        if self._swept is not None:
            return Taken(self._swept, position, taken_ns, 0, swept=True)
        if self._waiting is None:
            batch = self._ask(since_ns)
            if batch is None:
                return None
            until_ns = self._clock.boottime_ns()
            if batch.position not in (None, position):
                position, taken_ns = batch.position, batch.seen_ns
            self.behind_ns = max((taken_ns - at_ns for _, at_ns in batch.instants), default=0)
            self.behind_ns = max(0, self.behind_ns)
            self._waiting = Taken(batch, position, taken_ns, until_ns)
        return self._waiting

    def _ask(self, since_ns: int) -> Batch | None:
        found = self._watcher.look()
        if found is None or not self._knows(found):
            return None
        began_ns = self._clock.boottime_ns()
        try:
            batch = self._watcher.take(self._epoch, NO_CUT, since_ns)
        except CdpError as error:
            self._delayed(error, began_ns)
            return None
        self._changes = found.changes
        self._again_ns, self._failures, self.trouble = None, 0, ""
        self.skewed = len(batch.skewed) + batch.skewed_more
        return batch

    def put_into(self, cut: int) -> None:
        """The batch that waits goes into this cut.

        If the watcher does not say that it noted that, the batch may be in the container without its
        knowledge: it begins anew, and gives it once more.
        """
        if self._swept is not None:
            batch, self._swept = self._swept, None
        else:
            assert self._waiting is not None, "it was taken"
            batch, self._waiting = self._waiting.batch, None
        self._let_go()
        self._open = batch
        if not batch.number:
            return
        self._has_placed = True
        began_ns = self._clock.boottime_ns()
        try:
            self._watcher.place(batch.number, self._epoch, cut)
        except CdpError as error:
            self._delayed(error, began_ns)

    def _delayed(self, error: CdpError, began_ns: int) -> None:
        """A cut waited for nothing."""
        wait_ns = max(AGAIN_NS, 2 * (self._clock.boottime_ns() - began_ns))
        self._fail(error, wait_ns << min(self._failures, DOUBLINGS_MAX))
        self._failures += 1

    def _fail(self, error: CdpError, wait_ns: int) -> None:
        self._begun = None
        self._again_ns = self._clock.boottime_ns() + wait_ns
        self.trouble = str(error)

    def _let_go(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Give space back."""
        self._let_go()
        if self._swept is not None:
            self._swept.close()
            self._swept = None
        if self._waiting is not None:
            self._waiting.batch.close()
            self._waiting = None
