"""Options of `rehydrate render` and `rehydrate check-runbook`. What they do stands in render_command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdp_container.console import guarded
from rehydrate.cli.options import Address, At, Json, KeyFile, Marker, PassphraseFile, Time


class For(StrEnum):
    """For which hypervisor."""

    QEMU = "qemu"
    LIBVIRT = "libvirt"
    PROXMOX = "proxmox"


def check_runbook(
    runbook: Annotated[Path, typer.Argument(help="How VMs are to run at this site: docs/vms.md.")],
    address: Address,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Hold a runbook against a point and this machine, before the day; all faults at once."""
    from rehydrate.cli import commands, render_command

    access = commands.Access(address, passphrase_file, key_file)
    return guarded(
        lambda: render_command.check_runbook(runbook, access, commands.choice_of(at, time, marker), json)
    )


def render(
    address: Address,
    vm: Annotated[str, typer.Option(help="The VM, by its name in the domain or its id.")],
    into: Annotated[str, typer.Option(help="A directory for its files, or - to print what it starts with.")],
    target: Annotated[
        For | None, typer.Option("--for", help="The hypervisor; else what the runbook says.")
    ] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", help="DISK=PATH, or DISK=nbd://HOST:PORT/EXPORT; for each disk."),
    ] = None,
    runbook: Annotated[Path | None, typer.Option(help="How VMs are to run here; else as they were.")] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="With another name and UUID, and the runbook's test networks.")
    ] = False,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Write a VM's configuration at a point for the hypervisor of this site."""
    from rehydrate.cli import commands, render_command

    access = commands.Access(address, passphrase_file, key_file)
    asked = render_command.Asked(vm, into, target and target.value, tuple(disk or ()), runbook, rehearsal)
    return guarded(lambda: render_command.render(asked, access, commands.choice_of(at, time, marker), json))
