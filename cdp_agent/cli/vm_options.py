"""The commands of VMs as the command line has them; what they do stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdp_container.clock import SystemClock
from cdp_container.console import guarded

DEFAULT_CONFIG = Path("/etc/cdp/agent.yaml")
Config = Annotated[Path, typer.Option("--config", "-c", help="The agent's YAML configuration.")]


def describe(
    config: Config = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Ask the hypervisors for the configurations of the domain's VMs, and print them."""

    def work() -> int:
        from cdp_agent.cli.describe import describe_vms

        return describe_vms(config, SystemClock(), as_json=json)

    return guarded(work)


def describer_process(config: Config = DEFAULT_CONFIG) -> int:
    """One round of asking hypervisors; started by the streamer."""

    def work() -> int:
        from cdp_agent.cli.describe import tell_vms

        return tell_vms(config, SystemClock())

    return guarded(work)
