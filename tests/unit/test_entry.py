"""An interruption of either command, at whatever moment, is one line and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cdp_agent.cli.main as agent
import rehydrate.cli.main as reader
from cdp_agent.cli.app import app as agent_app
from cdp_container.entry import EXIT_INTERRUPTED, entered
from cdp_container.store.directory import DirectoryStore
from rehydrate.cli.app import app as reader_app
from tests.containers import Site, write
from tests.waiting import wait_until

STEPS = {"": "again", "copy": "goes on"}


@pytest.fixture(autouse=True)
def _keep_the_handler() -> Iterator[None]:
    """After an interruption a process is about to end, but this one is not."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "interrupted: tool: again"),
        (["--help"], "interrupted: tool: again"),
        (["x\x1b[2J"], "interrupted: tool: again"),
        (["copy", "a"], "interrupted: tool copy: goes on"),
    ],
)
def test_an_interruption_names_the_command_and_the_next_step(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *words])

    def load() -> Callable[[], int]:
        raise KeyboardInterrupt  # while it is imported

    def work() -> int:
        raise KeyboardInterrupt

    for loader in (load, lambda: work, lambda: lambda: EXIT_INTERRUPTED):
        assert entered("tool", STEPS, loader) == EXIT_INTERRUPTED
        assert capsys.readouterr() == ("", line + "\n")


def test_what_was_not_interrupted_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert entered("tool", STEPS, lambda: lambda: 3) == 3
    assert capsys.readouterr() == ("", "")


def test_every_command_has_a_next_step() -> None:
    for app, steps in ((agent_app, agent.NEXT_STEPS), (reader_app, reader.NEXT_STEPS)):
        shown = [one for one in app.registered_commands if not one.hidden]
        names = {
            one.name or (one.callback.__name__.replace("_", "-") if one.callback else "") for one in shown
        }
        assert names - {"version"} == set(steps) - {""}


@pytest.mark.parametrize(
    ("module", "library"), [("cdp_agent.cli.main", "typer"), ("rehydrate.cli.main", "typer")]
)
def test_an_interruption_during_the_imports_is_no_traceback(
    module: str, library: str, tmp_path: Path
) -> None:
    """The library stands for everything slow: a Ctrl-C comes while it is imported."""
    (tmp_path / f"{library}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    line = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.insert(0, {str(tmp_path)!r})
from {module} import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", line, "restore"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == EXIT_INTERRUPTED, done
    assert done.stderr.startswith(b"interrupted: "), done
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """The first one waits for requests in flight: for a store that does not answer, a minute and more."""
    site = Site(DirectoryStore(tmp_path), encrypted=False)
    disk = site.add_volume("disk", 1 << 20)
    site.begin_epoch()
    site.protect(site.cut([write(disk, 0, site.rng.randbytes(1 << 20))]))
    line = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from rehydrate import restore
def fetched(*_):
    print("asked", flush=True)
    threading.Event().wait()
restore.fetched = fetched
from rehydrate.cli.main import main
sys.exit(main())
"""
    words = ["restore", str(tmp_path), "--target", str(tmp_path / "disk.raw")]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", line, *words], stdout=pipe, stderr=pipe) as restore:
        assert restore.stdout is not None
        assert restore.stdout.readline() == b"asked\n"

        def has_ended() -> bool:
            restore.send_signal(signal.SIGINT)
            return restore.poll() is not None

        try:
            wait_until(has_ended, "it ends", 30)
        finally:
            restore.kill()
        assert restore.stderr is not None
        told = restore.stderr.read()
    assert restore.returncode == EXIT_INTERRUPTED
    assert told.splitlines()[-1].startswith(b"interrupted: rehydrate restore: ")
    assert told.count(b"interrupted") == 1
    assert b"Traceback" not in told


def test_numpy_starts_no_threads_that_nobody_uses() -> None:
    """Waiting busily, they cost a tenth of a second at every start."""
    line = """
import os
from cdp_container.entry import entered
def load():
    import numpy
    print(len(os.listdir("/proc/self/task")))
    return lambda: 0
entered("tool", {"": ""}, load)
"""
    variables = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", line], env=variables, capture_output=True, check=True)
    assert done.stdout == b"1\n"
