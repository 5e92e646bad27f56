"""The supervisor: restarts with back-off, ends for good where a child says so, one lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.supervisor import (
    BACKOFF_MAX_SECONDS,
    STREAMER_LOCK,
    STREAMER_LOCK_SECONDS,
    ChildSpec,
    Supervisor,
    backoff_seconds,
    streamer_lock,
    take_lock,
)
from cdp_container.clock import SystemClock
from cdp_container.errors import AlreadyRunning

pytestmark = pytest.mark.slow

PYTHON = sys.executable
DIES_THEN_ENDS = """
import os, sys
with open(sys.argv[1], "a") as log:
    log.write("x")
raise SystemExit(66 if os.path.getsize(sys.argv[1]) > 1 else 1)
"""
TAKES_THE_LOCK = """
import pathlib, sys
from cdp_agent.supervisor import take_lock
from cdp_container.clock import SystemClock
take_lock(pathlib.Path(sys.argv[1]), SystemClock())
"""


def child(name: str, code: str, *args: str, final: int | None = None, ends: bool = False) -> ChildSpec:
    codes = frozenset() if final is None else frozenset({final})
    return ChildSpec(name, (PYTHON, "-S", "-c", code, *args), codes, ends)


def supervisor(*children: ChildSpec, said: list[str]) -> Supervisor:
    return Supervisor(children, SystemClock(), lambda: "", said.append)


def test_backoff_grows_to_its_limit() -> None:
    pauses = [backoff_seconds(deaths) for deaths in range(1, 20)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == BACKOFF_MAX_SECONDS


SHOWS_THE_ALLOCATOR = """
import os, sys
with open(sys.argv[1], "w") as log:
    log.write(os.environ["MALLOC_ARENA_MAX"] + " " + os.environ["MALLOC_TRIM_THRESHOLD_"])
raise SystemExit(66)
"""


def test_a_child_gives_freed_memory_back_and_the_administrator_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    seen = tmp_path / "seen"
    run = supervisor(child("splitter", SHOWS_THE_ALLOCATOR, str(seen), final=66, ends=True), said=[])
    assert run.run() == 66
    assert seen.read_text() == "1 123"


DIES_WITH_ITS_PARENT = """
import os, sys
from cdp_agent.cli.run import die_with_parent
from cdp_container.errors import AlreadyRunning
if sys.argv[1] == "dead":
    os.environ["CDP_SUPERVISOR_PID"] = "999999999"
try:
    die_with_parent()
except AlreadyRunning:
    raise SystemExit(66)
raise SystemExit(67)
"""


@pytest.mark.parametrize(("supervised_by", "code"), [("dead", 66), ("living", 67)])
def test_a_child_that_comes_to_life_after_its_supervisors_death_ends(supervised_by: str, code: int) -> None:
    """Else it would go on for ever, and hold the locks that the next agent waits for."""
    argv = (PYTHON, "-c", DIES_WITH_ITS_PARENT, supervised_by)
    run = Supervisor(
        [ChildSpec("streamer", argv, frozenset({code}), ends_everything=True)],
        SystemClock(),
        lambda: "",
        lambda _: None,
    )
    assert run.run() == code


def test_a_final_code_of_the_splitter_ends_everything() -> None:
    said: list[str] = []
    run = supervisor(child("splitter", "raise SystemExit(66)", final=66, ends=True), said=said)
    assert run.run() == 66
    assert "exit code 66" in said[0]


def test_a_final_code_of_the_streamer_leaves_the_splitter_running() -> None:
    """Only our own stop request, sent once the streamer's end was reported, ends the run."""
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    children = [
        child("splitter", "import signal; signal.pause()", ends=True),
        child("streamer", "raise SystemExit(51)", final=51),
    ]
    assert Supervisor(children, SystemClock(), lambda: "", report).run() == 0
    assert said[0].startswith("streamer ended for good")


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    log = tmp_path / "starts"
    run = supervisor(child("splitter", DIES_THEN_ENDS, str(log), final=66, ends=True), said=said)
    assert run.run() == 66
    assert log.read_text() == "xx"
    assert "starting it again" in said[0]


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    fd = take_lock(tmp_path / "lock", SystemClock())
    try:
        argv = [PYTHON, "-c", TAKES_THE_LOCK, str(tmp_path / "lock")]
        other = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert other.returncode != 0
        assert f"process {os.getpid()} holds it" in other.stderr
        with pytest.raises(AlreadyRunning):
            take_lock(tmp_path / "lock", SystemClock())
    finally:
        os.close(fd)


class Impatient(SystemClock):
    """Sleeping costs no time; `slept` counts what it would have."""

    slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def boottime_ns(self) -> int:
        return int(self.slept * 1e9)


def test_a_streamer_waits_for_one_that_is_ending(tmp_path: Path) -> None:
    holder = take_lock(tmp_path / STREAMER_LOCK, SystemClock())

    class Ending(Impatient):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.slept - seconds < 3.0 <= self.slept:
                os.close(holder)

    with streamer_lock(tmp_path, Ending()), pytest.raises(AlreadyRunning):
        take_lock(tmp_path / STREAMER_LOCK, SystemClock())
    os.close(take_lock(tmp_path / STREAMER_LOCK, SystemClock()))


def test_a_streamer_does_not_wait_for_ever(tmp_path: Path) -> None:
    holder, clock = take_lock(tmp_path / STREAMER_LOCK, SystemClock()), Impatient()
    try:
        with pytest.raises(AlreadyRunning), streamer_lock(tmp_path, clock):
            raise AssertionError("both have it")
    finally:
        os.close(holder)
    assert clock.slept == pytest.approx(STREAMER_LOCK_SECONDS, abs=1.0)


def test_children_stop_in_their_order(tmp_path: Path) -> None:
    """What the splitter captured last is still sent."""
    log = tmp_path / "log"
    code = """
import signal, sys
def stop(number, frame):
    with open(sys.argv[1], "a") as log:
        log.write(sys.argv[2] + " ")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1] + sys.argv[2], "w").close()
while True:
    signal.pause()
"""

    def ready() -> str:
        return "ready" * all(Path(f"{log}{name}").exists() for name in ("splitter", "streamer"))

    def report(line: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    children = [child(name, code, str(log), name, ends=True) for name in ("splitter", "streamer")]
    assert Supervisor(children, SystemClock(), ready, report).run() == 0
    assert log.read_text().split() == ["splitter", "streamer"]


def test_a_child_runs_as_it_is_wished_for(tmp_path: Path) -> None:
    """It is ended and started anew where the wish changes, and does not run where there is none."""
    log, wish, said = tmp_path / "log", tmp_path / "wish", list[str]()
    code = "import sys,signal; open(sys.argv[1],'a').write('x'); signal.pause()"
    spec = replace(child("one", code, str(log)), wish=lambda: wish.read_text() if wish.exists() else "")
    steps = iter(["a", "b", "", "c", None])

    def watch() -> None:
        """The next wish, once what was wished for is so."""
        runs = log.stat().st_size if log.exists() else 0
        told = wish.read_text() if wish.exists() else None
        is_so = {None: True, "a": runs == 1, "b": runs == 2, "": len(said) == 2, "c": runs == 3}
        if is_so[told]:
            following = next(steps)
            if following is None:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                wish.write_text(following)

    assert replace(supervisor(spec, said=said), watch=watch).run() == 0
    assert said == ["one begins anew", "one is not needed any more"]
