"""One epoch's writer: tiny real segments, put out of order and again until they are there; then proofs.

What a guest writes and how cuts are made of it does not belong here: a cut is one to three segments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.errors import CdpError, PreconditionFailed
from cdp_container.format.assemble import SealedObject
from cdp_container.format.domain import EpochRecord
from cdp_container.format.place import Place
from cdp_container.format.seal import WriterKeys
from cdp_container.format.segment import SegmentFacts, build_segment

if TYPE_CHECKING:
    from tests.sim.owners.site import Process

PUTS_MAX: Final = 4
"""In flight at once, so that segments land out of order."""
RETRY_SECONDS: Final = 3.0


class Writer:
    """See the module. `closed`: no more cuts are begun; `last`: of the newest cut that was."""

    def __init__(self, process: Process, record: EpochRecord, end: ot.End, closed: bool) -> None:
        self._process = process
        self._rng = process.rng
        self._record = record
        at_end = record.base == end.place
        self._previous = end.digest if at_end else process.site.world.digest_of(record.base)
        self._waiting: list[tuple[int, SealedObject]] = []
        self._flown: dict[int, SealedObject] = {}
        self._acked: set[int] = set()
        self._ends: dict[int, Place] = {}
        self._seq = self._cut = self._whole = 0
        self.closed = closed
        self.last: Place = Place(0, 0, 0)
        self._again()

    @property
    def drained(self) -> bool:
        """Whether everything that was begun is protected."""
        return self._process.state.proven >= self.last

    def _again(self) -> None:
        self._process.later(self._rng.expovariate(1 / self._process.site.world.cut_seconds), self._write)

    def _write(self) -> None:
        process = self._process
        if not self.closed and not process.site.world.quiet:
            if len(self._waiting) < PUTS_MAX and owner.may_put(process.state, process.site.boottime_ns()):
                self._begin_cut()
                process.on(ot.Activity())
            self._again()

    def _begin_cut(self) -> None:
        self._cut += 1
        segments = self._rng.choice((1, 1, 2, 3))
        for number in range(segments):
            self._seq += 1
            facts = SegmentFacts(
                epoch=self._record.epoch,
                seq=self._seq,
                cut=self._cut,
                complete=number == segments - 1,
                base=self._record.base,
                end=self._record.end,
                cut_time_ns=self._process.site.world.time.now_ns,
                previous_digest=self._previous,
                site=self._process.site.name,
                software="sim",
            )
            keys = WriterKeys(self._record.domain)
            built = build_segment(facts, (), (), keys, self._rng.randbytes(16))
            self._previous = built.digest
            self._waiting.append((self._seq, built))
        self.last = self._ends[self._seq] = Place(self._record.epoch, self._cut, self._seq)
        self._put_more()

    def _put_more(self) -> None:
        while self._waiting and len(self._flown) < PUTS_MAX:
            seq, built = self._waiting.pop(0)
            self._flown[seq] = built
            self._put(seq, built)

    def _put(self, seq: int, built: SealedObject) -> None:
        def send() -> None:
            store = self._process.site.store
            outcome = ""
            try:
                store.put_new(built.key, built.data)
            except PreconditionFailed:
                outcome = self._look(built)
            except CdpError:
                outcome = "again"
            self._process.reply(lambda: self._ended(seq, built, outcome))

        self._process.send(send)

    def _look(self, built: SealedObject) -> str:
        try:
            return "" if self._process.site.store.get(built.key).data == built.data else "foreign"
        except CdpError:
            return "again"

    def _ended(self, seq: int, built: SealedObject, outcome: str) -> None:
        if outcome == "foreign":
            # A cloned memory image writes in our epoch: this run is over, durably.
            self._process.fence("a foreign segment stands under our epoch")
        elif outcome == "again":
            self._process.later(self._rng.uniform(0.1, RETRY_SECONDS), lambda: self._retry(seq, built))
        else:
            self._flown.pop(seq, None)
            self._acked.add(seq)
            self._put_more()
            self._prove()

    def _retry(self, seq: int, built: SealedObject) -> None:
        if owner.may_put(self._process.state, self._process.site.boottime_ns()):
            self._put(seq, built)
        else:
            self._process.later(RETRY_SECONDS, lambda: self._retry(seq, built))

    def _prove(self) -> None:
        newest: Place | None = None
        while self._whole + 1 in self._acked:
            self._whole += 1
            newest = self._ends.get(self._whole, newest)
        if newest is not None:
            self._process.on(ot.Prove(newest))

    def force_cut(self) -> None:
        """One more cut, even when all is quiet."""
        self._begin_cut()

    def cloned(self, process: Process) -> Writer:
        """The same memory in another process. What is in flight goes out once more from there."""
        twin = object.__new__(Writer)
        twin.__dict__ |= self.__dict__
        twin._process = process
        twin._waiting = list(self._waiting)
        twin._acked, twin._ends = set(self._acked), dict(self._ends)
        twin._flown = dict(self._flown)
        for seq, built in self._flown.items():
            twin._put(seq, built)
        twin._again()
        return twin
