"""Directories that are moved while they are looked through: no watch is lost, no path is another one's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_agent.watcher.rooted import Root
from cdp_agent.watcher.round import Round
from cdp_agent.watcher.tree import Tree
from tests.unit.watcher.model import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    (site.tree / "p/x/deep").mkdir(parents=True)
    (site.tree / "r").mkdir()
    (site.tree / "p/x/f").write_bytes(b"first")
    (site.tree / "p/x/deep/f").write_bytes(b"first")
    site.begin()
    site.settle()
    yield site
    site.close()


@pytest.mark.parametrize("comes", ["nothing", "a directory", "a file"])
def test_a_directory_that_goes_where_paths_are_in_doubt_stays_watched(
    site: Site, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """It goes under `q`, of which the events still say `r`, just before `q` is listed, and is walked there.

    Then it is the turn of the walk at its old path, of which the descriptor was opened before.
    """
    real = Root.open_listing

    def moving(self: Root, path: bytes) -> int:
        if path == b"q" and (site.tree / "p/x/f").exists():
            os.rename(site.tree / "p/x", site.tree / "q/y")
            if comes == "a directory":
                (site.tree / "p/x/deep").mkdir(parents=True)
            elif comes == "a file":
                (site.tree / "p/x").write_bytes(b"another")
            site.watcher.events.drain()
        return real(self, path)

    monkeypatch.setattr(Root, "open_listing", moving)
    os.rename(site.tree / "p/x", site.tree / "p/elsewhere")
    os.rename(site.tree / "p/elsewhere", site.tree / "p/x")
    os.rename(site.tree / "r", site.tree / "q")
    assert (site.take().not_whole, (site.tree / "q/y").exists()) == ((), True)
    monkeypatch.undo()
    site.assert_same()
    (site.tree / "q/y/f").write_bytes(b"second")
    (site.tree / "q/y/deep/new").write_bytes(b"new")
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_is_open_is_used_only_where_it_still_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "other/b/c").mkdir(parents=True)
    root = Root(tree, one_file_system=True)

    def is_found(path: str) -> bool:
        fd = root.directory(os.fsencode(path))
        return os.path.samestat(os.fstat(fd), (tree / path).stat())

    assert is_found("a/b/c")
    os.rename(tree / "a", tree / "away")
    assert root.lstat(b"a/b/c") is None
    os.rename(tree / "other", tree / "a")
    assert is_found("a/b")
    assert is_found("a/b/c")
    os.rename(tree / "a/b/c", tree / "a/b/kept")
    (tree / "a/b/c").mkdir()
    assert is_found("a/b/c")
    (tree / "a/b/c").rmdir()
    assert root.lstat(b"a/b/c/d") is None
    os.rename(tree, tree.with_name("renamed"))
    tree = tree.with_name("renamed")
    assert is_found("a/b/kept")
    with monkeypatch.context() as opened:
        opened.setattr(Root, "_enter", lambda *_: pytest.fail("it is open"))
        assert is_found("a/b/kept")
    root.close()


def test_a_directory_with_the_end_that_the_kernel_gives_to_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a (deleted)").mkdir()
    root = Root(tmp_path, one_file_system=True)
    root.directory(b"a (deleted)")
    os.rename(tmp_path / "a (deleted)", tmp_path / "a")
    (tmp_path / "a").rmdir()
    with pytest.raises(FileNotFoundError):
        root.directory(b"a (deleted)")
    root.close()


def test_a_path_that_is_longer_than_the_kernel_tells(tmp_path: Path) -> None:
    root = Root(tmp_path, one_file_system=True)
    names = [b"%03d" % number + b"n" * 240 for number in range(15)]
    fd, fds = root.fd, []
    for name in names:
        os.mkdir(name, dir_fd=fd)
        fd = os.open(name, os.O_PATH, dir_fd=fd)
        fds.append(fd)
    long = os.path.join(*names, b"d" * 250)
    os.mkdir(b"d" * 250, dir_fd=fd)
    os.mkdir(b"e" * 190, dir_fd=(last := os.open(b"d" * 250, os.O_PATH, dir_fd=fd)))
    for _ in range(2):
        found = os.stat(b"e" * 190, dir_fd=last)
        assert os.path.samestat(os.fstat(root.directory(long + b"/" + b"e" * 190)), found)
    for fd in (*fds, last):
        os.close(fd)
    root.close()


def test_names_of_a_file_agree_where_it_changed_between_looking_at_two(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The take ends without an instant; `Site.take` checks that what it told is in itself right."""
    real = Round._look_once
    modes = itertools.cycle(range(0o600, 0o700))

    def changing(self: Round, tree: Tree, path: bytes, bits: int) -> bool:
        (site.tree / "p/x/f").chmod(next(modes))
        return real(self, tree, path, bits)

    os.link(site.tree / "p/x/f", site.tree / "p/g")
    os.link(site.tree / "p/x/f", site.tree / "r/h")
    site.settle()
    (site.tree / "p/g").write_bytes(b"second")
    monkeypatch.setattr(Round, "_look_once", changing)
    site.take()
    monkeypatch.undo()
    site.settle()
    site.assert_same()


def test_a_file_that_goes_after_it_was_read_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Root.xattrs

    def going(self: Root, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        if path == b"new":
            (site.tree / "new").unlink(missing_ok=True)
        return real(self, path)

    (site.tree / "new").write_bytes(b"new")
    monkeypatch.setattr(Root, "xattrs", going)
    site.take()
    site.settle()
    site.assert_same()
