"""What a watcher tells the container of a directory, in one process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
