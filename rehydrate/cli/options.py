"""Options that several commands have, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Address = Annotated[
    str, typer.Argument(help="The container: /path, or s3://bucket/prefix?endpoint=https://host")
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="A file with the passphrase; else CDP_PASSPHRASE.")]
KeyFile = Annotated[Path | None, typer.Option(help="A file with the private key, 64 hex digits.")]
At = Annotated[str | None, typer.Option("--at", help="The point EPOCH.NUMBER, as `points` prints it.")]
Time = Annotated[str | None, typer.Option("--time", help="The newest point up to this time (RFC 3339).")]
Marker = Annotated[str | None, typer.Option("--marker", help="The newest point with this name.")]
Volumes = Annotated[
    list[str] | None, typer.Option("--volume", help="A volume by its name or id; may be repeated.")
]
OneVolume = Annotated[
    list[str] | None,
    typer.Option("--volume", help="The volume, by its name or id; needed where there are several."),
]
Replica = Annotated[
    bool,
    typer.Option("--replica", help="A copy whose objects come in any order: what is complete counts."),
]
Rate = Annotated[int | None, typer.Option("--assume-rate", min=1, help="Bytes per second, for the estimate.")]
Parallel = Annotated[
    int | None, typer.Option(min=1, max=256, help="Requests at once; else what is measured to be best.")
]
Trees = Annotated[
    list[str] | None, typer.Option("--tree", help="NAME=DIRECTORY: a file tree; may be repeated.")
]
Paths = Annotated[
    list[str] | None, typer.Option("--path", help="Of trees only what this pattern fits; may be repeated.")
]
Delete = Annotated[bool, typer.Option("--delete", help="Remove from the directories what trees do not have.")]
Checksum = Annotated[
    bool, typer.Option("--checksum", help="Compare files that are there by content, not size and time.")
]
BestEffort = Annotated[
    bool, typer.Option("--best-effort", help="Owners and the like that cannot be set are no failure.")
]
To = Annotated[
    Path | None, typer.Option("--to", help="Where each volume becomes NAME.raw, and each tree NAME.")
]
TreePlaces = Annotated[
    list[str] | None,
    typer.Option("--tree", help="NAME=DIRECTORY for a file tree; else it becomes NAME in --to."),
]
WithoutTrees = Annotated[
    list[str] | None, typer.Option("--without-tree", help="A tree that is not protected any more.")
]
TreeNames = Annotated[
    list[str] | None, typer.Option("--tree", help="A file tree by its name or id; may be repeated.")
]
Boot = Annotated[bool, typer.Option("--boot", help="Start the VMs by the runbook, and watch their checks.")]
Runbook = Annotated[Path | None, typer.Option(help="How VMs are to run here: docs/vms.md.")]
