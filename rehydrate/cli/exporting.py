"""`rehydrate export`: its options. What it does stands in export_command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdp_container.console import guarded
from rehydrate.cli.options import (
    Address,
    At,
    Json,
    KeyFile,
    Marker,
    PassphraseFile,
    Replica,
    Time,
    Volumes,
)


class Format(StrEnum):
    """Of images; rehydrate.export.formats knows what each is."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vhd"
    VHDX = "vhdx"


def export(
    address: Address,
    to: Annotated[
        str, typer.Option("--to", help="A file, a directory that is there, or s3://bucket/prefix?…")
    ],
    image_format: Annotated[Format, typer.Option("--format", help="Of the images.")],
    subformat: Annotated[
        str | None, typer.Option(help="compressed, streamOptimized, fixed, …: docs/export.md.")
    ] = None,
    volume: Volumes = None,
    all_volumes: Annotated[bool, typer.Option("--all", help="Every volume.")] = False,
    vm: Annotated[
        str | None, typer.Option(help="A VM by its name or id: its disks, and its configuration.")
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="Images' sizes are multiples of this, like 1MiB (for Azure).")
    ] = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    workspace: Annotated[
        Path | None, typer.Option(help="For a bucket: where images are made, and how far it is is noted.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace what has the name already.")] = False,
    restart: Annotated[
        bool, typer.Option(help="Discard what an interrupted export left in the workspace.")
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="End the unfinished uploads of these objects; export nothing.")
    ] = False,
    cache_bytes: Annotated[
        str, typer.Option(help="How much of what was read is kept in memory, like 1GiB.")
    ] = "256MiB",
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Requests at once, at the most.")] = 32,
    uploads: Annotated[int, typer.Option(min=1, max=32, help="Parts at once to the bucket.")] = 4,
    replica: Replica = False,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Make images of volumes at a point for other hypervisors and clouds, in files or in a bucket."""
    from rehydrate.cli import commands, export_command, export_targets

    def work() -> int:
        targets = export_targets.targets_of(
            to, tuple(volume or ()), all_volumes, vm, workspace, force, restart, abort, uploads
        )
        asked = export_command.Asked(
            commands.Access(address, passphrase_file, key_file, replica),
            commands.choice_of(at, time, marker),
            targets,
            *export_targets.image_of(image_format.value, subformat, align),
            export_targets.cache_bytes_of(cache_bytes),
            parallel,
            json,
        )
        return export_command.export(asked)

    return guarded(work)
