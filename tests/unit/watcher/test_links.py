"""All names of a file are told as one; what is read twice for a batch is told whole; what appears is walked.

Each test is of one line of the watcher without which something of the container would be wrong for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cdp_agent.watcher.dirty import DEEP, LOOK, READ
from cdp_agent.watcher.gathered import Gathered, Limits
from cdp_agent.watcher.round import Round
from cdp_agent.watcher.stamp import stamp_of
from cdp_agent.watcher.tree_root import open_root
from tests.unit.watcher.model import FreeHold, Site
from tests.unit.watcher.test_take import ActingHold

BLOCK = 4096


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    (site.tree / "a").mkdir()
    (site.tree / "a/f").write_bytes(b"first")
    (site.tree / "wide").write_bytes(b"".join(bytes([number]) * BLOCK for number in range(1, 5)))
    os.link(site.tree / "a/f", site.tree / "g")
    os.link(site.tree / "a/f", site.tree / "a/h")
    site.begin()
    site.settle()
    yield site
    site.close()


def put(path: Path, offset: int, data: bytes) -> None:
    """Write in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


# --- hard links --------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["a/f", "g", "a/h"])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: put(path, 0, b"longer than it was"),
        lambda path: os.truncate(path, 2),
        lambda path: path.chmod(0o600),
        lambda path: os.setxattr(path, "user.test", b"x"),
        lambda path: os.utime(path, ns=(1, 2)),
    ],
    ids=["written", "cut", "mode", "attribute", "time"],
)
def test_what_is_done_through_one_name_is_told_of_all(
    site: Site, through: str, change: Callable[[Path], object]
) -> None:
    change(site.tree / through)
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_is_done_through_a_new_name_is_told_of_the_old_ones(site: Site) -> None:
    os.link(site.tree / "g", site.tree / "new")
    put(site.tree / "new", 0, b"through the new one")
    assert site.take().not_whole == ()
    site.assert_same()


def test_a_name_that_another_file_takes_leaves_the_others_as_they_are(site: Site) -> None:
    (site.tree / "other").write_bytes(b"another")
    os.rename(site.tree / "other", site.tree / "g")
    put(site.tree / "a/f", 0, b"FIRST")
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_was_written_through_a_name_that_is_gone_since(site: Site) -> None:
    put(site.tree / "g", 0, b"through g")
    (site.tree / "g").unlink()
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_was_written_through_a_name_that_another_file_has_since(site: Site) -> None:
    (site.tree / "other").write_bytes(b"another")
    put(site.tree / "g", 0, b"through g")
    os.rename(site.tree / "other", site.tree / "g")
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_was_written_through_a_name_that_moved_away_with_its_directory(site: Site) -> None:
    put(site.tree / "a/f", 0, b"through a")
    os.rename(site.tree / "a", site.directory / "away")
    assert site.take().not_whole == ()
    site.assert_same()


@pytest.mark.parametrize("restarts", [False, True])
def test_what_was_written_through_a_name_that_came_and_went(site: Site, restarts: bool) -> None:
    if restarts:
        site.restart()
        site.begin()
        site.settle()
    os.link(site.tree / "a/f", site.tree / "new")
    put(site.tree / "new", 0, b"through the new one")
    (site.tree / "new").unlink()
    assert site.take().not_whole == ()
    site.assert_same()


def test_what_was_written_through_a_name_that_came_and_went_where_its_directory_moved(site: Site) -> None:
    (site.tree / "b").mkdir()
    site.settle()
    os.rename(site.tree / "b", site.tree / "c")
    os.link(site.tree / "a/f", site.tree / "c/new")
    os.link(site.tree / "wide", site.tree / "there")
    put(site.tree / "c/new", 0, b"through the new one")
    (site.tree / "c/new").unlink()
    (site.tree / "b").mkdir()
    (site.tree / "b/new").write_bytes(b"another file at the old path")
    assert site.take().not_whole == ()
    site.assert_same()


def test_a_batch_that_is_full_still_owes_the_look_at_files_with_several_names(site: Site) -> None:
    site.watcher._limits = Limits(records=1)
    (site.tree / "more").write_bytes(b"x")
    os.link(site.tree / "a/f", site.tree / "new")
    put(site.tree / "new", 0, b"through the new one")
    (site.tree / "new").unlink()
    while site.take().not_whole:
        pass
    site.assert_same()


def test_what_a_full_batch_left_to_be_looked_at_is_of_an_instant_too(site: Site) -> None:
    """The batch was full with the last path: nothing but the look at other names was left to the next one."""
    os.link(site.tree / "a/f", site.tree / "new")
    put(site.tree / "new", 0, b"through the new one")
    (site.tree / "new").unlink()
    (site.tree / "wide").chmod(0o600)
    site.watcher._limits = Limits(records=2)
    assert site.take().more
    site.watcher._limits = Limits()
    taken = site.take()
    assert taken.batch
    assert taken.position is not None, "guests are held for what a cut calls whole"
    site.assert_same()


