"""In which order VMs are started and when each has failed: events and the time in, actions out. PURE.

How a VM is started and a check made does not belong here (run, qemu, libvirt, probes).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from rehydrate.runbook.order import start_order

AGAIN_NS: Final = 500_000_000
"""From a check that did not pass until it is made again."""


class Phase(enum.StrEnum):
    """How far a VM is. The last three are ends."""

    WAITING = "waiting"
    PAUSING = "pausing"
    STARTING = "starting"
    CHECKING = "checking"
    RUNNING = "running"
    FAILED = "failed"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A VM that is to be started: after which, so long after these, and in what time.

    `checks`: how many it has. All of them have passed before it is said to run.
    """

    name: str
    after: tuple[str, ...] = ()
    wait_ns: int = 0
    within_ns: int = 300_000_000_000
    checks: int = 0


# --- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Up:
    """A VM was started, or was found running (`found`): its guest runs from here."""

    name: str
    found: bool = False


@dataclass(frozen=True, slots=True)
class Down:
    """A VM could not be started, or runs no more."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Passed:
    """A check of a VM has passed."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class NotPassed:
    """A check of a VM was made, and has not passed."""

    name: str
    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing but time has passed."""


Event: TypeAlias = Up | Down | Passed | NotPassed | Tick


# --- actions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Define and start a VM; answered by Up or Down."""

    name: str


@dataclass(frozen=True, slots=True)
class Check:
    """Make a check once; answered by Passed or NotPassed."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """Whatever goes on for a VM is not waited for any more."""

    name: str


Action: TypeAlias = Start | Check | LetGo


# --- states ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckAt:
    """One check: when it passed, else when it is due again and why it did not pass the last time."""

    passed_ns: int | None = None
    under_way: bool = False
    due_ns: int = 0
    tries: int = 0
    why: str = "it did not end"


@dataclass(frozen=True, slots=True)
class MachineAt:
    """One VM. Times are None until they came; `due_ns`: of its start; `found`: it ran already."""

    wanted: Wanted
    phase: Phase = Phase.WAITING
    why: str = ""
    due_ns: int = 0
    deadline_ns: int = 0
    began_ns: int | None = None
    up_ns: int | None = None
    running_ns: int | None = None
    found: bool = False
    checks: tuple[CheckAt, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done for it."""
        return self.phase in (Phase.RUNNING, Phase.FAILED, Phase.HELD)


@dataclass(frozen=True, slots=True)
class BootAt:
    """All VMs, by their names."""

    began_ns: int
    machines: Mapping[str, MachineAt]

    @property
    def is_over(self) -> bool:
        """Whether each of them runs, has failed, or is held."""
        return all(one.is_over for one in self.machines.values())

    @property
    def next_ns(self) -> int | None:
        """When time alone changes something; None where only an event does."""
        return min((at for one in self.machines.values() for at in _times(one)), default=None)

    def count(self, *phases: Phase) -> int:
        """How many are in one of these phases."""
        return sum(one.phase in phases for one in self.machines.values())


def _times(one: MachineAt) -> Iterable[int]:
    if one.phase is Phase.PAUSING:
        yield one.due_ns
    if one.phase in (Phase.STARTING, Phase.CHECKING):
        yield one.deadline_ns
    if one.phase is Phase.CHECKING:
        yield from (check.due_ns for check in one.checks if check.passed_ns is None and not check.under_way)


def begin(wanted: Sequence[Wanted], now_ns: int) -> tuple[BootAt, list[Action]]:
    """The first state, and what is to be done first. Raises CycleError: VMs wait for each other.

    VMs that are not among these are not waited for.
    """
    names = {one.name for one in wanted}
    assert len(names) == len(wanted), "each VM once"
    start_order({one.name: one.after for one in wanted})
    known = (replace(one, after=tuple(name for name in one.after if name in names)) for one in wanted)
    machines = {one.name: MachineAt(one, checks=(CheckAt(),) * one.checks) for one in known}
    return _settled(BootAt(now_ns, machines), now_ns)


def step(state: BootAt, event: Event, now_ns: int) -> tuple[BootAt, list[Action]]:
    """What is so after an event, and what is to be done. What comes late changes nothing."""
    if not isinstance(event, Tick):
        changed = _after(state.machines[event.name], event, now_ns)
        state = replace(state, machines={**state.machines, event.name: changed})
    return _settled(state, now_ns)


