"""`rehydrate dr-test`, from its options to its exit code, and `rehydrate rehearsals`.

How a rehearsal goes stands in rehydrate.rehearsal; here it gets its store, its hold, and its reports.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import answer, say
from cdp_container.domain.durable import replace_file
from cdp_container.errors import CdpError, RunbookUnfit, UsageError
from cdp_container.store.address import parse_address
from cdp_container.store.api import Store
from cdp_container.store.s3_settings import SignsRequests
from cdp_container.store.zones import as_opened
from rehydrate.cli.commands import Access, open_asking, store_of
from rehydrate.cli.console import read_secret
from rehydrate.cli.held import holding_for, tell, user_name
from rehydrate.cli.rehearsal_views import outcome_text, past_members, past_text
from rehydrate.cli.runbook_page import Page, check_fits
from rehydrate.cli.stage_lines import StageLines
from rehydrate.container import Container, Secret
from rehydrate.flow import Flow
from rehydrate.mount.driver import check_fuse
from rehydrate.rehearsal import past
from rehydrate.rehearsal.checks import COMMANDS_MAX, LIMIT_SECONDS, Reviewed, command_of
from rehydrate.rehearsal.counting import CountingStore, Counts
from rehydrate.rehearsal.fleet import FOLDER, QEMU_IMG, Booting
from rehydrate.rehearsal.interrupts import uninterrupted
from rehydrate.rehearsal.page import html_of
from rehydrate.rehearsal.parts import Sampling
from rehydrate.rehearsal.programs import Redaction, secrets_in
from rehydrate.rehearsal.report import About, members_of
from rehydrate.rehearsal.run import Asked, Found, Rehearsal
from rehydrate.rehearsal.stages import BOOTED_NAMES, NAMES, Stages
from rehydrate.rehearsal.watch import Watch
from rehydrate.runbook.model import rehearsed

_SAMPLE: Final = "sample:"
_ON_DEMAND: Final = "on-demand"


@dataclass(frozen=True, slots=True)
class Output:
    """Where reports go: files by their endings, the history, and whether stdout gets JSON."""

    files: tuple[Path, ...]
    history: Path
    as_json: bool


@dataclass(slots=True)
class _Opening:
    """Opens the container, once there is a store, and knows what must never be told."""

    access: Access
    secret: Secret
    store: Store | None = None

    def open(self) -> Container:
        """The container. Raises as `open_container`."""
        assert self.store is not None, "opened"
        container, self.secret = open_asking(self.store, self.secret, self.access.replica)
        return container

    def hide(self) -> Redaction:
        """What takes out everything secret that is known by now."""
        secrets = [*secrets_in(os.environ)]
        if self.secret.passphrase:
            secrets.append(self.secret.passphrase)
        if self.secret.private_key:
            secrets.append(self.secret.private_key.hex())
        return Redaction(secrets + ([] if self.store is None else _keys_of(self.store)))


def _keys_of(store: Store) -> list[str]:
    """What signs requests to a store."""
    store = as_opened(store)
    if isinstance(store, SignsRequests):
        _, secret, token = store.signing_keys()
        return [secret, token or ""]
    return []


def sampling_of(content: str) -> Sampling:
    """From `--content`. Raises UsageError."""
    seed = int.from_bytes(os.urandom(8))
    if content == _ON_DEMAND:
        return Sampling(0.0, seed, on_demand=True)
    if content in ("all", "none"):
        return Sampling(1.0 if content == "all" else 0.0, seed)
    try:
        percent = float(content.removeprefix(_SAMPLE)) if content.startswith(_SAMPLE) else -1.0
    except ValueError:
        percent = -1.0
    if not 0 < percent <= 100:
        raise UsageError("read --content", f"{content!r} is not all, sample:PERCENT, none or on-demand")
    return Sampling(percent / 100, seed)


def checks_of(commands: Sequence[str], limit_seconds: float | None, fsck: bool) -> Reviewed:
    """From the options. Raises UsageError."""
    if len(commands) > COMMANDS_MAX:
        raise UsageError("read --check", f"{len(commands)} commands, and {COMMANDS_MAX} are the most")
    limit = LIMIT_SECONDS if limit_seconds is None else limit_seconds
    return Reviewed(fsck, tuple(command_of(text) for text in commands), limit)


def output_of(reports: Sequence[Path], history: Path | None, as_json: bool) -> Output:
    """From the options. Raises UsageError where a report could not be written in the end."""
    for path in reports:
        if path.suffix not in (".html", ".json"):
            raise UsageError("--report", f"{path} ends neither in .html nor in .json")
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError("--report", f"{path} is no file in a directory that is there")
    return Output(tuple(reports), history or past.default_directory(os.environ), as_json)


@dataclass(slots=True)
class _Run:
    """One run of the command, and what is known of it so far."""

    asked: Asked
    output: Output
    operator: str
    address: str
    opening: _Opening
    clock: Clock
    began_ns: int
    counting: list[CountingStore] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    stages: Stages | None = None
    watch: Watch | None = None

    @property
    def counts(self) -> Counts:
        """What was asked of the store so far."""
        return self.counting[0].counts if self.counting else Counts()

    def around(self, store: Store) -> Store:
        """The same store, counted."""
        self.counting.append(CountingStore(store))
        return self.counting[0]

    def members(self, error: BaseException | None) -> dict[str, Any]:
        """The report."""
        about = About(
            address=self.address,
            software=f"rehydrate {installed_version('cdp-container')}",
            host=platform.node(),
            kernel=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            operator=self.operator or user_name(),
            began_ns=self.began_ns,
            ended_ns=self.clock.wall_ns(),
        )
        stages = [] if self.stages is None else self.stages.ended
        curve = [] if self.watch is None else self.watch.curve
        return members_of(about, self.asked, self.found, stages, curve, error, self.opening.hide())


def check_boot(asked: Asked) -> None:
    """Whether VMs can be started at all by what is asked for. Raises UsageError."""
    what = "--boot"
    if asked.names or asked.trees:
        raise UsageError(what, "VMs need all volumes: neither --volume nor --tree goes with it")
    if not asked.sampling.is_all and not asked.sampling.on_demand:
        raise UsageError(what, "VMs boot from whole volumes: --content all, or on-demand")
    if asked.replica and asked.sampling.on_demand:
        raise UsageError(what, "a replica is not served on demand: --content all")


def dr_test(
    access: Access,
    asked: Asked,
    parallel: int | None,
    output: Output,
    operator: str,
    page: Page | None = None,
) -> int:
    """`rehydrate dr-test`; `page`: the runbook of --boot.

    Raises ChecksFailed, UsageError, RunbookUnfit, MachineFailed, and whatever ends a restore.
    """
    if page is not None:
        check_boot(asked)
    if asked.sampling.on_demand:
        if asked.keep:
            raise UsageError("--keep", "with --content on-demand nothing is restored that could be kept")
        check_fuse()
    clock = SystemClock()
    opening = _Opening(access, read_secret(access.passphrase_file, access.key_file))
    address = parse_address(access.address).address()
    past.prepare(output.history)
    if page is not None:
        asked = replace(asked, boot=_booting(page, address, opening, asked))
    run = _Run(asked, output, operator, address, opening, clock, clock.wall_ns())
    try:
        _rehearse(run, parallel)
    except BaseException as error:
        _file(run, error)
        raise
    _file(run, None)
    return 0


def _booting(page: Page, address: str, opening: _Opening, asked: Asked) -> Booting:
    """How VMs are started by a runbook. Raises RunbookUnfit: it has no `test`."""
    runbook = rehearsed(page.runbook)
    if runbook is None:
        why = "it has no `test`: machines of a rehearsal would have no networks of their own"
        raise RunbookUnfit(f"{page.path} does not fit a rehearsal", why)
    documents = os.path.abspath(asked.directory / FOLDER)
    programs = () if asked.sampling.on_demand else (QEMU_IMG,)
    return Booting(
        runbook,
        lambda point: check_fits(page, point, True, documents, programs),
        address,
        lambda: opening.secret,
    )


def _rehearse(run: _Run, parallel: int | None) -> None:
    names = NAMES if run.asked.boot is None else BOOTED_NAMES
    flow, lines = Flow(run.clock, parallel), StageLines(run.clock, run.output.as_json, len(names))
    run.stages = Stages(run.clock, lambda: run.counts, lines, names)
    with store_of(run.opening.access.address, flow.refused, run.around) as store:
        run.opening.store, run.address = store, store.address
        run.watch = Watch(run.counting[0], run.clock)
        with run.watch, holding_for(store, "dr-test", operator=run.operator) as holding:
            Rehearsal(
                run.asked,
                store,
                flow,
                holding,
                run.opening.open,
                run.stages,
                run.opening.hide,
                run.clock,
                tell,
                run.found,
            ).run()


def _file(run: _Run, error: BaseException | None) -> None:
    """Write reports and history. Where the rehearsal failed, that is what is to be told in the end."""
    with uninterrupted():
        members, as_json = run.members(error), run.output.as_json
        try:
            past.add(run.output.history, members, os.urandom)
            for path in run.output.files:
                text = html_of(members) if path.suffix == ".html" else json.dumps(members, indent=2) + "\n"
                replace_file(path, text.encode())
            answer(json.dumps(members, indent=2) if as_json else outcome_text(members))
        except CdpError as problem:
            if error is None:
                raise
            say(f"note: {problem}")


def rehearsals(history: Path | None, as_json: bool) -> int:
    """`rehydrate rehearsals`."""
    found = past.read_all(history or past.default_directory(os.environ))
    members = [past_members(one) for one in found]
    answer(json.dumps({"rehearsals": members}, indent=2) if as_json else past_text(members))
    return 0
