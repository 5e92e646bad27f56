"""`rehydrate failback`: from its options to disks that follow another site, and to a domain owned again.

How disks are brought to a cut and who may claim when stand one package above (failback, takeback), as do the
agent's files and its start (agent_files, agent_start).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.carried import Carried, save_carried
from cdp_container.domain.durable import replace_file
from cdp_container.domain.failback_note import drop_failback, load_failback
from cdp_container.domain.failover_note import drop_note
from cdp_container.domain.history import History
from cdp_container.domain.home import check_home, config_at, jump_of
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    TreeIdentity,
    encode_identity,
    load_identity,
)
from cdp_container.domain.notes import load_notes
from cdp_container.domain.places import open_container_store
from cdp_container.domain.settings import load_settings
from cdp_container.errors import (
    CdpError,
    ConfigInvalid,
    ForeignObject,
    OwnedElsewhere,
    StoreUnavailable,
    UsageError,
    counted,
)
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store
from cdp_container.store.retry import with_retries
from rehydrate import agent_files, agent_start, failover
from rehydrate.cli.commands import Access
from rehydrate.cli.console import ask_passphrase, read_secret
from rehydrate.cli.failover_views import unrenewed_text
from rehydrate.cli.held import holding_for
from rehydrate.cli.text import seconds_text, size_text
from rehydrate.container import Container, Secret, open_container
from rehydrate.failback import Failback, Words
from rehydrate.failover import Asked, runner_of, wish_of
from rehydrate.flow import Flow
from rehydrate.here import Here
from rehydrate.localio import lock_alone, os_errors
from rehydrate.takeback import TakeBack, Taken

CHILD_LOCKS: Final = ("splitter.lock", "streamer.lock", "watcher.lock")
"""An agent's processes hold them, and one may outlive a killed supervisor for a moment."""
LOCK_TRIES: Final = 50
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class What:
    """What the options ask for; see `Words`. `config`: of this site's agent, None where it is not known."""

    journal: Path
    config: Path | None
    start: bool
    once: bool
    as_json: bool
    overwrite_unjournaled: bool
    compare_all: bool


@dataclass(slots=True)
class _Run:
    access: Access
    asked: Asked
    what: What
    store: Store
    patient: Store
    secret: Secret
    flow: Flow
    jump: int
    """Of a claim here: above 0 this is not the domain's home zone, and the container may lack anything."""
    clock: Clock = field(default_factory=SystemClock)

    def report(self, line: str) -> None:
        """A line for people, or an event for programs."""
        say(json.dumps({"event": "failback", "text": line}) if self.what.as_json else printable(line))

    def open_container(self) -> Container:
        """The container as it is now; asks for a passphrase, but once, where one is needed and none given."""
        container = open_container(self.patient, self.secret, replica=self.jump > 0)
        if container.sealed and not self.secret:
            self.secret = ask_passphrase()
            container = open_container(self.patient, self.secret, replica=self.jump > 0)
        container.require_key()
        if container.keys.private_key is not None:
            self.secret = Secret(private_key=container.keys.private_key)  # no scrypt a second time
        return container


def what_of(
    journal: Path,
    config: Path | None,
    start: bool,
    once: bool,
    as_json: bool,
    overwrite_unjournaled: bool = False,
    compare_all: bool = False,
) -> What:
    """What the options ask for. Raises UsageError, AgentNotRunning."""
    journal = journal.absolute()
    made = journal / agent_files.CONFIG_NAME
    if config is None and made.exists():
        config = made  # as a failover wrote it
    start = start and not once
    if start:
        agent_start.find_agent()
        if config is None:
            hint = "give --config, or --no-start to start it yourself"
            raise UsageError("start the agent at the end", "nothing names its configuration", hint)
    config = None if config is None else config.absolute()
    return What(journal, config, start, once, as_json, overwrite_unjournaled, compare_all)


def fail_back(access: Access, asked: Asked, what: What) -> int:
    """`rehydrate failback`; the site's name is agent.json's."""
    identity = load_identity(what.journal)
    flow, clock = Flow(), SystemClock()
    address, store = open_container_store(access.address, clock)
    access = replace(access, address=address)
    try:
        patient = with_retries(store, clock, _jitter, noticed=flow.refused)
        secret = read_secret(access.passphrase_file, access.key_file)
        config = config_at(patient, identity.domain)
        jump = 0 if config is None else jump_of(config, store)
        run = _Run(access, replace(asked, site=identity.site), what, store, patient, secret, flow, jump)
        return _fail_back(run, identity)
    finally:
        store.close()


