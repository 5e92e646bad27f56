"""`cdp-agent trees`: what is listed, accepted and scanned, with a watcher that answers from a thread."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_agent.cli import tree_requests
from cdp_agent.cli.tree_requests import accept_tree, scan_tree, show_trees
from cdp_agent.watcher.asked import accept, ask_scan
from cdp_agent.watcher.client import WatcherClient
from cdp_agent.watcher.reading import FileReader
from cdp_agent.watcher.served import ServedWatcher
from cdp_agent.watcher.server import serve
from cdp_agent.watcher.stamp import RACY_NS
from cdp_agent.watcher.wire import SOCKET_NAME, connect_to
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import TreeIdentity
from cdp_container.errors import UsageError, WatcherFailed
from tests.unit.watcher.model import TREE, Site
from tests.waiting import wait_until

CONFIG = Path("agent.yaml")


class Clock(SystemClock):
    """Instead of waiting, a streamer takes what the watcher found: the watcher is asked by nobody else."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.slept = 0

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        assert self.slept < 2000, "it never ends"
        client = WatcherClient(self.site.directory)
        taken = client.take(self.site.epoch, self.site.place.cut + 1, True)
        if taken.fd is not None:
            self.site.container.apply(taken.fd)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    (site.tree / "g").write_bytes(b"first")
    # What changed a moment ago is read once more.
    wait_until(lambda: time.time_ns() - (site.tree / "g").stat().st_ctime_ns > 2 * RACY_NS, "it is old", 30)
    site.begin()
    site.settle()
    known = [TreeIdentity("home", str(site.tree), TREE), TreeIdentity("new", "/new", bytes(16))]
    monkeypatch.setattr(tree_requests, "_asked", lambda config: (WatcherClient(site.directory), known))
    yield site
    site.close()


@contextmanager
def serving(site: Site) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=serve, args=(site.directory, ServedWatcher(site.watcher), ended.is_set))
    thread.start()
    try:
        wait_until(lambda: _answers(site), "the watcher answers", 30)
        yield
    finally:
        ended.set()
        thread.join(30)
        assert not thread.is_alive()


def _answers(site: Site) -> bool:
    """The socket is there before anybody listens."""
    try:
        connect_to(site.directory, SOCKET_NAME, 1.0).close()
    except OSError:
        return False
    return True


def test_nobody_answers(site: Site) -> None:
    commands: tuple[Callable[[], int], ...] = (
        lambda: show_trees(CONFIG, None, as_json=True),
        lambda: accept_tree(CONFIG, "home", is_sure=True),
        lambda: scan_tree(CONFIG, "home", SystemClock(), read_all=False, waits=True),
    )
    for command in commands:
        with pytest.raises(WatcherFailed):
            command()


def test_no_such_tree(site: Site) -> None:
    commands: tuple[Callable[[], int], ...] = (
        lambda: show_trees(CONFIG, "other", as_json=True),
        lambda: accept_tree(CONFIG, None, is_sure=True),
        lambda: scan_tree(CONFIG, "other", SystemClock(), read_all=False, waits=True),
    )
    for command in commands:
        with pytest.raises(UsageError) as caught:
            command()
        assert "home, new" in caught.value.hint


def test_a_tree_that_the_watcher_does_not_know_yet(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(site):
        assert show_trees(CONFIG, None, as_json=False) == 0
        out = capsys.readouterr().out
        assert f"home: 1 name at the last scan, {site.tree}" in out
        assert "new: the watcher begins anew" in out
        with pytest.raises(WatcherFailed, match="does not know"):
            accept_tree(CONFIG, "new", is_sure=True)
        with pytest.raises(WatcherFailed, match="no such tree"):
            scan_tree(CONFIG, "new", SystemClock(), read_all=False, waits=False)


def test_only_what_is_wrong_can_be_accepted_and_only_by_who_is_sure(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(site), pytest.raises(UsageError, match="what they were"):
        accept_tree(CONFIG, "home", is_sure=True)
    os.rename(site.tree, site.tree.with_name("away"))
    assert site.take().not_whole == (TREE,)
    with serving(site), pytest.raises(UsageError, match="cannot be opened"):
        accept_tree(CONFIG, "home", is_sure=True)
    site.tree.mkdir()
    assert site.take().not_whole == (TREE,)
    with serving(site):
        with pytest.raises(UsageError, match="and no more what is not"):
            accept_tree(CONFIG, "home", is_sure=False)
        assert "is another directory than it was" in capsys.readouterr().err
    assert site.take().not_whole == (TREE,)
    with serving(site):
        assert accept_tree(CONFIG, "home", is_sure=True) == 0
    site.settle()
    assert site.container.entries().keys() == {b""}


def test_a_directory_that_came_after_what_was_shown_is_not_accepted(site: Site) -> None:
    for name in ("one", "two"):
        site.tree.with_name(name).mkdir()
    os.rename(site.tree, site.tree.with_name("away"))
    os.rename(site.tree.with_name("one"), site.tree)
    site.take()
    tree = site.watcher.trees[0]
    accept(site.watcher.trees, TREE, tree.root_found, {})
    os.rename(site.tree, site.tree.with_name("one"))
    os.rename(site.tree.with_name("two"), site.tree)
    for _ in range(2):
        assert site.take().not_whole == (TREE,)
        assert site.container.entries().keys() == {b"", b"g"}


def test_a_scan_reads_all_where_that_is_wanted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    real = FileReader.content

    def content(self: FileReader, tree: object, path: bytes, *more: object) -> object:
        read.append(path)
        return real(self, tree, path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(FileReader, "content", content)
    clock = Clock(site)
    with serving(site):
        assert scan_tree(CONFIG, "home", clock, read_all=False, waits=True) == 0
        assert read == []
        assert scan_tree(CONFIG, "home", clock, read_all=True, waits=True) == 0
    assert read == [b"g"]


def test_a_scan_that_a_doubt_ended_still_reads_all(site: Site) -> None:
    tree = site.watcher.trees[0]
    number = ask_scan(site.watcher.trees, TREE, True)
    site.watcher._begin_scan(tree, False)
    with site.watcher.events.lock:
        site.watcher.dirty.doubt(0)
    site.watcher._begin_scan(tree, True)
    assert tree.scan is not None
    assert tree.scan.reads
    assert (number, tree.scans_begun) == (number, number + 1)


def test_who_waits_is_told_where_the_watcher_began_anew(site: Site) -> None:
    class Restarting(Clock):
        def sleep(self, seconds: float) -> None:
            site.watcher._generation += 1

    site.watcher.trees[0].scan_wanted = True
    site.watcher._ready = False  # so that nothing is scanned
    with serving(site), pytest.raises(WatcherFailed, match="began anew"):
        scan_tree(CONFIG, "home", Restarting(site), read_all=False, waits=True)


def test_for_programs(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(site):
        assert show_trees(CONFIG, "home", as_json=True) == 0
    (shown,) = json.loads(capsys.readouterr().out)["trees"]
    assert (shown["name"], shown["why_not_whole"], shown["mount_faults"]) == ("home", [], [])
