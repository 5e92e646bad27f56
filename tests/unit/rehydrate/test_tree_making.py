"""Files made in several directories at once: what is refused is done otherwise, told of, or ends it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain import name_rows
from cdp_container.errors import LocalDiskFull
from cdp_container.store.memory import MemoryStore
from rehydrate import tree_making
from rehydrate.tree_attributes import OWNER
from tests.containers import Site
from tests.trees import Tree, directory
from tests.unit.rehydrate.trees import assert_same, restore

ROOT_ONLY = pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone gives files to others",)))
MODES = (0o644, 0o666, 0o600, 0o000, 0o1755, 0o4711)


@pytest.fixture
def site() -> Site:
    site = Site(MemoryStore(SystemClock()), seed=4)
    site.begin_epoch()
    return site


@pytest.fixture
def home(site: Site) -> Tree:
    home = Tree(site)
    for number in range(5):
        folder = b"d%d" % number
        home.add(folder, directory())
        for mode in MODES:
            home.file(folder + b"/empty %o" % mode, mode=mode)
            home.file(folder + b"/full %o" % mode, b"x" * number, mode=mode)
    return home


def refusing(code: int, calls: list[object]) -> object:
    def refused(*argv: object, **_: object) -> None:
        calls.append(argv)
        raise OSError(code, os.strerror(code))

    return refused


@pytest.mark.parametrize("together", [1, 2, 1000])
def test_modes_beside_each_other(
    site: Site, home: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(tree_making, "TOGETHER_MAX", together)
    place = home.cut()
    done = restore(site, place, tmp_path / "t")
    assert_same(tmp_path / "t", home.at[place])
    assert done.told == len(home.names) - 1


def test_a_file_system_that_makes_no_nodes(
    site: Site, home: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(os, "mknod", refusing(errno.ENOSYS, calls))
    place = home.cut()
    restore(site, place, tmp_path / "t")
    assert calls
    assert_same(tmp_path / "t", home.at[place])


def test_a_full_disk_ends_it(site: Site, home: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(os, "mknod", refusing(errno.ENOSPC, calls))
    with pytest.raises(LocalDiskFull):
        restore(site, home.cut(), tmp_path / "t")
    assert calls


@ROOT_ONLY
def test_owners_that_are_refused_are_told(
    site: Site, home: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        home.file(b"d%d/other's %d" % (number % 5, number), uid=12345, gid=54321)
    place = home.cut()
    restore(site, place, tmp_path / "set")
    assert_same(tmp_path / "set", home.at[place])
    monkeypatch.setattr(os, "chown", refusing(errno.EPERM, []))
    done = restore(site, place, tmp_path / "t")
    assert done.not_set.counts == {OWNER: 41}, "and of the directory that was there"


def test_names_whose_bytes_are_copied_in_parts(
    site: Site, home: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_rows, "ROWS_AT_ONCE", 3)
    home.cut()
    home.rename(b"d1", b"z")
    home.remove(b"d2/empty 644")
    place = home.cut()
    restore(site, place, tmp_path / "t")
    assert_same(tmp_path / "t", home.at[place])
