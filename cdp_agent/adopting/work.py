"""Adopting: begin, copy until all disks are ready, cut over; or undo.

Each turn asks QEMU what there is, so a lost QMP connection, or another run before, makes no difference. What
is decided in a turn stands in `turn`, the last steps in `cutover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cdp_agent.adopting import words
from cdp_agent.adopting.checks import Move, Plan
from cdp_agent.adopting.cutover import NotNow, cut_over, settle
from cdp_agent.adopting.link import LinkLost, Qemu, Refused
from cdp_agent.adopting.seen import Job, Seen, look
from cdp_agent.adopting.turn import Agent, Memory, Standing, Turn, take_turn
from cdp_agent.adopting.undoing import LEFT_HINT, clean_up
from cdp_container.clock import Clock
from cdp_container.errors import AgentNotRunning, HypervisorFailed
from cdp_container.machine_errors import AdoptionPartly, AdoptionUndone

POLL_SECONDS: Final = 0.25
CUT_TRIES_MAX: Final = 50
"""Cut-overs that cannot be begun, before all is undone."""
_WHAT: Final = "adopt the VM's disks"


class Ended(Exception):
    """Somebody ended it, and all was undone."""


class Show(Protocol):
    """Tells whoever looks on."""

    def progress(self, moves: Mapping[str, Job], turn: Turn) -> None:
        """How far each disk is, by name; called often."""
        ...

    def tell(self, line: str) -> None:
        """Something that happened."""
        ...


@dataclass(frozen=True, slots=True)
class Ways:
    """How it is done.

    Attributes:
        seed_socket: the relay's.
        export_socket: the agent's.
        check_target: raises AgentNotRunning where nobody answers there.
        agent: how the agent is now.
        cut_relay: have every request through the relay end.
        hurry: whether nothing that goes through it may be slow.
        is_ended: whether somebody wants it to end.
        speed: bytes per second, 0 where there is no limit.
        give_up_seconds: how long nothing may move.
    """

    seed_socket: str
    export_socket: str
    check_target: Callable[[], None]
    agent: Callable[[], Agent]
    cut_relay: Callable[[], None]
    hurry: Callable[[bool], None]
    is_ended: Callable[[], bool]
    speed: int
    give_up_seconds: float


def adopt(plan: Plan, qemu: Qemu, ways: Ways, clock: Clock, show: Show) -> None:
    """Adopt all disks of the plan.

    Raises:
        Ended: it was ended before the cut-over; all is undone.
        AdoptionUndone: it failed; all is undone.
        AdoptionPartly: some disks are volumes now.
        HypervisorFailed: QEMU is gone, or something of ours is left in it.

    What is left after it went well is told, and harms nobody.
    """
    try:
        going_on = _going_on(plan, _look_twice(qemu))
        clean_up(qemu, clock, going_on)
        if going_on:
            show.tell(f"{len(going_on)} of its disks are being copied already: it is gone on with")
        _copy_and_cut_over(plan, qemu, ways, clock, show)
    except Ended:
        show.tell("ended: what was begun is undone")
        _undo(qemu, ways, clock)
        raise
    except Refused as error:
        _undo(qemu, ways, clock)
        raise AdoptionUndone(_WHAT, error.why) from error
    except AdoptionUndone:
        _undo(qemu, ways, clock)
        raise
    except AdoptionPartly as error:
        try:
            _undo(qemu, ways, clock)
        except HypervisorFailed as left:
            raise AdoptionPartly(error.what, f"{error.why}; {left.why}") from left
        raise
    except LinkLost as error:
        raise HypervisorFailed(_WHAT, error.why, LEFT_HINT) from error
    try:
        clean_up(qemu, clock)
    except HypervisorFailed as error:
        show.tell(f"adopted, and something is left in QEMU that does no harm: {error.why}")


def end_others(plan: Plan, qemu: Qemu, clock: Clock) -> None:
    """Cancel copies of earlier runs that this plan does not go on with. Raises HypervisorFailed."""
    try:
        clean_up(qemu, clock, _going_on(plan, _look_twice(qemu)))
    except LinkLost as error:
        raise HypervisorFailed(_WHAT, error.why, LEFT_HINT) from error


def try_connections(plan: Plan, qemu: Qemu, export_socket: str) -> list[str]:
    """Have QEMU connect to every export, and let go again; what it says of those that fail."""
    faults = []
    nodes = look(qemu.do).nodes
    for move in plan.moves:
        if move.names.direct in nodes:  # left of another run, which could connect
            continue
        node = words.connection(move.names.direct, export_socket, move.volume.name, 0)
        try:
            qemu.do("blockdev-add", node)
            qemu.do("blockdev-del", {"node-name": move.names.direct})
        except Refused as error:
            faults.append(f"QEMU cannot use the export {move.volume.name}: {error.why}")
    return faults


def _look_twice(qemu: Qemu) -> Seen:
    """Where the connection is lost meanwhile, over another one. Raises LinkLost."""
    try:
        return look(qemu.do)
    except LinkLost:
        qemu.connect_again()
        return look(qemu.do)


def _undo(qemu: Qemu, ways: Ways, clock: Clock) -> None:
    ways.cut_relay()  # what waits there would hold up the end of the jobs
    clean_up(qemu, clock)


def _going_on(plan: Plan, seen: Seen) -> frozenset[str]:
    """Jobs of an earlier run that copy what is to be copied; not those that it began to cut over."""
    return frozenset(
        move.names.job
        for move in plan.moves
        if move.names.job in seen.jobs
        and not seen.jobs[move.names.job].is_ended
        and move.names.seed in seen.nodes
        and move.names.direct not in seen.nodes
    )


def _copy_and_cut_over(plan: Plan, qemu: Qemu, ways: Ways, clock: Clock, show: Show) -> None:
    if not plan.moves:
        return
    memory = Memory(clock.boottime_ns())
    begun, tries = False, 0
    while True:
        if ways.is_ended():
            raise Ended
        try:
            if not begun:
                for move in plan.moves:
                    _begin(move, qemu, ways)
                begun = True
            turn, seen = _one_turn(plan, qemu, ways, clock, memory)
        except LinkLost as error:
            show.tell(f"{error.why}: QEMU is tried again")
            qemu.connect_again()
            continue
        memory = turn.memory
        _show(plan, seen, turn, show)
        if turn.standing is Standing.READY:
            try:
                _cut_over(plan, qemu, ways, clock)
                return
            except NotNow as error:
                tries += 1
                show.tell(f"not cut over yet: {error.args[0]}")
                if tries >= CUT_TRIES_MAX:
                    raise AdoptionUndone(
                        _WHAT, f"cutting over failed {tries} times: {error.args[0]}"
                    ) from error
        clock.sleep(POLL_SECONDS)


def _cut_over(plan: Plan, qemu: Qemu, ways: Ways, clock: Clock) -> None:
    try:
        ways.check_target()  # while QEMU connects it does nothing else
    except AgentNotRunning as error:
        raise NotNow(error.why) from error
    ways.hurry(True)
    try:
        try:
            cut_over(qemu, clock, plan.moves, ways.export_socket)
        except LinkLost:
            qemu.connect_again()
            settle(qemu, clock, plan.moves)
    except LinkLost as error:
        why = f"{error.why}, amid the cut-over: which disks are volumes now is not known"
        raise AdoptionPartly(_WHAT, why, "`cdp-agent adopt` of this VM asks, and goes on") from error
    finally:
        ways.hurry(False)


def _begin(move: Move, qemu: Qemu, ways: Ways) -> None:
    """What of a disk's copy is not there yet. Raises Refused, LinkLost, AdoptionUndone."""
    seen, names = look(qemu.do), move.names
    now = [disk.node for disk in seen.disks.values() if disk.device == move.disk.device]
    if now != [move.disk.node]:
        # Its old image may be there still. To copy that would put an older state over what the guest has.
        why = f"{move.disk.name} is not on {move.disk.node} any more, as it was when all was checked"
        raise AdoptionUndone(_WHAT, why, "run the same command again: it looks again")
    if names.seed not in seen.nodes:
        qemu.do("blockdev-add", words.connection(names.seed, ways.seed_socket, move.volume.name, 0))
    if names.top not in seen.nodes:
        qemu.do("blockdev-add", words.top(names.top, names.seed, words.FIND_ZEROES))
    if names.job not in seen.jobs:
        qemu.do("blockdev-mirror", words.mirror(names.job, move.disk.node, names.top, ways.speed))
    elif not seen.jobs[names.job].is_ended and seen.jobs[names.job].speed != ways.speed:
        qemu.do("block-job-set-speed", {"device": names.job, "speed": ways.speed})


def _one_turn(plan: Plan, qemu: Qemu, ways: Ways, clock: Clock, memory: Memory) -> tuple[Turn, Seen]:
    seen = look(qemu.do)
    jobs = {move.names.job: seen.jobs.get(move.names.job) for move in plan.moves}
    turn = take_turn(memory, jobs, ways.agent(), clock.boottime_ns(), ways.give_up_seconds)
    if turn.standing in (Standing.FAILED, Standing.GIVEN_UP):
        raise AdoptionUndone(_WHAT, _why(turn, ways.give_up_seconds))
    for command, names in (("block-job-resume", turn.resume), ("block-job-pause", turn.pause)):
        for name in names:
            try:
                qemu.do(command, {"device": name})
            except Refused:
                continue  # it went on, or ended, since it was looked at: the next turn sees that
    return turn, seen


def _why(turn: Turn, give_up_seconds: float) -> str:
    if turn.standing is Standing.FAILED:
        return f"copying ended: {turn.why}"
    return f"nothing moved for {give_up_seconds:g} s: {turn.why}"


def _show(plan: Plan, seen: Seen, turn: Turn, show: Show) -> None:
    show.progress({move.disk.name: seen.jobs[move.names.job] for move in plan.moves}, turn)
