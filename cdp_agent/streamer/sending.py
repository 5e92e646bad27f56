"""What is sent in an epoch, from when it is to be read until it is acknowledged: the jobs that do it.

A sealed object is kept here until nobody asks for it any more: it is never built again. What does not belong
here: what is built and put, and when (`steps`), and the bytes (`build`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from cdp_agent.streamer import step_types as st
from cdp_agent.streamer.begin import tail_after_copy
from cdp_agent.streamer.build import CutBuilder
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.engine_types import Counters, Done, Job, Lane, Outside
from cdp_agent.streamer.noted import Noted
from cdp_agent.streamer.put import PutResult, put_object
from cdp_agent.streamer.trees import Trees
from cdp_container.errors import JournalDamaged
from cdp_container.format.assemble import SealedObject
from cdp_container.format.index import Record
from cdp_container.format.place import Place
from cdp_container.journal.position import Position
from cdp_container.journal.shared import SplitterPage


def nothing() -> None:
    """Nothing comes of it."""


class Machines(Protocol):
    """The two step machines, as sending sees them."""

    @property
    def stream(self) -> st.StreamState:
        """What is to be sent."""
        ...

    def tell(self, event: st.Event) -> None:
        """What came of it."""
        ...

    def look_again(self) -> None:
        """Look at what the splitter published by now. Raises PositionUnknown."""
        ...

    def may_put(self) -> bool:
        """Whether the lease holds at this moment; asked by any thread."""
        ...

    def says(self, cut: int, of_vms: Sequence[Record]) -> None:
        """This cut says so of VMs."""
        ...

    def start(self, job: Job) -> None:
        """Have a job done."""
        ...


class Sending:
    """The epoch's cuts, copies and catalogs on their way.

    Args:
        outside: the store, and the clock.
        machines: told what came of each job.
        noted: what is shown, and what the splitter published.
        counters: of the run.
        builder: of this epoch's objects.
        copying: what is copied in this epoch.
        began: what the splitter published when the epoch began.
        copy_bytes_per_second: at most so much is read of the volumes, on average.
    """

    def __init__(
        self,
        outside: Outside,
        machines: Machines,
        noted: Noted,
        counters: Counters,
        builder: CutBuilder,
        copying: Copying,
        began: SplitterPage,
        copy_bytes_per_second: float,
    ) -> None:
        self._outside = outside
        self._machines = machines
        self._noted = noted
        self._counters = counters
        self._builder = builder
        self._copying = copying
        self.began = began
        self._copy_bytes_per_second = copy_bytes_per_second
        self._segments: dict[int, SealedObject] = {}
        self._catalogs: dict[tuple[int, int], SealedObject] = {}
        self._untold: Place | None = None

    def end_copying(self) -> None:
        """Give disk space back: nothing is copied any more."""
        self._copying.close()

    def close(self) -> None:
        """Nothing is read or sealed any more."""
        self.end_copying()
        if self.trees is not None:
            self.trees.close()
        if self._builder.images is not None:
            self._builder.images.close()

    @property
    def trees(self) -> Trees | None:
        """The file trees in this epoch."""
        return self._builder.trees

    def protected(self, effect: st.Protected) -> None:
        """Tell the watcher, in a thread of its own."""
        trees = self.trees
        if trees is None:
            return
        trees.unprotected.protected(effect.trees_ns - trees.behind_ns)
        is_telling, self._untold = self._untold is not None, effect.place
        if not is_telling:
            self._tell_protected(trees, effect.place)

    def _tell_protected(self, trees: Trees, place: Place) -> None:
        """While the watcher hangs, only the newest cut that it is to hear of is kept."""

        def work() -> Done:
            trees.protected(place)
            return told

        def told() -> None:
            newest, self._untold = self._untold, None
            if newest is not None and newest != place:
                self._untold = newest
                self._tell_protected(trees, newest)

        self._machines.start(Job(Lane.TREES, work))

    def sweep(self) -> None:
        """Have the watcher read what is dirty, while cuts go on."""
        trees = self.trees
        assert trees is not None, "there is something to be swept"

        def work() -> Done:
            swept = trees.sweep()
            return lambda: self._machines.tell(swept)

        self._machines.start(Job(Lane.TREES, work))

    # --- reading and sealing -------------------------------------------------------------------

    def build(
        self, effect: st.ReadCut | st.SealSegment | st.WriteCatalog, of_vms: Sequence[Record] = ()
    ) -> None:
        """Read a cut or a round, seal a segment, or write a catalog; `of_vms`: what the cut says of VMs."""
        builder = self._builder

        def work() -> Done:
            try:
                match effect:
                    case st.ReadCut():
                        read = builder.read(effect, of_vms)
                        return lambda: self._cut_read(effect, read, of_vms)
                    case st.SealSegment():
                        sealed, built = builder.seal(effect)
                        return lambda: self._sealed(sealed, built)
                    case st.WriteCatalog(level, number):
                        made = self._catalogs.get((level, number)) or builder.catalog(effect)
                        return lambda: self._put_catalog(effect, made)
            except JournalDamaged as error:
                return partial(self._noted.journal_damaged, error)

        self._machines.start(Job(Lane.BUILD, work))

    def _cut_read(self, effect: st.ReadCut, read: st.CutRead, of_vms: Sequence[Record]) -> None:
        if not read.empty:
            self._machines.says(effect.cut, of_vms)
        if effect.trees:  # the cut may end behind the tail that was seen last
            self._machines.look_again()
        tail = self._tail_after_copy()
        self._machines.tell(read)
        if read.empty:
            self._copy_ended(tail)

    def _sealed(self, sealed: st.SegmentSealed, built: SealedObject) -> None:
        tail = self._tail_after_copy()
        self._segments[sealed.seq] = built
        self._counters.cuts += sealed.complete
        self._machines.tell(sealed)
        if sealed.complete:
            self._copy_ended(tail)

    def _tail_after_copy(self) -> Position | None:
        """See `tail_after_copy`; None if nothing was read of a volume."""
        if not self._machines.stream.copying:
            return None
        return tail_after_copy(self._noted.splitter_page(), self.began)

    def _copy_ended(self, tail: Position | None) -> None:
        """A round was read to its end."""
        copying = self._copying
        if tail is None:
            return
        self._counters.copy_compared_bytes = copying.compared_bytes
        self._counters.copy_different_bytes = copying.different_bytes
        if copying.why_everything and "index" not in self._noted.shown.troubles:
            why = f"everything is sent again, as it cannot be used: {copying.why_everything}"
            self._noted.trouble("index", why)
        pause_ns = int(copying.take_read_bytes() / self._copy_bytes_per_second * 1e9)
        due_ns = self._outside.clock.boottime_ns() + pause_ns
        self._machines.tell(st.CopyEnded(copying.ended, tail, due_ns))

    # --- putting -------------------------------------------------------------------------------

    def put_segment(self, seq: int) -> None:
        """Put a sealed segment; again, if its last put was not acknowledged."""
        self._put(self._segments[seq], partial(self._put_ended, seq))

    def forget_segment(self, seq: int) -> None:
        """It is acknowledged."""
        del self._segments[seq]

    def _put(self, built: SealedObject, ended: Callable[[PutResult], None]) -> None:
        def work() -> Done:
            self._outside.before_put(len(built.data))
            # The machine may have slept since this was decided; the lease is looked at once more.
            if not self._machines.may_put():
                result = PutResult(st.PutOutcome.UNKNOWN, "the lease passed")
            else:
                result = put_object(self._outside.store, built)
            return lambda: ended(result)

        self._machines.start(Job(Lane.PUT, work))

    def _put_ended(self, seq: int, result: PutResult) -> None:
        if result.outcome is st.PutOutcome.STORED:
            self._counters.segments += 1
            self._counters.stored_bytes += len(self._segments[seq].data)
            self._noted.shown.troubles.pop("put", None)
        else:
            self._counters.puts_failed += 1
            self._noted.trouble("put", result.why)
        self._machines.tell(st.PutEnded(seq, result.outcome, result.why))

    def _put_catalog(self, effect: st.WriteCatalog, built: SealedObject | None) -> None:
        name = (effect.level, effect.number)
        if built is None:  # left out: a catalog is never needed
            self._machines.tell(st.CatalogEnded(*name, st.PutOutcome.STORED))
            return
        self._catalogs[name] = built

        def ended(result: PutResult) -> None:
            if result.outcome is st.PutOutcome.STORED:
                self._counters.catalogs += 1
            self._machines.tell(st.CatalogEnded(*name, result.outcome))
            if self._machines.stream.catalogs[effect.level] >= effect.number:
                del self._catalogs[name]

        self._put(built, ended)
