"""Hooks of a marker: whatever fails, hangs or is killed, everything that was begun is undone, in reverse."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_agent.marker_hooks import Quiesced, quiesced
from cdp_container.clock import SystemClock
from cdp_container.domain.point_settings import MarkerHookSettings
from cdp_container.errors import HookFailed
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

CLOCK = SystemClock()
HANGS_SECONDS = "300"
WAIT_SECONDS_MAX = 60.0


class Stage:
    """Scripts that say in one file what ran, in its order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()

    def command(self, word: str, then: str = "exit 0") -> list[str]:
        script = self.folder / f"{word}.sh"
        script.write_text(f"#!/bin/sh\necho {word} >> {self.log}\n{then}\n")
        script.chmod(stat.S_IRWXU)
        return [str(script)]

    def hook(
        self, name: str, before: str = "exit 0", after: str = "exit 0", timeout: str = "30s"
    ) -> MarkerHookSettings:
        return MarkerHookSettings(
            name=name,
            before=self.command(f"+{name}", before),
            after=self.command(f"-{name}", after),
            timeout=timeout,  # type: ignore[arg-type]  # as a configuration has it
        )

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def around(hooks: list[MarkerHookSettings], limit_seconds: float = 60.0, goes_on: bool = False) -> Quiesced:
    with quiesced(hooks, limit_seconds, CLOCK, os.environ, goes_on) as held:
        pass
    return held


def outcomes(held: Quiesced) -> list[tuple[str, str, str]]:
    return [(ran.stage, ran.name, ran.outcome) for ran in (*held.befores, *held.afters)]


def test_one_that_fails_ends_all_and_what_was_begun_is_undone(stage: Stage) -> None:
    held = around([stage.hook("a"), stage.hook("b", before="exit 3"), stage.hook("c")])
    assert stage.ran == ["+a", "+b", "-b", "-a"]
    assert [ran.words.split(" (")[0] for ran in held.failed] == ["hook b: before: exit code 3"]
    assert held.ended == "failed"


def test_one_that_hangs_is_killed_with_all_that_it_started(stage: Stage) -> None:
    child = stage.folder / "child"
    before = f"sleep {HANGS_SECONDS} & echo $! > {child}; wait"
    held = around([stage.hook("a", before=before, timeout="300ms")])
    assert stage.ran == ["+a", "-a"]
    assert outcomes(held)[0] == ("before", "a", "timed out")
    pid = int(child.read_text())
    wait_until(lambda: not _runs(pid), "the child is dead", WAIT_SECONDS_MAX)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_is_not_there_or_dies_by_a_signal(stage: Stage) -> None:
    absent = MarkerHookSettings(name="x", before=[str(stage.folder / "absent")], after=["/bin/true"])
    assert outcomes(around([absent]))[0][2].startswith("cannot be started: No such file")
    assert outcomes(around([stage.hook("y", before="kill -9 $$")]))[0][2] == "signal 9"


def test_an_after_that_fails_or_hangs_keeps_no_other_from_running(stage: Stage) -> None:
    hooks = [
        stage.hook("a"),
        stage.hook("b", after="exit 1"),
        stage.hook("c", after=f"sleep {HANGS_SECONDS}", timeout="300ms"),
    ]
    held = around(hooks)
    assert stage.ran == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert [ran.outcome for ran in held.afters] == ["timed out", "exit code 1", "done"]


def test_whoever_wants_the_marker_all_the_same_goes_on(stage: Stage) -> None:
    with quiesced(
        [stage.hook("a", before="exit 1"), stage.hook("b")], 60.0, CLOCK, os.environ, goes_on=True
    ) as held:
        assert stage.ran == ["+a", "+b"]
        assert not held.ended
    assert stage.ran == ["+a", "+b", "-b", "-a"]
    assert [ran.name for ran in held.failed] == ["a"]


def test_the_limit_is_one_for_all(stage: Stage) -> None:
    """Each may take longer for itself, and the others are not even begun then."""
    hooks = [stage.hook("a", before=f"sleep {HANGS_SECONDS}"), stage.hook("b")]
    held = around(hooks, limit_seconds=0.5, goes_on=True)
    assert stage.ran == ["+a", "-a"]
    assert held.ended == "limit"


