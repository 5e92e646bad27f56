"""A rehearsal from its first stage to its last: the order of things, and that nothing of it stays behind.

How stages are measured, done and shown stands beside this; what is told of them afterwards in report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdp_container.clock import Clock
from cdp_container.domain.contents import Contents
from cdp_container.domain.holding import Holding
from cdp_container.domain.opening import is_superseded
from cdp_container.errors import CdpError, ChecksFailed, NotFound, counted
from cdp_container.format.keys import HOLDS_KEY, segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Store
from cdp_container.telling import point_name, time_text
from rehydrate.anew import read_until_found
from rehydrate.boot.at_cut import vms_at_cut
from rehydrate.boot.run import Result
from rehydrate.container import Container
from rehydrate.flow import Flow
from rehydrate.meant import meant
from rehydrate.plan import Choice, Totals
from rehydrate.points import RestorePlan, plan_restore, scope_of
from rehydrate.rehearsal.checks import Checks, Reviewed, told_of
from rehydrate.rehearsal.fleet import Booting, Fleet, verdict_of
from rehydrate.rehearsal.interrupts import uninterrupted
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, Part, Restored, Sampling, Verdict
from rehydrate.rehearsal.programs import Redaction
from rehydrate.rehearsal.shown import ShownPart
from rehydrate.rehearsal.stages import (
    CHECKS,
    CLEAN_UP,
    CONTENT,
    MACHINES,
    METADATA,
    NAMESPACE,
    Stages,
)
from rehydrate.rehearsal.telling import subject_text
from rehydrate.rehearsal.trees import TreesPart
from rehydrate.rehearsal.volumes import VolumesPart
from rehydrate.rehearsal.workspace import Workspace, taken
from rehydrate.restore import Source

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be rehearsed, and where; neither `names` nor `trees`: everything that the point has.

    `boot`: how VMs are started, None where none are.
    """

    choice: Choice
    names: tuple[str, ...]
    directory: Path
    trees: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    checks: Reviewed = field(default_factory=Reviewed)
    replica: bool = False
    keep: bool = False
    boot: Booting | None = None


@dataclass(frozen=True, slots=True)
class Age:
    """How old a cut was when the rehearsal began, and how that was measured.

    `stored_seconds`: how long its last object had been in the store, by the store's clock alone; None where
    that is not known.
    """

    seconds: float
    how: str
    stored_seconds: float | None = None


@dataclass(slots=True)
class Found:
    """What a rehearsal found out so far; what is None was not reached."""

    container: Container | None = None
    made: RestorePlan | None = None
    age: Age | None = None
    hold_id: str = ""
    readings: int = 0
    sources: list[Restored] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    machines: list[Result] = field(default_factory=list)
    restored_seconds: float | None = None
    running_seconds: float | None = None
    checked_seconds: float | None = None


