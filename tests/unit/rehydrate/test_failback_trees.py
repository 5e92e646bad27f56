"""Failback of trees: directories become the other site's cut, and what was here alone is kept."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.watcher.index import INDEX_NAME
from cdp_agent.watcher.page import FOLDER as AGENTS_FOLDER
from cdp_container.domain.failback_note import load_failback, save_failback
from cdp_container.domain.identity import TreeIdentity
from cdp_container.errors import ConfigInvalid, DamagedObject, LocalDiskFull, TargetUnsuitable
from cdp_container.format.names import ROOT, NameType
from cdp_container.format.place import Place
from rehydrate import agent_files, tree_evidence, tree_return
from rehydrate.container import Secret, open_container
from rehydrate.failback import Words
from rehydrate.plan import Choice
from tests.overtaken import Overtaken
from tests.trees import Tree, directory
from tests.unit.rehydrate.trees import assert_same, restore

LONG = b"l" * 3 * 4096


class World(Overtaken):
    """A site whose directory `home` was its tree when it was overtaken, and the other site's writes."""

    def __init__(
        self, tmp_path: Path, exclude: tuple[str, ...] = (), volumes: tuple[str, ...] = ("disk",)
    ) -> None:
        super().__init__(tmp_path, dict.fromkeys(volumes, 1 << 16))
        self.home = Tree(self.site, "home")
        for name in (b"same", b"theirs", b"both", b"mine"):
            self.home.file(name, name * 3000)
        self.home.add(b"old", directory())
        self.home.add(b"old/deep", directory())
        self.home.file(b"old/deep/file", LONG)
        self.home.link(b"old/deep/file", b"twin")
        self.home.add(b"link", directory()._replace(type=NameType.SYMLINK, mode=0o777, target=b"same"))
        self.path = tmp_path / "home"
        self.fork = self.home.cut()
        restore(self.site, self.fork, self.path)
        self.identity = replace(
            self.identity, trees=(TreeIdentity("home", str(self.path), self.home.tree, (), exclude),)
        )
        self.proven = self.journal.at

    def overtaken(self) -> Place:
        """The other site goes on: gives its cut."""
        self.stop()
        self.other_takes_over()
        self.home.write(b"theirs", b"new" * 4000, mtime_ns=5)
        self.home.write(b"both", b"other" * 2000, mtime_ns=6)
        self.home.rename(b"old", b"newer")
        self.home.file(b"fresh", LONG)
        return self.home.cut()

    def back(self, words: Words | None = None) -> Place:
        return self.fail_back(words=words or Words())

    def kept(self, number: int = 1) -> Path:
        """Where what was here alone is, of the pass of this number that kept something."""
        (found,) = self.directory.glob("diverged-*")
        name = self.home.tree.hex() + (f"-{number}" if number > 1 else "")
        return found / "trees" / name

    def assert_kept(self, wanted: dict[str, bytes], number: int = 1) -> None:
        folder = self.kept(number)
        found = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        assert found == wanted


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_directory_that_nobody_wrote_becomes_the_cut_and_nothing_is_kept(world: World) -> None:
    place = world.overtaken()
    inode = (world.path / "theirs").stat().st_ino
    assert world.back() == place
    assert_same(world.path, world.home.at[place])
    assert (world.path / "theirs").stat().st_ino == inode
    assert not world.kept().exists()


def test_a_domain_of_trees_alone(tmp_path: Path) -> None:
    world = World(tmp_path, volumes=())
    place = world.overtaken()
    (world.path / "extra").write_bytes(b"only here")
    assert world.back() == place
    assert_same(world.path, world.home.at[place])
    world.assert_kept({"extra": b"only here"})


@pytest.mark.parametrize("empty", [True, False])
def test_a_directory_that_is_gone_or_not_mounted_is_filled_only_where_told(world: World, empty: bool) -> None:
    place = world.overtaken()
    shutil.rmtree(world.path)
    if empty:
        world.path.mkdir()
    for _ in range(2):
        with pytest.raises(TargetUnsuitable, match="empty"):
            world.back()
    assert world.back(Words(compare_all=True)) == place
    assert_same(world.path, world.home.at[place])


