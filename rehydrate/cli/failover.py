"""`rehydrate failover`: from its options to a domain that is owned, restored and protected from here.

What a claim is and what an interrupted one left stands one package above (failover, failover_note), as do the
agent's files and its start (agent_files, agent_start).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.contents import Contents
from cdp_container.domain.failover_note import FailoverNote, change_note, drop_note, load_note, save_note
from cdp_container.domain.holding import Holding
from cdp_container.domain.identity import AgentIdentity, TreeIdentity, VmIdentity, load_identity
from cdp_container.domain.machine_records import members_known
from cdp_container.domain.namespace import trees_of
from cdp_container.domain.owner_runner import OwnerRunner, force_word, owner_line
from cdp_container.domain.places import open_container_store
from cdp_container.domain.settings import AgentSettings, load_settings
from cdp_container.domain.vm_settings import changed_vms
from cdp_container.errors import TargetNotEmpty, UsageError
from cdp_container.format.credentials import Credentials
from cdp_container.format.domain import Owner
from cdp_container.format.place import Place
from cdp_container.store.address import open_store
from cdp_container.store.api import Store
from cdp_container.store.retry import with_retries
from rehydrate import agent_files, agent_start, failover, writer
from rehydrate.anew import read_until_found
from rehydrate.boot.at_cut import AtCut, vms_at_cut
from rehydrate.boot.run import Result
from rehydrate.boot.trial import directory_to_be
from rehydrate.cli import booting, commands, failover_trees, failover_views, views
from rehydrate.cli.console import ask_passphrase, read_secret
from rehydrate.cli.held import holding_for, user_name
from rehydrate.cli.places import Where, check_where, paths_at, tree_paths_at
from rehydrate.cli.runbook_page import Page, check_fits
from rehydrate.cli.targets import Targets, check_fit, restore_all
from rehydrate.cli.tree_restoring import TreeRestored, TreesTo, raise_if_not_set
from rehydrate.container import Container, Secret, open_container
from rehydrate.flow import Flow
from rehydrate.plan import ASSUMED_BYTES_PER_SECOND, Choice
from rehydrate.points import RestorePlan, scope_of, sound_cut
from rehydrate.restore import Source
from rehydrate.resume import remove_progress
from rehydrate.tree_sources import TreePlace, as_configured, places_of
from rehydrate.wanted import Wanted

_UNKNOWN_RULES: Final = (
    "{}: the container does not say which paths of it are left out: here none are; what the former site left "
    "out is not in the container, and stays there"
)


@dataclass(slots=True)
class _Run:
    """One run of the command: what it was asked, and what it found out; `jump` as in `TakeOver`.

    `which`: whose credentials are asked for; `sealed`: those to write with, None for the operator's own.
    `page`: the runbook by which VMs are started, None where none are; `vms`: of the cut, once it was read.
    """

    access: commands.Access
    choice: Choice
    asked: failover.Asked
    where: Where
    as_json: bool
    store: Store
    patient: Store
    secret: Secret
    flow: Flow
    jump: int = 0
    holding: Holding | None = None
    which: writer.Which | None = None
    sealed: Credentials | None = None
    trees: list[TreeRestored] = field(default_factory=list)
    page: Page | None = None
    vms: AtCut | None = None
    clock: Clock = field(default_factory=SystemClock)

    @property
    def agent_address(self) -> str:
        """The store as the agent will have it."""
        address = self.access.address
        return address if self.sealed is None else writer.address_with(address, self.where.journal)

    def report(self, line: str) -> None:
        """A line for people, or an event for programs."""
        say(json.dumps({"event": "ownership", "text": line}) if self.as_json else printable(line))


def fail_over(
    access: commands.Access,
    choice: Choice,
    asked: failover.Asked,
    where: Where,
    as_json: bool,
    which: writer.Which | None = None,
    page: Page | None = None,
) -> int:
    """`rehydrate failover`; `page`: the runbook of --boot."""
    check_where(where)
    if page is not None and not where.start:
        raise UsageError("--boot", "VMs boot from the agent's exports, and --no-start starts no agent")
    where = replace(where, journal=Path(os.path.abspath(where.journal)))
    flow, clock = Flow(), SystemClock()
    address, store = open_container_store(access.address, clock)
    access = replace(access, address=address)
    try:
        patient = with_retries(store, clock, _jitter, noticed=flow.refused)
        secret = read_secret(access.passphrase_file, access.key_file)
        jump = failover.jump_at(store, patient, asked)
        run = _Run(access, choice, asked, where, as_json, store, patient, secret, flow, jump, None, which)
        run.page = page
        try:
            return _fail_over(run)
        finally:
            if run.store is not store:
                run.store.close()
    finally:
        store.close()


def _jitter() -> float:
    return int.from_bytes(os.urandom(6)) / 2**48


def asked_of(site: str, operator: str, reason: str, force: str | None, accept_loss: bool) -> failover.Asked:
    """What the options ask for. Raises UsageError."""
    forced = None if force is None else failover.parse_force(force)
    return failover.Asked(site, operator or user_name(), reason, forced, accept_loss)


def which_of(text: str | None) -> writer.Which | None:
    """What --credentials asks for. Raises UsageError."""
    try:
        return None if text is None else writer.Which(text)
    except ValueError:
        raise UsageError("read --credentials", f"{text!r} is neither sealed nor own") from None


def _fail_over(run: _Run) -> int:
    # A collector of the site before may be at work until the domain is ours, and a plan that executes be
    # carried out even later.
    with holding_for(run.patient, "failover", run.asked.site, run.clock) as run.holding:
        run.holding.place()
        note = _prepared(run)
        if run.page is not None:
            booting.check_place(run.page, note, run.where.journal)
            if run.vms is None:
                _look_at_vms(run, note)
    return _serve(run, note)


def _look_at_vms(run: _Run, note: FailoverNote) -> None:
    """Where an earlier run restored everything: the VMs of its cut."""
    container, choice = _open(run), Choice(at=(note.base.epoch, note.base.cut))
    with closing(container.gather(scope_of(container.history, choice), at_once=run.flow)) as contents:
        cut = sound_cut(container.history, contents, choice, Wanted())
        run.vms = vms_at_cut(container, contents, cut, lambda why: run.report(f"note: {why}"))


def _prepared(run: _Run) -> FailoverNote:
    container = _open(run)
    owner = container.history.owner
    directory = run.where.journal
    note = agent_files.check_directory(directory, run.where.config_path, owner.domain, run.asked.site)
    if note is None or not note.prepared:
        agent_files.make_directory(directory)
        with agent_files.journal_lock(directory):
            # Once more: another command may have ended while we looked at the container.
            note = agent_files.check_directory(directory, run.where.config_path, owner.domain, run.asked.site)
            note = _take_over(run, container, note or _new_note(run, owner))
    elif not agent_files.is_locked(directory):
        failover.check_ours(owner, directory)
    return note


def _new_note(run: _Run, owner: Owner) -> FailoverNote:
    return FailoverNote(owner.domain, run.asked.site, run.clock.wall_ns())


def _open(run: _Run) -> Container:
    """The container; asks for a passphrase where one is needed and none was given, but once."""
    replica = run.jump > 0  # what is not the home may lack anything
    container = open_container(run.patient, run.secret, replica)
    if container.sealed and not run.secret:
        run.secret = ask_passphrase()
        container = open_container(run.patient, run.secret, replica)
    container.require_key()
    if container.keys.private_key is not None:
        run.secret = Secret(private_key=container.keys.private_key)  # no scrypt a second time
    return container


# --- from checks to restored disks -------------------------------------------------------------


def _take_over(run: _Run, container: Container, note: FailoverNote) -> FailoverNote:
    owner, directory = container.history.owner, run.where.journal
    run.sealed = writer.choose(container, run.which, run.access.address, run.where.config_path)
    run.report(writer.told(run.sealed))
    chosen = _check_all(run, container, note)
    wish = failover.wish_of(run.asked, container.history, chosen.made.cut.place, run.jump)
    run.report(owner_line(owner))
    if not failover.is_at_once(owner, run.asked):
        run.report(f"whoever is sure that it writes no more skips the wait: --force {force_word(owner)}")
    note = failover.seen_by(note, owner, directory, run.store)
    software = f"rehydrate {installed_version('cdp-container')}"
    held = container.history.config is not None and container.history.config.credentials is not None
    with writer.denied(run.sealed, held):
        _open_writer(run)
        runner = failover.runner_of(
            run.store,
            owner,
            run.asked,
            directory,
            run.clock,
            os.urandom,
            software,
            run.report,
            container.keys,
        )
    save_note(directory, note)
    note = _before(run, chosen, note)
    with runner:
        _, note = failover.claim(runner, wish, note, directory, run.store)
        point = f"{note.base.epoch}.{note.base.cut}"
        run.report(f"the domain is ours: epoch {note.epoch}, which goes on from the cut {point}")
        holding, claimed = run.holding, note
        assert holding is not None, "placed"
        # Nobody else executes a plan once the domain is ours: the ledger stays the one that is read by.
        note = read_until_found(lambda _: _restore(run, claimed, runner), holding, lambda: False, run.report)
        runner.check()
    return note


def _open_writer(run: _Run) -> None:
    """From here on the store is asked with the sealed credentials, as the agent will ask it."""
    if run.sealed is not None:
        writer.keep(run.sealed, run.access.address, run.where.journal)
        run.store = open_store(run.agent_address, run.clock)
        run.patient = with_retries(run.store, run.clock, _jitter, noticed=run.flow.refused)


@dataclass(frozen=True, slots=True)
class _Made:
    """A plan, where everything goes, and the agent that goes on with it."""

    made: RestorePlan
    paths: list[Path]
    trees: tuple[TreePlace, ...]
    identity: AgentIdentity
    settings: AgentSettings


def _check_all(run: _Run, container: Container, note: FailoverNote) -> _Made:
    """Everything that costs nothing, before anything is claimed or written. Gives the plan that it made."""
    choice = run.choice
    if choice == Choice() and run.asked.accept_loss and container.history.newest:
        newest = container.history.newest
        choice = Choice(at=(newest.epoch, newest.cut))
    with _planned(run, container, choice, note) as (source, plan):
        made, paths = plan.made, plan.paths
        if run.page is not None:
            assert run.vms is not None, "planned"
            epoch = note.epoch or container.history.owner.epoch + 1 + run.jump
            directory = directory_to_be(run.page.runbook, epoch)
            check_fits(run.page, run.vms.point, rehearsal=False, directory=directory)
        for place in plan.trees:
            if place.rules is None:
                run.report(f"note: {_UNKNOWN_RULES.format(place.tree.name)}")
        for tree in failover_trees.check_trees(
            source, made, plan.trees, plan.settings, note.trees, run.where.delete
        ):
            run.report(views.tree_plan_line(views.tree_plan_members(tree)))
        with _own_hints():
            check_fit(source, made, paths, _targets(note, made.cut.place, paths))
        return plan


@contextmanager
def _own_hints() -> Iterator[None]:
    """What a restore's `--force` and `--restart` do has no option here."""
    try:
        yield
    except TargetNotEmpty as error:
        hint = "choose another target; or, where nobody needs it, remove what is there, with .partial files"
        raise TargetNotEmpty(error.what, error.why, hint) from error