@dataclass(slots=True)
class Rehearsal:
    """One of them; `found` and `stages` tell of it whatever became of it.

    `open` opens the container, and asks for its secret where one is needed.
    """

    asked: Asked
    store: Store
    flow: Flow
    holding: Holding
    open: Callable[[], Container]
    stages: Stages
    hide: Callable[[], Redaction]
    clock: Clock
    tell: Tell
    found: Found = field(default_factory=Found)
    _stack: ExitStack = field(default_factory=ExitStack)
    _parts: list[Part] = field(default_factory=list)
    _fleet: Fleet | None = None
    _now: tuple[int, str] = (0, "")

    def run(self) -> None:
        """All stages.

        Raises:
            ChecksFailed: everything was restored, and a check failed.
            CdpError: whatever ends a restore, or the clean-up.
        """
        with ExitStack() as stack:
            if self.asked.boot is not None:
                self._fleet = stack.enter_context(Fleet(self.asked.boot, self.clock, self._note))
            workspace = stack.enter_context(taken(self.asked.directory))
            try:
                self._hold()
                read_until_found(lambda _: self._restore(workspace), self.holding, self._is_moved, self._note)
                self.found.restored_seconds = self.stages.seconds
                self._boot(workspace)
                self._check(workspace)
                self.found.checked_seconds = self.stages.seconds
            except BaseException:
                self._clean_up_after_all(workspace)
                raise
            self._clean_up(workspace)
        failed = [verdict for verdict in self.found.verdicts if verdict.state == FAILED]
        if failed:
            names = "; ".join(f"{subject_text(one.kind, one.subject)}: {one.why}" for one in failed)
            raise ChecksFailed(f"restored, but {counted(len(failed), 'check')} failed", names)

    # --- before ----------------------------------------------------------------------------------

    def _hold(self) -> None:
        if self.asked.replica:
            self.holding.unheld("a hold in a replica is seen by nobody")
        else:
            self.holding.place()
        self.found.hold_id = self.holding.hold_id
        self._now = self._store_now()

    def _store_now(self) -> tuple[int, str]:
        """What time it is, and by whose clock. The store's is known by what was written just now."""
        if self.holding.hold_id:
            try:
                return self.store.head(HOLDS_KEY).modified_ns, "the store's clock, when it wrote the hold"
            except CdpError as error:
                self._note(f"the store's clock is not known: {error}")
        return self.clock.wall_ns(), "this machine's clock: without a hold the store's is not known"

    def _age(self, made: RestorePlan) -> Age:
        now_ns, whose = self._now
        place = made.cut.place
        stored: float | None = None
        try:
            landed_ns = self.store.head(segment_key(place.epoch, place.seq)).modified_ns
            stored = max(0.0, (now_ns - landed_ns) / 1e9) if self.holding.hold_id else None
        except NotFound:
            pass  # collected: what it held is in a pack
        how = f"{whose}, less the cut's time by the clock of the site that took it"
        return Age(max(0.0, (now_ns - made.cut.time_ns) / 1e9), how, stored)

    def _is_moved(self) -> bool:
        container = self.found.container
        return container is not None and is_superseded(self.store, container.history.owner)

    def _note(self, line: str) -> None:
        self.found.notes.append(line)
        self.tell(line)

    def _unreadable(self, error: CdpError) -> None:
        """Told from any thread; whoever read it got an I/O error."""
        self._note(f"unreadable: {error}")

    # --- stages 1 to 3 ---------------------------------------------------------------------------

    def _restore(self, workspace: Workspace) -> None:
        """One reading: all of it, whatever an earlier one had done."""
        self._forget()
        if self.found.readings:
            workspace.clear()
        self.found.readings += 1
        with self.stages.stage(METADATA, "objects") as stage:

            def told(done: int, total: int) -> None:
                if stage.total != total:
                    stage.expect(total)
                stage.advance(done - stage.done)
                self.holding.check()

            self._read(workspace, told)
        with self.stages.stage(NAMESPACE, "names") as stage:
            stage.expect(sum(part.names for part in self._parts))
            for part in self._parts:
                part.make_names(stage.advance)
            self.found.sources = [source for part in self._parts for source in part.sources]
        sampling = self.asked.sampling
        with self.stages.stage(CONTENT, "requests") as stage:
            totals = sum((part.totals(sampling) for part in self._parts), Totals())
            stage.expect(totals.gets, totals.fetch_bytes)

            def report(done: Totals) -> None:
                self.holding.check()
                stage.advance(done.gets, done.fetch_bytes)

            for part in self._parts:
                part.fetch(sampling, report)
            self.holding.check()

    def _read(self, workspace: Workspace, told: Callable[[int, int], None]) -> None:
        container = self.found.container = self.open()
        container.require_key()
        history, choice = container.history, self.asked.choice
        scope = scope_of(history, choice)
        is_restored = not self.asked.sampling.on_demand
        contents = container.gather(
            scope, keeps_sums=is_restored, at_once=self.flow, told=told, keeps_names=True
        )
        self._stack.enter_context(closing(contents))
        wanted = meant(container, contents, choice, self.asked.names, self.asked.trees)
        made = plan_restore(container, contents, choice, wanted=wanted, counts=is_restored)
        place = made.cut.place
        self.holding.narrow(place, history.owner.ledger)
        self.asked = replace(self.asked, choice=Choice(at=(place.epoch, place.cut)))
        self.found.hold_id = self.holding.hold_id
        for line in notes_of(container, contents, made):
            if line not in self.found.notes:
                self._note(line)
        self.found.made = made
        if self._fleet is not None:
            self._fleet.look(vms_at_cut(container, contents, made.cut, self._note))
        if self.found.age is None:
            self.found.age = self._age(made)
        source = Source(container.store, container.keys, contents, self.flow)
        enter = self._stack.enter_context
        if self.asked.sampling.on_demand:
            shown = ShownPart(source, made, workspace.path, self.clock, self._unreadable)
            self._parts.append(enter(shown))
            return
        if made.volumes:
            self._parts.append(enter(VolumesPart(source, made.volumes, workspace.path, self.clock)))
        if made.trees:
            trees = TreesPart(source, made.branch, made.trees, workspace.path, self.clock)
            self._parts.append(enter(trees))

    def _forget(self) -> None:
        """Close what an earlier reading has open."""
        self._parts = []
        self._stack.close()

    # --- what comes after --------------------------------------------------------------------------

    def _boot(self, workspace: Workspace) -> None:
        """Start the VMs; one that does not come up is a check that failed."""
        if self._fleet is None:
            return
        made = self.found.made
        assert made is not None, "restored"
        images: dict[bytes, Path] | None = None
        if not self.asked.sampling.on_demand:
            sources = [one for part in self._parts for one in part.sources if one.kind == "volume"]
            spaces = [plan.volume.space for plan in made.volumes]
            images = {space: one.path for space, one in zip(spaces, sources, strict=True)}
        with self.stages.stage(MACHINES, "VMs running") as stage:
            self.found.machines = self._fleet.bring_up(
                made, images, workspace.path, stage, self.stages.seconds
            )
        if all(one.is_running for one in self.found.machines):
            self.found.running_seconds = self.stages.seconds
        hide = self.hide()
        for verdict in (verdict_of(one, hide) for one in self.found.machines):
            self.found.verdicts.append(verdict)
            if verdict.state == FAILED:
                self.tell(f"failed: VM {verdict.subject}: {verdict.why}")

    def _check(self, workspace: Workspace) -> None:
        made = self.found.made
        assert made is not None, "restored"
        place: Place = made.cut.place
        point, when = point_name(place.epoch, place.cut), time_text(made.cut.time_ns)
        told = told_of(workspace.path, point, when, self.found.sources)
        checks = Checks(
            self._parts,
            self.asked.checks,
            self.asked.sampling,
            workspace.path,
            told,
            self.hide(),
            self.clock,
        )
        with self.stages.stage(CHECKS, "checks") as stage:
            stage.expect(checks.count)
            for verdict in checks.run(lambda count: stage.advance(0, count)):
                self.found.verdicts.append(verdict)
                stage.advance()
                if verdict.state == NOT_CHECKED:
                    self.tell(f"not checked: {verdict.kind} of {verdict.subject}: {verdict.why}")
                elif verdict.state == FAILED:
                    self.tell(f"failed: {verdict.kind} of {verdict.subject}: {verdict.why}")
            stage.expect(stage.done)

    def _clean_up(self, workspace: Workspace) -> None:
        """Close and remove all. Raises DeviceError, and what interrupted it, once it is done."""
        with uninterrupted(), self.stages.stage(CLEAN_UP, "entries") as stage:
            self._end_machines(workspace)
            self._forget()
            if not self.asked.keep:
                try:
                    stage.advance(workspace.clear())
                finally:
                    self.found.left = workspace.left()
            else:
                self.found.left = workspace.left()
            stage.expect(stage.done)

    def _end_machines(self, workspace: Workspace) -> None:
        """Stop and undefine VMs. Where one stays, its disks do too: nothing is removed under it."""
        if self._fleet is None:
            return
        try:
            self._fleet.remove()
        except CdpError:
            self.found.left = [*self._fleet.left(), *workspace.left()]
            self._forget()
            raise

    def _clean_up_after_all(self, workspace: Workspace) -> None:
        """The same after a failure, which is what is to be told; what cannot be removed is told beside it."""
        try:
            self._clean_up(workspace)
        except CdpError as error:
            self._note(f"{error}; left: {', '.join(self.found.left)}")


def notes_of(container: Container, contents: Contents, made: RestorePlan) -> Sequence[str]:
    """What whoever chose this point should be told."""
    broken = [f"{one.key}: {one.error.why}" for one in contents.broken.values()]
    return [*container.history.notes, *contents.notes, *broken, *made.notes]
