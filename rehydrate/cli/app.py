"""`rehydrate`: the commands, each a few lines that read options and call what does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdp_container.console import answer, guarded, run_app_until_ended
from rehydrate.cli import exporting, mounting, rehearsing, rendering, serving
from rehydrate.cli.options import (
    Address,
    At,
    BestEffort,
    Boot,
    Checksum,
    Delete,
    Json,
    KeyFile,
    Marker,
    OneVolume,
    Parallel,
    PassphraseFile,
    Paths,
    Rate,
    Replica,
    Runbook,
    Time,
    To,
    TreeNames,
    TreePlaces,
    Trees,
    Volumes,
    WithoutTrees,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Rebuild protected volumes and file trees from a container alone. Only reading is needed.",
    epilog="Exit codes: 0 done, 2 usage, 3 not whole, 10-15 no such thing, 20-27 damage; docs/exit-codes.md.",
)


class OnDamage(StrEnum):
    """What a restore does about damage."""

    STOP = "stop"
    MAP = "map"


def main() -> int:
    """Run a command; gives the exit code. What `rehydrate` does when it has started (main)."""
    return run_app_until_ended(app)


@app.command()
def domains(address: Address, json: Json = False) -> int:
    """List the containers at and below an address."""
    from rehydrate.cli import commands

    return guarded(lambda: commands.domains(address, json))


@app.command()
def points(
    address: Address,
    last: Annotated[
        int | None, typer.Option(min=0, help="Print so many, the newest; else some of each age.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Print all of them, as --json does.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw all of them into this SVG file.")] = None,
    replica: Replica = False,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """List the recovery points of a container, side branches included."""
    from rehydrate.cli import commands

    access = commands.Access(address, passphrase_file, key_file, replica)
    return guarded(lambda: commands.points(access, 0 if every else last, plot, json))


@app.command()
def plan(
    address: Address,
    volume: Volumes = None,
    tree: TreeNames = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    replica: Replica = False,
    assume_rate: Rate = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Show exactly what a restore would read and write; everything needed is checked to be there."""
    from rehydrate.cli import commands

    return guarded(
        lambda: commands.plan(
            commands.Access(address, passphrase_file, key_file, replica),
            commands.choice_of(at, time, marker),
            volume or [],
            assume_rate,
            json,
            tree or (),
        )
    )