@contextmanager
def _planned(
    run: _Run, container: Container, choice: Choice, note: FailoverNote
) -> Iterator[tuple[Source, _Made]]:
    # Directories hold something only where that was said, or where we were interrupted.
    compares = run.where.delete or note.epoch > 0
    scope = scope_of(container.history, choice)
    with closing(container.gather(scope, compares, run.flow, keeps_names=True)) as contents:
        made = failover_trees.plan_domain(container, contents, choice, run.where.without_trees)
        for line in (*container.history.notes, *made.notes):
            run.report(f"note: {line}")
        if run.page is not None:
            run.vms = vms_at_cut(container, contents, made.cut, lambda _: None)
        yield (
            Source(run.patient, container.keys, contents, run.flow),
            _placed(run, container, contents, made, note),
        )


def _placed(
    run: _Run, container: Container, contents: Contents, made: RestorePlan, note: FailoverNote
) -> _Made:
    where = run.where
    paths = paths_at(where, made)
    trees = places_of(contents, made.branch, made.trees, tree_paths_at(where, made.trees))
    protected = {place.tree.tree for place in trees}
    gone = [
        TreeIdentity(tree.name, "", tree.tree, removed=True)
        for tree in trees_of(contents, made.branch, made.cut)
        if tree.tree not in protected
    ]
    volumes = [plan.volume for plan in made.volumes]
    identity = agent_files.identity_of(
        container, run.asked.site, volumes, paths, [*(place.identity for place in trees), *gone]
    )
    known = members_known(contents.vm_records, made.branch, lambda why: run.report(f"note: {why}"))
    vms = tuple(VmIdentity(member.configuration.name, member.vm) for member in known)
    identity = replace(identity, vms=vms)
    settings = _settings(run, identity, note)
    identity = changed_vms(as_configured(identity, settings), settings.vms, os.urandom)
    return _Made(made, paths, trees, identity, settings)


