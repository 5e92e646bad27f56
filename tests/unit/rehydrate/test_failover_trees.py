"""Failover of a domain with trees, in one process: where they go, what may stand there, and interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdp_container.domain.durable import replace_file
from cdp_container.domain.failover_note import load_note
from cdp_container.domain.identity import load_identity
from cdp_container.domain.settings import load_settings
from cdp_container.errors import (
    CdpError,
    ConfigInvalid,
    DamagedObject,
    NoSuchPoint,
    NoSuchVolume,
    TargetNotEmpty,
    TargetUnsuitable,
    UsageError,
)
from cdp_container.format.names import TreeRules, tree_added
from cdp_container.format.place import Place
from cdp_container.store.directory import DirectoryStore
from rehydrate.cli import failover_trees
from rehydrate.plan import Choice
from tests.containers import Site, write
from tests.trees import Tree, directory
from tests.unit.rehydrate.test_failover import World, refused
from tests.unit.rehydrate.trees import assert_same

RULES = TreeRules(("keep.tmp",), ("*.tmp",), one_file_system=False)


class TreeWorld(World):
    """The world of a failover with a tree beside the volumes: `home`, whole at the newest cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.home = Tree(self.site, "home")
        self.site.say(tree_added(self.home.tree, "home", RULES))
        self.home.file(b"notes", b"n" * 5000)
        self.home.add(b"deep", directory())
        self.home.file(b"deep/twin", b"t" * 9000)
        self.home.link(b"deep/twin", b"twin")
        self.cuts.append(self.home.cut())
        self.protect()

    def protect(self) -> None:
        self.site.write_owner(protected=self.cuts[-1])

    @property
    def path(self) -> Path:
        return self.base / "there" / "home"

    def check_tree(self, place: Place) -> None:
        assert_same(self.path, self.home.at[place])
        (tree,) = load_identity(self.journal).trees
        assert (tree.name, tree.tree, tree.path) == ("home", self.home.tree, str(self.path))
        assert tree.rules == RULES
        (said,) = load_settings(self.journal / "agent.yaml").trees
        assert (said.name, said.path, said.exclude) == ("home", str(self.path), ["*.tmp"])


@pytest.fixture
def world(tmp_path: Path) -> TreeWorld:
    (tmp_path / "there").mkdir()
    return TreeWorld(tmp_path)


def at(world: TreeWorld) -> dict[str, Any]:
    return {"trees": (f"home={world.path}",)}


