"""`rehydrate verify`: all, the newest point, one of the past, or a sample; under a hold, with a report.

What is checked stands in cdp_container.domain (verifying, verify_run, verify_report).
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path

from cdp_container.clock import SystemClock
from cdp_container.console import answer
from cdp_container.domain.budget import Budget, budget_of
from cdp_container.domain.durable import replace_file
from cdp_container.domain.holding import Holding
from cdp_container.domain.opening import is_superseded
from cdp_container.domain.verify_report import About, report_members
from cdp_container.domain.verify_run import (
    Progress,
    load_turn,
    save_turn,
    verify_all,
    verify_branch,
    verify_sample,
)
from cdp_container.domain.verify_types import Report
from cdp_container.errors import MissingObject, UsageError
from cdp_container.format.place import Place
from cdp_container.store.api import Found, Store
from rehydrate.anew import read_until_found
from rehydrate.cli import views
from rehydrate.cli.commands import Access, notes_of, open_asking, store_of
from rehydrate.cli.console import read_secret
from rehydrate.cli.held import holding_for, tell
from rehydrate.cli.progress import meter
from rehydrate.container import Container, Secret
from rehydrate.plan import Choice, Totals
from rehydrate.points import find_cut, scope_of


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be verified: the newest point, one that `choice` names, a sample; else all."""

    choice: Choice = field(default_factory=Choice)
    newest: bool = False
    budget: Budget | None = None
    state: Path | None = None

    @property
    def mode(self) -> str:
        """In one word."""
        if self.budget is not None:
            return "sample"
        if self.newest:
            return "newest"
        return "all" if self.choice == Choice() else "point"


def wanted_of(choice: Choice, newest: bool, budget: str | None, state: Path | None) -> Wanted:
    """From the options. Raises UsageError."""
    if sum((choice != Choice(), newest, budget is not None)) > 1:
        raise UsageError("choose what to verify", "a point, --newest and --budget exclude each other")
    if state is not None and budget is None:
        raise UsageError("--state", "it says where a sample goes on", "name a --budget, too")
    try:
        parsed = None if budget is None else budget_of(budget)
    except ValueError as error:
        raise UsageError("read --budget", f"{budget!r} {error}") from None
    return Wanted(choice, newest, parsed, state)


@dataclass(slots=True)
class _Job:
    """One run of the command."""

    access: Access
    wanted: Wanted
    as_json: bool
    store: Store
    holding: Holding
    secret: Secret
    container: Container | None = None
    cut: Place | None = None
    clock: SystemClock = field(default_factory=SystemClock)

    def is_moved(self) -> bool:
        """Whether another ledger is in force than the one that is read by."""
        return self.container is not None and is_superseded(self.store, self.container.history.owner)


def verify(access: Access, wanted: Wanted, file: Path | None, as_json: bool) -> int:
    """`rehydrate verify`. Raises PointsDamaged, Incomplete: what was found comes to that."""
    secret = read_secret(access.passphrase_file, access.key_file)
    with store_of(access.address) as store, holding_for(store, "verify") as holding:
        job = _Job(access, wanted, as_json, store, holding, secret)
        began_ns = job.clock.wall_ns()
        if access.replica:
            holding.unheld("a hold in a replica is seen by nobody")
        else:
            holding.place()
        report = read_until_found(lambda _: _verify(job), holding, job.is_moved, tell)
        assert job.container is not None
        about = About(
            software=f"rehydrate {installed_version('cdp-container')}",
            site=platform.node(),
            mode=wanted.mode,
            began_ns=began_ns,
            ended_ns=job.clock.wall_ns(),
            cut=job.cut,
            held=holding.hold_id,
        )
        members = report_members(job.container, report, about)
    for note in job.container.history.notes:
        tell(note)
    if file is not None:
        replace_file(file, json.dumps(members, indent=2).encode() + b"\n")
    answer(json.dumps(members, indent=2) if as_json else views.report_text(report))
    if report.error is not None:
        raise report.error
    return 0


def _verify(job: _Job) -> Report:
    """One reading. Raises HoldLost, and MissingObject where what is missing may have been collected."""
    job.container, job.secret = open_asking(job.store, job.secret, job.access.replica)
    report = _read(job, job.container)
    job.holding.check()
    if report.missing and job.is_moved():
        raise MissingObject(job.store.address, "objects were collected while they were read")
    return report


def _read(job: _Job, container: Container) -> Report:
    wanted, history = job.wanted, container.history
    with ExitStack() as stack:

        def planned(objects: int, size_bytes: int) -> Progress:
            totals = Totals(gets=objects, fetch_bytes=size_bytes)
            shown = stack.enter_context(meter(totals, "verify", job.clock, job.as_json))

            def progress(found: Found) -> None:
                shown(Totals(gets=1, fetch_bytes=found.size))

            return progress

        if wanted.budget is not None:
            turn = load_turn(wanted.state, os.urandom)
            sampled = verify_sample(container, turn, wanted.budget, job.clock, planned)
            if wanted.state is not None:
                save_turn(wanted.state, sampled.turn)
            return sampled.report
        if wanted.mode == "all":
            return verify_all(container, planned)
        job.cut = history.newest if wanted.newest else _chosen(container, wanted.choice)
        if job.cut:
            job.holding.narrow(job.cut, history.owner.ledger)
        branch = history.branch_of(job.cut)
        return verify_branch(container, branch, planned, is_newest_meant=wanted.choice.at is None)


def _chosen(container: Container, choice: Choice) -> Place:
    """The cut that was named. Raises NoSuchPoint."""
    history = container.history
    if choice.marker is not None:
        container.require_key()  # the names of cuts are sealed
    with closing(container.gather(scope_of(history, choice))) as contents:
        for note in notes_of(container, contents):
            tell(note)
        return find_cut(history, contents, choice).place
