"""The VMs of a rehearsal: from restored volumes to machines that run under their own names, and away again.

Their disks are throw-away overlays: what they write is in no image that is checked, and in no container.
How machines are started stands in rehydrate.boot; the order of the stages in run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdp_container.clock import Clock
from cdp_container.errors import DeviceError, counted
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.at_cut import AtCut
from rehydrate.boot.hypervisors import machines_for
from rehydrate.boot.interrupted import run_until_interrupted
from rehydrate.boot.machines import Known, Machines, Ready
from rehydrate.boot.plan import BootAt, Phase
from rehydrate.boot.programs import plain_environment, run_words
from rehydrate.boot.ready import Rendering, not_rendered_of, ready_of, started_of
from rehydrate.boot.run import FAILED as MACHINE_FAILED
from rehydrate.boot.run import Result, bring_up
from rehydrate.boot.telling import counts_text
from rehydrate.container import Secret
from rehydrate.file_names import file_names
from rehydrate.localio import os_errors
from rehydrate.points import RestorePlan
from rehydrate.rehearsal.interrupts import uninterrupted
from rehydrate.rehearsal.left_machines import Left, Record, taken_record, titles_of
from rehydrate.rehearsal.parts import FAILED, MACHINE, PASSED, Verdict
from rehydrate.rehearsal.programs import EXCERPT_BYTES_MAX, Redaction
from rehydrate.rehearsal.served import Served, end_left, start_serving
from rehydrate.rehearsal.stages import Stage
from rehydrate.render.documents import Target
from rehydrate.render.recovered import FilePlace, NbdPlace, Place
from rehydrate.runbook.check import AtPoint
from rehydrate.runbook.model import RunbookSettings
from rehydrate.runbook.order import start_order
from rehydrate.serve.process import NBD_SOCKET

FOLDER: Final = "machines"
"""Of the workspace: documents, consoles, overlays."""
OVERLAY: Final = "served"
QEMU_IMG: Final = "qemu-img"
"""Makes overlays."""
IMAGE_SECONDS_MAX: Final = 60.0
"""Until an empty overlay is made over an image."""
_OUTPUT_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Booting:
    """What is asked of a rehearsal that starts VMs.

    Attributes:
        runbook: with its `test` laid over.
        check: raises RunbookUnfit where it does not fit a point and this machine.
        address: of the container, for what is served on demand.
        secret: that opens it, once it was opened.
    """

    runbook: RunbookSettings
    check: Callable[[AtPoint], None]
    address: str
    secret: Callable[[], Secret]


class Fleet:
    """The VMs of one rehearsal; to be used as a context, which takes the runbook's directory for it alone."""

    def __init__(self, asked: Booting, clock: Clock, note: Callable[[str], None]) -> None:
        self._asked = asked
        self._clock = clock
        self._note = note
        self._stack = ExitStack()
        self._record: Record | None = None
        self._at: AtCut | None = None
        self._served: Served | None = None
        self._machines = machines_for(asked.runbook.target, asked.runbook.uri)

    def __enter__(self) -> Self:
        """Raises AlreadyRunning, MachineFailed, ConfigInvalid: what was left cannot be cleared away."""
        with ExitStack() as stack:
            self._record = stack.enter_context(taken_record(Path(self._asked.runbook.directory)))
            self._clear_left(self._record)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def look(self, at: AtCut) -> None:
        """Hold the runbook against the point, before anything is fetched. Raises RunbookUnfit."""
        self._asked.check(at.point)
        self._at = at

    def bring_up(
        self,
        made: RestorePlan,
        images: Mapping[bytes, Path] | None,
        workspace: Path,
        stage: Stage,
        before_seconds: float,
    ) -> list[Result]:
        """Start the VMs, and watch them until each runs or has failed.

        Args:
            made: the plan of the point.
            images: of the volumes, by their spaces; None where they are to be served on demand.
            workspace: of the rehearsal.
            stage: is told how far it is.
            before_seconds: how long the command was at work before.
        """
        assert self._at is not None, "looked at"
        assert self._record is not None, "entered"
        runbook, folder = self._asked.runbook, workspace / FOLDER
        members = started_of(runbook, self._at.members)
        stage.expect(len(members))
        with os_errors(f"make {folder}"):
            folder.mkdir(mode=0o711)
            if Target(runbook.target) is Target.LIBVIRT:
                workspace.chmod(0o711)  # its QEMU runs as another user
        overlay = workspace / OVERLAY
        places = _served_at(made, overlay) if images is None else _overlays_at(images, folder)
        by = Rendering(runbook, str(folder), rehearsal=True, entropy=os.urandom)
        vms = [ready_of(member, places, by) for member in members]
        for word in not_rendered_of(vms):
            self._note(f"not rendered: {word}")
        known = tuple(vm.known for vm in _in_order(vms) if not vm.refused)
        served = str(overlay) if images is None else ""
        self._record.write(Left(runbook.target, runbook.uri, known, served))
        if images is None:
            self._serve(made, overlay)
        else:
            run_until_interrupted(_make_overlays(images, folder))

        def told(state: BootAt) -> None:
            stage.at(state.count(Phase.RUNNING), counts_text(state))

        return bring_up(vms, self._machines, self._clock, told, before_seconds)

    def _serve(self, made: RestorePlan, overlay: Path) -> None:
        place = made.cut.place
        point = f"{place.epoch}.{place.cut}"
        with uninterrupted():  # one that was started and is not known yet would be left running
            self._served = start_serving(self._asked.address, point, overlay, self._asked.secret())
        self._served.wait_until_open(self._clock)

    def remove(self) -> None:
        """Stop and undefine all of it. Raises MachineFailed: something stays, and its note with it."""
        if self._record is None:
            return
        left = self._record.read()
        if left is not None:
            self._remove(left)
            self._record.drop()

    def left(self) -> list[str]:
        """VMs that could not be taken away."""
        left = None if self._record is None else self._record.read()
        return [] if left is None else [f"VM {one.title}" for one in left.machines]

    def _clear_left(self, record: Record) -> None:
        left = record.read()
        if left is None:
            return
        self._remove(left)
        record.drop()
        self._note(f"a rehearsal that was killed left VMs, which were taken away: {titles_of(left.machines)}")

    def _remove(self, left: Left) -> None:
        machines = machines_for(left.target, left.uri)
        asyncio.run(_remove_all(machines, left.machines))
        if self._served is not None:
            self._served.end()
        elif left.overlay:
            end_left(Path(left.overlay))