def _settings(run: _Run, identity: AgentIdentity, note: FailoverNote) -> AgentSettings:
    where, elsewhere = run.where, run.jump > 0
    wanted = agent_files.settings_of(
        identity, run.agent_address, where.journal, where.socket, elsewhere, note.lease_seconds
    )
    return agent_files.chosen_settings(run.where.config_path, wanted)


def _targets(note: FailoverNote, place: Place, paths: list[Path]) -> Targets:
    """What an interrupted run began is gone on with, or begun anew where it was another cut."""
    began = [path for path in paths if note.epoch and path.exists() and stat.S_ISBLK(path.stat().st_mode)]
    restart = bool(note.base) and note.base != place
    return Targets([], None, True, None, force=False, restart=restart, again=frozenset(began))


def _before(run: _Run, chosen: _Made, note: FailoverNote) -> FailoverNote:
    if run.where.before is None or note.hooked:
        return note
    told = agent_files.hook_environment(chosen.identity, chosen.settings, 0, chosen.made.cut.place)
    hint = "nothing was claimed: mend it and run this command again"
    agent_start.run_hook(agent_start.check_hook(run.where.before, "--before"), "--before", told, hint)
    note = replace(note, hooked=True)
    save_note(run.where.journal, note)
    return note


def _restore(run: _Run, note: FailoverNote, runner: OwnerRunner) -> FailoverNote:
    """The trees and disks, then the agent's files: all of it durable when this returns."""
    container, directory = _open(run), run.where.journal
    with _planned(run, container, Choice(at=(note.base.epoch, note.base.cut)), note) as (source, plan):
        made, paths, identity = plan.made, plan.paths, plan.identity
        if run.holding is not None:
            run.holding.narrow(note.base, container.history.owner.ledger)
        begun = tuple((place.tree.tree.hex(), str(place.path)) for place in plan.trees)
        note = replace(note, trees=begun)
        prepared = replace(note, prepared=True, cut_time_ns=made.cut.time_ns)
        members = views.plan_members(made, ASSUMED_BYTES_PER_SECOND)
        whose = writer.Which.OWN if run.sealed is None else writer.Which.SEALED
        event = {"event": "plan", **members, "credentials": whose}
        say(json.dumps(event) if run.as_json else views.plan_text(members))

        def when_done() -> None:
            runner.prove()  # so that nobody starts from here what another took meanwhile
            agent_files.write_agent(directory, identity, run.where.config_path, plan.settings)
            agent_files.carry(directory, identity, note.base)
            save_note(directory, prepared)

        if begun:
            save_note(directory, note)
        run.trees = failover_trees.write_trees(source, made, plan.trees, run.clock, run.as_json, runner.check)
        with _own_hints():
            targets = _targets(note, note.base, paths)
            restore_all(source, made, paths, targets, run.clock, run.as_json, when_done)
        agent_files.carry(directory, identity, note.base)  # what is forgotten may have been a second name
    return prepared


