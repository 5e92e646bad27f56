"""What a watcher tells the container of a directory, in one process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_agent.watcher.gathered import Limits
from cdp_agent.watcher.page import PageReader
from cdp_agent.watcher.stamp import stamp_inode, stamp_of
from tests.unit.watcher.model import TREE, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def begun(site: Site) -> Site:
    site.begin()
    site.settle()
    return site


def test_an_empty_tree_is_whole(site: Site) -> None:
    begun(site).assert_same()
    assert site.container.trees


def test_what_is_there_at_first(site: Site) -> None:
    (site.tree / "a/b").mkdir(parents=True)
    (site.tree / "a/b/c").write_bytes(b"hello")
    (site.tree / "big").write_bytes(os.urandom(3 << 20) + b"tail")
    (site.tree / "link").symlink_to("nowhere")
    os.link(site.tree / "big", site.tree / "a/same")
    os.mkfifo(site.tree / "fifo")
    begun(site).assert_same()


def test_changes(site: Site) -> None:
    begun(site)
    (site.tree / "a").mkdir()
    (site.tree / "a/f").write_bytes(b"1" * 5000)
    assert site.take().not_whole == ()
    site.assert_same()
    (site.tree / "a/f").write_bytes(b"2" * 100)
    os.rename(site.tree / "a", site.tree / "b")
    (site.tree / "b/g").write_bytes(b"new")
    assert site.take().not_whole == ()
    site.assert_same()
    shutil.rmtree(site.tree / "b")
    (site.tree / "b").write_bytes(b"a file now")
    assert site.take().not_whole == ()
    site.assert_same()


def test_names_of_links_and_nodes_are_one_thing(site: Site) -> None:
    (site.tree / "s").symlink_to("nowhere")
    os.mkfifo(site.tree / "p")
    os.link(site.tree / "p", site.tree / "p2")
    if os.geteuid() == 0:
        os.mknod(site.tree / "null", 0o020666, os.makedev(1, 3))
        os.link(site.tree / "null", site.tree / "zero")
    begun(site).assert_same()
    assert site.container.names[TREE, b"s"].space is None
    (site.tree / "d").mkdir()
    os.link(site.tree / "s", site.tree / "d/s", follow_symlinks=False)
    assert site.take().not_whole == ()
    site.assert_same()
    space = site.container.names[TREE, b"s"].space
    assert space is not None
    os.link(site.tree / "s", site.tree / "third", follow_symlinks=False)
    os.utime(site.tree / "s", ns=(1, 1), follow_symlinks=False)
    site.take()
    site.assert_same()
    os.rename(site.tree / "third", site.tree / "fourth")
    (site.tree / "s").unlink()
    (site.tree / "p2").unlink()
    site.take()
    site.settle()
    site.assert_same()
    assert site.container.names[TREE, b"fourth"].space == space
    for path in ("fourth", "d/s", "p"):
        (site.tree / path).unlink()
    site.settle()
    site.assert_same()
    assert site.watcher._index.run("SELECT count(*) FROM files").fetchone()[0] in (0, 1)


def test_an_inode_that_is_of_another_type_now_is_another_thing(site: Site) -> None:
    (site.tree / "a").write_bytes(b"x" * 5000)
    (site.tree / "s").symlink_to("nowhere")
    os.link(site.tree / "s", site.tree / "s2", follow_symlinks=False)
    begun(site)
    run = site.watcher._index.run
    before = {path: site.container.names[TREE, path].space for path in (b"a", b"s")}
    for name in ("a", "s", "s2"):
        (site.tree / name).unlink()
    (site.tree / "link").symlink_to("elsewhere")
    os.link(site.tree / "link", site.tree / "link2", follow_symlinks=False)
    (site.tree / "file").write_bytes(b"new")
    # As if the file system had given the inodes again at once.
    run("UPDATE files SET inode=NULL")
    device = os.stat(site.tree).st_dev
    for old, new in ((b"a", "link"), (b"s", "file")):
        inode = stamp_inode(stamp_of(os.lstat(site.tree / new), device))
        run("UPDATE files SET inode=? WHERE id=(SELECT file FROM names WHERE name=?)", (inode, old))
    site.settle()
    site.assert_same()
    now = {said.space for said in site.container.names.values()} - {None}
    assert len(now) == 2
    assert not now & set(before.values())


def test_a_directory_that_only_got_an_attribute(site: Site) -> None:
    (site.tree / "a").mkdir()
    begun(site)
    os.setxattr(site.tree / "a", "user.test", b"x")
    site.take()
    site.assert_same()


def test_what_a_scan_found_is_published(site: Site) -> None:
    (site.tree / "g").write_bytes(b"x")
    begun(site)
    reader = PageReader(site.directory)
    site.watcher.idle()
    before = reader.read()
    assert before is not None
    assert not before.dirty
    tree = site.watcher.trees[0]
    tree.scan_wanted = tree.read_all = True
    site.idle()
    page = reader.read()
    reader.close()
    assert page is not None
    assert page.dirty


def lost(site: Site) -> None:
    """A batch is taken that comes into no cut."""
    taken = site.watcher.take(site.epoch, site.place.cut + 1, True)
    assert taken.fd is not None
    os.close(taken.fd)


def test_a_directory_whose_name_never_arrived_is_told_before_what_is_in_it(tmp_path: Path) -> None:
    site = begun(Site(tmp_path))
    (site.tree / "d").mkdir()
    (site.tree / "d/f").write_bytes(b"x")
    lost(site)
    (site.tree / "d/f").write_bytes(b"y")
    lost(site)
    site.watcher._limits = Limits(records=1)
    site.begin()
    site.settle()
    site.assert_same()
    site.close()


def test_a_directory_that_became_a_file_in_a_batch_that_never_arrived(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (site.tree / "d").mkdir()
    for number in range(10):
        (site.tree / f"d/{number}").write_bytes(b"x")
    begun(site)
    shutil.rmtree(site.tree / "d")
    (site.tree / "d").write_bytes(b"a file now")
    lost(site)
    site.watcher._limits = Limits(records=2)
    site.begin()
    site.settle()
    site.assert_same()
    site.close()
