"""The VMs of a runbook brought up: what the plan wants is done, and what became of it is given back to it.

What is to be done when does not belong here (plan), nor how a hypervisor is asked (machines).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cdp_container.clock import Clock
from cdp_container.errors import CdpError
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.interrupted import run_until_interrupted
from rehydrate.boot.machines import Machines, Power, Ready
from rehydrate.boot.plan import (
    Action,
    BootAt,
    Check,
    Down,
    Event,
    LetGo,
    MachineAt,
    NotPassed,
    Passed,
    Phase,
    Start,
    Tick,
    Up,
    Wanted,
    begin,
    step,
)
from rehydrate.boot.probes import Console, NotYet, check_text, make_check

WATCH_SECONDS: Final = 5.0
"""Between two looks whether a VM still runs, while others come up."""
CHECKS_AT_ONCE: Final = 64
STARTS_AT_ONCE: Final = 4
LOOKS_AT_ONCE: Final = 4
"""So many are under way together; others wait their turn, and their deadline goes on."""
ADDRESSES: Final = "addresses"
"""What the check is called that a guest's agent took its addresses."""

Told: TypeAlias = Callable[[BootAt], None]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of a VM: seconds since the command began until it passed, else None and why not."""

    what: str
    passed_seconds: float | None
    tries: int
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a VM; seconds since the command began, None where it did not come so far.

    `state`: RUNNING, FAILED, or NOT_STARTED: one that it comes after did not come up. `found`: it ran before.
    """

    name: str
    title: str
    state: str
    why: str
    begun_seconds: float | None
    started_seconds: float | None
    running_seconds: float | None
    found: bool
    checks: tuple[CheckResult, ...]
    console: str

    @property
    def is_running(self) -> bool:
        """Whether it came up."""
        return self.state == RUNNING


RUNNING: Final = "running"
FAILED: Final = "failed"
NOT_STARTED: Final = "not started"
_STATES: Final = {Phase.RUNNING: RUNNING, Phase.FAILED: FAILED}


def bring_up(
    vms: Sequence[Ready], machines: Machines, clock: Clock, told: Told, before_seconds: float
) -> list[Result]:
    """Start VMs in their order and watch their checks, until each runs, has failed, or is held.

    Args:
        vms: those of a runbook.
        machines: where.
        clock: of this machine.
        told: given each state that differs from the one before.
        before_seconds: how long the command was at work before.

    Interrupted (Ctrl-C, SIGTERM), nothing of ours goes on, and VMs are as they are.
    """
    return run_until_interrupted(_bring_up(vms, machines, clock, told, before_seconds))


async def _bring_up(
    vms: Sequence[Ready], machines: Machines, clock: Clock, told: Told, before_seconds: float
) -> list[Result]:
    boot = Boot({vm.name: vm for vm in vms}, machines, clock, told)
    state = await boot.run()
    return [result_of(vm, state.machines[vm.name], state.began_ns, before_seconds) for vm in vms]


def wanted_of(vm: Ready) -> Wanted:
    """A VM as the plan knows it."""
    wait_ns, within_ns = int(vm.start.wait * 1e9), int(vm.start.within * 1e9)
    return Wanted(vm.name, tuple(vm.start.after), wait_ns, within_ns, vm.probes)


def result_of(vm: Ready, at: MachineAt, began_ns: int, before_seconds: float) -> Result:
    """What became of a VM."""

    def since(ns: int | None) -> float | None:
        return None if ns is None else before_seconds + (ns - began_ns) / 1e9

    names = [*map(check_text, vm.checks), *([ADDRESSES] if vm.commands else [])]
    checks = tuple(
        CheckResult(what, since(one.passed_ns), one.tries, "" if one.passed_ns is not None else one.why)
        for what, one in zip(names, at.checks, strict=True)
    )
    return Result(
        name=vm.name,
        title=vm.known.title,
        state=_STATES.get(at.phase, NOT_STARTED),
        why=at.why,
        begun_seconds=since(at.began_ns),
        started_seconds=since(at.up_ns),
        running_seconds=since(at.running_ns) if at.phase is Phase.RUNNING else None,
        found=at.found,
        checks=checks,
        console=vm.known.path("console"),
    )