def test_a_later_failback_knows_the_cut_before_as_its_own(world: World) -> None:
    """What the first one brought is no evidence, though the other site wrote on since."""
    world.overtaken()
    world.back()
    world.home.write(b"fresh", b"again" * 1000, mtime_ns=9)
    world.home.remove(b"theirs")
    place = world.home.cut()
    assert world.back() == place
    assert_same(world.path, world.home.at[place])
    assert not world.kept().exists()


def test_what_was_written_here_after_the_last_cut_is_kept(world: World) -> None:
    place = world.overtaken()
    path = world.path
    (path / "mine").write_bytes(b"never sent")
    (path / "both").write_bytes(b"neither")
    (path / "extra").write_bytes(b"only here")
    (path / "old" / "deep" / "more").write_bytes(b"in a directory that goes")
    (path / "unknown" / "below").mkdir(parents=True)
    (path / "unknown" / "below" / "file").write_bytes(b"all of it")
    (path / "link").unlink()
    (path / "link").symlink_to("elsewhere")
    assert world.back() == place
    assert_same(path, world.home.at[place])
    world.assert_kept({
        "mine": b"never sent", "both": b"neither", "extra": b"only here",
        "old/deep/more": b"in a directory that goes", "unknown/below/file": b"all of it",
    })  # fmt: skip
    assert os.readlink(world.kept() / "link") == "elsewhere"
    (said,) = [line for line in world.said if "in no cut" in line]
    assert "6 names" in said


def test_attributes_that_only_this_site_has_are_kept_with_the_file(world: World) -> None:
    place = world.overtaken()
    (world.path / "mine").chmod(0o640)
    world.back()
    assert_same(world.path, world.home.at[place])
    assert (world.kept() / "mine").stat().st_mode & 0o777 == 0o640


def test_content_that_the_other_site_wrote_without_a_new_time_is_fetched(world: World) -> None:
    world.stop()
    world.other_takes_over()
    world.home.write(b"same", b"SAME" * 3000)
    place = world.home.cut()
    world.back()
    assert_same(world.path, world.home.at[place])
    assert not world.kept().exists()


def test_what_has_the_right_size_and_time_is_believed_unless_told_otherwise(world: World) -> None:
    place = world.overtaken()
    status = (world.path / "same").stat()
    (world.path / "same").write_bytes(b"SAME" * 3000)
    os.utime(world.path / "same", ns=(status.st_atime_ns, status.st_mtime_ns))
    world.back(Words(compare_all=True))
    assert_same(world.path, world.home.at[place])


@pytest.mark.parametrize("exclude", ["cache/", "*.tmp"])
def test_what_is_left_out_of_the_tree_stays_where_it_is(tmp_path: Path, exclude: str) -> None:
    world = World(tmp_path, (exclude,))
    place = world.overtaken()
    name = "cache" if exclude == "cache/" else "x.tmp"
    (world.path / name).mkdir()
    (world.path / name / "entry").write_bytes(b"x")
    world.back()
    assert (world.path / name / "entry").read_bytes() == b"x"
    assert not world.kept().exists()
    (world.path / name / "entry").unlink()
    (world.path / name).rmdir()
    os.utime(world.path, ns=(0, world.home.names[ROOT].mtime_ns))
    assert_same(world.path, world.home.at[place])


