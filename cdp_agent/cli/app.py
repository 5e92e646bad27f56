"""`cdp-agent`: the commands, each a few lines that read their options and call what does the work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cdp_agent.cli import child_options, tree_options, vm_options
from cdp_agent.cli.console import read_passphrase
from cdp_container.clock import SystemClock
from cdp_container.console import guarded, run_app, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Protect block volumes continuously into an object store.",
    epilog="Exit codes: 0 done, 2 usage, 3 behind target, 4 configuration; see docs/exit-codes.md.",
)

Config = Annotated[Path, typer.Option("--config", "-c", help="The agent's YAML configuration.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file with the passphrase; else CDP_PASSPHRASE, else it is asked for."),
]
DEFAULT_CONFIG = Path("/etc/cdp/agent.yaml")


def main() -> int:
    """Run a command; gives the exit code. What `cdp-agent` does when it has started (main)."""
    return run_app(app)


@app.command()
def init(
    config: Config = DEFAULT_CONFIG,
    passphrase_file: PassphraseFile = None,
    kit: Annotated[Path | None, typer.Option(help="Also write the recovery kit here (mode 0600).")] = None,
    seal_credentials: Annotated[
        bool,
        typer.Option(
            "--seal-credentials",
            help="Keep the store's credentials in the container, sealed: who takes over opens them.",
        ),
    ] = False,
) -> int:
    """Create container, domain and keys; print the recovery kit to keep offline."""

    def work() -> int:
        from cdp_agent.cli.init import initialise
        from cdp_agent.cli.kit import refuse_existing, show_kit
        from cdp_container.domain.settings import load_settings
        from cdp_container.format.keyblock import ScryptCost
        from cdp_container.store.address import open_store

        settings = load_settings(config)
        if seal_credentials:
            settings = settings.model_copy(update={"seal_credentials": True})
        store = open_store(settings.store)
        made = initialise(
            settings,
            store,
            lambda: read_passphrase(passphrase_file, confirm=True),
            SystemClock(),
            os.urandom,
            ScryptCost(),
            # Before anything is created: what has no kit is lost on the worst day.
            before_creating=lambda: None if kit is None else refuse_existing(kit),
        )
        for note in made.notes:
            say(note)
        show_kit(made.identity, store.address, kit)
        if made.resumed:
            say("an interrupted init was finished, with the ids and keys that it had drawn")
        if settings.encryption == "none":
            say("encryption is none: whoever reads the store reads your data, its writers can forge it")
        say(f"next: cdp-agent run --config {config}")
        return 0

    return guarded(work)


@app.command()
def kit(
    config: Config = DEFAULT_CONFIG,
    file: Annotated[Path | None, typer.Option(help="Also write it here (mode 0600).")] = None,
) -> int:
    """Print the recovery kit again."""

    def work() -> int:
        from cdp_agent.cli.children import load_agent
        from cdp_agent.cli.kit import refuse_existing, show_kit
        from cdp_container.store.address import open_store

        settings, identity = load_agent(config)
        if file is not None:
            refuse_existing(file)
        show_kit(identity, open_store(settings.store).address, file)
        return 0

    return guarded(work)


@app.command()
def reload(config: Config = DEFAULT_CONFIG) -> int:
    """Take over volumes that were added, grew or were removed in the configuration; the others go on."""

    def work() -> int:
        from cdp_agent.cli.reload import reload_agent

        return reload_agent(config, SystemClock(), os.urandom)

    return guarded(work)


@app.command("check-config")
def check_config(config: Config = DEFAULT_CONFIG) -> int:
    """Check the configuration, the backing files and the store, without changing anything of theirs."""

    def work() -> int:
        from cdp_agent.cli.check import check

        return check(config)

    return guarded(work)


@app.command()
def attest(
    address: Annotated[
        str | None, typer.Argument(help="The store's address; else the configuration's.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    connections: Annotated[
        int, typer.Option(min=2, max=256, help="How many race for one object at once.")
    ] = 32,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="How often they race.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Does this store keep its word? A table of every promise; exit code 42 if one that must hold fails."""

    def work() -> int:
        from cdp_agent.cli.attest import attest_store

        return attest_store(address, config, connections, rounds, as_json=json)

    return guarded(work)


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    redo: Annotated[
        bool,
        typer.Option(
            "--redo", help="Put the journal over a disk that was changed behind our back; compare all."
        ),
    ] = False,
    full_copy: Annotated[
        bool,
        typer.Option("--full-copy", help="Compare every volume with the container, and send what differs."),
    ] = False,
    keep_disk: Annotated[
        bool, typer.Option("--keep-disk", help="The disks are right as they are: no redo, compare all.")
    ] = False,
) -> int:
    """Protect: open the exports and stream every write. Runs until SIGTERM or SIGINT."""

    def work() -> int:
        from cdp_agent.cli.run import run_agent
        from cdp_agent.wish import Wish

        return run_agent(config, Wish(redo=redo, full_copy=full_copy, keep_disk=keep_disk))

    return guarded(work)


