"""The trees' part of cuts: what the watcher is asked for, and what waits for the cut that it goes into.

Two threads use it. The engine's looks at what the watcher published; the builder's takes batches and places
them. What the watcher gives belongs to no cut before it was placed there, durably on its side, and a batch is
placed just before a cut takes it: so whatever fails in between, the watcher gives it again. When a cut is
taken does not belong here (`steps`), nor how the watcher is talked to (`watched`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

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
"""Between two attempts to ask a watcher that failed us; or twice what the last one took, as volumes' cuts
waited that long."""


class Look(NamedTuple):
    """What the watcher published.

    `generation`: of its process. `epoch`: the one that it was told of. `ready`: takes for that are answered.
    `changes`: grows whenever there is something new. `dirty`: a take would find something.
    """

    generation: int
    epoch: int
    ready: bool
    changes: int
    dirty: bool


class Taken(NamedTuple):
    """A batch, where its cut ends, and the time of that.

    `taken_ns`: what was acknowledged before this time of the wall clock lies below `position`. `until_ns`:
    its instant came before this time of the boot-time clock.
    """

    batch: Batch
    position: Position
    taken_ns: int
    until_ns: int


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

    def take(self, epoch: int, cut: int) -> Batch:
        """What changed since the last batch, at one instant."""
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
        self._waiting: Taken | None = None
        self._open: Batch | None = None
        self.unprotected = Unprotected()
        self.skewed = 0
        self.trouble = ""

    # --- the engine's thread -------------------------------------------------------------------

    def look(self) -> tuple[bool, bool]:
        """Whether the watcher can be asked, and whether that is worth it."""
        found = self._watcher.look()
        if found is None or (self._again_ns is not None and self._clock.boottime_ns() < self._again_ns):
            return False, False
        if self._begun != found.generation:
            return True, True  # it is told of the epoch then
        return self._is_ready(found), found.dirty or self._changes != found.changes

    def _is_ready(self, found: Look) -> bool:
        return found.ready and found.epoch == self._epoch

    # --- the builder's thread ------------------------------------------------------------------

    def protected(self, place: Place) -> None:
        """The watcher may forget what it noted for cuts up to this one; told again if it does not hear it."""
        if not self._has_placed:
            return  # of the trees it holds what the base cut does
        self._settled = place
        if self._begun is None:
            return
        began_ns = self._clock.boottime_ns()
        try:
            self._watcher.protected(place.epoch, place.cut)
        except CdpError as error:
            self._fail(error, began_ns)

    def take(self, position: Position, taken_ns: int) -> Taken | None:
        """A batch for the next cut, one that waits first; None where the watcher gives none.

        `position`, `taken_ns`: of the tail that was seen before this was called.
        """
        if self._waiting is None:
            batch = self._ask()
            if batch is None:
                return None
            until_ns = self._clock.boottime_ns()
            if batch.position not in (None, position):
                position, taken_ns = batch.position, batch.seen_ns
            self._waiting = Taken(batch, position, taken_ns, until_ns)
        return self._waiting

    def _ask(self) -> Batch | None:
        began_ns = self._clock.boottime_ns()
        try:
            if not self._begin():
                return None
            batch = self._watcher.take(self._epoch, NO_CUT)
        except CdpError as error:
            self._fail(error, began_ns)
            return None
        self._again_ns, self.trouble = None, ""
        self.skewed = len(batch.skewed) + batch.skewed_more
        return batch

    def _begin(self) -> bool:
        """Tell the watcher of the epoch, if it does not know; whether it is ready."""
        found = self._watcher.look()
        if found is not None and self._begun != found.generation:
            self._watcher.begin(self._epoch, self._settled)
            self._begun = found.generation
            found = self._watcher.look()
        if found is None or self._begun != found.generation or not self._is_ready(found):
            return False
        self._changes = found.changes
        return True

    def put_into(self, cut: int) -> None:
        """The batch that waits goes into this cut.

        If the watcher does not say that it noted that, the batch may be in the container without its
        knowledge: it begins anew, and gives it once more.
        """
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
            self._fail(error, began_ns)

    def _fail(self, error: CdpError, began_ns: int) -> None:
        now_ns = self._clock.boottime_ns()
        self._begun = None
        self._again_ns = now_ns + max(AGAIN_NS, 2 * (now_ns - began_ns))
        self.trouble = str(error)

    def _let_go(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Give space back."""
        self._let_go()
        if self._waiting is not None:
            self._waiting.batch.close()
            self._waiting = None
