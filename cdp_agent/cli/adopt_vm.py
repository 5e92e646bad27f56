"""`cdp-agent adopt`: the disks of a running VM onto the exports of the running agent (docs/adopting.md).

How it is done stands in `cdp_agent.adopting`; here is what it is done with, and what is told of it.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from cdp_agent.adopting import target
from cdp_agent.adopting.checks import Plan, Wishes, plan_moves
from cdp_agent.adopting.cutover import sides
from cdp_agent.adopting.link import Link, LinkLost
from cdp_agent.adopting.noting import Progress, note_filled, note_filling
from cdp_agent.adopting.progress import LOCK_NAME
from cdp_agent.adopting.relay import Relay, check_answers
from cdp_agent.adopting.seen import Seen, lacking, look
from cdp_agent.adopting.start_words import libvirt_steps, qemu_words
from cdp_agent.adopting.undoing import clean_up
from cdp_agent.adopting.words import PREFIX
from cdp_agent.adopting.work import Ended, Ways, adopt, end_others, try_connections
from cdp_agent.cli.accepted import Running, load_running
from cdp_agent.cli.adopt_lines import AdoptLines
from cdp_agent.cli.vm_status import ask_hypervisors
from cdp_agent.streamer.control import call
from cdp_agent.supervisor import take_lock
from cdp_agent.vms.qmp_asked import ABSENT_HINT
from cdp_container.clock import Clock
from cdp_container.console import answer, say
from cdp_container.domain.identity import VmIdentity
from cdp_container.domain.notes import load_notes
from cdp_container.domain.point_settings import term_seconds
from cdp_container.entry import EXIT_INTERRUPTED
from cdp_container.errors import AgentNotRunning, CdpError, HypervisorFailed, Incomplete, UsageError, counted
from cdp_container.machine_errors import AdoptionPartly, AdoptionRefused, AdoptionUndone
from cdp_container.telling import size_text

FLUSH_SECONDS: Final = 2.0
"""Asked for again and again, so that an end of the waiting is heard."""
TELL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's options, as they were said."""

    vm: str
    disks: list[str]
    without: list[str]
    qmp: Path | None
    give_up_after: str
    overwrite: bool = False
    dry_run: bool = False
    waits: bool = True
    as_json: bool = False
    accept: str = ""


