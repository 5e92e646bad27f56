"""A marker with hooks at a real agent: the instant lies between them, and nothing stays frozen."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_container.errors import HookFailed, Incomplete
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

WAIT_SECONDS_MAX = 120.0
BLOCK = 4096
ROOT = Path(__file__).parents[2]


class Hooks:
    """Hooks that write to the volume through its export, as a guest does, and to a file, in their order."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.log = site.base / "hooks.log"
        self.log.touch()

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().split()

    def command(self, word: str, letter: str, then: str = "") -> list[str]:
        """Writes a block of this letter, flushes it, and notes the word."""
        script = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from tests.nbd_client import NbdClient\n"
            f"with NbdClient({str(self.site.socket)!r}, 'db') as guest:\n"
            f"    guest.write(0, b{letter!r} * {BLOCK})\n    guest.flush()\n"
            f"open({str(self.log)!r}, 'a').write('{word}\\n')\n{then}\n"
        )
        path = self.site.base / f"{word}.py"
        path.write_text(script)
        return [sys.executable, str(path)]

    def configure(self, *hooks: tuple[str, str, str]) -> None:
        """Each: its name, and what its command before, and that after, do at their end."""
        lines = ["marker_hooks:"]
        for name, before, after in hooks:
            lines.append(f"  - name: {name}\n    timeout: 5s")
            lines.append(f"    before: {self.command(f'+{name}', name, before)}")
            lines.append(f"    after: {self.command(f'-{name}', name.upper(), after)}")
        self.site.write_config(*lines)


@pytest.fixture(scope="module")
def running() -> Iterator[Hooks]:
    with new_site({"db": 2 * MIB}, encrypted=False) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        yield Hooks(site)


@pytest.fixture
def hooks(running: Hooks) -> Hooks:
    running.log.write_text("")
    return running


def record(site: Site, name: str) -> dict[str, Any]:
    """What the marker's record says."""
    for path in sorted((site.container / "log").rglob("*")):
        if path.is_file():
            key = str(path.relative_to(site.container))
            for one in site.rehydrate("show", key, "--json").must().json["index"]["records"]:
                if one["name"] == "marker" and bytes.fromhex(one["key"]).decode() == name:
                    value: dict[str, Any] = one["value"]
                    return value
    raise AssertionError(f"there is no marker {name}")


def names(site: Site) -> set[str]:
    return {name for point in site.points() for name in point["markers"]}


def first_block(site: Site, name: str) -> bytes:
    target = site.base / f"{name}.restored"
    site.restore("db", target, "--marker", name)
    return target.read_bytes()[:BLOCK]


def test_the_instant_lies_between_the_hooks(hooks: Hooks) -> None:
    hooks.configure(("a", "", ""), ("b", "", ""))
    done = hooks.site.agent_command("marker", "quiet", "--application", "--keep", "30d").must()
    assert done.out.endswith(" quiet\n")
    assert hooks.ran == ["+a", "+b", "-b", "-a"]
    hooks.site.flush_when_ready()
    assert first_block(hooks.site, "quiet") == b"b" * BLOCK
    said = record(hooks.site, "quiet")
    assert (said["kind"], said["keep_seconds"]) == ("application", 30 * 86400)
    assert [(ran["name"], ran["outcome"]) for ran in said["hooks"]] == [("a", "done"), ("b", "done")]


def test_a_hook_that_fails_leaves_no_marker_and_nothing_frozen(hooks: Hooks) -> None:
    hooks.configure(("a", "", ""), ("b", "sys.exit(7)", ""), ("c", "", ""))
    done = hooks.site.agent_command("marker", "failed").must(HookFailed.exit_code)
    assert "hook b: before: exit code 7" in done.err
    assert hooks.ran == ["+a", "+b", "-b", "-a"]
    assert "failed" not in names(hooks.site)


def test_a_marker_all_the_same_says_what_failed(hooks: Hooks) -> None:
    hooks.configure(("a", "sys.exit(7)", ""), ("b", "", ""))
    hooks.site.agent_command("marker", "anyway", "--application", "--even-if-hooks-fail").must()
    assert hooks.ran == ["+a", "+b", "-b", "-a"]
    said = record(hooks.site, "anyway")
    assert said["kind"] == "bookmark"
    assert "keep_seconds" not in said
    assert [ran["outcome"] for ran in said["hooks"]] == ["exit code 7", "done"]


def test_a_hook_that_hangs_is_undone(hooks: Hooks) -> None:
    hooks.configure(("a", "", ""), ("b", "import time; time.sleep(600)", ""))
    done = hooks.site.agent_command("marker", "hung").must(HookFailed.exit_code)
    assert "hook b: before: timed out" in done.err
    assert hooks.ran == ["+a", "+b", "-b", "-a"]


def test_a_hook_that_does_not_undo_is_told_and_the_marker_is_there(hooks: Hooks) -> None:
    hooks.configure(("a", "", "sys.exit(3)"))
    done = hooks.site.agent_command("marker", "stuck").must(HookFailed.exit_code)
    assert done.out.endswith(" stuck\n")
    assert "hook a: after: exit code 3" in done.err
    assert "stuck" in names(hooks.site)


def test_no_hooks_are_run_where_none_are_wanted(hooks: Hooks) -> None:
    hooks.configure(("a", "sys.exit(7)", ""))
    hooks.site.agent_command("marker", "plain", "--no-hooks", "--keep", "forever").must()
    assert hooks.ran == []
    assert record(hooks.site, "plain")["keep_seconds"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whoever_interrupts_leaves_nothing_frozen(hooks: Hooks, number: signal.Signals) -> None:
    hooks.configure(("a", "", ""), ("b", "import time; time.sleep(600)", ""))
    words = [str(BIN / "cdp-agent"), "marker", "interrupted", "--config", str(hooks.site.config)]
    with subprocess.Popen(
        words, env=hooks.site.environment(hooks.site.root / "home"), stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: hooks.ran == ["+a", "+b"], "a hook hangs", WAIT_SECONDS_MAX)
        os.kill(process.pid, number)
        assert process.wait(WAIT_SECONDS_MAX) != 0
    wait_until(lambda: hooks.ran == ["+a", "+b", "-b", "-a"], "all is undone", WAIT_SECONDS_MAX)
    assert "interrupted" not in names(hooks.site)


def test_a_marker_that_is_not_protected_in_time_holds_nothing_still() -> None:
    """The store is gone: the instant is taken, the hooks are undone at once and do not wait for the store."""
    with new_site({"db": 2 * MIB}, encrypted=False) as site:
        site.init().must()
        site.start()
        site.flush_when_ready()
        hooks = Hooks(site)
        hooks.configure(("a", "", ""))
        away = site.base / "away"
        site.container.rename(away)
        done = site.agent_command("marker", "later", "--timeout", "2").must(Incomplete.exit_code)
        assert hooks.ran == ["+a", "-a"], done
        away.rename(site.container)
        site.flush_when_ready()
        assert first_block(site, "later") == b"a" * BLOCK, shlex.join(hooks.ran)