@app.command()
def status(
    config: Config = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """What would be lost right now? Exit code 0 when protection is on target, 3 when it is not."""

    def work() -> int:
        from cdp_agent.cli.status import show_status

        return show_status(config, as_json=json)

    return guarded(work)


@app.command()
def owner(
    config: Config = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Who may write the domain, since when, who did before, and who asks for it."""

    def work() -> int:
        from cdp_agent.cli.owner import show_owner

        return show_owner(config, as_json=json)

    return guarded(work)


@app.command()
def release(
    config: Config = DEFAULT_CONFIG,
    to: Annotated[str | None, typer.Option(help="The site that is to own the domain.")] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Take the domain back, unless that site has claimed it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Give the domain to another site, in good order: nothing is lost, and the exports are closed."""

    def work() -> int:
        from cdp_agent.cli.release import release_or_cancel

        return release_or_cancel(config, to, SystemClock(), cancel=cancel, as_json=json)

    return guarded(work)


@app.command()
def grant(
    request: Annotated[str, typer.Argument(help="The request's id, or how it begins: see `owner`.")],
    config: Config = DEFAULT_CONFIG,
    reason: Annotated[str, typer.Option(help="A word for who asked.")] = "",
    operator: Annotated[str, typer.Option(help="Who you are; who asked is told.")] = "",
) -> int:
    """Release the domain to the site that asked for it; like `release --to`, which needs no request."""

    def work() -> int:
        from cdp_agent.cli.release import release_site
        from cdp_agent.cli.requests import grant as grant_request

        clock = SystemClock()
        return grant_request(
            config, request, operator, reason, clock, lambda site: release_site(config, site, clock)
        )

    return guarded(work)


@app.command()
def deny(
    request: Annotated[str, typer.Argument(help="The request's id, or how it begins: see `owner`.")],
    reason: Annotated[str, typer.Option(help="Why; who asked is told.")],
    config: Config = DEFAULT_CONFIG,
    operator: Annotated[str, typer.Option(help="Who you are; who asked is told.")] = "",
) -> int:
    """Answer no to a site that asked for the domain; nothing else changes."""

    def work() -> int:
        from cdp_agent.cli.requests import deny as deny_request

        return deny_request(config, request, operator, reason, SystemClock())

    return guarded(work)


@app.command()
def marker(
    name: Annotated[str, typer.Argument(help="The recovery point's name.")],
    config: Config = DEFAULT_CONFIG,
    note: Annotated[str, typer.Option(help="A remark that is kept with it.")] = "",
    application: Annotated[
        bool,
        typer.Option("--application", help="The application was quiesced: an application-consistent point."),
    ] = False,
    keep: Annotated[
        str | None,
        typer.Option(help="For how long it is kept, like 30d, or forever; else as `retention` says."),
    ] = None,
    no_hooks: Annotated[bool, typer.Option("--no-hooks", help="Run none of `marker_hooks`.")] = False,
    even_if_hooks_fail: Annotated[
        bool,
        typer.Option("--even-if-hooks-fail", help="Set it all the same, as no application-consistent point."),
    ] = False,
    hooks_limit: Annotated[
        float,
        typer.Option(min=5.0, max=3600.0, help="Seconds after which hooks are undone, marker or not."),
    ] = 60.0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it is protected.")] = 60.0,
) -> int:
    """Name this instant; returns when it is protected. Runs the hooks of the configuration around it."""

    def work() -> int:
        from cdp_agent.cli.ask import HookWishes, ask_marker

        hooks = HookWishes(run=not no_hooks, even_if_they_fail=even_if_hooks_fail, limit_seconds=hooks_limit)
        return ask_marker(
            config, name, note, application=application, timeout_seconds=timeout, keep=keep, hooks=hooks
        )

    return guarded(work)


@app.command()
def flush(
    config: Config = DEFAULT_CONFIG,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 60.0,
) -> int:
    """Wait until everything written so far is protected."""

    def work() -> int:
        from cdp_agent.cli.ask import ask_flush

        return ask_flush(config, timeout_seconds=timeout)

    return guarded(work)


@app.command()
def gc(
    config: Config = DEFAULT_CONFIG,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would go, what that saves and costs.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="The domain's private key, 64 hex digits: frames that are partly dead are split."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Collect: delete what no retained recovery point needs. `run` does it by itself, every hour."""

    def work() -> int:
        from cdp_agent.cli.gc import collect_garbage

        return collect_garbage(config, key_file, plan=plan, as_json=json)

    return guarded(work)


@app.command()
def verify(
    config: Config = DEFAULT_CONFIG,
    budget: Annotated[
        str | None, typer.Option(help="Only a sample: so many bytes (1GiB), or for so long (10m).")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report into this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Verify the container by what the agent has: all but the seals of frames, for which it has no key."""

    def work() -> int:
        from cdp_agent.cli.verify import verify_now

        return verify_now(config, budget, report, as_json=json)

    return guarded(work)


@app.command()
def usage(
    config: Config = DEFAULT_CONFIG,
    compare: Annotated[
        str | None,
        typer.Option(help="Another place of the same container: what the two differ in, and why."),
    ] = None,
    abort_uploads: Annotated[
        bool, typer.Option("--abort-uploads", help="Give back what uploads take that nobody ended.")
    ] = False,
    older_than: Annotated[
        str, typer.Option(help="Only uploads that began so long ago by the store's clock.")
    ] = "1d",
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Every byte of the container by what it is there for. Exit code 3 where something is not known."""

    def work() -> int:
        from cdp_agent.cli.usage import UsageWishes, show_usage

        wanted = UsageWishes(compare, older_than if abort_uploads else None)
        return show_usage(config, wanted, as_json=json)

    return guarded(work)


@app.command()
def heal(
    config: Config = DEFAULT_CONFIG,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what can be healed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Heal what was found damaged, or is missing, and can still be had from the journal or the volumes."""

    def work() -> int:
        from cdp_agent.cli.heal import heal_now

        return heal_now(config, plan=plan, as_json=json)

    return guarded(work)


app.command()(tree_options.trees)
app.command()(vm_options.describe)
app.command()(vm_options.adopt)
app.command("describer-process", hidden=True)(vm_options.describer_process)
app.command("imager-process", hidden=True)(child_options.imager_process)


@app.command()
def version() -> int:
    """Print the version."""
    from cdp_agent.cli.children import software

    print(software())
    return 0


@app.command("splitter-process", hidden=True)
def splitter_process(config: Config = DEFAULT_CONFIG) -> int:
    """The splitter; started by `run`."""
    return _child(lambda: _splitter(config))


@app.command("streamer-process", hidden=True)
def streamer_process(config: Config = DEFAULT_CONFIG) -> int:
    """The streamer; started by `run`."""
    return _child(lambda: _streamer(config))


@app.command("watcher-process", hidden=True)
def watcher_process(config: Config = DEFAULT_CONFIG) -> int:
    """The watcher of file trees, started by `run`."""
    return _child(lambda: _watcher(config))


@app.command("collector-process", hidden=True)
def collector_process(config: Config = DEFAULT_CONFIG) -> int:
    """One pass of collection; started by `run`."""

    def work() -> int:
        from cdp_agent.cli.gc import scheduled_pass

        return scheduled_pass(config)

    return _child(work)


@app.command("verifier-process", hidden=True)
def verifier_process(config: Config = DEFAULT_CONFIG) -> int:
    """A verification by schedule; started by `run`."""

    def work() -> int:
        from cdp_agent.cli.verify import scheduled_run

        return scheduled_run(config)

    return _child(work)


def _child(work: Callable[[], int]) -> int:
    from cdp_agent.cli.run import die_with_parent

    def guarded_work() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload may come before the splitter listens
        die_with_parent()
        return work()

    return guarded(guarded_work)


def _splitter(config: Path) -> int:
    from cdp_agent.cli.children import splitter_settings
    from cdp_agent.splitter.process import run_splitter
    from cdp_agent.volume_set import find_decision
    from cdp_agent.wish import forget_wish

    settings = splitter_settings(config)
    return run_splitter(
        settings,
        SystemClock(),
        on_opened=lambda: forget_wish(settings.journal_dir),
        reload=lambda: find_decision(settings.journal_dir),
    )


def _watcher(config: Path) -> int:
    from cdp_agent.cli.children import watcher_settings
    from cdp_agent.watcher.process import run_watcher

    return run_watcher(watcher_settings(config))


def _streamer(config: Path) -> int:
    from cdp_agent.cli.children import streamer_settings
    from cdp_agent.streamer.run import run_streamer

    return run_streamer(streamer_settings(config), SystemClock())
