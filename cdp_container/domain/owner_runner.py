"""Taking a domain over for an operator, and holding it while something long is done with it.

One thread owns the machine (`owner_drive`): it renews, and survives whatever the store and the network do.
The work of a claim has a thread of its own, because the claim is renewed meanwhile. An agent's run does not
belong here: its streamer drives the same machine together with its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias

from cdp_container.clock import Clock
from cdp_container.domain import owner_types as ot
from cdp_container.domain.owner_drive import OwnerDrive
from cdp_container.domain.owner_lease import request_seconds
from cdp_container.domain.owner_work import OwnerWork, do_work
from cdp_container.errors import CdpError, Fenced, MissingObject, OwnedElsewhere
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store
from cdp_container.store.prompt import prompt
from cdp_container.store.retry import with_retries

LOOK_SECONDS_MAX: Final = 1.0
"""Waits are cut to this: they do not count a suspended machine's sleep, which leases do."""
LOST_MAX: Final = 3
"""Times in a row that an end is not found where it was proven to be, before it is believed to be gone."""
UNSAVED_MAX: Final = 10
"""Times in a row that notes.json cannot be written while somebody waits, about a minute: nothing is sent
without it, and a full disk is for a person to mend."""
CLOSE_SECONDS_MAX: Final = 30.0
"""A request that hangs holds nobody up for longer when a run is closed: its thread is a daemon."""

_Step: TypeAlias = ot.Event | None
_News: TypeAlias = ot.Effect | BaseException


