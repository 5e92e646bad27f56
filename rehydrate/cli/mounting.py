"""`rehydrate mount`: its options. What it does stands in mount_command."""

from __future__ import annotations

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


def mount(
    address: Address,
    directory: Annotated[Path, typer.Argument(help="An empty directory, in which everything is shown.")],
    volume: Volumes = None,
    tree: Annotated[
        list[str] | None, typer.Option("--tree", help="A file tree by its name or id; may be repeated.")
    ] = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    cache_bytes: Annotated[
        str, typer.Option(help="How much of what was read is kept in memory, like 1GiB.")
    ] = "256MiB",
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Requests at once, at the most.")] = 32,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Other users too, as owners and modes say.")
    ] = False,
    replica: Replica = False,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Show a point read-only, trees and raw volumes, at once; what is read is fetched then."""
    from rehydrate.cli import commands, mount_command

    def work() -> int:
        asked = mount_command.Asked(
            commands.Access(address, passphrase_file, key_file, replica),
            commands.choice_of(at, time, marker),
            tuple(volume or ()),
            tuple(tree or ()),
            directory,
            mount_command.ways_of(cache_bytes, parallel, allow_other),
            json,
        )
        return mount_command.mount(asked)

    return guarded(work)
