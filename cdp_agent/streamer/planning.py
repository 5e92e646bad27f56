"""What the collector asks of the run that owns the domain: to name, execute, drop or end a plan.

One is under way at a time. What does not belong here: the swap (the owner's machine), which changes there are
(`plan_changes`), and when each is due (the collector decides).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cdp_container.domain import owner_types as ot
from cdp_container.domain.plan_changes import fault_of
from cdp_container.errors import DamagedObject
from cdp_container.format.domain import name_members, parse_name, parse_plan_name, plan_name_members
from cdp_container.format.keys import EPOCH_MAX
from cdp_container.format.members import Members

Answer = dict[str, Any]
COMMAND = "plan"


class Machine(Protocol):
    """The engine, as plans see it."""

    @property
    def run(self) -> ot.RunState:
        """The owner's machine."""
        ...

    def tell_owner(self, event: ot.Event) -> None:
        """An event for it."""
        ...


class Planning:
    """The change that is under way, if there is one, and who waits for it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._change: ot.ChangePlan | None = None
        self._answer: Callable[[Answer], None] = _to_nobody

    def ask(self, request: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        """Make the change that a request says; asked again with the same one, it goes on."""
        try:
            change = parse_change(request)
        except DamagedObject as error:
            answer(_refused(f"the request is not understood: {error}"))
            return
        fault = fault_of(change)
        if fault:
            answer(_refused(fault))
        elif self._change not in (None, change):
            answer(_refused("another change is under way", again=True))
        else:
            self._change, self._answer = change, answer
            self._machine.tell_owner(change)

    def look(self) -> None:
        """Answer, once it is known what became of the change; to be called after every step."""
        change, run = self._change, self._machine.run
        if change is None or run.change is change:
            return
        self._change = None
        self._answer(_became(change, run))
        self._answer = _to_nobody


def _became(change: ot.ChangePlan, run: ot.RunState) -> Answer:
    if run.phase is not ot.Phase.ACTIVE or run.seen is None:
        return _refused(f"this run does not own the domain: {run.phase.value}", again=True)
    if run.epoch != change.epoch:
        return _refused(f"the epoch is {run.epoch}, and the plan's {change.epoch}")
    if (run.seen.plan, run.seen.ledger) != (change.plan, change.ledger):
        return _refused("plan or ledger are not any more what they were")
    return {"ok": True}


def _refused(why: str, again: bool = False) -> Answer:
    return {"ok": False, "error": why, "again": again}


def _to_nobody(_: Answer) -> None:
    """Nobody waits."""


def change_request(change: ot.ChangePlan) -> dict[str, Any]:
    """What is sent over control.sock."""
    return {
        "command": COMMAND,
        "epoch": change.epoch,
        "plan_before": plan_name_members(change.plan_before),
        "ledger_before": name_members(change.ledger_before),
        "plan": plan_name_members(change.plan),
        "ledger": name_members(change.ledger),
    }


def parse_change(request: dict[str, Any]) -> ot.ChangePlan:
    """The change that a request says. Raises DamagedObject."""
    members = Members(request, "the request")
    return ot.ChangePlan(
        members.number("epoch", EPOCH_MAX, least=1),
        parse_plan_name(members, "plan_before"),
        parse_name(members, "ledger_before"),
        parse_plan_name(members, "plan"),
        parse_name(members, "ledger"),
    )