def test_files_with_several_names_are_remembered_up_to_a_limit(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdp_agent.watcher.tree.LINKED_MAX", 2)
    for number in range(4):
        (site.tree / f"{number}").write_bytes(b"x")
        os.link(site.tree / f"{number}", site.tree / f"{number}b")
    site.settle()
    tree = site.watcher.trees[0]
    assert len(tree.linked) == 2
    for path in list(tree.linked.values()):
        (site.tree / os.fsdecode(path)).unlink()
    site.settle()
    assert len(tree.linked) <= 2
    site.assert_same()


def test_a_file_that_had_one_name_when_it_was_looked_at_last_waits_for_a_scan(site: Site) -> None:
    os.link(site.tree / "wide", site.tree / "new")
    put(site.tree / "new", 0, b"through the new one")
    (site.tree / "new").unlink()
    site.take()
    site.watcher.trees[0].scan_wanted = True
    site.settle()
    site.assert_same()


def test_a_file_that_was_read_as_it_changed_is_read_again_for_its_other_names(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both within one tick of an older kernel's clock, as often as not: its change time says nothing then."""

    def of_ticks(found: os.stat_result, root_device: int, proven: bool = True) -> bytes:
        shown = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        shown["st_ctime_ns"] -= found.st_ctime_ns % 10_000_000
        shown["st_mtime_ns"] -= found.st_mtime_ns % 10_000_000
        return stamp_of(SimpleNamespace(**shown), root_device, proven)  # type: ignore[arg-type]

    for module in ("reading", "round", "scan"):
        monkeypatch.setattr(f"cdp_agent.watcher.{module}.stamp_of", of_ticks)

    def act() -> None:
        put(site.tree / "g", 0, b"SECOND")
        (site.tree / "g").unlink()

    for _ in range(20):
        put(site.tree / "a/f", 0, b"second")
        site.new_hold = lambda: ActingHold(act)
        assert site.take().not_whole == ()
        site.assert_same()
        site.new_hold = FreeHold
        os.link(site.tree / "a/f", site.tree / "g")
        site.settle()


def test_names_agree_though_a_limit_ends_the_batch(site: Site) -> None:
    site.watcher._limits = Limits(records=1)
    os.rename(site.tree / "g", site.tree / "a/renamed")
    put(site.tree / "a/renamed", 0, b"written since")
    for _ in range(8):
        site.take()
    site.settle()
    site.assert_same()


def test_a_renamed_file_has_one_name_though_a_limit_ends_the_batch(site: Site) -> None:
    site.watcher._limits = Limits(records=1)
    os.rename(site.tree / "wide", site.tree / "0")
    put(site.tree / "0", 0, b"written since")
    with site.watcher.events.lock:
        site.watcher.events.overflow()
    site.settle()
    site.assert_same()


# --- read twice in one batch -------------------------------------------------------------------


def test_what_did_not_change_again_under_the_hold_is_told_too(site: Site) -> None:
    put(site.tree / "wide", 0, b"before the hold")
    site.new_hold = lambda: ActingHold(lambda: put(site.tree / "wide", 2 * BLOCK, b"under the hold"))
    taken = site.take()
    assert (taken.not_whole, taken.skewed) == ((), ())
    site.assert_same()


def test_what_was_undone_again_under_the_hold_is_told_too(site: Site) -> None:
    put(site.tree / "wide", 0, b"\xff")
    site.new_hold = lambda: ActingHold(lambda: put(site.tree / "wide", 0, b"\1"))
    assert site.take().skewed == ()
    site.assert_same()


def test_what_was_cut_and_grew_under_the_hold_is_told_too(site: Site) -> None:
    def cut_and_grow() -> None:
        os.truncate(site.tree / "wide", BLOCK + 10)
        os.truncate(site.tree / "wide", 3 * BLOCK)

    put(site.tree / "wide", 3 * BLOCK, b"before the hold")
    site.new_hold = lambda: ActingHold(cut_and_grow)
    assert site.take().skewed == ()
    site.new_hold = FreeHold
    site.assert_same()


def test_a_file_of_several_names_is_read_again_under_the_hold(site: Site) -> None:
    put(site.tree / "g", 0, b"BEFORE")
    site.new_hold = lambda: ActingHold(lambda: put(site.tree / "a/h", 0, b"UNDER!"))
    assert site.take().skewed == ()
    site.assert_same()


# --- directories that appear -------------------------------------------------------------------


def test_a_directory_that_appears_is_to_be_walked(site: Site) -> None:
    os.mkdir(site.tree / "made")
    os.mkdir(site.directory / "moved")
    os.rename(site.directory / "moved", site.tree / "moved")
    (site.tree / "file").write_bytes(b"x")
    site.watcher.events.drain()
    bits = site.watcher.dirty.of(0)
    assert (bits[b"made"], bits[b"moved"], bits[b"file"]) == (LOOK | DEEP, LOOK | DEEP, LOOK | READ)
    site.settle()
    site.assert_same()


@pytest.mark.parametrize(("bits", "walked"), [(LOOK, []), (LOOK | DEEP, [b"a"])])
def test_what_appeared_is_walked_though_it_is_known_and_watched(
    site: Site, bits: int, walked: list[bytes]
) -> None:
    """Its watches may have the paths of where it was meanwhile."""
    watcher, tree = site.watcher, site.watcher.trees[0]
    site.take()
    assert open_root(tree, watcher._index, watcher.dirty, watcher.events)
    made = Round(watcher._index, watcher.events, site.clock, os.urandom, Gathered(Limits(), lambda: True))
    assert made.look(tree, b"a", bits)
    assert [scan.path for scan in tree.deep] == walked
    tree.reset()