# --- from restored disks to a domain that is served --------------------------------------------


def _serve(run: _Run, note: FailoverNote) -> int:
    where = run.where
    identity, settings = load_identity(where.journal), load_settings(where.config_path)
    for source in identity.sources:
        remove_progress(Path(source.path))  # where the command was interrupted just before it did
    process = agent_start.start_agent(where.config_path, where.journal, run.clock) if where.start else None
    failover.check_still_ours(run.patient, where.journal)  # no hook sends guests to disks of a lost domain
    booted = None if run.page is None else _boot(run, run.page)
    note = load_note(where.journal) or note
    outcome = failover.outcome_of(note, run.clock.wall_ns())
    members = failover_views.failover_members(
        outcome, identity, settings, str(where.config_path), where.start, process, run.trees, booted
    )
    answer(json.dumps(members, indent=2) if run.as_json else failover_views.failover_text(members))
    if booted is not None:
        booting.raise_if_not_running(booted)  # the note stays: the same command goes on
    if where.after is not None:
        told: Mapping[str, str] = agent_files.hook_environment(identity, settings, note.epoch, note.base)
        hint = "the domain is served and protected from here; mend the command, and run it by hand"
        drop_note(where.journal)
        agent_start.run_hook(agent_start.check_hook(where.after, "--after"), "--after", told, hint)
    drop_note(where.journal)
    raise_if_not_set(run.trees, TreesTo(best_effort=where.best_effort))
    return 0


def _boot(run: _Run, page: Page) -> list[Result]:
    """Start the VMs; when the exports were open is noted before, and told where this is run again."""
    assert run.vms is not None, "looked at"
    where, now_ns = run.where, run.clock.wall_ns()
    note = change_note(where.journal, lambda note: replace(note, served_ns=note.served_ns or now_ns))
    run.report("the domain is served and protected from here: VMs are started")
    settings = load_settings(where.config_path)
    with booting.interruption_told(note, where.config_path, run.report):
        return booting.boot(page, run.vms, note, where.journal, settings, run.clock, run.as_json)
