"""`rehydrate dr-test` and `rehydrate rehearsals`: their options. What they do stands in dr_test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdp_container.console import guarded
from rehydrate.cli.options import (
    Address,
    At,
    Boot,
    Json,
    KeyFile,
    Marker,
    Parallel,
    PassphraseFile,
    Replica,
    Runbook,
    Time,
    Volumes,
)

History = Annotated[Path | None, typer.Option(help="The directory of reports; else in XDG_STATE_HOME.")]


def dr_test(
    address: Address,
    into: Annotated[Path, typer.Option(help="A directory that is new or empty; it is cleared at the end.")],
    volume: Volumes = None,
    tree: Annotated[
        list[str] | None, typer.Option("--tree", help="A file tree by its name or id; may be repeated.")
    ] = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    content: Annotated[str, typer.Option(help="all, sample:PERCENT, none or on-demand.")] = "all",
    check: Annotated[
        list[str] | None, typer.Option(help="A command to run when all is there; may be repeated.")
    ] = None,
    check_seconds: Annotated[float | None, typer.Option(min=1, help="How long each check may take.")] = None,
    no_fsck: Annotated[bool, typer.Option("--no-fsck", help="Leave file systems unchecked.")] = False,
    parallel: Parallel = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="A .html or .json file to write; may be repeated.")
    ] = None,
    history: History = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was restored.")] = False,
    operator: Annotated[str, typer.Option(help="Who you are; else the login name.")] = "",
    replica: Replica = False,
    boot: Boot = False,
    runbook: Runbook = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Rehearse a recovery: restore beside production, check, measure, report, and clear all away."""
    from rehydrate.cli import commands, runbook_page
    from rehydrate.cli import dr_test as rehearsal
    from rehydrate.rehearsal.run import Asked

    def work() -> int:
        asked = Asked(
            commands.choice_of(at, time, marker),
            tuple(volume or ()),
            into,
            tuple(tree or ()),
            rehearsal.sampling_of(content),
            rehearsal.checks_of(check or [], check_seconds, not no_fsck),
            replica,
            keep,
        )
        access = commands.Access(address, passphrase_file, key_file, replica)
        output = rehearsal.output_of(report or [], history, json)
        page = runbook_page.page_of(boot, runbook)
        return rehearsal.dr_test(access, asked, parallel, output, operator, page)

    return guarded(work)


def rehearsals(history: History = None, json: Json = False) -> int:
    """List the rehearsals of the past."""
    from rehydrate.cli import dr_test as rehearsal

    return guarded(lambda: rehearsal.rehearsals(history, json))