def _in_order(vms: Sequence[Ready]) -> list[Ready]:
    """As they are started: each after those that it waits for."""
    named = {vm.name: vm for vm in vms}
    groups = start_order({vm.name: vm.start.after for vm in vms})
    return [named[name] for group in groups for name in group]


async def _remove_all(machines: Machines, known: Sequence[Known]) -> None:
    """Each is tried, whatever became of the others; the last started first. Raises MachineFailed."""
    failed = []
    for one in reversed(known):
        try:
            await machines.remove(one)
        except MachineFailed as error:
            failed.append(f"{one.title}: {error.why}")
    if failed:
        hint = "the next rehearsal tries it again, and nothing else is ever touched"
        raise MachineFailed("take the VMs of the rehearsal away", "; ".join(failed), hint)


def _served_at(made: RestorePlan, overlay: Path) -> dict[bytes, Place]:
    volumes = [plan.volume for plan in made.volumes]
    files = file_names([(one.name, one.space) for one in volumes], "")
    socket = str(overlay / NBD_SOCKET)
    return {one.space: NbdPlace(file, socket=socket) for one, file in zip(volumes, files, strict=True)}


def _overlays_at(images: Mapping[bytes, Path], folder: Path) -> dict[bytes, Place]:
    return {space: FilePlace(str(_overlay_path(folder, space)), "qcow2") for space in images}


def _overlay_path(folder: Path, space: bytes) -> Path:
    return folder / f"{space.hex()}.qcow2"


async def _make_overlays(images: Mapping[bytes, Path], folder: Path) -> None:
    """Empty overlays; an image is never taken for anything but raw. Raises DeviceError."""
    program = shutil.which(QEMU_IMG)
    if program is None and images:
        raise DeviceError(
            "make overlays for the VMs", f"there is no {QEMU_IMG} here", "install QEMU's utilities"
        )
    for space, image in images.items():
        path = _overlay_path(folder, space)
        words = [str(program), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image), str(path)]
        what = f"make an overlay over {image}"
        try:
            async with asyncio.timeout(IMAGE_SECONDS_MAX):
                ended = await run_words(words, plain_environment(), _OUTPUT_BYTES_MAX)
        except TimeoutError:
            raise DeviceError(what, f"it took longer than {IMAGE_SECONDS_MAX:g} s") from None
        if ended.code:
            raise DeviceError(what, ended.words)


def verdict_of(one: Result, hide: Redaction) -> Verdict:
    """A VM as one of the rehearsal's checks; of one that did not come up with the end of its console."""
    if one.running_seconds is not None and one.is_running:
        passed = (
            f"{counted(len(one.checks), 'check')} passed" if one.checks else "it runs; no check was asked for"
        )
        took_seconds = one.running_seconds - (one.begun_seconds or 0.0)
        return Verdict(MACHINE, one.name, PASSED, passed, took_seconds)
    why = one.why if one.state == MACHINE_FAILED else f"{one.state}: {one.why}"
    excerpt = "" if one.begun_seconds is None else _end_of(Path(one.console), hide)
    return Verdict(MACHINE, one.name, FAILED, why, excerpt=excerpt)


def _end_of(console: Path, hide: Redaction) -> str:
    """What a console said last; nothing where there is none, or libvirt keeps it for another user."""
    bytes_max = EXCERPT_BYTES_MAX + hide.bytes_max  # a secret is not to be cut in two
    try:
        with console.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - bytes_max))
            said = hide.bytes(file.read(bytes_max))
    except OSError:
        return ""
    return said[-EXCERPT_BYTES_MAX:].decode(errors="replace")
