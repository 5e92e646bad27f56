"""The supervisor: restarts with back-off, ends for good where a child says so, one lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_agent.supervisor import BACKOFF_MAX_SECONDS, ChildSpec, Supervisor, backoff_seconds, take_lock
from cdp_container.clock import SystemClock
from cdp_container.errors import AlreadyRunning

PYTHON = sys.executable


def spec(name: str, code: str, final: frozenset[int] = frozenset(), *, ends: bool = False) -> ChildSpec:
    return ChildSpec(name, (PYTHON, "-S", "-c", code), final, ends)


def test_backoff_grows_to_its_limit() -> None:
    pauses = [backoff_seconds(deaths) for deaths in range(1, 20)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == BACKOFF_MAX_SECONDS


def test_a_final_code_of_the_splitter_ends_everything(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(
        [spec("splitter", "raise SystemExit(66)", frozenset({66}), ends=True)],
        SystemClock(),
        lambda: False,
        said.append,
    )
    assert supervisor.run() == 66
    assert "exit code 66" in said[0]


def test_a_final_code_of_the_streamer_leaves_the_splitter_running(tmp_path: Path) -> None:
    """Only our own stop request, sent once the streamer's end was reported, ends the run."""
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    children = [
        spec("splitter", "import signal; signal.pause()", ends=True),
        spec("streamer", "raise SystemExit(51)", frozenset({51})),
    ]
    assert Supervisor(children, SystemClock(), lambda: False, report).run() == 0
    assert said[0].startswith("streamer ended for good")


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "starts"
    code = (
        f"open({str(log)!r}, 'a').write('x')
"
        f"import os
raise SystemExit(66 if os.path.getsize({str(log)!r}) > 1 else 1)"
    )
    supervisor = Supervisor(
        [spec("splitter", code, frozenset({66}), ends=True)], SystemClock(), lambda: False, lambda _: None
    )
    assert supervisor.run() == 66
    assert log.read_text() == "xx"


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    fd = take_lock(tmp_path / "lock")
    try:
        path = str(tmp_path / "lock")
        code = f"from cdp_agent.supervisor import take_lock as t
from pathlib import Path
t(Path({path!r}))"
        other = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0
        assert f"process {os.getpid()} holds it" in other.stderr
        with pytest.raises(AlreadyRunning):
            take_lock(tmp_path / "lock")
    finally:
        os.close(fd)