def test_a_tree_goes_where_it_is_told_and_is_the_same_tree(
    world: TreeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(**at(world))
    world.check(world.cuts[-1])
    world.check_tree(world.cuts[-1])
    told = json.loads(capsys.readouterr().out)
    assert told["trees"] == [{"name": "home", "path": str(world.path), "exclude": ["*.tmp"]}]
    assert told["not_set"] == []


def test_a_tree_that_is_not_named_goes_below_to(world: TreeWorld) -> None:
    world.run()
    assert_same(world.base / "vms" / "home", world.home.at[world.cuts[-1]])


def test_a_domain_of_trees_alone(tmp_path: Path) -> None:
    world = World.__new__(World)
    world.base, world.encrypted, world.given = tmp_path, False, {}
    for name in ("container", "vms"):
        (tmp_path / name).mkdir()
    world.store = DirectoryStore(tmp_path / "container")
    world.site = Site(world.store, seed=7, encrypted=False)
    world.site.begin_epoch()
    home = Tree(world.site, "home")
    home.file(b"notes", b"n" * 5000)
    place = home.cut()
    world.site.write_owner(protected=place)
    world.journal = tmp_path / "j"
    world.run(to=None, trees=(f"home={tmp_path / 'vms' / 'h'}",))
    assert_same(tmp_path / "vms" / "h", home.at[place])
    assert load_identity(world.journal).sources == ()


# --- checks before the claim -----------------------------------------------------------------------


def volumes(world: TreeWorld) -> list[str]:
    return [f"{name}={world.base}/vms/{name}.raw" for name in world.disks]


@pytest.mark.parametrize(
    "trees", [(), ("home",), ("home=",), ("home=/x", "home=/y"), ("other=/x",), ("home=/x", "other=/y")]
)
def test_each_tree_must_be_given_a_place(world: TreeWorld, trees: tuple[str, ...]) -> None:
    """As with volumes: none is dropped from protection because nobody named it."""
    refused(world, UsageError, to=None, volumes=volumes(world), trees=trees)


def test_a_directory_that_holds_something_is_refused_until_it_may_go(world: TreeWorld) -> None:
    world.path.mkdir()
    (world.path / "photo").write_bytes(b"x")
    assert "photo" in refused(world, TargetNotEmpty, **at(world)).why
    world.run(delete=True, **at(world))
    world.check_tree(world.cuts[-1])


def test_a_place_that_is_no_directory_or_in_none_is_refused(world: TreeWorld) -> None:
    world.path.write_bytes(b"x")
    refused(world, TargetUnsuitable, **at(world))
    refused(world, TargetUnsuitable, trees=(f"home={world.base}/none/home",))


def test_a_directory_that_could_not_be_protected_is_refused(world: TreeWorld) -> None:
    (world.base / "link").symlink_to(world.base / "vms")
    for path in (world.base / "vms", world.journal, world.base / "link"):
        refused(world, ConfigInvalid, trees=(f"home={path}",), delete=True)


def test_a_prepared_configuration_must_have_the_tree_and_its_patterns_win(world: TreeWorld) -> None:
    config = world.base / "agent.yaml"
    world.run(config=config, **at(world))
    text = config.read_text()
    other = TreeWorld.__new__(TreeWorld)  # a second site, of the same container
    other.__dict__.update(world.__dict__)
    other.journal = world.base / "j2"
    other_text = text.replace(str(world.journal), str(other.journal))
    config.write_text(other_text[: other_text.index("trees:")])
    for disk in (world.base / "vms").iterdir():
        disk.unlink()
    assert "trees:" in refused(other, ConfigInvalid, config=config, delete=True, **at(world)).why
    config.write_text(other_text.replace("'*.tmp'", "'*.log'"))
    other.run(config=config, delete=True, **at(world))
    (tree,) = load_identity(other.journal).trees
    assert tree.exclude == ("*.log",)


def test_a_hostile_name_never_leads_out_of_the_directory(world: TreeWorld) -> None:
    evil = Tree(world.site, "../../evil")
    world.cuts.append(evil.cut())
    world.protect()
    refused(world, UsageError, **at(world))
    refused(world, ConfigInvalid, trees=(f"home={world.path}", f"../../evil={world.base}/there/e"))


def test_damaged_names_are_refused_before_anything_is_claimed(world: TreeWorld) -> None:
    world.home.add(b"no directory/x", directory())
    world.cuts.append(world.home.cut())
    world.protect()
    refused(world, DamagedObject, **at(world))
    assert not world.path.exists()


# --- trees that are not whole ----------------------------------------------------------------------


def lag(world: TreeWorld) -> None:
    """A newer cut of the volumes, a second later, at which the tree is not whole."""
    change = [write(disk, 4096, b"v" * 4096) for disk in world.disks.values()]
    world.cuts.append(world.site.cut(change, not_whole=[world.home.tree]))
    world.protect()


def test_a_point_a_moment_older_is_taken_for_the_sake_of_a_tree(
    world: TreeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    lag(world)
    world.run(**at(world))
    world.check_tree(world.cuts[-2])
    told = capsys.readouterr()
    assert "passed over: home is not whole there" in told.err
    assert json.loads(told.out)["side_branch"] == "1.6"


def test_a_point_much_older_needs_a_word(world: TreeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    lag(world)
    monkeypatch.setattr(failover_trees, "TREES_BEHIND_SECONDS_MAX", 0.5)
    error = refused(world, NoSuchPoint, **at(world))
    assert "--at 1.5" in (error.hint or "")
    world.run(Choice(at=(1, 5)), **at(world))
    world.check_tree(world.cuts[-2])


def test_a_tree_that_is_left_out_is_not_protected_any_more_and_said_to_be(
    world: TreeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    lag(world)
    refused(world, UsageError, without_trees=("home",), **at(world))
    refused(world, NoSuchVolume, without_trees=("photos",))
    world.run(without_trees=("home",))
    (tree,) = load_identity(world.journal).trees
    assert (tree.tree, tree.removed) == (world.home.tree, True)
    assert json.loads(capsys.readouterr().out)["trees_without_protection"] == ["home"]
    assert load_settings(world.journal / "agent.yaml").trees == []
    assert not (world.base / "vms" / "home").exists()


def test_a_tree_that_never_was_whole_is_named(world: TreeWorld) -> None:
    site = world.site
    other = Tree(site, "new")
    for _ in range(2):
        world.cuts.append(other.cut(not_whole=[other.tree, world.home.tree]))
    world.protect()
    error = refused(world, NoSuchPoint, choice=Choice(at=(1, 6)), **at(world))
    assert "not whole" in error.why or "not everything" in error.why


# --- interruptions ---------------------------------------------------------------------------------


def test_an_interrupted_restore_is_gone_on_with_in_the_same_directory_alone(
    world: TreeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = failover_trees.write_trees

    def half(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]  # passed on
        (world.path / "notes").write_bytes(b"torn")
        (world.path / "twin").unlink()
        (world.path / "left by us").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(failover_trees, "write_trees", half)
    with pytest.raises(KeyboardInterrupt):
        world.run(**at(world))
    monkeypatch.setattr(failover_trees, "write_trees", real)
    note = load_note(world.journal)
    assert note is not None
    assert note.trees == ((world.home.tree.hex(), str(world.path)),)
    other = world.base / "there" / "other"
    other.mkdir()
    (other / "photo").write_bytes(b"x")
    with pytest.raises(TargetNotEmpty):  # nobody said that this one may go
        world.run(forced="", trees=(f"home={other}",))
    assert (other / "photo").read_bytes() == b"x"
    world.run(forced="", **at(world))
    world.check(world.cuts[-1])
    world.check_tree(world.cuts[-1])


def test_an_agent_is_never_prepared_without_its_tree(
    world: TreeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CdpError("restore", "the disk is gone")

    monkeypatch.setattr(failover_trees, "write_trees", fails)
    with pytest.raises(CdpError):
        world.run(**at(world))
    assert not (world.journal / "agent.json").exists()
    assert not (world.journal / "carried.json").exists()


def test_a_note_of_an_older_release_is_read(world: TreeWorld, tmp_path: Path) -> None:
    note = {
        "format": 1, "domain": "00" * 16, "site": "b", "began_ns": 1, "left_ns": 0, "released": False,
        "hooked": False, "epoch": 2, "base": [1, 1, 1], "end": [1, 1, 1], "owned_ns": 0, "cut_time_ns": 0,
        "lease_seconds": 0, "prepared": False,
    }  # fmt: skip
    replace_file(tmp_path / "failover.json", json.dumps(note).encode())
    found = load_note(tmp_path)
    assert found is not None
    assert found.trees == ()