def _jitter() -> float:
    return int.from_bytes(os.urandom(6)) / 2**48


def _fail_back(run: _Run, identity: AgentIdentity) -> int:
    here = _here(run, identity)
    taken: Taken | None = None
    with ExitStack() as stack:
        stack.enter_context(_alone(here.directory))
        _check(run, identity, run.open_container().history)
        words = Words(run.asked.accept_loss, run.what.overwrite_unjournaled, run.what.compare_all)
        holding = stack.enter_context(holding_for(run.patient, "failback", identity.site, run.clock))
        disks = stack.enter_context(
            Failback(here, run.open_container, holding, run.flow, run.clock, run.report, words)
        )
        takeback = TakeBack(
            disks,
            run.patient,
            identity.domain,
            run.asked,
            run.jump,
            lambda: load_notes(here.directory).nonces,
            run.clock,
            run.report,
        )
        takeback.check(began=load_failback(here.directory) is not None)
        place = takeback.once() if run.what.once else takeback.follow()
        if not run.what.once:
            taken = _take(run, here, disks, takeback, place)
            place = taken.place
    process = None
    if run.what.start:
        assert run.what.config is not None, "checked"
        process = agent_start.start_agent(run.what.config, here.directory, run.clock)
    lost = None if taken is None else _lost(run)
    members = _members(run, disks, place, taken, process)
    members["owned"] = taken is not None and lost is None
    answer(json.dumps(members, indent=2) if run.what.as_json else _text(members))
    if lost is not None:
        raise lost
    return 0


def _check(run: _Run, identity: AgentIdentity, history: History) -> None:
    """The container is this domain's, in a zone where it may be owned.

    Raises ForeignObject; NotHome; ConfigInvalid where the agent would refuse to own there; MissingObject
    where force would give up what was proven, in another zone.
    """
    if history.domain != identity.domain:
        what = f"fail back to {run.what.journal}"
        raise ForeignObject(what, f"{run.access.address} is the container of another domain")
    if not run.jump or run.what.once:
        return
    settings = None if run.what.config is None else load_settings(run.what.config)
    if settings is None or not settings.store_is_home:
        if run.asked.forced is None and history.config is not None:
            check_home(history.config, run.store)
        if settings is not None:
            what, hint = f"fail back with {run.what.config}", "write store_is_home: true into it"
            raise ConfigInvalid(what, "this zone is not the domain's home", hint)
    if run.asked.forced is not None:
        wish_of(run.asked, history, history.newest, run.jump)


def _take(run: _Run, here: Here, disks: Failback, takeback: TakeBack, place: Place) -> Taken:
    """Own the domain again, and leave what the agent's first run goes on from: all durable, in this order."""
    owner = takeback.look()
    software = f"rehydrate {installed_version('cdp-container')}"
    keys = ReaderKeys(here.identity.index_key or None)
    runner = runner_of(
        run.store, owner, run.asked, here.directory, run.clock, os.urandom, software, run.report, keys
    )
    with runner:
        taken = takeback.take(place, runner)
        config = run.open_container().history
        identity = replace(
            here.identity,
            sources=here.sources(disks.volumes),
            trees=here.tree_identities(disks.chosen_trees),
            config_digest=config.owner.config,
            key_block=config.config.key_block if config.config and here.identity.public_key else b"",
        )
        agent_files.drop_index(here.directory)
        replace_file(here.directory / IDENTITY_NAME, encode_identity(identity))
        # As they were when they were synced, not as they are now: a stranger may have come since.
        save_carried(here.directory, Carried(identity.domain, taken.place, disks.looks(identity)))
        runner.check()
    drop_note(here.directory)  # of a failover that was interrupted here: these disks are another cut now
    drop_failback(here.directory)
    return taken


def _lost(run: _Run) -> CdpError | None:
    """Why this site has not the domain that it got, or nobody can tell: another may have come since."""
    try:
        failover.check_still_ours(run.patient, run.what.journal)
    except (OwnedElsewhere, StoreUnavailable) as error:
        return error
    return None