def _after(one: MachineAt, event: Up | Down | Passed | NotPassed, now_ns: int) -> MachineAt:
    match event:
        case Up() if one.phase is Phase.STARTING:
            return replace(one, phase=Phase.CHECKING, up_ns=now_ns, found=event.found)
        case Down() if one.phase in (Phase.STARTING, Phase.CHECKING, Phase.RUNNING):
            return replace(one, phase=Phase.FAILED, why=event.why)
        case Passed() if one.phase is Phase.CHECKING:
            return _checked(one, event.number, replace(one.checks[event.number], passed_ns=now_ns))
        case NotPassed() if one.phase is Phase.CHECKING:
            check = replace(
                one.checks[event.number], under_way=False, due_ns=now_ns + AGAIN_NS, why=event.why
            )
            return _checked(one, event.number, check)
        case _:
            return one


def _checked(one: MachineAt, number: int, check: CheckAt) -> MachineAt:
    return replace(one, checks=(*one.checks[:number], check, *one.checks[number + 1 :]))


def _settled(state: BootAt, now_ns: int) -> tuple[BootAt, list[Action]]:
    """Go on until nothing changes: what one VM came to may let another begin."""
    actions: list[Action] = []
    machines = dict(state.machines)
    changed = True
    while changed:
        changed = False
        for name, before in machines.items():
            after, wanted = _moved(before, machines, state.began_ns, now_ns)
            actions += wanted
            if after != before:
                machines[name] = after
                changed = True
    return replace(state, machines=machines), actions


def _moved(
    one: MachineAt, machines: Mapping[str, MachineAt], began_ns: int, now_ns: int
) -> tuple[MachineAt, list[Action]]:
    """One move of one VM, as the others and the time stand."""
    others = [machines[name] for name in one.wanted.after]
    match one.phase:
        case Phase.WAITING | Phase.PAUSING if lost := _lost(others):
            return replace(one, phase=Phase.HELD, why=f"it comes after {lost}, which did not come up"), []
        case Phase.WAITING if all(other.phase is Phase.RUNNING for other in others):
            ready_ns = max((other.running_ns or 0 for other in others), default=began_ns)
            return replace(one, phase=Phase.PAUSING, due_ns=ready_ns + one.wanted.wait_ns), []
        case Phase.PAUSING if now_ns >= one.due_ns:
            deadline_ns = now_ns + one.wanted.within_ns
            begun = replace(one, phase=Phase.STARTING, began_ns=now_ns, deadline_ns=deadline_ns)
            return begun, [Start(one.wanted.name)]
        case Phase.CHECKING if all(check.passed_ns is not None for check in one.checks):
            return replace(one, phase=Phase.RUNNING, running_ns=now_ns), []  # at its deadline, too
        case Phase.STARTING | Phase.CHECKING if now_ns >= one.deadline_ns:
            return _idle(replace(one, phase=Phase.FAILED, why=_late(one))), [LetGo(one.wanted.name)]
        case Phase.FAILED if any(check.under_way for check in one.checks):
            return _idle(one), [LetGo(one.wanted.name)]
        case Phase.CHECKING:
            return _checking(one, now_ns)
        case _:
            return one, []


def _idle(one: MachineAt) -> MachineAt:
    return replace(one, checks=tuple(replace(check, under_way=False) for check in one.checks))


def _lost(others: Iterable[MachineAt]) -> str:
    return next((one.wanted.name for one in others if one.phase in (Phase.FAILED, Phase.HELD)), "")


def _checking(one: MachineAt, now_ns: int) -> tuple[MachineAt, list[Action]]:
    actions: list[Action] = []
    checks = list(one.checks)
    for number, check in enumerate(checks):
        if check.passed_ns is None and not check.under_way and now_ns >= check.due_ns:
            checks[number] = replace(check, under_way=True, tries=check.tries + 1)
            actions.append(Check(one.wanted.name, number))
    return replace(one, checks=tuple(checks)), actions


def _late(one: MachineAt) -> str:
    seconds = f"{one.wanted.within_ns / 1e9:g} s"
    if one.phase is Phase.STARTING:
        return f"it was not started within {seconds}"
    missing = [check for check in one.checks if check.passed_ns is None]
    return f"{len(missing)} of {len(one.checks)} checks did not pass within {seconds}: {missing[0].why}"
