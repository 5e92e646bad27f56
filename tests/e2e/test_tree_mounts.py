"""A mount within a protected tree goes while the agent runs: nothing is deleted before that is accepted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_container.errors import UsageError, WatcherFailed
from tests.e2e.site import Site, new_site
from tests.e2e.test_trees import PATIENCE_SECONDS, differences, started, trees_whole
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs(*(() if os.geteuid() == 0 else ("root, who alone may mount",))),
]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tree"
    (folder / "disk").mkdir(parents=True)
    (folder / "beside").write_bytes(b"beside")
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder / "disk")
    (folder / "disk" / "precious").write_bytes(os.urandom(70_000))
    yield folder
    subprocess.run(["umount", "-q", folder / "disk"], check=False, timeout=30)


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True, timeout=30)


def restored(site: Site, name: str) -> Path:
    target = site.base / "b" / name
    site.rehydrate("restore", "--tree", f"files={target}", "--delete").must()
    return target


def test_what_was_unmounted_stays_in_the_container_until_it_is_accepted(tree: Path) -> None:
    extra = f"trees: [{{name: files, path: {tree}, one_file_system: false}}]"
    with new_site({}, encrypted=False, extra=(extra,)) as site:
        site.init().must()
        assert site.agent_command("trees").code == WatcherFailed.exit_code
        agent = started(site)
        site.flush_when_ready()
        assert differences(tree, restored(site, "before")) == []
        subprocess.run(["umount", tree / "disk"], check=True, timeout=30)
        wait_until(lambda: not trees_whole(site), "it is noticed", PATIENCE_SECONDS)
        (tree / "beside").write_bytes(b"goes on")
        shown = site.agent_command("trees").must().out
        assert "what was mounted at 'disk' is not" in shown
        refused = site.agent_command("trees", "accept", "files")
        assert refused.code == UsageError.exit_code, refused.err
        assert "'disk'" in refused.err

        assert agent.stop() == 0  # a start looks at everything
        agent = site.start()
        wait_until(lambda: "'disk'" in site.agent_command("trees").out, "it is known still", PATIENCE_SECONDS)
        assert not trees_whole(site)
        assert (restored(site, "amid") / "disk" / "precious").stat().st_size == 70_000

        site.agent_command("trees", "accept", "files", "--yes").must()
        wait_until(lambda: trees_whole(site), "it is whole without", PATIENCE_SECONDS)
        site.agent_command("trees", "scan", "files", "--checksum", "--wait").must()
        site.flush_when_ready()
        assert differences(tree, restored(site, "after")) == []
        assert agent.stop() == 0