@app.command()
def restore(
    address: Address,
    volume: OneVolume = None,
    target: Annotated[Path | None, typer.Option(help="A new file, or a block device.")] = None,
    all_volumes: Annotated[bool, typer.Option("--all", help="Every volume, into --target-dir.")] = False,
    target_dir: Annotated[Path | None, typer.Option(help="Where --all makes NAME.raw.")] = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    force: Annotated[bool, typer.Option(help="Overwrite what the target holds; it is named.")] = False,
    on_damage: Annotated[
        OnDamage, typer.Option(help="stop, or map: go on, and list what is lost in TARGET.damage.json.")
    ] = OnDamage.STOP,
    restart: Annotated[bool, typer.Option(help="Discard what an interrupted restore left.")] = False,
    tree: Trees = None,
    path: Paths = None,
    delete: Delete = False,
    checksum: Checksum = False,
    best_effort: BestEffort = False,
    parallel: Parallel = None,
    replica: Replica = False,
    assume_rate: Rate = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Rebuild volumes and file trees at a point, verifying every frame."""
    from rehydrate.cli import commands, restoring, targets, tree_restoring

    return guarded(
        lambda: restoring.restore(
            commands.Access(address, passphrase_file, key_file, replica),
            commands.choice_of(at, time, marker),
            targets.Targets(
                volume or [], target, all_volumes, target_dir, force, restart, on_damage is OnDamage.MAP
            ),
            assume_rate,
            json,
            tree_restoring.trees_to(tree or [], path or [], delete, checksum, best_effort),
            parallel,
        )
    )


@app.command()
def rescue(
    address: Address,
    domain: Annotated[str | None, typer.Option(help="The domain's id, where objects of several lie.")] = None,
    volume: OneVolume = None,
    target: Annotated[Path | None, typer.Option(help="A new file, or a block device.")] = None,
    all_volumes: Annotated[bool, typer.Option("--all", help="Every volume, into --target-dir.")] = False,
    target_dir: Annotated[Path | None, typer.Option(help="Where --all makes NAME.raw.")] = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    force: Annotated[bool, typer.Option(help="Overwrite what the target holds; it is named.")] = False,
    on_damage: Annotated[
        OnDamage, typer.Option(help="stop, or map: go on, and list what is lost in TARGET.damage.json.")
    ] = OnDamage.STOP,
    restart: Annotated[bool, typer.Option(help="Discard what an interrupted restore left.")] = False,
    tree: Trees = None,
    path: Paths = None,
    delete: Delete = False,
    checksum: Checksum = False,
    best_effort: BestEffort = False,
    assume_rate: Rate = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Restore from whatever objects are left, under any names, without domain/ and catalogs."""
    from rehydrate.cli import commands, rescuing, targets, tree_restoring

    return guarded(
        lambda: rescuing.rescue(
            commands.Access(address, passphrase_file, key_file),
            domain,
            commands.choice_of(at, time, marker),
            targets.Targets(
                volume or [], target, all_volumes, target_dir, force, restart, on_damage is OnDamage.MAP
            ),
            assume_rate,
            json,
            tree_restoring.trees_to(tree or [], path or [], delete, checksum, best_effort),
        )
    )


@app.command()
def verify(
    address: Address,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    newest: Annotated[bool, typer.Option("--newest", help="Only what the newest point needs.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Only a sample: so many bytes (1GiB), or for so long (10m).")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where a sample notes how far it came: the next one goes on there.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report into this file.")] = None,
    replica: Replica = False,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Read and check every object: of the whole container, of one point, or a sample of them."""
    from rehydrate.cli import commands, verifying

    def work() -> int:
        access = commands.Access(address, passphrase_file, key_file, replica)
        choice = commands.choice_of(at, time, marker)
        return verifying.verify(access, verifying.wanted_of(choice, newest, budget, state), report, json)

    return guarded(work)


app.command("dr-test")(rehearsing.dr_test)
app.command()(rehearsing.rehearsals)
app.command()(mounting.mount)
app.command()(exporting.export)
app.command("check-runbook")(rendering.check_runbook)
app.command()(rendering.render)
app.command()(serving.serve)
app.command(name="serving")(serving.serving)


@app.command()
def history(
    address: Address,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Who owned the domain when, and up to which cut; the chain of digests across epochs is checked."""
    from rehydrate.cli import commands

    return guarded(lambda: commands.history(commands.Access(address, passphrase_file, key_file), json))


@app.command()
def request(
    address: Address,
    site: Annotated[str, typer.Option(help="Who asks: this site's name, as its agent will have it.")],
    operator: Annotated[str, typer.Option(help="Who you are; the owner is told.")] = "",
    reason: Annotated[str, typer.Option(help="Why; the owner is told.")] = "",
    wait: Annotated[
        float | None, typer.Option(min=0, help="Seconds to wait for the owner's answer; else do not wait.")
    ] = None,
    json: Json = False,
) -> int:
    """Ask the owner of a domain to release it to a site; prints the request's id."""
    from cdp_container.clock import SystemClock
    from rehydrate.cli import request as asking

    return guarded(lambda: asking.request(address, site, operator, reason, wait, SystemClock(), as_json=json))


@app.command()
def failover(
    address: Address,
    site: Annotated[str, typer.Option(help="This site's name, as its agent will have it.")],
    journal: Annotated[Path, typer.Option(help="The journal directory of the agent to be; new or empty.")],
    to: To = None,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", help="NAME=PATH, a new file or a device; for each volume.")
    ] = None,
    tree: TreePlaces = None,
    without_tree: WithoutTrees = None,
    delete: Delete = False,
    best_effort: BestEffort = False,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    force: Annotated[
        str | None, typer.Option(help="EPOCH:NONCE as printed: do not wait for the owner's lease to pass.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on although protected cuts are gone from the store.")
    ] = False,
    operator: Annotated[str, typer.Option(help="Who you are, for the history; else the login name.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "failover",
    config: Annotated[
        Path | None, typer.Option(help="The agent's configuration; made, unless it is there and fits.")
    ] = None,
    socket: Annotated[Path | None, typer.Option(help="Where the agent's exports listen.")] = None,
    before: Annotated[str | None, typer.Option(help="A command to run before the domain is claimed.")] = None,
    after: Annotated[str | None, typer.Option(help="A command to run once the exports are open.")] = None,
    credentials: Annotated[
        str | None,
        typer.Option(help="sealed (in the domain's configuration) or own; else sealed where they are there."),
    ] = None,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="Prepare the agent, but do not run it.")
    ] = False,
    boot: Boot = False,
    runbook: Runbook = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Take a domain over at this site: claim it, restore volumes and trees, and protect all from here."""
    from rehydrate.cli import commands, places, runbook_page
    from rehydrate.cli import failover as taking

    return guarded(
        lambda: taking.fail_over(
            commands.Access(address, passphrase_file, key_file),
            commands.choice_of(at, time, marker),
            taking.asked_of(site, operator, reason, force, accept_loss),
            places.Where(
                journal,
                to,
                volume or [],
                config,
                socket,
                before,
                after,
                not no_start,
                tuple(tree or ()),
                tuple(without_tree or ()),
                delete,
                best_effort,
            ),
            json,
            taking.which_of(credentials),
            runbook_page.page_of(boot, runbook),
        )
    )


@app.command()
def failback(
    address: Address,
    journal: Annotated[
        Path, typer.Option(help="The journal directory of this site's agent, which is stopped.")
    ],
    force: Annotated[
        str | None, typer.Option(help="EPOCH:NONCE as printed: the other site is gone, and gives up nothing.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on although protected cuts are gone from the store.")
    ] = False,
    overwrite_unjournaled: Annotated[
        bool,
        typer.Option(
            "--overwrite-unjournaled", help="Let go of writes that only these disks hold; they are named."
        ),
    ] = False,
    compare_all: Annotated[
        bool,
        typer.Option("--compare-all", help="Believe nothing here: compare every block. When in any doubt."),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Bring the disks up to the newest cut, and claim nothing.")
    ] = False,
    operator: Annotated[str, typer.Option(help="Who you are, for the history; else the login name.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "failback",
    config: Annotated[
        Path | None, typer.Option(help="The agent's configuration; else JOURNAL/agent.yaml, if it is there.")
    ] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not run the agent at the end.")] = False,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Take a domain back at a site that was overtaken, fetching only what either site wrote since."""
    from rehydrate.cli import commands
    from rehydrate.cli import failback as returning
    from rehydrate.cli import failover as taking

    return guarded(
        lambda: returning.fail_back(
            commands.Access(address, passphrase_file, key_file),
            taking.asked_of("", operator, reason, force, accept_loss),
            returning.what_of(journal, config, not no_start, once, json, overwrite_unjournaled, compare_all),
        )
    )


@app.command()
def holds(address: Address, json: Json = False) -> int:
    """List what readers and operators keep from being collected."""
    from rehydrate.cli import holds as holding

    return guarded(lambda: holding.holds(address, json))


@app.command()
def hold(
    address: Address,
    until: Annotated[str, typer.Option(help="Until when, by the store's clock (RFC 3339).")],
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever lists the holds.")] = "",
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Keep a point from being collected until a time; everything, where none is named. Prints an id."""
    from rehydrate.cli import commands
    from rehydrate.cli import holds as holding
    from rehydrate.cli.text import parse_time

    return guarded(
        lambda: holding.hold(
            commands.Access(address, passphrase_file, key_file),
            commands.choice_of(at, time, marker),
            parse_time(until, "--until"),
            reason,
            json,
        )
    )


@app.command()
def unhold(
    address: Address,
    hold_id: Annotated[str, typer.Argument(metavar="ID", help="As `holds` prints it, or its first digits.")],
    force: Annotated[
        bool, typer.Option(help="Even that of a reader that lives; with `all`: every one.")
    ] = False,
) -> int:
    """Take a hold away; `all` writes an empty roster, where the old one is lost or damaged."""
    from rehydrate.cli import holds as holding

    return guarded(lambda: holding.unhold(address, hold_id, force))


@app.command()
def show(
    address: Address,
    what: Annotated[str, typer.Argument(help="owner, epochs, config, vms, or the key of an object.")],
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    json: Json = False,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Print what an object says, or what the VMs were at a point."""
    from rehydrate.cli import commands

    access = commands.Access(address, passphrase_file, key_file)
    return guarded(lambda: commands.show(access, what, commands.choice_of(at, time, marker), json))


@app.command()
def version() -> int:
    """Print the version."""
    from importlib.metadata import version as installed_version

    def work() -> int:
        answer(f"rehydrate {installed_version('cdp-container')}")
        return 0

    return guarded(work)
