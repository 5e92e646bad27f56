"""The independent reader of trees gets out of a container what the model had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_container.format.index import Record
from cdp_container.format.names import NameType, name_added
from cdp_container.store.directory import DirectoryStore
from tests import tree_reader
from tests.containers import PASSPHRASE, Site
from tests.trees import ME, State, Tree, directory, expected_of, file, found_in


@pytest.fixture(params=[False, True], ids=["clear", "sealed"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    (tmp_path / "secret").write_text(f"{PASSPHRASE}\n")
    (tmp_path / "store").mkdir()
    site = Site(DirectoryStore(tmp_path / "store"), seed=4, encrypted=request.param)
    site.begin_epoch()
    return site


def run(site: Site, tmp_path: Path, *arguments: str) -> int:
    secret = ["--passphrase-file", str(tmp_path / "secret")] if site.encrypted else []
    return tree_reader.main([str(tmp_path / "store"), *arguments, *secret])


def busy(site: Site) -> Tree:
    home = Tree(site, root=directory(mode=0o750))
    home.add(b"d", directory(mtime_ns=5, mode=0o500))
    home.file(b"d/a", os.urandom(200_000))
    home.file(b"d/b\xff", bytes(9000) + b"x" * 5000)
    home.link(b"d/a", b"linked")
    home.file(b"empty")
    home.add(b"link", file(target=b"d/a", space=b"l" * 16)._replace(type=NameType.SYMLINK))
    home.link(b"link", b"another link")
    home.add(b"pipe", file(space=b"p" * 16)._replace(type=NameType.FIFO))
    home.link(b"pipe", b"d/pipe")
    return home


def assert_same(target: Path, state: State) -> None:
    assert found_in(target) == expected_of(state)


def test_every_cut_is_extracted(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = busy(site)
    places = [home.cut()]
    home.write(b"linked", b"short", mtime_ns=9)
    home.rename(b"d", b"e")
    home.remove(b"empty")
    places.append(home.cut())
    home.write(b"linked", b"long " * 10_000, mtime_ns=10)
    places.append(home.cut())
    site.collect(1, 1, 2)
    assert run(site, tmp_path, "list") == 0
    assert "tree 'home' has 9 names" in capsys.readouterr().out
    assert run(site, tmp_path, "extract", "home", str(tmp_path / "newest")) == 0
    for place in places:
        target = tmp_path / str(place.cut)
        assert run(site, tmp_path, "extract", "home", str(target), "--cut", f"1.{place.cut}") == 0
        assert_same(target, home.at[place])
    assert_same(tmp_path / "newest", home.at[places[-1]])
    assert (os.geteuid(), os.getegid()) == ME


@pytest.mark.parametrize(
    "path", [b"..", b"a/../../b", b"/etc/x", b"link/x", b"nowhere/x", b"a\0", b"x" * 256]
)
def test_hostile_names_are_refused(
    site: Site, tmp_path: Path, path: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    home = busy(site)
    site.say(Record("name+", home.tree + path, name_added(home.tree, b"a", file()).value, critical=True))
    home.cut()
    assert run(site, tmp_path, "extract", "home", str(tmp_path / "to")) == 1
    assert "REFUSED" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_trees_that_left_or_are_not_whole(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = busy(site)
    home.cut(not_whole=[home.tree])
    assert run(site, tmp_path, "extract", "home", str(tmp_path / "to")) == 1
    assert "no whole tree" in capsys.readouterr().err
    home.leave()
    home.cut()
    assert run(site, tmp_path, "list") == 0
    assert capsys.readouterr().out == ""


def test_it_is_a_program_beside_the_reader(tmp_path: Path) -> None:
    program = Path(tree_reader.__file__)
    for name in ("reader.py", "tree_reader.py"):
        (tmp_path / name).write_bytes(program.with_name(name).read_bytes())
    command = [sys.executable, str(tmp_path / "tree_reader.py"), "--help"]
    assert (
        "extract TREE"
        in subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout.decode()
    )