class OwnerRunner:
    """Owns the domain from `take_over` until `close`; to be used as a context.

    Args:
        store: must not repeat a request (as `open_store` gives it).
        claimant: who wants the domain.
        directory: the journal directory; notes.json is read and written there, so no agent may run in it.
        clock, entropy: of this machine.
        report: is given lines for people, by the thread that calls `take_over`.
        keys: with the index key of a domain that is encrypted: its ledger tells what is lost.
    """

    def __init__(
        self,
        store: Store,
        claimant: ot.Claimant,
        directory: Path,
        clock: Clock,
        entropy: Callable[[int], bytes],
        report: Callable[[str], None],
        keys: ReaderKeys,
    ) -> None:
        self._domain = claimant.domain
        self._keys = keys
        self._store = store
        self._clock = clock
        self._report = report
        self._patient = with_retries(store, clock, lambda: int.from_bytes(entropy(4), "little") / 2.0**32)
        self._inbox: queue.SimpleQueue[_Step] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._prompt = prompt(store, clock, request_seconds(claimant.lease_seconds))
        self._drive = OwnerDrive(
            self._prompt, claimant, directory, clock, entropy, self._begin_work, self._tell
        )
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)
        self._over: BaseException | None = None
        self._asking = False
        self._lost = 0
        self._said = ""

    def __enter__(self) -> OwnerRunner:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def owner(self) -> Owner | None:
        """`domain/owner` as last seen or written."""
        return self._drive.state.seen

    def take_over(self, wish: ot.TakeOver) -> ot.Activated:
        """Claim the domain and activate the claim; blocks for as long as that takes.

        Raises:
            OwnedElsewhere: it was refused, because the domain is not as it was when it was looked at.
            Fenced: somebody else claimed it after us.
            MissingObject: where the epoch before ends cannot be found: `accept_loss` was not wished, or the
            ledger is lost.
            LocalDiskFull, CdpError: notes.json could not be written, UNSAVED_MAX times in a row.
        """
        self._ask(wish)
        while True:
            match self._next_news():
                case ot.Activated() as activated:
                    self._asking = False
                    if activated.end.warning:
                        self._say(activated.end.warning)
                    return activated
                case ot.Waiting(owner, until_ns):
                    left_seconds = max(0, until_ns - self._clock.boottime_ns()) // 1_000_000_000
                    self._say(f"waiting for the lease to pass: {left_seconds} s left; {owner_line(owner)}")
                case ot.Trouble(what, why):
                    self._check_saved()
                    self._count_lost(why)
                    self._say(f"still trying: {what}: {why}")
                case ot.Elsewhere(owner):
                    self._say(owner_line(owner))

    def check(self) -> None:
        """Raises Fenced once the domain is known to be another's."""
        if self._over is not None:
            raise self._over

    def prove(self) -> None:
        """Ask the store whether the domain is still ours; blocks until it answers.

        Raises:
            Fenced: it is not.
            LocalDiskFull, CdpError: as `take_over`.
        """
        assert self._drive.state.record is not None, "taken over"
        self._ask(ot.Prove(self._drive.state.record.base))
        while not isinstance(news := self._next_news(), ot.Proven):
            if isinstance(news, ot.Trouble):
                self._check_saved()
                self._say(f"still trying: {news.what}: {news.why}")
        self._asking = False

    def close(self) -> None:
        """Stop renewing; the domain stays as it is. No request is begun any more when this returns."""
        self._drive.stop()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS_MAX)
        if self._prompt is not self._store:
            self._prompt.close()

    # --- the thread that asks ------------------------------------------------------------------

    def _ask(self, event: ot.Event) -> None:
        self._asking = True
        self._inbox.put(event)

    def _next_news(self) -> ot.Effect:
        self.check()
        news = self._news.get()
        if isinstance(news, BaseException):
            raise news
        return news

    def _check_saved(self) -> None:
        """Raises why notes.json cannot be written, once that was tried often enough."""
        if self._drive.unsaved is not None and self._drive.unsaved[1] >= UNSAVED_MAX:
            raise self._drive.unsaved[0]

    def _count_lost(self, why: str) -> None:
        """What stays lost is not waited for: somebody has to decide."""
        self._lost = self._lost + 1 if why.startswith(ot.Failure.LOST.value) else 0
        if self._lost >= LOST_MAX:
            raise MissingObject("cannot take the domain over", why, _LOST_HINT)

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._report(line)

    # --- the thread that owns the machine ------------------------------------------------------

    def _run(self) -> None:
        try:
            while (event := self._next_event()) is not None:
                self._drive.feed(event)
        except BaseException as error:  # noqa: BLE001  it is raised again by the thread that asks
            self._end(error)

    def _next_event(self) -> _Step:
        due_seconds = self._drive.due_seconds()
        pause_seconds = LOOK_SECONDS_MAX if due_seconds is None else min(LOOK_SECONDS_MAX, due_seconds)
        try:
            return self._inbox.get(timeout=pause_seconds)
        except queue.Empty:
            return ot.Tick()

    def _tell(self, effect: ot.Effect) -> None:
        match effect:
            case ot.Fenced(why):
                self._end(Fenced("the domain was taken from us", why, _FENCED_HINT))
            case ot.Refused(owner, why):
                self._end(refused(owner, why))
            case _ if self._asking:
                self._news.put(effect)

    def _end(self, error: BaseException) -> None:
        self._over = error
        self._news.put(error)

    def _begin_work(self, work: OwnerWork) -> None:
        threading.Thread(target=self._work, args=(work,), name="owner-work", daemon=True).start()

    def _work(self, work: OwnerWork) -> None:
        try:
            self._inbox.put(do_work(self._patient, self._prompt, self._domain, work, self._keys))
        except BaseException as error:  # noqa: BLE001  it is raised again by the thread that asks
            self._end(error)


_FENCED_HINT: Final = "see who owns it with `rehydrate history`; what was restored here stays as it is"
_LOST_HINT: Final = (
    "bring back what is named from a replica or a version and run this again; or `rehydrate failover "
    "--accept-loss` (a failback has no such option: into new disks): the epoch record tells what was lost"
)


def owner_line(owner: Owner) -> str:
    """Who owns a domain, since when, and the lease in force."""
    since = datetime.fromtimestamp(owner.since_ns / 1e9, UTC).isoformat(timespec="seconds")
    given = f" to site {owner.released_to!r}" if owner.state is OwnerState.RELEASED else ""
    return (
        f"owned by site {owner.site!r} ({owner.state.value}{given}, epoch {owner.epoch}, since {since}, "
        f"lease {owner.lease_seconds} s)"
    )


def force_word(owner: Owner) -> str:
    """What names just this version of `domain/owner`: EPOCH:NONCE."""
    return f"{owner.epoch}:{owner.nonce.hex()}"


def refused(owner: Owner, why: str) -> CdpError:
    """The error of a takeover that was denied."""
    return OwnedElsewhere(
        "the takeover was refused",
        f"{why}; {owner_line(owner)}",
        f"if that site is gone for good, or its writes may be left behind: --force {force_word(owner)}; "
        "else have it release the domain (`cdp-agent release --to` there), or ask with `rehydrate request`",
    )
