"""A watcher of file trees that is stopped: volumes' points go on, and the tree is whole after it."""

from __future__ import annotations

import filecmp
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_container.store.directory import DirectoryStore
from tests.e2e.site import Agent, Site, new_site
from tests.e2e.test_trees import PATIENCE_SECONDS, differences, started, trees_whole
from tests.recovery import Recovery
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

VOLUME_BYTES = 1 << 20
SEED = 6120
CUTS = 8
"""At a second each; the watcher is asked meanwhile, and asked again."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(50):
        (tree / f"file {number}").write_bytes(os.urandom(number * 100))
    extra = f"trees: [{{name: files, path: {tree}}}]"
    with new_site({"db": VOLUME_BYTES}, encrypted=False, extra=(extra,)) as made:
        made.init().must()
        yield made


def test_volumes_points_go_on_while_the_watcher_hangs(site: Site, tmp_path: Path) -> None:
    tree, rng = tmp_path / "tree", random.Random(SEED)
    agent = started(site)
    with site.client("db") as client:
        client.write(0, rng.randbytes(4096))
        (tree / "file 3").write_bytes(b"before")
        watcher = stopped(agent)
        try:
            (tree / "file 4").write_bytes(b"while nobody looks")
            for number in range(CUTS):
                before = newest_cut(site)
                client.write(4096 * (number % 8), rng.randbytes(4096))
                wait_until(lambda before=before: newest_cut(site) > before, "a point", PATIENCE_SECONDS)  # type: ignore[misc]
            assert not trees_whole(site)
            shown = site.status().json
            assert "does not answer" in shown["trees"]["error"]
            assert any("file trees are not protected just now" in problem for problem in shown["problems"])
        finally:
            os.kill(watcher, signal.SIGCONT)
        wait_until(lambda: trees_whole(site), "the tree is whole again", PATIENCE_SECONDS)
    site.flush_when_ready()
    assert agent.stop() == 0
    volumes_alone = len(without_tree(site))
    assert volumes_alone >= CUTS // 2, "cuts were taken while the watcher hung"
    target = site.base / "b" / "files"
    site.rehydrate("restore", "--tree", f"files={target}").must()
    assert differences(tree, target) == []
    site.restore("db", site.base / "b" / "db.raw")
    assert filecmp.cmp(site.backing("db"), site.base / "b" / "db.raw", shallow=False)


def stopped(agent: Agent) -> int:
    """The watcher, alive and doing nothing."""
    watcher = agent.child("watcher")
    assert watcher is not None
    os.kill(watcher, signal.SIGSTOP)
    return watcher


def newest_cut(site: Site) -> tuple[int, int]:
    """The newest protected point, as the streamer shows it."""
    protected = site.facts().get("protected") or {"epoch": 0, "cut": 0}
    return protected["epoch"], protected["cut"]


def without_tree(site: Site) -> list[object]:
    """Points at which the volume is whole and the tree is not."""
    recovery = Recovery(DirectoryStore(site.container))
    identity = site.journal / "agent.json"
    tree = bytes.fromhex(json.loads(identity.read_bytes())["trees"][0]["tree"])
    return [place for place in recovery.cuts if not recovery.is_whole(tree, place)]