def test_a_marker_that_never_comes_holds_nothing_still_for_ever(stage: Stage) -> None:
    with quiesced([stage.hook("a")], 1.0, CLOCK, os.environ, False) as held:
        wait_until(lambda: stage.ran == ["+a", "-a"], "it is undone", WAIT_SECONDS_MAX)
        assert held.until_ns < CLOCK.boottime_ns()
    assert held.ended == "limit"


def test_an_error_in_between_undoes(stage: Stage) -> None:
    seen: list[str] = []

    def interrupted() -> None:
        with quiesced([stage.hook("a")], 60.0, CLOCK, os.environ, False):
            seen.extend(stage.ran)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["+a"]
    assert stage.ran == ["+a", "-a"]


def test_it_is_undone_once(stage: Stage) -> None:
    with quiesced([stage.hook("a")], 60.0, CLOCK, os.environ, False) as held:
        held.release()
        assert stage.ran == ["+a", "-a"]
    assert stage.ran == ["+a", "-a"]


def test_no_hooks_need_no_process() -> None:
    with quiesced([], 60.0, CLOCK, {}, False) as held:
        assert held == Quiesced()


def test_a_hook_gets_no_credentials(stage: Stage) -> None:
    seen = stage.folder / "seen"
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": "s3cret", "CDP_PASSPHRASE": "s3cret", "HERE": "1"}
    with quiesced([stage.hook("a", before=f"env > {seen}")], 60.0, CLOCK, environment, False):
        pass
    assert "s3cret" not in seen.read_text()
    assert "HERE=1" in seen.read_text()


PARENT = """
import os, signal, sys
from cdp_agent.marker_hooks import quiesced
from cdp_container.clock import SystemClock
from cdp_container.domain.point_settings import MarkerHookSettings
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it
hooks = [MarkerHookSettings.model_validate_json(line) for line in sys.argv[1:]]
with quiesced(hooks, 60.0, SystemClock(), os.environ, False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_whoever_is_killed_leaves_nothing_frozen(stage: Stage, number: signal.Signals) -> None:
    hooks = [stage.hook("a"), stage.hook("b")]
    parent = _parent(hooks)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"held\n"
    parent.send_signal(number)
    _ends(parent)
    wait_until(lambda: stage.ran == ["+a", "+b", "-b", "-a"], "all is undone", WAIT_SECONDS_MAX)


def test_whoever_is_killed_while_a_hook_hangs_leaves_nothing_frozen(stage: Stage) -> None:
    parent = _parent([stage.hook("a"), stage.hook("b", before=f"sleep {HANGS_SECONDS}"), stage.hook("c")])
    wait_until(lambda: stage.ran == ["+a", "+b"], "one hangs", WAIT_SECONDS_MAX)
    parent.kill()
    _ends(parent)
    wait_until(lambda: stage.ran == ["+a", "+b", "-b", "-a"], "all is undone", WAIT_SECONDS_MAX)


def _parent(hooks: list[MarkerHookSettings]) -> subprocess.Popen[bytes]:
    lines = [json.dumps({**hook.model_dump(), "timeout": "30s"}) for hook in hooks]
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, *lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _ends(parent: subprocess.Popen[bytes]) -> None:
    parent.wait(WAIT_SECONDS_MAX)
    for pipe in (parent.stdin, parent.stdout):
        assert pipe is not None
        pipe.close()


def test_a_guard_that_was_killed_is_told_of(stage: Stage) -> None:
    with (
        pytest.raises(HookFailed, match="was killed"),
        quiesced([stage.hook("a", before="kill -9 $PPID")], 60.0, CLOCK, os.environ, False),
    ):
        pass


def test_a_guard_takes_no_signal_for_an_answer(stage: Stage) -> None:
    with quiesced([stage.hook("a")], 60.0, CLOCK, os.environ, False) as held:
        assert held._process is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            held._process.send_signal(number)
        assert stage.ran == ["+a"]
    assert stage.ran == ["+a", "-a"]