def _here(run: _Run, identity: AgentIdentity) -> Here:
    """This site. Raises ConfigInvalid where the configuration is not its agent's, or disks are VMs' own."""
    if identity.active_disks:
        names = ", ".join(disk.name for disk in identity.active_disks)
        raise ConfigInvalid(
            "failback is refused",
            f"captured from their VMs, whose disks nobody else may write: {names}",
            "configure them with `path`, or `rehydrate restore` to other disks and move the VM there",
        )
    paths = {source.name: source.path for source in identity.active.values()}
    trees = {tree.name: tree for tree in identity.active_trees}
    directory = run.what.journal
    boot = bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))
    if run.what.config is None:
        return Here(directory, identity, paths, boot, trees=trees)
    settings = load_settings(run.what.config)
    faults = [
        f"{what}: {theirs!r}, and it should be {ours!r}"
        for what, theirs, ours in (
            ("domain", settings.domain, identity.name),
            ("site", settings.site, identity.site),
            # Else the domain would be claimed in one place, and its agent look for it in another.
            ("store", settings.store, settings.store if run.what.once else run.access.address),
            ("encryption", settings.encryption, identity.encryption),
            ("journal.directory", str(Path(settings.journal.directory).absolute()), str(directory)),
        )
        if theirs != ours
    ]
    if faults:
        why = "\n".join(["it is not that of this journal directory:", *faults])
        raise ConfigInvalid(f"{run.what.config} is refused", why, "name the right one: --config")
    paths |= {volume.name: volume.path for volume in settings.volumes}
    trees |= {
        tree.name: TreeIdentity(
            tree.name, tree.path, b"", tuple(tree.include), tuple(tree.exclude), tree.one_file_system
        )
        for tree in settings.trees
    }
    configured = frozenset(volume.name for volume in settings.volumes)
    return Here(
        directory, identity, paths, boot, configured, trees, frozenset(tree.name for tree in settings.trees)
    )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep the agent, its processes and others like us out. Raises AlreadyRunning."""
    with agent_files.journal_lock(directory), ExitStack() as stack:
        for name in CHILD_LOCKS:
            path = directory / name
            with os_errors(f"lock {path}"):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, fd)
                lock_alone(fd, path, f"lock {path}", LOCK_TRIES)
        yield


def _members(
    run: _Run, disks: Failback, place: Place, taken: Taken | None, process: int | None
) -> dict[str, Any]:
    figures = disks.figures
    return {
        "site": run.asked.site,
        "point": f"{place.epoch}.{place.cut}",
        "epoch": None if taken is None else taken.epoch,
        "evidence": str(disks.evidence) if disks.evidence else None,
        "passes": disks.pass_count,
        "compared_bytes": figures.compared_bytes,
        "changed_bytes": figures.changed_bytes,
        "fetched_bytes": figures.fetched_bytes,
        "fetched_over_changed": None if figures.ratio is None else round(figures.ratio, 3),
        "without_owner_seconds": None if taken is None else round(taken.without_owner_seconds, 3),
        "trees": [
            {
                "name": name,
                "path": str(tree.path),
                "fetched_bytes": tree.fetched_bytes,
                "removed": tree.removed,
                "kept": tree.kept,
                "kept_in": [str(folder) for folder in tree.folders],
                "not_set": tree.not_set,
            }
            for name, tree in disks.trees.done.items()
        ],
        "agent_pid": process,
        "config": None if run.what.config is None else str(run.what.config),
    }


def _text(members: dict[str, Any]) -> str:
    ratio = members["fetched_over_changed"]
    lines = [
        f"the disks of site {members['site']} are the cut {members['point']}, durably",
        f"compared {size_text(members['compared_bytes'])}, changed {size_text(members['changed_bytes'])}, "
        f"fetched {size_text(members['fetched_bytes'])}"
        + ("" if ratio is None else f" ({ratio:.2f} of that)"),
        f"the journal that this site had is kept in {members['evidence']}",
    ]
    for tree in members["trees"]:
        kept = f"; {counted(tree['kept'], 'name')} in no cut, kept in {', '.join(tree['kept_in'])}"
        lines.append(
            f"{tree['name']}/: {tree['path']}, fetched {size_text(tree['fetched_bytes'])}"
            + (kept if tree["kept"] else "")
        )
    if members["epoch"] is None:
        lines.append("the domain was not taken over: the same command without --once goes on from here")
    else:
        gap = seconds_text(members["without_owner_seconds"])
        now = "owns the domain" if members["owned"] else "got the domain, but see below"
        lines.append(f"this site {now} (epoch {members['epoch']}); without an owner for {gap}")
        pid = members["agent_pid"]
        if pid is not None:
            lines.append(f"its agent runs, process {pid}")
        elif members["owned"]:
            lines.append(unrenewed_text(members["config"] or "CONFIG"))
    return printable("\n".join(lines))