class _Signals:
    """Ctrl-C and its like are noted, and looked for where all can be undone; the second ends at once."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        taken = [one for one in numbers if signal.getsignal(one) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in taken}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def is_there(self) -> bool:
        return bool(self.received)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])


def adopt_vm(config: Path, asked: Asked, clock: Clock) -> int:
    """Adopt the disks of a VM.

    Raises:
        UsageError: the words make no sense, or the VM is not one that can be adopted here.
        AdoptionRefused, AdoptionUndone, AdoptionPartly, HypervisorFailed: see docs/adopting.md.
        AgentNotRunning, AlreadyRunning.
        Incomplete: adopted, and the first recovery point is not there, or the agent did not note it.
    """
    if asked.accept:
        return accept_volume(config, asked, clock)
    wishes, give_up_seconds = _wishes(asked), _give_up_seconds(asked.give_up_after)
    running = load_running(config)
    vm = _member(running, asked.vm)
    if vm.kind == "libvirt":
        return _show_libvirt(vm, wishes, running.settings.socket_path)
    if vm.kind != "qmp":
        why = f"VM {vm.name} is a member by {vm.kind or 'a failover'}, and not by qmp"
        raise UsageError("adopt a VM", why, "docs/adopting.md tells what can be adopted")
    directory = Path(running.settings.journal.directory)
    lock = take_lock(directory / LOCK_NAME, clock)
    try:
        return _Job(running, vm, asked, wishes, give_up_seconds, directory, clock).run()
    finally:
        os.close(lock)


@dataclass(slots=True)
class _Job:
    """One run of the command."""

    running: Running
    vm: VmIdentity
    asked: Asked
    wishes: Wishes
    give_up_seconds: float
    directory: Path
    clock: Clock

    def run(self) -> int:
        with closing(self._linked()) as link:
            plan = self._plan(link)
            if self.asked.dry_run:
                return self._show_plan(plan, try_connections(plan, link, self._socket))
            self._tell_plan(plan)
            signals = _Signals()
            with signals.noted():
                is_first = self._is_first(plan)
                self._note_found(plan)
                stall_seconds = self._move(plan, link, signals.is_there)
                if stall_seconds is None:
                    return 128 + signals.received if signals.received else EXIT_INTERRUPTED
                link.close()  # the agent asks for the VM's description by it
                point = self._first_point(signals.is_there) if self.asked.waits else None
        self._show(plan, stall_seconds, point, is_first)
        return 128 + signals.received if signals.received else 0

    @property
    def _socket(self) -> str:
        return self.running.settings.socket_path

    def _linked(self) -> Link:
        try:
            return Link(str(self.asked.qmp or self.vm.at), self.clock)
        except HypervisorFailed as error:
            to = ", ".join(f"{disk} to volume {volume}" for disk, volume in self.wishes.disks.items())
            what = f"adopt VM {self.vm.name}{f' ({to})' if to else ''}"
            hint = ABSENT_HINT if error.hint == HypervisorFailed.default_hint else error.hint
            raise HypervisorFailed(what, f"{error}; nothing was done", hint) from error

    def _plan(self, link: Link) -> Plan:
        identity = self.running.identity
        agent = target.agent_now(self.directory)
        if agent.trouble:
            raise AgentNotRunning(f"adopt VM {self.vm.name}", agent.trouble)
        check_answers(self._socket)
        faults = lacking(link.do)
        if faults:
            raise AdoptionRefused(f"adopt VM {self.vm.name}", "; ".join(faults))
        seen = look(link.do)
        if not self.asked.dry_run:
            ours = frozenset(name for name in seen.jobs if name.startswith(PREFIX))
            clean_up(link, self.clock, ours)  # nodes that a killed run left without a job
            seen = look(link.do)
        volumes = target.volumes_of(identity, self.vm, link.peer_pid())
        listen = self.running.settings.nbd
        sockets = [self._socket, *([] if listen is None else [listen.listen])]
        names = {source.name: source.space for source in identity.active.values()}
        return plan_moves(
            seen,
            self.wishes_with(seen),
            volumes,
            lambda disk: target.volume_of(disk.file, sockets, names),
            lambda name: target.holds_something(identity, name),
            lambda node: target.volume_of(node.file, sockets, names),
            {one.name: f"disk {one.disk} of VM {one.vm}" for one in identity.active_disks},
        )

    def wishes_with(self, seen: Seen) -> Wishes:
        """With what `disks` of the member says of disks that there are."""
        said = {disk: volume for disk, volume in self.vm.disks if disk in seen.disks}
        return Wishes(self.wishes.disks, self.wishes.without, self.wishes.overwrite, said)

    def _tell_plan(self, plan: Plan) -> None:
        for move in plan.moves:
            if dict(self.vm.disks).get(move.disk.name) == move.volume.name:
                claim = f"{move.disk.name} is {move.volume.name}"
                say(f"note: `disks` says that {claim} already: until the cut-over it is not")

    def _is_first(self, plan: Plan) -> bool:
        """Whether the point that is waited for is the first; else the VM was adopted and protected before."""
        noted = {one.space for one in load_notes(self.directory).filling}
        names = {one.name for one in self.running.identity.active.values() if one.space in noted}
        return bool(plan.moves) or not names.isdisjoint(plan.done.values())

    def _note_found(self, plan: Plan) -> None:
        """Of disks that are volumes, which a run did not live to say that was killed amid the end."""
        noted = {one.space for one in load_notes(self.directory).filling if not one.ended}
        names = [one.name for one in self.running.identity.active.values() if one.space in noted]
        if found := [name for name in names if name in plan.done.values()]:
            note_filled(self.directory, found, self.clock)

    def _move(self, plan: Plan, link: Link, is_ended: Callable[[], bool]) -> float | None:
        """Adopt; gives how long the longest request took while it was copied, None where it was ended."""
        rate = self.running.settings.copy_rate
        volumes = [move.volume.name for move in plan.moves]
        name = self.vm.name
        # By the relay they could write again, into volumes that somebody accepted as they are.
        end_others(plan, link, self.clock)
        were_whole = note_filling(self.directory, name, volumes, self.clock) if volumes else frozenset()
        relay = self._relay(were_whole, is_ended)
        lines = AdoptLines(self.clock, self.asked.as_json, lambda: relay.trouble)
        show = Progress(self.directory, name, self.clock, lines)
        ways = Ways(
            seed_socket=relay.path,
            export_socket=self._socket,
            check_target=lambda: check_answers(self._socket),
            agent=lambda: target.agent_now(self.directory),
            cut_relay=relay.close,
            hurry=relay.hurry,
            is_ended=is_ended,
            speed=0 if math.isinf(rate) else max(1, int(rate)),
            give_up_seconds=self.give_up_seconds,
        )
        try:
            adopt(plan, link, ways, self.clock, show)
        except (Ended, AdoptionUndone) as error:
            self._undone(relay, were_whole, show, is_ended)
            if isinstance(error, Ended):
                return None
            raise
        except AdoptionPartly:
            self._note_those_over(plan, link, is_ended)
            raise
        finally:
            relay.close()
            show.close()
        if volumes:
            note_filled(self.directory, volumes, self.clock, is_ended)
        return relay.longest_seconds

    def _relay(self, were_whole: frozenset[str], is_ended: Callable[[], bool]) -> Relay:
        try:
            return Relay(self.directory, self._socket, self.clock)
        except (CdpError, OSError):
            if were_whole:  # nothing can have been written
                with suppress(Incomplete):
                    note_filled(self.directory, sorted(were_whole), self.clock, is_ended)
            raise

    def _undone(
        self, relay: Relay, were_whole: frozenset[str], show: Progress, is_ended: Callable[[], bool]
    ) -> None:
        """What was whole and has nothing of the copy is whole again; of the rest it is told what it is."""
        relay.close()
        if were_whole and not relay.has_written:
            with suppress(Incomplete):  # then they stay noted, and it is told as of the others
                note_filled(self.directory, sorted(were_whole), self.clock, is_ended)
                return
        show.tell("its volumes hold a part of the copy: they are not whole until it is adopted; see status")

    def _note_those_over(self, plan: Plan, link: Link, is_ended: Callable[[], bool]) -> None:
        """Where it is known which they are; else the next run asks."""
        try:
            names, _ = sides(look(link.do), plan.moves)
        except LinkLost:
            return
        over = [move.volume.name for move in plan.moves if move.disk.name in names]
        # What is told is worse; `status` tells this, and the same command mends it.
        with suppress(Incomplete):
            if over:
                note_filled(self.directory, over, self.clock, is_ended)

    def _first_point(self, is_ended: Callable[[], bool]) -> dict[str, Any] | None:
        """Wait for the first cut in which all volumes are whole; None where the waiting was ended."""
        ask_hypervisors(self.directory, self.running.identity)
        told_ns = self.clock.boottime_ns()
        while not is_ended():
            try:
                said = call(self.directory, {"command": "flush"}, FLUSH_SECONDS)
            except OSError:
                said = {"timeout": True}  # it begins anew
                self.clock.sleep(FLUSH_SECONDS)
            if said.get("ok"):
                place = said["place"]
                return {"epoch": place["epoch"], "cut": place["cut"]}
            if not said.get("timeout"):
                why = f"it is adopted, and its first recovery point is not there: {said.get('error')}"
                raise Incomplete(f"protect VM {self.vm.name}", why, str(said.get("hint") or ""))
            if self.clock.boottime_ns() - told_ns >= TELL_SECONDS * 1e9:
                told_ns = self.clock.boottime_ns()
                say("adopted; waiting for what was copied to be in the container (Ctrl-C ends the waiting)")
        return None

    # --- telling ---------------------------------------------------------------------------------

    def _show_plan(self, plan: Plan, faults: list[str]) -> int:
        if faults:
            raise AdoptionRefused(f"adopt VM {self.vm.name}", "; ".join(faults))
        if self.asked.as_json:
            answer(json.dumps({"vm": self.vm.name, "dry_run": True, **_members(plan)}, indent=2))
            return 0
        for move in plan.moves:
            answer(
                f"{move.disk.name}: {size_text(move.disk.size_bytes)}, would become volume {move.volume.name}"
            )
        for disk, volume in plan.done.items():
            answer(f"{disk}: is volume {volume} already")
        for disk in plan.left:
            answer(f"{disk}: stays as it is, unprotected")
        return 0

    def _show(self, plan: Plan, stall_seconds: float, point: dict[str, Any] | None, is_first: bool) -> None:
        volumes = {**plan.done, **{move.disk.name: move.volume.name for move in plan.moves}}
        start = {disk: qemu_words(disk, volume, self._socket) for disk, volume in volumes.items()}
        if self.asked.as_json:
            document = {
                "vm": self.vm.name,
                "dry_run": False,
                **_members(plan),
                "longest_request_seconds": round(stall_seconds, 3),
                "point": point,
                "point_is_first": is_first,
                "start": start,
            }
            answer(json.dumps(document, indent=2))
        else:
            for line in self._lines(plan, stall_seconds, point, is_first, start):
                answer(line)

    def _lines(
        self,
        plan: Plan,
        stall_seconds: float,
        point: dict[str, Any] | None,
        is_first: bool,
        start: Mapping[str, str],
    ) -> Iterator[str]:
        for move in plan.moves:
            yield f"{move.disk.name}: is volume {move.volume.name} now; {move.disk.file} stays as it was then"
        for disk, volume in plan.done.items():
            yield f"{disk}: was volume {volume} already"
        for disk in plan.left:
            yield f"{disk}: stays as it is, unprotected"
        if plan.moves:
            yield f"the longest request while it was copied took {stall_seconds:.3f} s"
        name = "" if point is None else f"{point['epoch']}.{point['cut']}"
        if not is_first:
            since = "is protected since it was adopted"
            yield f"VM {self.vm.name} {since}{f'; its newest recovery point is {name}' if name else ''}"
        elif name:
            yield f"VM {self.vm.name} is protected from {name} on; earlier points hold these volumes in part"
        else:
            yield "its first recovery point was not waited for: `cdp-agent flush` does"
        yield f"for its next start, {counted(len(start), 'disk')}, each by the node that its device names:"
        yield from (f"  {words}" for words in start.values())


def accept_volume(config: Path, asked: Asked, clock: Clock) -> int:
    """Say that a volume which an adoption left half filled is right as it is; no `adopt` may run meanwhile.

    Raises UsageError: it is not noted as filled by this VM. AlreadyRunning, Incomplete.
    """
    if asked.disks or asked.without or asked.overwrite or asked.dry_run:
        raise UsageError("accept a volume", "--accept copies nothing, and goes with no disks")
    running = load_running(config)
    directory = Path(running.settings.journal.directory)
    spaces = {one.name: one.space for one in running.identity.active.values()}
    lock = take_lock(directory / LOCK_NAME, clock)
    try:
        noted = {one.space: one.vm for one in load_notes(directory).filling if not one.ended}
        if noted.get(spaces.get(asked.accept, b"")) != asked.vm:
            why = f"no adoption of VM {asked.vm} left volume {asked.accept} half filled"
            raise UsageError("accept a volume", why, "`cdp-agent status` names those that are")
        note_filled(directory, [asked.accept], clock)
    finally:
        os.close(lock)
    if asked.as_json:
        answer(json.dumps({"vm": asked.vm, "accepted": asked.accept}))
    else:
        answer(f"volume {asked.accept} counts as whole again, as it is, from the next recovery point on")
    return 0


def _members(plan: Plan) -> dict[str, Any]:
    disks = [
        {
            "disk": move.disk.name,
            "volume": move.volume.name,
            "size_bytes": move.disk.size_bytes,
            "was": move.disk.file,
        }
        for move in plan.moves
    ]
    return {"disks": disks, "already": dict(plan.done), "left": list(plan.left)}


def _wishes(asked: Asked) -> Wishes:
    disks: dict[str, str] = {}
    for words in asked.disks:
        disk, equals, volume = words.partition("=")
        if not (disk and equals and volume) or disk in disks:
            raise UsageError("read --disk", f"{words!r} is not DISK=VOLUME, each disk once")
        disks[disk] = volume
    return Wishes(disks, frozenset(asked.without), asked.overwrite)


def _give_up_seconds(text: str) -> float:
    try:
        return term_seconds(text)
    except ValueError as error:
        raise UsageError("read --give-up-after", f"{text!r} {error}") from None


def _member(running: Running, name: str) -> VmIdentity:
    members = running.identity.active_vms
    for vm in members:
        if vm.name == name:
            return vm
    if any(vm.name == name for vm in running.settings.vms):
        why = f"VM {name} stands in the configuration, and the agent has not taken it over"
        raise UsageError("adopt a VM", why, "`cdp-agent reload` takes it over; then adopt it")
    known = ", ".join(vm.name for vm in members) or "none"
    why = f"there is no VM {name!r}; there is {known}"
    raise UsageError("adopt a VM", why, "name it under `vms` in the configuration, then `cdp-agent reload`")


def _show_libvirt(vm: VmIdentity, wishes: Wishes, socket: str) -> int:
    said = {disk: volume for disk, volume in vm.disks if volume is not None}
    disks = {**said, **wishes.disks}
    if disks:
        answer("\n".join(libvirt_steps(vm.at, vm.domain, disks, socket)))
    why = f"VM {vm.name} is libvirt's, which has QEMU's monitor for itself: nothing was done"
    raise UsageError(
        "adopt a VM",
        why,
        "libvirt can copy its disks itself: --disk for each prints the commands (docs/adopting.md)",
    )
