"""What became of VMs, as members of JSON and as lines for people, while they come up and afterwards. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cdp_container.errors import counted
from rehydrate.boot.plan import BootAt, MachineAt, Phase
from rehydrate.boot.run import CheckResult, Result

Members = dict[str, Any]


def result_members(one: Result) -> Members:
    """A VM: what it came to, and when, in seconds since the command began."""
    return {
        "name": one.name,
        "title": one.title,
        "state": one.state,
        "why": one.why,
        "was_running": one.found,
        "begun_seconds": _rounded(one.begun_seconds),
        "started_seconds": _rounded(one.started_seconds),
        "running_seconds": _rounded(one.running_seconds),
        "checks": [_check_members(check) for check in one.checks],
        "console": one.console,
    }


def _check_members(check: CheckResult) -> Members:
    return {
        "check": check.what,
        "passed_seconds": _rounded(check.passed_seconds),
        "tries": check.tries,
        "why": check.why,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def result_line(one: Result) -> str:
    """The same in a line."""
    if one.running_seconds is not None:
        found = " (it ran already)" if one.found else ""
        passed = f", {counted(len(one.checks), 'check')} passed" if one.checks else ", no checks"
        return f"VM {one.name}: running after {one.running_seconds:.1f} s{found}{passed}"
    return f"VM {one.name}: {one.state}: {one.why}"


def not_running_words(results: Sequence[Result]) -> str:
    """Those that did not come up, each with its reason."""
    return "; ".join(f"{one.name}: {one.state}: {one.why}" for one in results if not one.is_running)


def counts_text(state: BootAt) -> str:
    """How far all VMs are: how many were defined and started, and have passed their checks."""
    defined = sum(one.began_ns is not None for one in state.machines.values())
    started = sum(one.up_ns is not None for one in state.machines.values())
    running, lost = state.count(Phase.RUNNING), state.count(Phase.FAILED, Phase.HELD)
    rest = f", {lost} did not come up" if lost else ""
    return f"{defined} begun, {started} started, {running} running{rest}"


def change_line(before: MachineAt | None, now: MachineAt) -> str | None:
    """What is told of a VM that is farther than it was; None where it is not."""
    name = now.wanted.name
    if before is not None and before.phase is now.phase:
        return None
    match now.phase:
        case Phase.STARTING:
            return f"VM {name}: is being started"
        case Phase.CHECKING if now.checks:
            how = "runs already" if now.found else "started"
            return f"VM {name}: {how}, {counted(len(now.checks), 'check')} to pass"
        case Phase.RUNNING:
            return f"VM {name}: runs"
        case Phase.FAILED:
            return f"VM {name}: failed: {now.why}"
        case Phase.HELD:
            return f"VM {name}: not started: {now.why}"
        case _:
            return None
