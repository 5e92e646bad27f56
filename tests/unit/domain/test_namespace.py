"""The names of trees at a cut: what a hostile container says is refused, and the newest name wins."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.contents import Contents
from cdp_container.domain.gathering import gather
from cdp_container.domain.image import cuts_of
from cdp_container.domain.namespace import Namespace, trees_of
from cdp_container.domain.spool import Spool, typed
from cdp_container.errors import DamagedObject, LocalDiskFull
from cdp_container.format.index import Record
from cdp_container.format.keys import segment_key
from cdp_container.format.names import Name, NameType, SkewedFile, name_added, skewed, tree_added
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from tests.containers import Site
from tests.trees import Tree, directory, file

LINK = Name(NameType.SYMLINK, target=b"/etc")


@pytest.fixture
def site() -> Site:
    site = Site(MemoryStore(SystemClock()), seed=1)
    site.begin_epoch()
    return site


@contextmanager
def gathered(site: Site, place: Place) -> Iterator[Contents]:
    scope = {place.epoch: place.seq}
    with closing(gather(site.store, site.domain, site.reader_keys(), scope, keeps_names=True)) as contents:
        assert not contents.broken, contents.broken
        yield contents


@contextmanager
def namespace(site: Site, place: Place) -> Iterator[Namespace]:
    with gathered(site, place) as contents:
        branch = {place.epoch: place.seq}
        (cut,) = [cut for cut in cuts_of(contents, branch) if cut.place == place]
        with closing(Namespace(contents, branch, trees_of(contents, branch, cut))) as found:
            yield found


def names_at(site: Site, place: Place) -> list[dict[bytes, Name]]:
    with namespace(site, place) as found:
        return [{entry.path: entry.what for entry in found.walk(tree)} for tree in found.trees]


def refused(site: Site, place: Place, why: str) -> None:
    with pytest.raises(DamagedObject, match=why), namespace(site, place):
        pass


# --- what no writer of ours writes -----------------------------------------------------------------


@pytest.mark.parametrize("parent", [LINK, Name(NameType.FILE), Name(NameType.FIFO)], ids=lambda n: n.type)
def test_a_name_below_what_is_no_directory(site: Site, parent: Name) -> None:
    home = Tree(site)
    home.add(b"a", parent)
    home.add(b"a/passwd", file())
    refused(site, home.cut(), "no directory")


def test_a_name_without_its_directory(site: Site) -> None:
    home = Tree(site)
    home.add(b"a/b/c", file())
    refused(site, home.cut(), "names below it")


def test_a_directory_that_went_with_names_in_it(site: Site) -> None:
    home = Tree(site)
    home.add(b"a", directory())
    home.add(b"a/b", file())
    first = home.cut()
    home.remove(b"a")
    refused(site, home.cut(), "names below it")
    assert len(names_at(site, first)[0]) == 3


def test_a_tree_without_a_root(site: Site) -> None:
    home = Tree(site)
    home.remove(b"")
    refused(site, home.cut(), "no root")


@pytest.mark.parametrize("path", [b"..", b"../x", b"/etc/passwd", b"a/../../x", b"a//b", b"a\0b", b"x" * 300])
def test_paths_that_lead_elsewhere(site: Site, path: bytes) -> None:
    home = Tree(site)
    sound = name_added(home.tree, b"a", file())
    site.say(Record("name+", home.tree + path, sound.value, critical=True))
    refused(site, home.cut(), "the path")


@pytest.mark.parametrize(
    ("path", "value"),
    [(b"a", b"{}"), (b"a", b"[]"), (b"a", b'{"type":"file","size_bytes":5}'), (b"", b'{"type":"file"}')],
)
def test_names_that_make_no_sense(site: Site, path: bytes, value: bytes) -> None:
    home = Tree(site)
    site.say(Record("name+", home.tree + path, value, critical=True))
    refused(site, home.cut(), "tree|file")


@pytest.mark.parametrize(
    "change",
    [{"mode": 0o600}, {"uid": 7}, {"mtime_ns": 5}, {"size_bytes": 4}, {"xattrs": ((b"user.a", b""),)}],
)
def test_hard_links_that_do_not_agree(site: Site, change: dict[str, object]) -> None:
    home = Tree(site)
    name = home.file(b"a", b"hello")
    home.add(b"b", name._replace(**change))  # type: ignore[arg-type]
    refused(site, home.cut(), "do not agree")


def test_hard_links_of_several_types(site: Site) -> None:
    home = Tree(site)
    name = home.add(b"a", Name(NameType.FIFO, space=b"s" * 16))
    home.link(b"a", b"c")
    home.add(b"b", name._replace(type=NameType.SOCKET))
    refused(site, home.cut(), "do not agree")


def test_hard_links_across_trees(site: Site) -> None:
    home, other = Tree(site, "home"), Tree(site, "other")
    other.add(b"b", home.file(b"a", b"hello"))
    refused(site, home.cut(), "do not agree")


def test_skewed_files_of_another_cut(site: Site) -> None:
    home = Tree(site)
    skew = SkewedFile(home.tree, b"a", 1, 2)
    first = home.cut(skew=[skew])
    with gathered(site, first) as contents:
        assert contents.skews[1, 1].files == (skew,)
    site.say(skewed(1, 9, [skew]))
    home.cut()
    with closing(gather(site.store, site.domain, site.reader_keys(), {1: 2})) as contents:
        assert list(contents.broken) == [segment_key(1, 2)]


# --- what a cut holds ------------------------------------------------------------------------------


def test_the_newest_name_wins_and_older_cuts_stay(site: Site) -> None:
    home = Tree(site)
    home.add(b"a", directory())
    home.file(b"a/b", b"hello")
    home.add(b"c", LINK)
    first = home.cut()
    home.rename(b"a", b"z")
    home.remove(b"c")
    home.add(b"c", directory(mode=0o700))
    second = home.cut()
    home.write(b"z/b", b"hell")
    home.link(b"z/b", b"c/b")
    third = home.cut()
    for place in (first, second, third):
        assert names_at(site, place) == [home.at[place].names]


def test_names_again_and_again_within_one_cut(site: Site) -> None:
    home = Tree(site)
    for number in range(20):
        home.add(b"a", file(mode=number))
        if number % 3 == 0:
            home.remove(b"a")
    place = home.cut()
    assert names_at(site, place) == [home.at[place].names]
    assert home.at[place].names[b"a"].mode == 19


def test_trees_come_and_go(site: Site) -> None:
    home, work = Tree(site, "home"), Tree(site, "work")
    home.add(b"a", file())
    work.add(b"b", file())
    first = home.cut()
    home.leave()
    second = home.cut()
    assert [sorted(names) for names in names_at(site, first)] == [[b"", b"a"], [b"", b"b"]]
    assert [sorted(names) for names in names_at(site, second)] == [[b"", b"b"]]
    with gathered(site, second) as contents:
        cut = cuts_of(contents, {1: 2})[-1]
        assert [tree.name for tree in trees_of(contents, {1: 2}, cut)] == ["work"]


def test_a_tree_that_came_back_has_none_of_its_old_names(site: Site) -> None:
    home = Tree(site, "home")
    home.add(b"a", file())
    home.cut()
    home.leave()
    home.cut()
    site.say(tree_added(home.tree, "home again"))
    home.add(b"", directory())
    assert names_at(site, home.cut()) == [{b"": directory()}]


def test_walks_go_through_parents_first_and_directories_together(site: Site) -> None:
    home = Tree(site)
    for path in (b"b-", b"b", b"b/c", b"b/c/d", b"a"):
        home.add(path, directory())
    for path in (b"z", b"b/z", b"b-/x", b"b/c/d/e", b"b0"):
        home.add(path, file())
    with namespace(site, home.cut()) as found:
        (tree,) = found.trees
        walked = [entry.path for entry in found.walk(tree)]
        assert sorted(walked) == sorted(home.names)
        assert all(walked.index(path.rpartition(b"/")[0]) <= walked.index(path) for path in walked)
        assert [entry.name for entry in found.listing(tree, b"b")] == [b"c", b"z"]
        assert [entry.name for entry in found.listing(tree, b"")] == [b"a", b"b", b"b-", b"b0", b"z"]
        assert [entry.name for entry in found.listing(tree, b"", 1, 2)] == [b"b", b"b-"]
        assert [entry.name for entry in found.listing(tree, b"", 4, 9)] == [b"z"]
        assert found.listing(tree, b"", 5, 9) == found.listing(tree, b"", 0, 0) == []
        assert found.listing(tree, b"nowhere") == found.listing(tree, b"z") == []
        assert found.find(tree, b"b/c/d/e") is not None
        assert [found.find(tree, path) for path in (b"b/c/e", b"B", b"b/")] == [None, None, None]
        assert found.counts(tree) == {NameType.DIRECTORY: 6, NameType.FILE: 5}


def test_many_names_of_one_cut_in_several_segments(site: Site) -> None:
    home = Tree(site)
    for number in range(4000):
        home.add(b"f%d" % number, file(mode=number % 512))
    home.cut(complete=False)
    site._cut -= 1
    for number in range(0, 4000, 2):
        home.remove(b"f%d" % number)
    place = home.cut()
    assert names_at(site, place) == [home.at[place].names]


def test_a_namespace_that_finds_no_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Tree(site)
    place = home.cut()

    def full(spool: Spool, rows: object) -> int:
        raise typed(OSError(errno.ENOSPC, "no room"))

    with gathered(site, place) as contents:
        cut = cuts_of(contents, {1: 1})[-1]
        monkeypatch.setattr(Spool, "append", full)
        with pytest.raises(LocalDiskFull, match="keep an index"):
            Namespace(contents, {1: 1}, trees_of(contents, {1: 1}, cut))
