"""One take: what is exact, what is skewed, and what keeps a tree from being whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdp_agent.watcher.asked import accept
from cdp_agent.watcher.events import WatchLimit
from cdp_agent.watcher.gathered import Limits
from cdp_agent.watcher.reading import FileReader
from cdp_agent.watcher.rooted import Root
from cdp_agent.watcher.scan import Scan
from cdp_agent.watcher.settings import SCAN_UNWATCHED_SECONDS
from cdp_agent.watcher.take import PASSES_MAX
from cdp_container.clock import SystemClock
from cdp_container.errors import WatcherFailed
from cdp_container.journal.position import Position
from tests.unit.watcher.model import TREE, FreeHold, Site


class JumpingClock(SystemClock):
    """Time that passes when it is told to."""

    __slots__ = ("ahead_ns",)

    def __init__(self) -> None:
        self.ahead_ns = 0

    def boottime_ns(self) -> int:
        return super().boottime_ns() + self.ahead_ns


class ActingHold(FreeHold):
    """Does something while it holds."""

    def __init__(self, act: Callable[[], object], kept: bool = True) -> None:
        super().__init__(kept)
        self.act = act

    def hold(self) -> Position:
        self.act()
        return super().hold()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    (site.tree / "a").mkdir()
    (site.tree / "a/f").write_bytes(b"first")
    (site.tree / "g").write_bytes(b"first")
    site.begin()
    site.settle()
    yield site
    site.close()


def skewed(site: Site, hold: bool = True) -> set[bytes]:
    return {file.path for file in site.take(hold).skewed}


# --- the instant -------------------------------------------------------------------------------


def test_no_hold_where_nothing_changed(site: Site) -> None:
    site.new_hold = lambda: ActingHold(lambda: pytest.fail("nothing is to be held"))
    taken = site.take()
    assert (taken.position, taken.batch, taken.not_whole) == (None, 0, ())


def test_what_changes_under_the_hold_is_read(site: Site) -> None:
    (site.tree / "g").write_bytes(b"second")
    site.new_hold = lambda: ActingHold(lambda: (site.tree / "g").write_bytes(b"third"))
    taken = site.take()
    assert (taken.position, taken.skewed, taken.not_whole) == (Position(1, 2), (), ())
    site.assert_same()


def test_what_never_holds_still_is_skewed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = site.watcher.events.drain

    def busy() -> None:
        (site.tree / "g").write_bytes(os.urandom(10))
        drain()

    (site.tree / "a/f").write_bytes(b"second")
    monkeypatch.setattr(site.watcher.events, "drain", busy)
    assert skewed(site) == {b"g"}
    monkeypatch.undo()
    assert skewed(site) == set()
    site.assert_same()


def test_a_file_that_changes_under_each_reading_is_skewed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FileReader._pass
    count = iter(range(1000))

    def changing(self: FileReader, reading: object) -> bool:
        (site.tree / "g").write_bytes(b"%d" % next(count))
        return real(self, reading)  # type: ignore[arg-type]

    (site.tree / "g").write_bytes(b"second")
    monkeypatch.setattr(FileReader, "_pass", changing)
    assert skewed(site) == {b"g"}
    monkeypatch.undo()
    site.settle()
    site.assert_same()


def test_a_file_that_changed_once_is_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FileReader._pass
    changes = [b"x" * 9000, b"y"]

    def changing(self: FileReader, reading: object) -> bool:
        if changes:
            (site.tree / "g").write_bytes(changes.pop())
        return real(self, reading)  # type: ignore[arg-type]

    (site.tree / "g").write_bytes(b"z" * 20_000)
    monkeypatch.setattr(FileReader, "_pass", changing)
    assert skewed(site) == set()
    site.assert_same()


def test_a_hold_that_expired_early_names_what_changed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    clock = site.clock = JumpingClock()
    site.restart()
    (site.tree / "g").write_bytes(b"first")
    site.begin()
    site.settle()

    def late() -> None:
        (site.tree / "g").write_bytes(b"third")
        clock.ahead_ns += 100_000_000

    (site.tree / "g").write_bytes(b"second")
    site.new_hold = lambda: ActingHold(late, kept=False)
    assert skewed(site) == {b"g"}
    (site.tree / "g").write_bytes(b"fourth")
    site.new_hold = lambda: ActingHold(late, kept=True)
    assert skewed(site) == set()
    site.close()


def test_without_a_hold_what_changed_is_not_whole(site: Site) -> None:
    def refuse() -> None:
        raise WatcherFailed("hold", "the splitter is gone")

    site.new_hold = lambda: ActingHold(refuse)
    (site.tree / "g").write_bytes(b"second")
    assert site.take().not_whole == (TREE,)
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_was_drained_as_time_ran_out_stays_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    clock = site.clock = JumpingClock()
    site.restart()
    site.begin()
    site.settle()
    drain, turns = site.watcher.events.drain, iter(range(PASSES_MAX + 1))

    def busy() -> None:
        turn = next(turns)
        (site.tree / f"{turn}").write_bytes(b"new")
        if turn == PASSES_MAX:
            clock.ahead_ns += int(60e9)
        drain()

    monkeypatch.setattr(site.watcher.events, "drain", busy)
    assert site.take().not_whole == (TREE,)
    monkeypatch.undo()
    assert site.take().not_whole == ()
    site.assert_same()
    site.close()


def test_trees_alone_need_no_hold(site: Site) -> None:
    site.new_hold = lambda: ActingHold(lambda: pytest.fail("nobody is to be held"))
    (site.tree / "g").write_bytes(b"second")
    taken = site.take(hold=False)
    assert (taken.position, taken.not_whole, taken.skewed) == (None, (), ())
    site.assert_same()


def test_another_epoch_is_refused(site: Site) -> None:
    with pytest.raises(WatcherFailed):
        site.watcher.take(site.epoch + 1, 1, True)


def test_a_failing_take_makes_the_streamer_begin_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("no room")

    (site.tree / "g").write_bytes(b"second")
    monkeypatch.setattr("cdp_agent.watcher.core.write_batch", fail)
    with pytest.raises(WatcherFailed, match="no room"):
        site.take()
    monkeypatch.undo()
    with pytest.raises(WatcherFailed):
        site.take()
    site.begin()
    assert "no room" in site.watcher.status()["error"], "nothing was taken since"
    site.settle()
    assert not site.watcher.status()["error"], "it is over"
    site.assert_same()


# --- roots -------------------------------------------------------------------------------------


def test_a_missing_root_deletes_nothing(site: Site) -> None:
    os.rename(site.tree, site.tree.with_name("away"))
    taken = site.take()
    assert (taken.batch, taken.not_whole) == (0, (TREE,))
    os.rename(site.tree.with_name("away"), site.tree)
    site.watcher.trees[0].retry_ns = 0
    site.settle()
    site.assert_same()


def test_another_root_deletes_nothing_until_it_is_accepted(site: Site) -> None:
    os.rename(site.tree, site.tree.with_name("away"))
    site.tree.mkdir()
    taken = site.take()
    assert (taken.batch, taken.not_whole) == (0, (TREE,))
    assert "another directory" in site.watcher.status()["trees"][0]["why_not_whole"][0]
    accept(site.watcher.trees, TREE, site.watcher.trees[0].root_found, {})
    site.watcher.trees[0].retry_ns = 0
    site.settle()
    assert site.container.entries().keys() == {b""}


def test_an_empty_root_after_the_index_was_lost_deletes_nothing(site: Site) -> None:
    site.watcher._index.run("UPDATE trees SET root=NULL")
    for child in (site.tree / "a", site.tree / "g"):
        shutil.move(child, site.tree.parent)
    site.restart()
    site.begin()
    site.idle()
    taken = site.take()
    assert (taken.batch, taken.not_whole) == (0, (TREE,))


# --- what cannot be seen -----------------------------------------------------------------------


def test_what_cannot_be_read_keeps_the_tree_from_being_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Root.open_file

    def refuse(self: Root, path: bytes) -> int:
        if path == b"g":
            raise PermissionError(13, "Permission denied")
        return real(self, path)

    monkeypatch.setattr(Root, "open_file", refuse)
    (site.tree / "g").write_bytes(b"second")
    assert site.take().not_whole == (TREE,)
    with monkeypatch.context() as waiting:
        waiting.setattr(Scan, "step", lambda self: False)
        site.watcher.trees[0].scan_wanted = True
        site.watcher.idle()
        assert site.take().not_whole == (TREE,), "a scan that began knows no better"
    site.idle()
    assert site.take().not_whole == (TREE,)
    assert site.watcher.status()["trees"][0]["troubles"] == [{"path": "g", "why": "Permission denied"}]
    monkeypatch.undo()
    site.watcher.trees[0].retry_ns = 0
    site.settle()
    site.assert_same()


def test_what_cannot_be_watched_is_whole_after_a_scan_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)

    def refuse(*args: object) -> None:
        raise WatchLimit("sysctl fs.inotify.max_user_watches=1048576")

    monkeypatch.setattr(site.watcher.events, "watch", refuse)
    (site.tree / "a").mkdir()
    (site.tree / "a/f").write_bytes(b"first")
    site.begin()
    site.idle()
    assert site.take().not_whole == ()
    site.assert_same()
    assert site.take().not_whole == (TREE,)
    assert "sysctl" in site.watcher.status()["trees"][0]["why_not_whole"][0]
    (site.tree / "a/f").write_bytes(b"second")
    site.watcher.trees[0].scan_due_ns = 0
    site.idle()
    assert site.take().not_whole == ()
    site.assert_same()
    site.close()


def test_a_new_directory_that_cannot_be_watched_is_scanned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    clock = site.clock = JumpingClock()
    site.restart()
    site.begin()
    site.settle()
    real = site.watcher.events.watch

    def refuse(tree: int, path: bytes, fd: int) -> None:
        if path:
            raise WatchLimit("sysctl fs.inotify.max_user_watches=1048576")
        real(tree, path, fd)

    monkeypatch.setattr(site.watcher.events, "watch", refuse)
    (site.tree / "new").mkdir()
    (site.tree / "new/f").write_bytes(b"first")
    site.take()
    assert site.take().not_whole == (TREE,)
    for content in (b"second", b"third and last"):
        (site.tree / "new/f").write_bytes(content)
        site.idle()
        assert site.take().not_whole == (TREE,)
        clock.ahead_ns += int(SCAN_UNWATCHED_SECONDS * 1e9)
        site.idle()
        assert site.take().not_whole == ()
        site.assert_same()
    monkeypatch.undo()
    clock.ahead_ns += int(SCAN_UNWATCHED_SECONDS * 1e9)
    site.settle()
    assert site.watcher.status()["trees"][0]["watched"]
    assert site.take().not_whole == ()
    site.close()


def test_excluded_paths(tmp_path: Path) -> None:
    site = Site(tmp_path, exclude=("*.tmp", "cache/", "/a/b"), include=("keep.tmp",))
    for path in ("a", "cache", "x/cache"):
        (site.tree / path).mkdir(parents=True)
    for path in ("a/b", "x/b", "cache/f", "x/cache/f", "no.tmp", "keep.tmp"):
        (site.tree / path).write_bytes(b"content")
    site.begin()
    site.settle()
    os.rename(site.tree / "x/b", site.tree / "x/b.tmp")
    (site.tree / "no.tmp").write_bytes(b"new")
    site.settle()
    assert site.container.entries().keys() == {b"", b"a", b"x", b"keep.tmp"}
    site.close()


# --- large ones --------------------------------------------------------------------------------


@pytest.mark.parametrize("meanwhile", ["nothing", "written", "shrunk", "renamed", "removed", "linked"])
def test_a_file_that_takes_several_batches(tmp_path: Path, meanwhile: str) -> None:
    site = Site(tmp_path, Limits(content_bytes=1 << 20))
    big = site.tree / "big"
    big.write_bytes(os.urandom(5 << 20))
    site.begin()
    site.idle()
    assert site.take().not_whole == (TREE,)
    assert site.take().not_whole == (TREE,)
    if meanwhile == "written":
        with big.open("r+b") as file:
            file.write(b"changed at its beginning")
    elif meanwhile == "shrunk":
        os.truncate(big, 5000)
    elif meanwhile == "renamed":
        os.rename(big, site.tree / "other")
    elif meanwhile == "removed":
        big.unlink()
    elif meanwhile == "linked":
        os.link(big, site.tree / "other")
    site.settle()
    site.assert_same()
    site.close()


def test_a_huge_sparse_file_costs_what_is_in_it(site: Site) -> None:
    huge = site.tree / "huge"
    with huge.open("wb") as file:
        file.truncate(3 << 40)
        file.seek(2 << 40)
        file.write(b"in the middle")
    taken = site.take()
    assert (taken.not_whole, taken.content_bytes) == ((), 4096)
    os.truncate(huge, 1 << 40)
    os.truncate(huge, 3 << 40)
    taken = site.take()
    assert (taken.not_whole, taken.content_bytes) == ((), 0)
    os.truncate(huge, 10)
    assert site.take().not_whole == ()
    site.assert_same()


def test_a_tree_that_left_the_domain(site: Site) -> None:
    site.watcher.close()
    settings = site.settings
    site.settings = type(settings)(settings.directory, settings.domain, "", ())
    site.watcher = site.started()
    site.begin()
    assert site.take().not_whole == ()
    assert (site.container.names, site.container.spaces, site.container.trees) == ({}, {}, {})


LARGE = bytes([7]) * ((1 << 20) + 5)
"""More than a batch of `FEW` takes: it is gone on with in the next one, at its second chunk."""
FEW = Limits(content_bytes=200_000, records=100)


def test_a_large_file_of_which_the_first_batch_was_lost_is_there_whole(tmp_path: Path) -> None:
    """It is gone on with and begun anew in one batch: what was dropped of it then is sent later."""
    with closing(Site(tmp_path, FEW)) as site:
        site.begin()
        site.settle()
        (site.tree / "large").write_bytes(LARGE)
        site.take(lose=True)
        site.settle()
        site.assert_same()
