"""A reader's hold: placed before it reads, narrowed to its cut, refreshed while it lives, dropped at its end.

Carries out what hold_rules decides. When a hold of somebody else is dead does not belong here (held), nor how
the roster is written (roster).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from cdp_container.clock import Clock
from cdp_container.domain.history import read_config
from cdp_container.domain.hold_rules import (
    HOLD_TERM_SECONDS,
    Standing,
    hold_to_go_on_with,
    refresh_due,
    term_passed,
    with_hold,
    with_refreshed,
    without_hold,
)
from cdp_container.domain.home import is_home
from cdp_container.domain.roster import Entropy, change_roster
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    DamagedObject,
    ForeignObject,
    HoldLost,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from cdp_container.format.domain import ObjectName, parse_owner
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.place import Place
from cdp_container.store.api import Store

LOOK_SECONDS: Final = 5.0
"""How often the thread looks whether a refresh is due."""
CLOSE_SECONDS: Final = 10.0
"""How long the thread is waited for; one that hangs in a request is a daemon, and can place nothing."""
_MISSED: Final = (PreconditionFailed, Contention, StoreUnavailable)
"""Whether the roster was written is not known, and it may be tried again."""
_UNREADABLE: Final = (NotFound, MissingObject, DamagedObject, ForeignObject, NewerFormat, LimitExceeded)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads, and for what."""

    site: str
    operator: str
    purpose: str


