"""Plain files made here and by other processes: what is refused is done otherwise, told of, or ends it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain import name_rows
from cdp_container.domain.namespace import Entry
from cdp_container.errors import DeviceError, LocalDiskFull, TargetUnsuitable
from cdp_container.store.memory import MemoryStore
from rehydrate import plain_files, tree_making, tree_target
from rehydrate.plain_files import DONE, NOT_MADE, NOT_SET, read_outcomes, send_batch
from rehydrate.tree_attributes import OWNER, Attributes, Me, NotSet
from rehydrate.tree_making import Makers
from tests.containers import Site
from tests.trees import ME, Tree, directory
from tests.unit.rehydrate.trees import assert_same, restore

ROOT_ONLY = pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone gives files to others",)))
MODES = (0o644, 0o666, 0o600, 0o000, 0o1755, 0o4711)
EMPTY = (0o640, *ME, 1_600_000_000_123_456_789, 0)


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


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Others help from the first file on; they are noted as they begin."""
    found: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*words: object, **options: object) -> subprocess.Popen[bytes]:
        found.append(popen(*words, **options))  # type: ignore[call-overload]  # as they came
        return found[-1]

    monkeypatch.setattr(tree_making, "ALONE", 0)
    monkeypatch.setattr(tree_making, "FEW", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(subprocess, "Popen", noted)
    return found


def refusing(code: int, calls: list[object]) -> object:
    def refused(*argv: object, **_: object) -> None:
        calls.append(argv)
        raise OSError(code, os.strerror(code))

    return refused


@pytest.mark.parametrize("together", [1, 2, 1000])
def test_modes_beside_each_other(
    site: Site, home: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(tree_target, "TOGETHER_MAX", together)
    place = home.cut()
    done = restore(site, place, tmp_path / "t")
    assert_same(tmp_path / "t", home.at[place])
    assert done.told == len(home.names) - 1


@pytest.mark.parametrize("together", [1, 2, 1000])
def test_others_make_the_same(
    site: Site,
    home: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[subprocess.Popen[bytes]],
    together: int,
) -> None:
    monkeypatch.setattr(tree_target, "TOGETHER_MAX", together)
    for number in range(40):
        home.file(b"d%d/another %d" % (number % 5, number), b"y" * (number % 3))
    place = home.cut()
    done = restore(site, place, tmp_path / "t")
    assert_same(tmp_path / "t", home.at[place])
    assert done.told == len(home.names) - 1
    assert [process.returncode for process in begun] == [0, 0]


def test_on_one_core_nobody_else_is_asked(
    site: Site,
    home: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[subprocess.Popen[bytes]],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    place = home.cut()
    restore(site, place, tmp_path / "t")
    assert_same(tmp_path / "t", home.at[place])
    assert not begun


def test_where_no_process_can_be_begun_all_is_made_here(
    site: Site,
    home: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[subprocess.Popen[bytes]],
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", refusing(errno.EAGAIN, calls))
    place = home.cut()
    restore(site, place, tmp_path / "t")
    assert_same(tmp_path / "t", home.at[place])
    assert len(calls) == 1, "asked for once, not for each directory"


def test_what_is_refused_to_another_process_ends_it(
    site: Site,
    home: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[subprocess.Popen[bytes]],
) -> None:
    send = send_batch

    def limited(channel: socket.socket, directory: int, batch: plain_files.Batch) -> None:
        for process in begun:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        send(channel, directory, batch)

    monkeypatch.setattr(tree_making, "send_batch", limited)
    home.file(b"d3/long", b"x" * 5000)
    with pytest.raises(TargetUnsuitable, match="too large"):
        restore(site, home.cut(), tmp_path / "t")
    assert [process.returncode for process in begun] == [0, 0], "they are waited for"


def test_a_process_that_dies_ends_it(
    site: Site,
    home: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[subprocess.Popen[bytes]],
) -> None:
    send = send_batch

    def killing(channel: socket.socket, directory: int, batch: plain_files.Batch) -> None:
        begun[0].send_signal(signal.SIGSTOP)
        send(channel, directory, batch)
        begun[0].kill()

    monkeypatch.setattr(tree_making, "send_batch", killing)
    with pytest.raises(DeviceError, match="a process that makes files ended"):
        restore(site, home.cut(), tmp_path / "t")
    assert begun[0].returncode == -signal.SIGKILL
    assert begun[1].returncode == 0


@pytest.mark.usefixtures("begun")
def test_others_end_with_what_they_have_begun(home: Tree, tmp_path: Path) -> None:
    """Whoever is interrupted waits for no answers."""
    directory = os.open(tmp_path, os.O_RDONLY)
    attributes = Attributes(NotSet(), Me(*ME))
    try:
        with closing(Makers(attributes, lambda path: directory)) as makers:
            entries = list(named(home, 400))
            for first in range(0, 400, 100):
                makers.make(b"", entries[first : first + 100])
    finally:
        os.close(directory)
    assert len(list(tmp_path.iterdir())) % 100 == 0


def named(home: Tree, count: int) -> Iterator[Entry]:
    for number in range(count):
        yield Entry(b"", b"%d" % number, home.names[b"d0/empty 644"])


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """To one who makes files, here."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(sys, "argv", ["plain_files", str(theirs.detach())])
    maker = Thread(target=plain_files.main)
    maker.start()
    with ours:
        yield ours
    maker.join()


@pytest.mark.parametrize(
    ("call", "code", "outcome"),
    [("mknod", errno.ENOTSUP, NOT_MADE), ("utime", errno.EPERM, NOT_SET), ("utime", None, DONE)],
)
def test_what_came_of_each_file_is_told(
    channel: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int | None,
    outcome: int,
) -> None:
    real: Callable[..., None] = getattr(os, call)

    def first_refused(name: bytes, *words: object, **options: object) -> None:
        if code is not None and name == b"first":
            raise OSError(code, os.strerror(code))
        real(name, *words, **options)

    monkeypatch.setattr(os, call, first_refused)
    rows = [EMPTY, EMPTY, (*EMPTY[:4], 123)]
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        send_batch(channel, directory, ([b"first", b"\xff second", b"third"], rows))
        assert read_outcomes(channel) == bytes([outcome, DONE, DONE])
        send_batch(channel, directory, ([b"second"], [EMPTY]))
        send_batch(channel, directory, ([b"\xff second"], [EMPTY]))
        assert read_outcomes(channel) == bytes([DONE])
        with pytest.raises(FileExistsError):
            read_outcomes(channel)
    finally:
        os.close(directory)
    found = {os.fsencode(path.name): path.stat() for path in tmp_path.iterdir()}
    assert (b"first" in found) is (outcome != NOT_MADE)
    second, third = found[b"\xff second"], found[b"third"]
    assert (second.st_mode & 0o7777, second.st_mtime_ns, second.st_size) == (0o640, EMPTY[3], 0)
    assert third.st_size == 123


def test_a_process_that_is_gone_is_noticed(channel: socket.socket) -> None:
    channel.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        read_outcomes(channel)


def test_names_without_room_for_a_row_are_no_batch(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="shorter"):
            plain_files.make_files(directory, ([b"a", b"b"], [EMPTY]))
    finally:
        os.close(directory)


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