def test_what_goes_and_is_too_deep_is_refused_with_a_word(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = world.overtaken()
    (world.path / "old/deep/mine").write_bytes(b"m")
    with monkeypatch.context() as patched:
        patched.setattr(tree_evidence, "LEVELS_MAX", 1)
        with pytest.raises(TargetUnsuitable, match="directories deep") as caught:
            world.back()
        assert "move" in caught.value.hint
    assert (world.path / "old/deep").is_dir()
    assert world.back() == place
    assert_same(world.path, world.home.at[place])
    world.assert_kept({"old/deep/mine": b"m"})


def mounted_at(monkeypatch: pytest.MonkeyPatch, *paths: bytes) -> None:
    """As if the same file system were mounted there once more: no number of a device tells."""
    monkeypatch.setattr(tree_return, "mounts_in", lambda _: frozenset(paths))


def test_what_is_mounted_below_the_tree_stays_though_it_is_the_same_file_system(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.home.add(b"place", directory())
    place = world.overtaken()
    for name in ("place", "beside"):
        (world.path / name / "inner").mkdir(parents=True)
        (world.path / name / "inner/precious").write_bytes(b"p")
    mounted_at(monkeypatch, b"place", b"beside")
    assert world.back() == place
    for name in ("place", "beside"):
        assert (world.path / name / "inner/precious").read_bytes() == b"p"
    assert not world.kept().exists()
    assert (world.path / "theirs").read_bytes() == world.home.at[place].content(b"theirs")
    assert (world.path / "fresh").read_bytes() == LONG


@pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone may mount",)))
def test_a_real_bind_mount_is_found(world: World, tmp_path: Path) -> None:
    place = world.overtaken()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"p")
    inside = world.path / "beside"
    inside.mkdir()
    subprocess.run(["mount", "--bind", outside, inside], check=True, timeout=30)
    try:
        assert world.back() == place
        world.identity = replace(
            world.identity, trees=tuple(replace(one, one_file_system=False) for one in world.identity.trees)
        )
        with pytest.raises(TargetUnsuitable, match="mounted at 'beside'"):
            world.back()
    finally:
        subprocess.run(["umount", inside], check=True, timeout=30)
    assert os.listdir(outside) == ["precious"]
    assert not world.kept().exists()


@pytest.mark.parametrize("mount", [b"old", b"old/deep", b"old/deep/mnt", b"mine/mnt", b"new/a/mnt"])
def test_a_mount_in_what_goes_ends_it_before_anything_is_touched(
    world: World, monkeypatch: pytest.MonkeyPatch, mount: bytes
) -> None:
    world.overtaken()
    (world.path / "mine").unlink()
    world.home.remove(b"mine")
    place = world.home.cut()
    inside = world.path / mount.decode()
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "precious").write_bytes(b"p")
    world.identity = replace(
        world.identity, trees=tuple(replace(tree, one_file_system=False) for tree in world.identity.trees)
    )
    with monkeypatch.context() as patched:
        mounted_at(patched, mount)
        with pytest.raises(TargetUnsuitable, match="something is mounted at") as caught:
            world.back()
        assert mount.decode() in str(caught.value)
        assert "unmount" in caught.value.hint
        assert (inside / "precious").exists()
        assert (world.path / "theirs").stat().st_mtime_ns != 5
        assert not (world.path / "fresh").exists()
    assert world.back() == place
    assert_same(world.path, world.home.at[place])
    assert not inside.exists()


def test_later_passes_bring_what_is_new_and_keep_what_a_stranger_wrote(world: World) -> None:
    world.overtaken()
    with world.failback() as run:
        run.pass_to(Choice())
        world.home.write(b"fresh", b"f" * 5000, mtime_ns=8)
        world.home.remove(b"mine")
        (world.path / "same").write_bytes(b"a program goes on")
        second = world.home.cut()
        assert run.pass_to(Choice()) == second
        assert_same(world.path, world.home.at[second])
        world.assert_kept({"same": b"a program goes on"})
        (world.path / "late").write_bytes(b"later still")
        assert run.pass_to(Choice()) == second  # the last one, before the claim
        assert_same(world.path, world.home.at[second])
    world.assert_kept({"late": b"later still"}, 2)


