"""The watcher as a process, asked over its socket: taken, killed, begun again, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp_agent.watcher.client import Taken, WatcherClient
from cdp_agent.watcher.page import PageReader
from cdp_container.errors import CdpError
from cdp_container.format.place import NOWHERE, Place
from tests.unit.watcher.model import TREE, Container, assert_same, directory_entries
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

PROGRAM = """
import sys
from pathlib import Path
from cdp_agent.watcher.process import run_watcher
from cdp_agent.watcher.settings import TreeSettings, WatcherSettings
directory, tree = map(Path, sys.argv[1:])
trees = (TreeSettings(bytes(range(16)), "home", tree),)
sys.exit(run_watcher(WatcherSettings(directory, b"d" * 16, "", trees, scan_unwatched_seconds=0.2)))
"""
WATCHES = 10
FEW_WATCHES = f"echo {WATCHES} > /proc/sys/user/max_inotify_watches"
APART = ("unshare", "--user", "--map-root-user", "sh", "-c")
"""A user namespace has a limit of its own: that of the machine stays as it is."""


class Streamer:
    """What a streamer does with a watcher, without volumes and without a store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "journal"
        self.tree = directory / "tree"
        self.directory.mkdir()
        self.tree.mkdir()
        self.client = WatcherClient(self.directory)
        self.page = PageReader(self.directory)
        self.container = Container()
        self.place = NOWHERE
        self.process = self.started()

    def started(self, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        argv = [*prefix, sys.executable, "-c", PROGRAM, str(self.directory), str(self.tree)]
        return subprocess.Popen(argv)

    def begin(self, epoch: int) -> None:
        def begun() -> bool:
            try:
                self.client.begin(epoch, self.place)
            except CdpError:
                return False
            return True

        wait_until(begun, "the watcher answers", 30)

    def take(self, epoch: int) -> Taken:
        taken = self.client.take(epoch, self.place.cut + 1, hold=False)
        if taken.fd is not None:
            self.container.apply(taken.fd)
        self.place = Place(epoch, self.place.cut + 1, self.place.cut + 1)
        return taken

    def settle(self, epoch: int) -> None:
        wait_until(self.quiet(epoch), "the tree is whole", 60)

    def quiet(self, epoch: int) -> Callable[[], bool]:
        def look() -> bool:
            taken = self.take(epoch)
            return not taken.not_whole and not taken.batch

        return look

    def assert_same(self) -> None:
        assert_same(self.container.entries(TREE), directory_entries(self.tree))


@pytest.fixture
def streamer(tmp_path: Path) -> Iterator[Streamer]:
    made = Streamer(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


def test_killed_again_and_again(streamer: Streamer) -> None:
    for epoch in range(1, 5):
        for number in range(50):
            (streamer.tree / f"{epoch}-{number}").write_bytes(os.urandom(5000 * epoch))
        streamer.begin(epoch)
        streamer.take(epoch)
        streamer.process.kill()
        streamer.process.wait()
        os.rename(streamer.tree / f"{epoch}-1", streamer.tree / f"{epoch}-renamed")
        (streamer.tree / f"{epoch}-2").unlink()
        streamer.process = streamer.started()
        streamer.begin(epoch)
        if epoch % 2:
            streamer.settle(epoch)
            streamer.assert_same()
    streamer.settle(4)
    streamer.assert_same()


def test_the_page_tells_of_changes_and_restarts(streamer: Streamer) -> None:
    streamer.begin(1)
    streamer.settle(1)
    before = wait_until(streamer.page.read, "there is a page", 10)
    assert before is not None
    assert before.ready
    assert before.epoch == 1
    (streamer.tree / "new").write_bytes(b"x")

    def is_dirty() -> bool:
        page = streamer.page.read()
        return page is not None and page.dirty and page.changes > before.changes

    wait_until(is_dirty, "the page says that something is dirty", 10)
    streamer.settle(1)
    streamer.process.kill()
    streamer.process.wait()
    streamer.process = streamer.started()

    def is_another() -> bool:
        page = streamer.page.read()
        return page is not None and page.generation != before.generation and not page.ready

    wait_until(is_another, "another watcher shows itself", 30)


def test_it_stops_when_told_and_leaves_no_socket(streamer: Streamer) -> None:
    streamer.begin(1)
    streamer.settle(1)
    streamer.process.send_signal(signal.SIGTERM)
    assert streamer.process.wait(30) == 0
    assert not (streamer.directory / "watcher.sock").exists()


def test_one_at_a_time(streamer: Streamer) -> None:
    streamer.begin(1)
    assert (streamer.directory / "watcher.lock").read_text().strip() == str(streamer.process.pid)


@pytest.mark.needs("unshare")
def test_too_few_watches_are_said_and_scans_protect_the_tree(streamer: Streamer) -> None:
    if subprocess.run([*APART, FEW_WATCHES], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may have no limits of inotify of its own here")
    streamer.process.kill()
    streamer.process.wait()
    folders = [streamer.tree / f"folder {number}" for number in range(3 * WATCHES)]
    for folder in folders[:-1]:
        folder.mkdir()
        (folder / "file").write_bytes(b"first")
    streamer.process = streamer.started((*APART, f'{FEW_WATCHES} && exec "$@"', "sh"))
    streamer.begin(1)
    wait_until(lambda: not streamer.take(1).not_whole, "the tree is whole", 60)
    streamer.assert_same()
    shown = streamer.client.status()["trees"][0]
    assert not shown["watched"]
    assert any("sysctl fs.inotify.max_user_watches=" in why for why in shown["why_not_whole"]), shown
    folders[-1].mkdir()
    for folder in folders:
        (folder / "file").write_bytes(b"second, of which no event tells")
    wait_until(lambda: not streamer.take(1).not_whole and is_same(streamer), "scans find all of it", 60)


def is_same(streamer: Streamer) -> bool:
    return streamer.container.entries(TREE) == directory_entries(streamer.tree)