@dataclass(slots=True)
class Boot:
    """One run: the plan's state, and the tasks that are under way for it, by VM."""

    vms: Mapping[str, Ready]
    machines: Machines
    clock: Clock
    told: Told
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _tasks: dict[str, set[asyncio.Task[None]]] = field(default_factory=dict)
    _consoles: dict[tuple[str, int], Console] = field(default_factory=dict)
    _checks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CHECKS_AT_ONCE))
    _starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STARTS_AT_ONCE))
    _looks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE))
    _fault: BaseException | None = None

    async def run(self) -> BootAt:
        """Until all is over. What is under way then, or when this is cancelled, is ended first."""
        try:
            state, actions = begin(list(map(wanted_of, self.vms.values())), self.clock.boottime_ns())
            while True:
                self.told(state)
                for action in actions:
                    self._do(action)
                if state.is_over and await self._still_run(state):
                    return state
                event = await self._next(state)
                if self._fault is not None:
                    raise self._fault
                state, actions = step(state, event, self.clock.boottime_ns())
        finally:
            await self._end([task for tasks in self._tasks.values() for task in tasks])

    async def _next(self, state: BootAt) -> Event:
        """What happens next; Tick where time alone changes something before."""
        if not self._events.empty() or state.next_ns is None:
            return await self._events.get()
        left_seconds = max(0.0, (state.next_ns - self.clock.boottime_ns()) / 1e9)
        try:
            return await asyncio.wait_for(self._events.get(), left_seconds)
        except TimeoutError:
            return Tick()

    async def _still_run(self, state: BootAt) -> bool:
        """A last look at all that came up: some end when nobody looks. What it found is an event."""
        running = [name for name, one in state.machines.items() if one.phase is Phase.RUNNING]
        found = await asyncio.gather(*(self._look(name) for name in running))
        for event in found:
            if event is not None:
                self._events.put_nowait(event)
        return not any(found)

    def _do(self, action: Action) -> None:
        match action:
            case Start():
                self._begin(action.name, self._start(action.name))
            case Check():
                self._begin(action.name, self._check(action))
            case LetGo():
                for task in self._tasks.get(action.name, ()):
                    task.cancel()

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.setdefault(name, set()).add(task)
        task.add_done_callback(lambda task: self._ended(name, task))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks[name].discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()  # a fault of ours: it ends all
            self._events.put_nowait(Tick())

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what is done ------------------------------------------------------------------------------

    async def _start(self, name: str) -> None:
        """Start a VM, unless it runs; then watch it."""
        vm = self.vms[name]
        if vm.refused:
            self._events.put_nowait(Down(name, vm.refused))
            return
        try:
            async with self._starts:
                seen = await self.machines.look(vm.known)
                if seen.power is Power.STILL:
                    raise MachineFailed(vm.known.title, f"it is there and does not run: {seen.words}")
                if seen.power is not Power.RUNNING:
                    await self.machines.start(vm)
        except CdpError as error:
            self._events.put_nowait(Down(name, str(error)))
            return
        self._events.put_nowait(Up(name, found=seen.power is Power.RUNNING))
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            event = await self._look(name)
            if event is not None:
                self._events.put_nowait(event)
                return

    async def _look(self, name: str) -> Down | None:
        """Whether a VM still runs; nothing is said where nobody can tell."""
        try:
            async with self._looks:
                seen = await self.machines.look(self.vms[name].known)
        except CdpError:
            return None
        if seen.power is Power.RUNNING:
            return None
        return Down(name, f"it runs no more: {seen.words or seen.power.value}")

    async def _check(self, action: Check) -> None:
        vm, name, number = self.vms[action.name], action.name, action.number
        try:
            async with self._checks:
                if number < len(vm.checks):
                    console = self._consoles.setdefault((name, number), Console())
                    await make_check(vm.checks[number], vm, console)
                else:
                    await self.machines.ask_agent(vm.known, vm.commands)
        except NotYet as error:
            self._events.put_nowait(NotPassed(name, number, str(error)))
        except CdpError as error:
            self._events.put_nowait(NotPassed(name, number, str(error)))
        else:
            self._events.put_nowait(Passed(name, number))
