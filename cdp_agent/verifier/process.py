"""A verification as a process: its lock, its store, its hold, and what it leaves noted.

What is checked stands in cdp_container.domain; what a command says of it in cdp_agent.cli.verify.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cdp_agent.streamer.limited import LimitedStore, Limiter
from cdp_agent.supervisor import take_lock
from cdp_agent.verifier.last import DIRECTORY_NAME, TURN_NAME, load_last, save_last
from cdp_container.clock import Clock
from cdp_container.domain.budget import Budget
from cdp_container.domain.holding import Holding, Reader
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.opening import ByIndex, open_by_index
from cdp_container.domain.places import later_notes
from cdp_container.domain.sampling import SEED_BYTES, Turn
from cdp_container.domain.settings import AgentSettings, LimitsSettings
from cdp_container.domain.verify_report import About, report_members
from cdp_container.domain.verify_run import Progress, load_turn, save_turn, verify_all, verify_sample
from cdp_container.domain.verify_types import Report
from cdp_container.errors import CdpError, ConfigInvalid, HoldLost
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.address import open_store
from cdp_container.store.api import Store
from cdp_container.store.retry import with_retries

LOCK_NAME: Final = "verifier.lock"
ANEW_MAX: Final = 4
"""Readings of one run: a collector that moves things oftener under a reader than this is not right."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What is to be verified, and for whom. `budget` None: everything."""

    settings: AgentSettings
    identity: AgentIdentity
    operator: str
    software: str
    budget: Budget | None
    tell: Callable[[str], None]

    @property
    def journal(self) -> Path:
        """The journal directory."""
        return Path(self.settings.journal.directory)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found, and the document that files it."""

    report: Report
    members: dict[str, Any]


def verify_once(what: Verification, clock: Clock) -> Verified:
    """One run, of which `status` tells afterwards.

    Raises AlreadyRunning where another is under way, and CdpError where it did not come to its end.
    """
    lock = take_lock(what.journal / LOCK_NAME, clock)
    try:
        before = load_last(what.journal)
        try:
            done = _verified(what, clock, before.known)
        except CdpError as error:
            save_last(what.journal, replace(before, stopped=str(error), failures=before.failures + 1))
            raise
        save_last(what.journal, replace(before, report=done.members, stopped="", failures=0))
        return done
    finally:
        os.close(lock)


def opened_store(settings: AgentSettings, clock: Clock) -> Store:
    """The container's store, at the pace of collection: it delays no cut either."""
    limits = LimitsSettings().model_copy(
        update={
            "bytes_per_second": settings.collection.bytes_per_second,
            "requests_per_second": settings.collection.requests_per_second,
        }
    )
    store = LimitedStore(open_store(settings.store, clock), Limiter(limits, clock), patient=True)
    return with_retries(store, clock, lambda: int.from_bytes(os.urandom(4), "little") / 2.0**32)


def _verified(what: Verification, clock: Clock, known: list[str]) -> Verified:
    store = opened_store(what.settings, clock)
    reader = Reader(what.settings.site, what.operator, "verify")
    began_ns = clock.wall_ns()
    try:
        with Holding(store, reader, clock, os.urandom, what.tell) as holding:
            holding.place()
            opened, report = _read_until_found(what, clock, store, holding, known)
            mode = "all" if what.budget is None else "sample"
            about = About(
                what.software, what.settings.site, mode, began_ns, clock.wall_ns(), None, holding.hold_id
            )
            return Verified(report, report_members(opened, report, about))
    finally:
        for note in later_notes(store):
            what.tell(note)
        store.close()


def _read_until_found(
    what: Verification, clock: Clock, store: Store, holding: Holding, known: list[str]
) -> tuple[ByIndex, Report]:
    for left in reversed(range(ANEW_MAX)):
        opened = open_by_index(store, what.identity.domain, what.identity.index_key)
        report, turn = _read(what, clock, opened, known)
        try:
            holding.check()
        except HoldLost as error:
            if not left:
                raise
            what.tell(f"{error}: held and looked for anew")
            holding.place()
            continue
        if not (report.missing and left and _is_superseded(opened)):
            if turn is not None:
                save_turn(what.journal / DIRECTORY_NAME / TURN_NAME, turn)
            return opened, report
        what.tell("objects were collected while they were read, and are looked for anew")
    raise AssertionError("the last reading returns or raises")


def _read(what: Verification, clock: Clock, opened: ByIndex, known: list[str]) -> tuple[Report, Turn | None]:
    def planned(objects: int, size_bytes: int) -> Progress:
        what.tell(f"{objects} objects are to be read, {size_bytes / 2**20:.1f} MiB at the most")
        return lambda _: None

    if what.budget is None:
        return verify_all(opened, planned), None
    directory = what.journal / DIRECTORY_NAME
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        turn = load_turn(directory / TURN_NAME, os.urandom)
    except ConfigInvalid:
        turn = Turn(os.urandom(SEED_BYTES))  # it is ours alone: only the round begins anew
    sampled = verify_sample(opened, turn, what.budget, clock, planned, known)
    return sampled.report, sampled.turn


def _is_superseded(opened: ByIndex) -> bool:
    """Whether another ledger is in force than the one that was read by."""
    owner = opened.history.owner
    try:
        return parse_owner(opened.store.get(OWNER_KEY).data, OWNER_KEY, owner.domain).ledger != owner.ledger
    except CdpError:
        return False
