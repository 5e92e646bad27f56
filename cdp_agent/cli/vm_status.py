"""What `status` tells of VMs, and the round of asking that comes before a command which fixes a point.

What hypervisors say does not belong here (describe).
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdp_agent.streamer.control import DESCRIBE_COMMAND, call
from cdp_container.domain.identity import AgentIdentity

ASK_SECONDS_MAX: Final = 10.0
"""How long a command waits for hypervisors; then the point has what was known of them."""


def ask_hypervisors(directory: Path, identity: AgentIdentity) -> None:
    """Have a round made now, where there are VMs. Nothing depends on how it goes: `status` tells that."""
    if any(vm.kind for vm in identity.active_vms):
        with contextlib.suppress(OSError):
            call(directory, {"command": DESCRIBE_COMMAND}, ASK_SECONDS_MAX)


def vm_problems(members: list[dict[str, Any]] | None, running: bool) -> list[str]:
    """What keeps configurations from being protected as was asked for."""
    if members is None or not running:
        return []
    problems = []
    for vm in members:
        name = vm["name"]
        if vm["problem"]:
            known = (
                f"what was known at {_time(vm['known_ns'])} stays" if vm["known_ns"] else "nothing is known"
            )
            problems.append(
                f"VM {name} cannot be asked since {_time(vm['problem_ns'])}, {known}: {vm['problem']}"
            )
        problems += [
            f"VM {name}: disk {disk} is not protected (`disks: {{{disk}: null}}` if meant so)"
            for disk in vm["unprotected"]
        ]
        problems += [f"VM {name}: {odd}" for odd in vm["odd"]]
    return problems


def vm_lines(members: list[dict[str, Any]] | None) -> list[tuple[str, str]]:
    """Lines to print: a name, and what is said of it."""
    if members is None:
        return []
    return [("VMs", f"{len(members)}"), *((f"  {vm['name']}", _line(vm)) for vm in members)]


def _line(vm: dict[str, Any]) -> str:
    if vm["at"] is None:
        return "known from the container, and not asked for here"
    known = f"known as of {_time(vm['known_ns'])}" if vm["known_ns"] else "not known yet"
    return f"{known}, {vm['at']}"


def _time(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
