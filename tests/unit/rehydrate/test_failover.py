"""Failover in one process, with no agent: checks before the claim, and an interruption after every step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cdp_container.domain.carried import CARRIED_NAME, load_carried, look_at
from cdp_container.domain.durable import replace_file
from cdp_container.domain.failover_note import NOTE_NAME, FailoverNote, load_note
from cdp_container.domain.identity import AgentIdentity, load_identity
from cdp_container.domain.notes import load_notes
from cdp_container.domain.settings import load_settings
from cdp_container.errors import (
    AlreadyRunning,
    CdpError,
    ConfigInvalid,
    Fenced,
    KeyMissing,
    MissingObject,
    NoSuchPoint,
    OwnedElsewhere,
    StoreRefused,
    TargetNotEmpty,
    TargetUnsuitable,
    UsageError,
)
from cdp_container.format.domain import Owner, OwnerState, build_owner, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate import agent_files, failover
from rehydrate.cli import commands, places, targets
from rehydrate.cli import failover as taking
from rehydrate.plan import Choice
from tests.containers import Site, write

DISK_BYTES = 1 << 20


@dataclass
class World:
    """A container that site-a owns, and the folders of site-b."""

    base: Path
    encrypted: bool = True
    given: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("container", "vms"):
            (self.base / name).mkdir()
        self.store = DirectoryStore(self.base / "container")
        self.site = Site(self.store, seed=5, encrypted=self.encrypted)
        self.disks = {name: self.site.add_volume(name, DISK_BYTES) for name in ("db", "log")}
        self.site.begin_epoch()
        self.cuts = [
            self.site.cut([write(disk, number * 4096, os.urandom(4096)) for disk in self.disks.values()])
            for number in range(4)
        ]
        self.site.write_owner(protected=self.cuts[-1])
        (self.base / "key").write_text(self.site.private_key.hex())
        self.journal = self.base / "j"

    @property
    def owner(self) -> Owner:
        return parse_owner(self.store.get(OWNER_KEY).data, OWNER_KEY, self.site.domain)

    def where(self, **changes: object) -> places.Where:
        asked: dict[str, Any] = {"to": self.base / "vms", "volumes": [], "config": None, "socket": None}
        asked |= {"before": None, "after": None, "start": False, "journal": self.journal}
        return places.Where(**{**asked, **changes})

    def run(
        self,
        choice: Choice | None = None,
        accept_loss: bool = False,
        forced: str | None = None,
        as_json: bool = True,
        **changes: object,
    ) -> None:
        word = f"{self.owner.epoch}:{self.owner.nonce.hex()}" if forced is None else forced
        asked = taking.asked_of("site-b", "me", "drill", word or None, accept_loss)
        key = self.base / "key" if self.encrypted else None
        access = commands.Access(str(self.base / "container"), None, key)
        assert taking.fail_over(access, choice or Choice(), asked, self.where(**changes), as_json) == 0

    def check(self, place: Place) -> None:
        """Everything is as the agent's first run needs it."""
        for name, space in self.disks.items():
            assert (self.base / "vms" / f"{name}.raw").read_bytes() == self.site.images[place][space]
        carried = load_carried(self.journal)
        assert carried is not None
        assert carried.place == place
        assert carried.volumes == tuple(look_at(one.path, one.space) for one in carried.volumes)
        identity = load_identity(self.journal)
        assert {one.name: one.space for one in identity.sources} == self.disks
        assert identity.site == "site-b"
        assert (self.journal / "agent.json").stat().st_mode & 0o777 == 0o600
        settings = load_settings(self.journal / "agent.yaml")
        assert (settings.site, settings.store) == ("site-b", str(self.base / "container"))
        assert (self.owner.site, self.owner.state) == ("site-b", OwnerState.ACTIVE)
        assert self.owner.protected == place
        assert self.owner.nonce in load_notes(self.journal).nonces
        assert load_note(self.journal) is None
        assert sorted(path.name for path in (self.base / "vms").iterdir()) == ["db.raw", "log.raw"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_the_agent_needs_is_there(
    tmp_path: Path, encrypted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, encrypted)
    world.run()
    world.check(world.cuts[-1])
    told = json.loads(capsys.readouterr().out)
    assert (told["epoch"], told["point"], told["side_branch"]) == (2, "1.4", None)
    private = world.site.private_key.hex()
    for path in world.journal.iterdir():
        assert private not in path.read_text()


def test_an_older_cut_leaves_a_side_branch(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run(Choice(at=(1, 2)))
    world.check(world.cuts[1])
    assert json.loads(capsys.readouterr().out)["side_branch"] == "1.4"


def test_what_was_released_to_this_site_is_taken_without_loss(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.site.write_owner(state=OwnerState.RELEASED, released_to="site-b", lease_seconds=900)
    world.run(forced="")
    world.check(world.cuts[-1])
    told = json.loads(capsys.readouterr().out)
    assert (told["lost_seconds_max"], told["cut_age_seconds"] > 0) == (0.0, True)


def test_lost_cuts_are_gone_without_only_where_that_is_accepted(world: World) -> None:
    world.store.delete([found.key for found in world.store.list("log/")][-1])
    with pytest.raises(CdpError):
        world.run()
    assert world.owner.site == "site-a"
    world.run(accept_loss=True)
    world.check(world.cuts[-2])


# --- checks before the claim -------------------------------------------------------------------


def refused(world: World, error: type[CdpError], **changes: object) -> CdpError:
    """Nothing is claimed, and nothing left behind but an empty journal directory."""
    before = world.owner
    with pytest.raises(error) as caught:
        world.run(**changes)  # type: ignore[arg-type]  # the tests name them
    assert world.owner == before
    assert not (world.journal / NOTE_NAME).exists()
    return caught.value


def test_targets_that_hold_something_are_refused(world: World) -> None:
    (world.base / "vms" / "log.raw").write_bytes(b"x" * 512)
    refused(world, TargetNotEmpty)
    assert not (world.base / "vms" / "db.raw").exists()


def test_a_directory_that_is_not_there_is_refused(world: World) -> None:
    refused(world, TargetUnsuitable, to=world.base / "none")


@pytest.mark.parametrize(
    "volumes",
    [["db"], ["db=/x"], ["db=/x", "db=/y"], ["db=/x", "log=/y", "more=/z"], ["db=", "log=/y"]],
)
def test_volumes_must_be_given_each_once(world: World, volumes: list[str]) -> None:
    refused(world, UsageError, to=None, volumes=volumes)


def test_both_or_neither_place_is_refused(world: World) -> None:
    refused(world, UsageError, to=None)
    refused(world, UsageError, volumes=["db=/x"])


def test_each_volume_may_have_its_place(world: World) -> None:
    paths = {name: world.base / "vms" / f"{name}.raw" for name in world.disks}
    world.run(to=None, volumes=[f"{name}={path}" for name, path in paths.items()])
    world.check(world.cuts[-1])


def test_a_point_that_is_not_there_is_refused(world: World) -> None:
    refused(world, NoSuchPoint, choice=Choice(at=(1, 9)))


def test_a_key_that_does_not_open_it_is_refused(world: World) -> None:
    (world.base / "key").write_text("00" * 32)
    refused(world, KeyMissing)


def test_a_store_that_breaks_its_word_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_if(store: DirectoryStore, key: str, data: bytes, tag: str) -> str:
        store.delete(key)
        return store.put_new(key, data)

    monkeypatch.setattr(DirectoryStore, "put_if", put_if)
    refused(world, StoreRefused)


def test_hooks_that_are_not_there_are_refused(world: World) -> None:
    refused(world, UsageError, before="/none/such")
    refused(world, UsageError, start=True, after="/none/such 'unbalanced")


def test_a_directory_of_something_else_is_refused(world: World) -> None:
    world.journal.mkdir()
    (world.journal / "photo.jpg").write_bytes(b"x")
    assert "photo.jpg" in refused(world, TargetNotEmpty).why
    (world.journal / "agent.json").write_bytes(b"x")
    assert "belongs to an agent" in refused(world, TargetNotEmpty).why


def test_a_directory_of_an_interrupted_failover_of_another_is_refused(world: World) -> None:
    world.journal.mkdir()
    note = {
        "format": 1,
        "domain": "00" * 16,
        "site": "site-b",
        "began_ns": 0,
        "base": [0, 0, 0],
        "end": [0, 0, 0],
    }
    (world.journal / NOTE_NAME).write_text(json.dumps(note))
    with pytest.raises(TargetNotEmpty, match="interrupted"):
        world.run()
    assert world.owner.site == "site-a"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "base": 5}'])
def test_a_damaged_note_is_refused(world: World, text: str) -> None:
    world.journal.mkdir()
    (world.journal / NOTE_NAME).write_text(text)
    with pytest.raises(ConfigInvalid):
        world.run()
    assert world.owner.site == "site-a"


def prepared(world: World, **changes: str) -> Path:
    members = {"site": "site-b", "log": f"{world.base}/vms/log.raw", **changes}
    path = world.base / "agent.yaml"
    path.write_text(
        f"domain: shop\nsite: {members['site']}\nstore: {world.base}/container\nlease: 7s\n"
        f"journal: {{directory: {world.journal}}}\nvolumes:\n"
        f"  - {{name: db, path: {world.base}/vms/db.raw}}\n  - {{name: log, path: {members['log']}}}\n"
    )
    return path


def test_a_prepared_configuration_is_used(world: World) -> None:
    config = prepared(world)
    before = config.read_bytes()
    world.run(config=config)
    assert config.read_bytes() == before
    assert not (world.journal / "agent.yaml").exists()


@pytest.mark.parametrize("changes", [{"site": "site-c"}, {"log": "/elsewhere"}])
def test_a_prepared_configuration_that_does_not_fit_is_refused(world: World, changes: dict[str, str]) -> None:
    assert "does not fit" in refused(world, ConfigInvalid, config=prepared(world, **changes)).why


def test_names_that_no_agent_can_have_are_refused(world: World) -> None:
    with pytest.raises(ConfigInvalid, match="site"):
        agent_files.settings_of(
            replace(_identity(world), site="not a site"), "/container", world.journal, socket=None
        )


def _identity(world: World) -> AgentIdentity:
    world.run()
    return load_identity(world.journal)


def test_an_agent_or_another_failover_in_the_directory_is_refused(world: World) -> None:
    world.journal.mkdir()
    with agent_files.journal_lock(world.journal):
        assert agent_files.is_locked(world.journal)
        refused(world, AlreadyRunning)
    assert not agent_files.is_locked(world.journal)


def test_another_version_than_the_forced_one_is_refused(world: World) -> None:
    with pytest.raises(OwnedElsewhere):
        world.run(forced=f"1:{'00' * 16}")
    assert world.owner.site == "site-a"
    assert not list((world.base / "vms").iterdir())


@pytest.mark.parametrize("text", ["", "1", "1:", "1:xyz", f"x:{'0' * 32}", f"1:{'0' * 31}", f"1:{'0' * 33}"])
def test_a_force_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        failover.parse_force(text)


# --- what may happen meanwhile -----------------------------------------------------------------


def test_a_cut_that_lands_between_the_look_and_the_claim_is_restored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = failover.claim
    newest = []

    def claim(*arguments: object) -> object:
        newest.append(world.site.cut([write(world.disks["db"], 0, b"at the last moment".ljust(4096))]))
        return real(*arguments)

    monkeypatch.setattr(failover, "claim", claim)
    world.run()
    world.check(newest[0])


def test_overtaken_while_it_restores_it_leaves_nothing_to_serve(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = targets.restore_all

    def restore_all(*arguments: object) -> object:
        theirs = replace(world.owner, nonce=b"t" * 16, site="site-c", epoch=world.owner.epoch + 1)
        world.store.put_if(OWNER_KEY, build_owner(theirs), world.store.head(OWNER_KEY).tag)
        return real(*arguments)

    monkeypatch.setattr("rehydrate.cli.failover.restore_all", restore_all)
    with pytest.raises(Fenced, match="site-c"):
        world.run()
    assert load_note(world.journal) is not None


def test_prepared_and_then_taken_over_by_another_nothing_is_started(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise Killed

    monkeypatch.setattr(taking, "_serve", killed)
    with pytest.raises(Killed):
        world.run()
    monkeypatch.undo()
    ours = world.owner
    theirs = replace(ours, nonce=b"t" * 16, site="site-c")
    world.store.put_if(OWNER_KEY, build_owner(theirs), world.store.head(OWNER_KEY).tag)
    with pytest.raises(OwnedElsewhere, match="site-c") as caught:
        world.run(forced="")
    assert "failback" in caught.value.hint
    world.store.put_if(OWNER_KEY, build_owner(ours), world.store.head(OWNER_KEY).tag)
    world.run(forced="")
    world.check(world.cuts[-1])


# --- interrupted after every step --------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Faults:
    """Ends it right before or after the n-th thing that is made durable."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, after: bool) -> None:
        self.left, self.after, self.done = at, after, False
        for module in ("cdp_container.domain.notes", "cdp_container.domain.carried", "rehydrate.agent_files"):
            patch.setattr(f"{module}.replace_file", self._of(replace_file))
        patch.setattr("cdp_container.domain.failover_note.replace_file", self._of(replace_file))
        for name in ("put_if", "put_new"):
            patch.setattr(DirectoryStore, name, self._of(getattr(DirectoryStore, name)))
        for name in ("finish", "forget"):
            target = "rehydrate.file_target.FileTarget"
            module, _, kind = target.rpartition(".")
            found = getattr(__import__(module, fromlist=[kind]), kind)
            patch.setattr(found, name, self._of(getattr(found, name)))

    def _of(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*arguments: object) -> object:
            self.left -= 1
            if self.left == 0 and not self.after:
                self.done = True
                raise Killed
            kill = self.left == 0
            try:
                return real(*arguments)
            finally:  # also where the store is meant to refuse
                if kill:
                    self.done = True
                    raise Killed

        return faulty


STEPS_MAX = 60


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_interrupted_at_any_step_the_same_command_goes_on(tmp_path: Path, after: bool) -> None:
    for step in range(1, STEPS_MAX):
        folder = tmp_path / str(step)
        folder.mkdir()
        world = World(folder, encrypted=False)
        word = f"{world.owner.epoch}:{world.owner.nonce.hex()}"
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, step, after)
            try:
                world.run(forced=word)
            except (Killed, CdpError):
                assert faults.done
        if not faults.done:
            assert step > 10, "too few steps were interrupted"
            return
        if load_note(world.journal) is not None or not (world.journal / CARRIED_NAME).exists():
            was = world.owner
            is_prepared = (load_note(world.journal) or _NO_NOTE).prepared
            world.run(forced=word)
            assert not is_prepared or world.owner == was, "claimed twice without need"
        world.check(world.cuts[-1])
    raise AssertionError("it never came to its end")


_NO_NOTE = FailoverNote(bytes(16), "", 0)


def test_interrupted_and_then_asked_for_another_cut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise Killed

    monkeypatch.setattr(agent_files, "write_agent", killed)
    with pytest.raises(Killed):
        world.run()
    monkeypatch.undo()
    with pytest.raises(TargetNotEmpty):
        world.run(Choice(at=(1, 2)))


def test_a_lost_owner_is_no_reason_to_guess(world: World) -> None:
    world.store.delete(OWNER_KEY)
    with pytest.raises(MissingObject):
        taking.fail_over(
            commands.Access(str(world.base / "container"), None, world.base / "key"),
            Choice(at=(1, 4)),
            taking.asked_of("site-b", "", "drill", None, accept_loss=False),
            world.where(),
            True,
        )


def test_the_figures_are_by_one_clock_each() -> None:
    second_ns = 1_000_000_000
    note = replace(
        _NO_NOTE,
        began_ns=5 * second_ns,
        left_ns=100 * second_ns,
        owned_ns=140 * second_ns,
        cut_time_ns=98 * second_ns,
        base=Place(1, 2, 3),
        end=Place(1, 3, 4),
    )
    outcome = failover.outcome_of(note, 25 * second_ns)
    figures = (outcome.cut_age_seconds, outcome.without_owner_seconds, outcome.elapsed_seconds)
    assert figures == (42.0, 40.0, 20.0)
    assert outcome.lost_seconds == 42.0
    released = replace(note, released=True)
    assert failover.outcome_of(released, 0).lost_seconds == 42.0, "an older cut was chosen"
    assert failover.outcome_of(replace(released, base=note.end), 0).lost_seconds == 0.0
    assert outcome.side_end == Place(1, 3, 4)
