"""What is mounted within a tree, for real: what comes and goes there deletes nothing in the container."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdp_agent.watcher.asked import accept
from cdp_agent.watcher.index import NameRow
from cdp_agent.watcher.mounts import MountChanged, Mounts, MountTable, path_below
from cdp_container.errors import WatcherFailed
from tests.unit.watcher.model import TREE, Site

ROOT_ONLY = pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone may mount",)))
New = Callable[[bool], Site]


def run(*argv: str | Path) -> None:
    subprocess.run([str(part) for part in argv], check=True, timeout=30)


def mount(directory: Path, *names: str) -> None:
    """A new file system of its own, with these files."""
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory)
    for name in names:
        (directory / name).write_bytes(name.encode() * 100)


def umount(directory: Path) -> None:
    run("umount", directory)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[New]:
    """Gives a site with a directory `d` in its tree; whatever is mounted there is unmounted at the end."""
    with ExitStack() as stack:

        def made(one_file_system: bool) -> Site:
            site = Site(tmp_path, one_file_system=one_file_system)
            (site.tree / "d").mkdir()
            (site.tree / "g").write_bytes(b"beside")
            stack.callback(lambda: subprocess.run(["umount", "-R", "-q", site.tree / "d"], check=False))
            stack.callback(site.close)
            return site

        yield made


def begun(site: Site) -> Site:
    site.begin()
    site.settle()
    site.assert_same()
    return site


def faults(site: Site) -> dict[bytes, bytes]:
    return {path: fault.found for path, fault in site.watcher.trees[0].mount_faults.items()}


def assert_nothing_deleted(site: Site, before: set[bytes]) -> None:
    """Whatever is looked at, by events or by scans: the tree is not whole, and its names stay."""
    for _ in range(3):
        site.idle()
        assert site.take().not_whole == (TREE,)
        assert site.container.entries().keys() == before
        site.watcher.trees[0].scan_wanted = True
    (site.tree / "g").write_bytes(os.urandom(10))
    site.take()
    assert site.container.entries()[b"g"][8] == (site.tree / "g").read_bytes(), "the others go on"
    site.begin()  # a streamer that begins anew, and a watcher that was started anew
    site.restart()
    site.begin()
    site.idle()
    assert site.take().not_whole == (TREE,)
    assert site.container.entries().keys() == before
    why = site.watcher.status()["trees"][0]["why_not_whole"]
    assert any("mounted" in said and "'d" in said for said in why), why


def accept_all(site: Site) -> None:
    accept(site.watcher.trees, TREE, b"", faults(site))


# --- with what is mounted -----------------------------------------------------------------------


@ROOT_ONLY
def test_what_was_unmounted_is_not_deleted(new: New) -> None:
    site = new(False)
    mount(site.tree / "d", "a", "b")
    begun(site)
    before = set(site.container.entries())
    assert b"d/a" in before
    umount(site.tree / "d")
    (site.tree / "d/under").write_bytes(b"x")
    assert_nothing_deleted(site, before)
    accept_all(site)
    site.settle()
    site.assert_same()
    assert b"d/under" in site.container.entries()


@ROOT_ONLY
def test_another_file_system_in_its_place_is_not_it(new: New) -> None:
    site = new(False)
    mount(site.tree / "d", "a")
    begun(site)
    before = set(site.container.entries())
    umount(site.tree / "d")
    mount(site.tree / "d", "other")
    assert_nothing_deleted(site, before)
    accept_all(site)
    site.settle()
    site.assert_same()


@ROOT_ONLY
@pytest.mark.parametrize("one_file_system", [False, True])
def test_what_is_mounted_over_content_deletes_nothing_and_may_go_again(
    new: New, one_file_system: bool
) -> None:
    site = new(one_file_system)
    (site.tree / "d/e").mkdir()
    (site.tree / "d/e/f").write_bytes(b"x")
    begun(site)
    before = set(site.container.entries())
    mount(site.tree / "d", "other")
    assert_nothing_deleted(site, before)
    umount(site.tree / "d")
    (site.tree / "d/e/f").write_bytes(b"unheard of")
    site.settle()
    site.assert_same()


@ROOT_ONLY
def test_without_the_table_of_mounts_a_scan_finds_them(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    site = new(False)
    (site.tree / "d/e").mkdir()
    (site.tree / "d/e/f").write_bytes(b"x")
    begun(site)
    before = set(site.container.entries())
    monkeypatch.setattr(site.watcher._mounts, "changed", list)
    mount(site.tree / "d", "other")
    site.watcher.trees[0].scan_wanted = True
    assert_nothing_deleted(site, before)
    monkeypatch.setattr(site.watcher._mounts, "changed", list)
    umount(site.tree / "d")
    (site.tree / "d/e/f").write_bytes(b"unheard of")
    site.watcher.trees[0].retry_ns = 0
    site.idle()
    assert site.take().not_whole == ()
    site.assert_same()


@ROOT_ONLY
def test_what_is_mounted_over_content_and_accepted_hides_it(new: New) -> None:
    site = new(True)
    (site.tree / "d/f").write_bytes(b"x")
    begun(site)
    mount(site.tree / "d", "other")
    site.take()
    accept_all(site)
    site.settle()
    assert site.container.entries().keys() == {b"", b"d", b"g"}
    umount(site.tree / "d")
    site.settle()
    site.assert_same()


@ROOT_ONLY
@pytest.mark.parametrize("one_file_system", [False, True])
def test_the_same_file_system_mounted_elsewhere_is_a_mount_too(new: New, one_file_system: bool) -> None:
    site = new(one_file_system)
    elsewhere = site.tree.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "a").write_bytes(b"a")
    run("mount", "--bind", elsewhere, site.tree / "d")
    begun(site)
    before = set(site.container.entries())
    assert b"d/a" in before
    umount(site.tree / "d")
    assert_nothing_deleted(site, before)
    run("mount", "--bind", elsewhere, site.tree / "d")
    (elsewhere / "a").write_bytes(b"later")
    site.settle()
    site.assert_same()


@ROOT_ONLY
def test_a_mount_point_that_goes_with_what_was_mounted_deletes_nothing(new: New) -> None:
    site = new(False)
    (site.tree / "d/e").mkdir()
    mount(site.tree / "d/e", "a")
    begun(site)
    before = set(site.container.entries())
    umount(site.tree / "d/e")
    (site.tree / "d/e").rmdir()
    (site.tree / "d").rmdir()
    assert_nothing_deleted(site, before)
    accept_all(site)
    site.settle()
    site.assert_same()
    assert site.container.entries().keys() == {b"", b"g"}


@ROOT_ONLY
def test_a_mount_over_nothing_is_taken_as_it_is_and_seen_at_once(new: New) -> None:
    site = begun(new(False))
    mount(site.tree / "d", "a")
    taken = site.take()
    assert taken.not_whole == ()
    site.assert_same()
    (site.tree / "d/a").write_bytes(b"watched")
    assert site.take().not_whole == ()
    site.assert_same()


@ROOT_ONLY
def test_where_nothing_of_it_is_in_the_container_mounts_come_and_go(new: New) -> None:
    site = begun(new(True))
    for _ in range(2):
        mount(site.tree / "d", "not ours")
        site.settle()
        umount(site.tree / "d")
        (site.tree / "d/f").write_bytes(b"x")
        site.settle()
        site.assert_same()
        (site.tree / "d/f").unlink()
        site.settle()


@ROOT_ONLY
def test_an_index_that_was_made_anew_takes_what_is_mounted_but_not_what_is_empty(new: New) -> None:
    site = new(False)
    mount(site.tree / "d", "a")
    begun(site)
    before = set(site.container.entries())
    site.watcher._index.run("DELETE FROM mounts")
    site.watcher._index.run("UPDATE names SET stamp=x''")
    site.restart()
    site.begin()
    site.settle()
    site.assert_same()
    site.watcher._index.run("DELETE FROM mounts")
    site.watcher._index.run("UPDATE names SET stamp=x''")
    umount(site.tree / "d")
    mount(site.tree / "d")
    site.restart()
    site.begin()
    assert_nothing_deleted(site, before)


@ROOT_ONLY
def test_who_accepts_another_directory_accepts_what_is_mounted_in_it(new: New) -> None:
    site = new(False)
    mount(site.tree / "d", "a")
    begun(site)
    umount(site.tree / "d")
    os.rename(site.tree, site.tree.with_name("away"))
    (site.tree / "d").mkdir(parents=True)
    (site.tree / "d/under").write_bytes(b"x")
    assert site.take().not_whole == (TREE,)
    accept(site.watcher.trees, TREE, site.watcher.trees[0].root_found, {})
    site.settle()
    site.assert_same()


@ROOT_ONLY
def test_another_file_system_in_place_of_the_root_is_not_the_tree(new: New) -> None:
    site = new(False)
    mount(site.tree, "a")
    try:
        begun(site)
        site.close()  # nobody uses it, so that it can go
        umount(site.tree)
        mount(site.tree, "b")
        site.watcher = site.started()
        site.begin()
        site.idle()
        assert site.take().not_whole == (TREE,)
        assert site.container.entries().keys() == {b"", b"a"}
    finally:
        umount(site.tree)


@ROOT_ONLY
def test_only_what_was_shown_is_accepted(new: New) -> None:
    site = new(False)
    mount(site.tree / "d", "a")
    begun(site)
    umount(site.tree / "d")
    site.take()
    with pytest.raises(WatcherFailed, match="nothing of what was shown"):
        accept(site.watcher.trees, TREE, b"1 2", {b"d": b"1 2", b"other": b""})
    shown = faults(site)
    mount(site.tree / "d", "third")
    accept(site.watcher.trees, TREE, b"", shown)
    site.idle()
    assert site.take().not_whole == (TREE,)
    assert b"d/a" in site.container.entries()


# --- without ------------------------------------------------------------------------------------


class Told:
    """An index that has something below every directory."""

    def __init__(self, mounts: dict[bytes, bytes]) -> None:
        self.known = mounts

    def mounts(self, tree: int) -> dict[bytes, bytes]:
        return dict(self.known)

    def put_mount(self, tree: int, path: bytes, identity: bytes) -> None:
        self.known[path] = identity

    def remove_mount(self, tree: int, path: bytes) -> None:
        del self.known[path]

    def has_below(self, tree: int, path: bytes) -> bool:
        return True

    def name(self, tree: int, path: bytes) -> NameRow | None:
        return None


def test_what_was_mounted_below_goes_with_nothing_but_an_operators_word() -> None:
    told = Told({b"a/b": b"1 2", b"ab": b"4 5"})
    with pytest.raises(MountChanged) as caught:
        Mounts(told, 1).leave(b"a")
    assert (caught.value.path, caught.value.found) == (b"a/b", b"")
    Mounts(told, 1, {b"a/b": b""}).leave(b"a")
    assert told.known == {b"ab": b"4 5"}


def test_a_mount_that_is_not_there_is_told_without_root(tmp_path: Path) -> None:
    told = Told({b"d": b"1 2"})
    (tmp_path / "d").mkdir()
    parent, fd = os.open(tmp_path, os.O_PATH), os.open(tmp_path / "d", os.O_PATH)
    try:
        with pytest.raises(MountChanged, match="is not"):
            Mounts(told, 1).check(b"d", fd, parent, False)
        Mounts(told, 1, {b"d": b""}).check(b"d", fd, parent, False)
    finally:
        os.close(parent)
        os.close(fd)
    assert told.known == {}


def test_without_statx_a_device_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told({})
    mounts = Mounts(told, 1)
    monkeypatch.setattr(mounts, "_statx", None)
    parent, fd = os.open("/", os.O_PATH), os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(MountChanged, match="over"):
            mounts.check(b"d", fd, parent, False)
        mounts.check(b"d", fd, fd, False)
    finally:
        os.close(parent)
        os.close(fd)


def test_the_table_names_points_with_any_bytes(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /a\\040b\\134 rw - tmpfs x rw\nshort\n")
    read = MountTable.__new__(MountTable)
    read._table = table
    assert read._read() == {(b"/", b"1"), (b"/a b\\", b"2")}


def test_paths_below() -> None:
    assert path_below(b"/a/b/c", b"/a") == b"b/c"
    assert path_below(b"/ab", b"/a") is None
    assert path_below(b"/a", b"/a") is None
    assert path_below(b"/x", b"/") == b"x"


def test_no_table_is_none(tmp_path: Path) -> None:
    table = MountTable(tmp_path / "none")
    assert table.changed() == []
    table.close()
