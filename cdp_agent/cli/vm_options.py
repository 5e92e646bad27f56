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


def adopt(
    vm: Annotated[str, typer.Argument(help="A VM of `vms` that runs, with a QMP socket.")],
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", metavar="DISK=VOLUME", help="Which volume a disk becomes; once for each."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="DISK", help="This disk stays as it is, unprotected."),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Volumes may hold something, which is replaced.")
    ] = False,
    qmp: Annotated[
        Path | None, typer.Option(help="Another QMP socket of the same QEMU than the member's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, have QEMU try the exports, copy nothing.")
    ] = False,
    give_up_after: Annotated[
        str, typer.Option(help="How long copying may stand still before all is undone.")
    ] = "30m",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for the VM's first recovery point.")
    ] = False,
    accept: Annotated[
        str, typer.Option(metavar="VOLUME", help="Copy nothing: what is in this half filled volume is right.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Move the disks of a running VM onto volumes, without a reboot: from then on every write is captured."""

    def work() -> int:
        from cdp_agent.cli.adopt_vm import Asked, adopt_vm

        asked = Asked(
            vm, disk or [], without or [], qmp, give_up_after,
            overwrite=overwrite, dry_run=dry_run, waits=not no_wait, as_json=json, accept=accept,
        )  # fmt: skip
        return adopt_vm(config, asked, SystemClock())

    return guarded(work)
