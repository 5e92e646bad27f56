"""The VMs of a domain that was taken over: checked before it is claimed, started once it is served.

They boot from the agent's exports, so what they write is protected. How VMs are started stands in
rehydrate.boot; the order of a failover in failover.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.console import printable, say
from cdp_container.domain.failover_note import NOTE_NAME, FailoverNote, change_note
from cdp_container.domain.identity import AgentIdentity, load_identity
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import RunbookUnfit, counted
from cdp_container.machine_errors import VmsNotRunning
from rehydrate.boot.at_cut import AtCut
from rehydrate.boot.hypervisors import machines_for
from rehydrate.boot.plan import BootAt, MachineAt
from rehydrate.boot.ready import Rendering, not_rendered_of, ready_of, started_of
from rehydrate.boot.run import Result, bring_up
from rehydrate.boot.telling import change_line, not_running_words
from rehydrate.cli.runbook_page import Page, check_fits
from rehydrate.localio import lock_alone, os_errors
from rehydrate.render.documents import Target
from rehydrate.render.recovered import NbdPlace, Place

LOCK_NAME: Final = ".lock"
_SHOWN_DIGITS: Final = 8
"""Of a domain's id, in the name of a directory: sockets want short paths."""


@dataclass(slots=True)
class Lines:
    """Tells each VM's changes on stderr, in lines or as events."""

    as_json: bool
    _before: Mapping[str, MachineAt] = field(default_factory=dict)

    def __call__(self, state: BootAt) -> None:
        """See `run.Told`."""
        for name, now in state.machines.items():
            line = change_line(self._before.get(name), now)
            if line is not None:
                event = {"event": "vm", "name": name, "phase": now.phase, "text": line}
                say(json.dumps(event) if self.as_json else printable(line))
        self._before = state.machines


def directory_of(page: Page, note: FailoverNote) -> Path:
    """Of the documents and consoles of this failover alone."""
    return Path(page.runbook.directory) / f"{note.domain.hex()[:_SHOWN_DIGITS]}-{note.epoch}"


def place_of(page: Page) -> str:
    """Where VMs are started by a runbook: a hypervisor finds those that run again there alone."""
    runbook = page.runbook
    uri = f" at {runbook.uri}" if Target(runbook.target) is Target.LIBVIRT else ""
    return f"{os.path.realpath(runbook.directory)} by {runbook.target}{uri}"


def check_place(page: Page, note: FailoverNote, journal: Path) -> None:
    """Raises RunbookUnfit where VMs were started elsewhere: each would run twice, on the same disks."""
    if note.booted in ("", place_of(page)):
        return
    what = f"{page.path} does not fit: it has VMs started in {place_of(page)}"
    why = f"VMs were started in {note.booted}; those that run there would be started again on the same disks"
    hint = f"name that again; or stop all of them first, and take `booted` out of {journal / NOTE_NAME}"
    raise RunbookUnfit(what, why, hint)


def _note_place(page: Page, journal: Path) -> None:
    """Durably, before the first VM is started. Raises RunbookUnfit."""

    def noted(note: FailoverNote) -> FailoverNote:
        check_place(page, note, journal)
        return replace(note, booted=place_of(page))

    change_note(journal, noted)


def exports_of(identity: AgentIdentity, settings: AgentSettings, target: str) -> dict[bytes, Place]:
    """Where each volume is: the agent's export of it, by its space.

    libvirt's QEMU is another user's and may not use the agent's socket: where the exports are on TCP too,
    it has them there.
    """
    listen = settings.nbd
    if target == Target.LIBVIRT and listen is not None and listen.tls is None:
        host, port = listen.endpoint
        return {one.space: NbdPlace(one.name, host=host, port=port) for one in identity.active.values()}
    socket = os.path.abspath(settings.socket_path)
    return {one.space: NbdPlace(one.name, socket=socket) for one in identity.active.values()}


def boot(
    page: Page,
    at: AtCut,
    note: FailoverNote,
    journal: Path,
    settings: AgentSettings,
    clock: Clock,
    as_json: bool,
) -> list[Result]:
    """Define and start the VMs, in their order, until each runs or has failed. Those that run are left alone.

    `journal`: the agent's directory, which has the failover's note.
    Raises RunbookUnfit, AlreadyRunning: another command is at it.
    """
    runbook, directory = page.runbook, directory_of(page, note)
    check_fits(page, at.point, rehearsal=False, directory=str(directory))
    by = Rendering(runbook, str(directory), rehearsal=False, entropy=os.urandom)
    places = exports_of(load_identity(journal), settings, runbook.target)
    vms = [ready_of(member, places, by) for member in started_of(runbook, at.members)]
    for word in not_rendered_of(vms):
        say(f"not rendered: {printable(word)}")
    what = f"start VMs in {directory}"
    with os_errors(what):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock_alone(fd, directory / LOCK_NAME, what)
        _note_place(page, journal)
        before_seconds = max(0, clock.wall_ns() - note.began_ns) / 1e9
        machines = machines_for(runbook.target, runbook.uri)
        return bring_up(vms, machines, clock, Lines(as_json), before_seconds)
    finally:
        os.close(fd)


@contextmanager
def interruption_told(note: FailoverNote, config: Path, report: Callable[[str], None]) -> Iterator[None]:
    """What holds where the block is interrupted: VMs are started once the domain is served, not before.

    `config`: the agent's; `report`: given a line.
    """
    try:
        yield
    except KeyboardInterrupt:
        report(
            f"interrupted while VMs were started: the domain is owned by this site (epoch {note.epoch}), and "
            "its agent runs on: it serves and protects what VMs write; those that were started run on. The "
            "same command goes on: it leaves them alone, checks them, and starts the others. How the domain "
            f"is: cdp-agent status --config {config}"
        )
        raise


def raise_if_not_running(results: Sequence[Result]) -> None:
    """Raises VmsNotRunning with the reason of each that did not come up."""
    lost = [one for one in results if not one.is_running]
    if lost:
        what = f"{len(lost)} of {counted(len(results), 'VM')} did not come up; the domain is ours, and served"
        raise VmsNotRunning(what, not_running_words(results))
