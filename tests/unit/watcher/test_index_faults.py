"""A disk that is full or fails: the index is kept, the trees are not whole, and all goes on by itself."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_agent.watcher import core
from cdp_agent.watcher.core import TROUBLE_SECONDS
from cdp_agent.watcher.index import Index, is_passing
from cdp_container.clock import SystemClock
from cdp_container.errors import CdpError, WatcherFailed
from tests.unit.watcher.model import Site
from tests.unit.watcher.test_anew import StoredSite, lose_index, served

FILES = 400


class Ahead(SystemClock):
    """The machine's clock, and some more."""

    def __init__(self) -> None:
        self.more_ns = 0

    def boottime_ns(self) -> int:
        return super().boottime_ns() + self.more_ns

    def advance(self) -> None:
        self.more_ns += int(TROUBLE_SECONDS * 1e9) + 1


class FullIndex(Index):
    """One on a disk that has no room for another page."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        fill(self)


def fill(index: Index) -> None:
    index.run("PRAGMA max_page_count=1")  # SQLite makes that as many as there are


def failing(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("the machine failed")
    error.sqlite_errorcode = code
    return error


def write_files(site: Site, content: bytes = b"") -> None:
    for number in range(FILES):
        (site.tree / f"{number:0120}").write_bytes(content)


def begun(site: Site) -> tuple[Site, Ahead]:
    """A site with something in it whose watcher goes by a clock that can be set ahead."""
    site.watcher.close()
    site.clock = clock = Ahead()
    site.watcher = site.started()
    (site.tree / "a").write_bytes(os.urandom(50_000))
    site.begin()
    site.settle()
    return site, clock


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Site, Ahead]]:
    site, clock = begun(Site(tmp_path))
    yield site, clock
    site.close()


def index_inode(site: Site) -> int:
    return (site.directory / "watcher/index.db").stat().st_ino


@pytest.mark.parametrize(
    "code",
    [
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
    ],
)  # fmt: skip
def test_what_the_machine_failed_at_says_nothing_of_the_index(code: int) -> None:
    assert is_passing(failing(code))


@pytest.mark.parametrize(
    "error",
    [
        failing(sqlite3.SQLITE_CORRUPT), failing(sqlite3.SQLITE_NOTADB), failing(sqlite3.SQLITE_ERROR),
        failing(sqlite3.SQLITE_CONSTRAINT_UNIQUE), failing(sqlite3.SQLITE_IOERR_SHORT_READ),
        sqlite3.DatabaseError("the index is of version 9"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
    ],
)  # fmt: skip
def test_everything_else_is_damage(error: sqlite3.Error) -> None:
    assert not is_passing(error)


def test_a_full_disk_drops_no_index(pair: tuple[Site, Ahead], monkeypatch: pytest.MonkeyPatch) -> None:
    site, clock = pair
    inode = index_inode(site)
    monkeypatch.setattr(core, "Index", FullIndex)
    fill(site.watcher._index)
    write_files(site)
    for _ in range(3):
        with pytest.raises(CdpError, match="full"):
            site.take()
        assert "full" in site.watcher.status()["error"]
        assert not site.watcher.status()["ready"]
        site.watcher.begin(site.epoch, site.place)  # as the streamer does at once
        with pytest.raises(CdpError, match="full"):  # not looked through again before the disk was
            site.take()
        with pytest.raises(CdpError, match="full"):
            site.watcher.protected(site.epoch, site.place.cut)
        clock.advance()
        site.idle()
    monkeypatch.setattr(core, "Index", Index)
    with pytest.raises(CdpError, match="full"):
        site.take()
    site.watcher.begin(site.epoch, site.place)
    clock.advance()
    before = site.place.cut
    site.settle()  # `no_image` fails the test if the index were made anew
    assert site.place.cut > before
    site.assert_same()
    assert site.watcher.status()["error"] == ""
    assert index_inode(site) == inode


def test_room_that_ends_while_nobody_asks_drops_no_index(
    pair: tuple[Site, Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, clock = pair
    inode = index_inode(site)

    def fail() -> None:
        raise failing(sqlite3.SQLITE_IOERR_FSYNC)

    with monkeypatch.context() as patched:
        patched.setattr(site.watcher, "_work_log_in", fail)
        assert not site.watcher.idle()
    assert "failed" in site.watcher.status()["error"]
    (site.tree / "b").write_bytes(b"new")
    site.watcher.begin(site.epoch, site.place)
    clock.advance()
    site.settle()
    site.assert_same()
    assert index_inode(site) == inode


def test_an_epoch_that_begins_on_a_full_disk_begins_when_there_is_room(
    pair: tuple[Site, Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, clock = pair
    (site.tree / "b").write_bytes(b"new")

    def fail(*_: object) -> bool:
        raise failing(sqlite3.SQLITE_FULL)

    with monkeypatch.context() as patched:
        patched.setattr(core, "begin_epoch", fail)
        site.begin()
        assert not site.watcher.status()["ready"]
        clock.advance()
        site.idle()
        assert not site.watcher.status()["ready"]
    clock.advance()
    site.settle()
    site.assert_same()


def test_an_index_that_cannot_be_made_anew_for_want_of_room_is_made_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, clock = begun(StoredSite(tmp_path))
    assert isinstance(site, StoredSite)
    write_files(site)
    site.settle()
    lose_index(site)
    monkeypatch.setattr(core, "Index", FullIndex)
    site.begin()
    for _ in range(3):
        site.idle()
        assert "full" in site.watcher.status()["error"]
        with pytest.raises(CdpError, match="full"):
            site.take()
        clock.advance()
    monkeypatch.setattr(core, "Index", Index)
    site.settle()
    site.assert_same()
    site.close()


def test_a_damaged_index_that_cannot_be_removed_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, clock = begun(StoredSite(tmp_path))
    assert isinstance(site, StoredSite)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(core, "_remove_database", refuse)
        site.watcher._index.run("DROP TABLE batches")
        with pytest.raises(CdpError, match="batches"):
            site.watcher.protected(site.epoch, site.place.cut)
        site.watcher.begin(site.epoch, site.place)
        assert "Read-only" in site.watcher.status()["error"]
        clock.advance()
        site.idle()
        assert not site.watcher.status()["ready"]
    clock.advance()
    served(site)
    site.assert_same()
    site.close()


def test_at_a_start_the_index_of_a_disk_that_fails_is_left(
    pair: tuple[Site, Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = pair
    inode = index_inode(site)

    def fail(path: Path) -> Index:
        raise failing(sqlite3.SQLITE_CANTOPEN)

    site.watcher.close()
    with monkeypatch.context() as patched:
        patched.setattr(core, "Index", fail)
        with pytest.raises(WatcherFailed, match="the machine failed"):
            site.started()
    assert index_inode(site) == inode
    site.watcher = site.started()
    site.begin()
    site.settle()
    site.assert_same()
