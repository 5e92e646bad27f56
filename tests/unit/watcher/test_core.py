"""What a watcher tells the container of a directory, in one process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_agent.watcher.gathered import Limits
from cdp_agent.watcher.page import PageReader
from tests.unit.watcher.model import Site


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