class Holding:
    """The one hold of a job, whoever works for it; to be used as a context, which drops it at its end.

    A store that cannot be written leaves the job `unheld`: it is told once, and reads all the same.

    Args:
        store: repeats reads where it may.
        reader: who reads.
        clock: of this machine.
        entropy: gives random bytes.
        tell: is given lines for people, from any thread.
        starts_thread: whether a thread refreshes; else whoever has it calls `look`.
    """

    def __init__(
        self,
        store: Store,
        reader: Reader,
        clock: Clock,
        entropy: Entropy,
        tell: Callable[[str], None],
        starts_thread: bool = True,
    ) -> None:
        self._store = store
        self._reader = reader
        self._clock = clock
        self._entropy = entropy
        self._tell = tell
        self._starts_thread = starts_thread
        self._lock = threading.Lock()
        self._standing: Standing | None = None
        self._lost: HoldLost | None = None
        self._is_late = self._said_unheld = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.keeps = False
        """Whether an interrupted job can be gone on with under this hold: then it is left to its term."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        if error is None or not (self.keeps or isinstance(error, StoreUnavailable)):
            self.drop()

    @property
    def hold_id(self) -> str:
        """The id of the entry; empty while there is none."""
        standing = self._standing
        return "" if standing is None else standing.hold_id

    @property
    def hold(self) -> Hold | None:
        """The entry as it should be; None while there is none."""
        standing = self._standing
        return None if standing is None else standing.hold

    def place(self, known: Sequence[str] = (), point: tuple[int, int] | None = None) -> None:
        """Hold everything, before anything is read; or take up again what an interrupted run of the job held.

        The arguments are those of `hold_to_go_on_with`. Whatever stands in its way, the job goes on unheld.
        """
        with self._lock:
            self._lost = None
            self._standing = None
            try:
                if not self._is_home():
                    self.unheld("this is not the zone in which the domain is owned")
                    return
                self._standing = self._placed(known, point)
            except AccessDenied:
                self.unheld("these credentials may not write the roster of holds")
            except NotFound:
                return  # no container: whoever opens it says so
            except CdpError as error:
                self.unheld(str(error))
        if self._standing is not None and self._starts_thread and self._thread is None:
            self._thread = threading.Thread(target=self._refresh, name="hold", daemon=True)
            self._thread.start()

    def unheld(self, why: str) -> None:
        """Say, but once, that nothing keeps what is read from being collected."""
        if not self._said_unheld:
            self._said_unheld = True
            self._tell(f"unheld: {why}; what is read may be collected meanwhile, then it is looked for anew")

    def narrow(self, cut: Place, ledger: ObjectName | None) -> None:
        """Hold this cut alone, and note the ledger (None: there is none) by which it is read.

        What cannot be written now is written with the next refresh: until then more is held than needs to be.

        Raises HoldLost: the entry is gone.
        """
        with self._lock:
            if self._standing is None:
                return
            wanted = replace(self._standing.hold, cut=cut, ledger=ledger)
            if wanted == self._standing.hold:
                return
            self._standing = replace(self._standing, hold=wanted)
            try:
                self._write()
            except _MISSED as error:
                self._tell(f"the hold could not be narrowed to {cut.epoch}.{cut.cut} yet: {error}")

    def check(self) -> None:
        """Raises HoldLost where the entry is gone: what is read has to be resolved anew, under another."""
        if self._lost is not None:
            raise self._lost

    def look(self) -> None:
        """Refresh the hold if that is due. What fails is told by `check`, or tried again."""
        with self._lock:
            standing = self._standing
            if standing is None or self._lost is not None:
                return
            if not refresh_due(standing, self._clock.boottime_ns()):
                return
            try:
                self._write()
            except HoldLost as error:
                self._lost = error
            except CdpError as error:
                if term_passed(standing, self._clock.boottime_ns()) and not self._is_late:
                    self._is_late = True
                    self._tell(f"the hold's term passed without a refresh, it is tried further: {error}")
            else:
                self._is_late = False

    def drop(self) -> None:
        """Take the hold away. What cannot be taken away dies after its term."""
        with self._lock:
            standing, self._standing = self._standing, None
            if standing is None or self._lost is not None:
                return
            hold_id = standing.hold_id
            try:
                self._change(lambda holds: without_hold(holds, hold_id))
            except CdpError as error:
                self._tell(f"the hold {hold_id[:8]} was left behind, it dies after its term: {error}")

    # --- inside ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def _is_home(self) -> bool:
        """Whether a swap here counts; the home alone knows what readers hold. Raises NotFound: no domain."""
        owner = parse_owner(self._store.get(OWNER_KEY).data, OWNER_KEY, None)
        if not any(owner.config):
            return True
        try:
            return is_home(read_config(self._store, owner), self._store)
        except _UNREADABLE:
            return True  # who needs it says what is wrong with it

    def _placed(self, known: Sequence[str], point: tuple[int, int] | None) -> Standing:
        fresh_id = self._entropy(ID_BYTES).hex()
        reader = self._reader
        fresh = Hold(
            site=reader.site,
            operator=reader.operator,
            purpose=reader.purpose,
            cut=None,
            counter=1,
            term_seconds=HOLD_TERM_SECONDS,
            since_ns=self._clock.wall_ns(),
        )
        chosen: list[tuple[str, Hold]] = []

        def change(holds: Mapping[str, Hold]) -> Mapping[str, Hold] | None:
            if chosen and holds.get(chosen[-1][0]) == chosen[-1][1]:
                return None  # the reply was lost
            found = hold_to_go_on_with(holds, known, point)
            hold_id, hold = (fresh_id, fresh) if found is None else found
            if found is not None:
                hold = replace(hold, counter=hold.counter + 1)
            chosen.append((hold_id, hold))
            return with_hold(holds, hold_id, hold)

        began_ns = self._clock.boottime_ns()
        self._change(change)
        return Standing(*chosen[-1], began_ns)

    def _write(self) -> None:
        """Write the entry as it should be, with the next counter. Raises HoldLost, and as `change_roster`."""
        assert self._standing is not None
        wanted = replace(self._standing.hold, counter=self._standing.hold.counter + 1)
        self._standing = replace(self._standing, hold=wanted)
        hold_id, began_ns = self._standing.hold_id, self._clock.boottime_ns()
        self._change(lambda holds: with_refreshed(holds, hold_id, wanted))
        self._standing = replace(self._standing, refreshed_ns=began_ns)

    def _change(self, change: Callable[[Mapping[str, Hold]], Mapping[str, Hold] | None]) -> None:
        change_roster(self._store, None, change, self._clock, self._entropy)
