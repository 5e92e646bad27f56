"""VMs for tests of starting them: ready ones, and a hypervisor that does what a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.machines import Known, Power, Ready, Seen
from rehydrate.render.documents import Documents
from rehydrate.runbook.model import CheckSettings, StartSettings

UUID = "5a9f0d1e-6f0a-4df2-8a17-c32f1f7c9d10"


def ready(
    directory: Path,
    name: str = "web",
    script: str = "exit 0\n",
    checks: Sequence[dict[str, object]] = (),
    **start: object,
) -> Ready:
    """A VM whose document is a script; `start`: as the runbook's key has it, in seconds."""
    settings = StartSettings().model_copy(update={"within": 60.0, **start})
    return Ready(
        name,
        Known(f"{name}-dr-test", UUID, str(directory), f"{name}-dr-test"),
        Documents(f"{name}-dr-test.sh", f"#!/bin/sh\n{script}", {}, ()),
        settings,
        tuple(CheckSettings(**one) for one in checks),  # type: ignore[arg-type]
    )


async def _nothing() -> None:
    return None


@dataclass
class Invented:
    """A hypervisor without machines: see `Machines`. `starting`: what is awaited when one is started."""

    power: dict[str, Power] = field(default_factory=dict)
    starting: Callable[[], Awaitable[None]] = _nothing
    refused: dict[str, str] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    async def look(self, vm: Known) -> Seen:
        return Seen(self.power.get(vm.title, Power.GONE), "as it is")

    async def start(self, vm: Ready) -> None:
        await self.starting()
        if vm.name in self.refused:
            raise MachineFailed(f"start {vm.name}", self.refused[vm.name])
        self.started.append(vm.name)
        self.power[vm.known.title] = Power.RUNNING

    async def ask_agent(self, vm: Known, commands: Sequence[Sequence[str]]) -> None:
        if vm.title in self.refused:
            raise MachineFailed("ask", self.refused[vm.title])

    async def remove(self, vm: Known) -> None:
        if vm.title in self.refused:
            raise MachineFailed(f"stop {vm.title}", self.refused[vm.title])
        self.removed.append(vm.title)