def test_an_interrupted_pass_is_gone_on_with_and_nothing_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = world.overtaken()
    (world.path / "mine").write_bytes(b"never sent")
    (world.path / "both").write_bytes(b"neither")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rehydrate.tree_return.fill", killed)
        with pytest.raises(KeyboardInterrupt):
            world.back()
    note = load_failback(world.directory)
    assert note is not None
    assert note.trees_ns
    assert world.back() == place
    assert_same(world.path, world.home.at[place])
    world.assert_kept({"mine": b"never sent", "both": b"neither"})
    assert not world.kept(2).exists()  # what the first pass left half done is no evidence


def test_what_a_stranger_wrote_long_after_an_interruption_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.overtaken()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rehydrate.tree_return.fill", killed)
        with pytest.raises(KeyboardInterrupt):
            world.back()
    note = load_failback(world.directory)
    assert note is not None
    hour_ns = 3600 * 10**9  # as if all of that had been an hour ago
    save_failback(
        world.directory, replace(note, trees_ns=note.trees_ns - hour_ns, touched_ns=note.touched_ns - hour_ns)
    )
    (world.path / "late").write_bytes(b"a program")
    world.back()
    assert (world.kept() / "late").read_bytes() == b"a program"


def test_evidence_on_another_file_system_is_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    place = world.overtaken()
    (world.path / "extra").mkdir()
    with (world.path / "extra" / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"data")
    (world.path / "extra" / "link").symlink_to("x")
    os.mkfifo(world.path / "extra" / "pipe")
    real = os.rename

    def crosses(source: bytes, target: bytes, *, src_dir_fd: int | None = None) -> None:
        if src_dir_fd is not None:
            raise OSError(errno.EXDEV, "crosses")
        real(source, target)

    monkeypatch.setattr(os, "rename", crosses)
    world.back()
    assert_same(world.path, world.home.at[place])
    found = world.kept() / "extra" / "sparse"
    assert found.stat().st_size == 1 << 20
    assert found.read_bytes()[1 << 19 :][:4] == b"data"
    assert found.stat().st_blocks * 512 < 1 << 19
    assert (world.kept() / "extra" / "link").is_symlink()


def test_what_cannot_be_kept_is_not_touched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.overtaken()
    (world.path / "both").write_bytes(b"neither")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(tree_evidence, "_copy_file", full)
    with pytest.raises(LocalDiskFull):
        world.back()
    assert (world.path / "both").read_bytes() == b"neither"


def test_a_tree_that_has_no_place_here_or_is_gone_there_is_told(world: World) -> None:
    world.overtaken()
    photos = Tree(world.site, "photos")
    photos.cut()
    with pytest.raises(ConfigInvalid, match="photos/: nothing says where"):
        world.back()
    assert (world.path / "both").exists()


def test_damaged_names_end_it_before_anything_is_touched(world: World) -> None:
    world.overtaken()
    (world.path / "mine").write_bytes(b"never sent")
    world.home.add(b"none/x", directory())
    world.home.cut()
    with pytest.raises(DamagedObject):
        world.back()
    assert (world.path / "mine").read_bytes() == b"never sent"


def test_trees_keep_their_places_in_agent_json(world: World, tmp_path: Path) -> None:
    world.overtaken()
    with world.failback() as run:
        run.pass_to(Choice())
        here = run._here
        (tree,) = here.tree_identities(run.chosen_trees)
        assert tree == world.identity.trees[0]
        (gone,) = here.tree_identities(())
        assert gone.removed
    assert open_container(world.store, Secret()).history.newest


def test_the_index_of_the_agent_is_forgotten(tmp_path: Path) -> None:
    agent_files.drop_index(tmp_path)
    assert (agent_files.WATCHER_FOLDER, agent_files.INDEX_FILES[0]) == (AGENTS_FOLDER, INDEX_NAME)
    folder = tmp_path / AGENTS_FOLDER
    folder.mkdir()
    for name in agent_files.INDEX_FILES:
        (folder / name).write_bytes(b"x")
    agent_files.drop_index(tmp_path)
    assert list(folder.iterdir()) == []
