"""Programs that checks run: those that hang, flood, leave children behind, or print what is secret."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cdp_container.clock import SystemClock
from rehydrate.rehearsal import programs, strays
from rehydrate.rehearsal.programs import EXCERPT_BYTES_MAX, HIDDEN, Ended, Redaction, run_program
from tests.waiting import wait_until

SECRET = "correct horse battery staple"


def run(script: str, where: Path, limit_seconds: float = 60.0, hide: Redaction | None = None) -> Ended:
    words = [sys.executable, "-c", script]
    return run_program(words, os.environ, where, limit_seconds, hide or Redaction([]), SystemClock())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_the_code_and_what_was_printed(tmp_path: Path) -> None:
    ended = run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", tmp_path)
    assert ended.exit_code == 3
    assert sorted(ended.excerpt.split()) == ["err", "out"]


def test_it_runs_in_the_directory_and_reads_nothing(tmp_path: Path) -> None:
    ended = run("import os, sys; print(os.getcwd(), repr(sys.stdin.read()))", tmp_path)
    assert ended.excerpt.strip() == f"{tmp_path} ''"


def test_a_signal_is_told(tmp_path: Path) -> None:
    assert run("import os; os.kill(os.getpid(), 9)", tmp_path).exit_code == -9


def test_one_that_hangs_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "KILL_SECONDS", 0.2)
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "signal.pause()\n"
    )
    ended = run(script, tmp_path, limit_seconds=1.0)
    assert ended.exit_code is None
    wait_until(lambda: not is_alive(int(ended.excerpt)), "the child is dead", 30)


def test_an_interruption_while_it_is_started_leaves_none_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, pids = subprocess.Popen, []

    def started(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 (passed on)
        process = real(*arguments, **options)
        pids.append(process.pid)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", started)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("import signal; signal.pause()", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    (pid,) = pids
    wait_until(lambda: not is_alive(pid), "it is dead", 30)


def test_what_it_leaves_running_ends_with_it(tmp_path: Path) -> None:
    ended = run("import os, signal; pid = os.fork()\nif pid: print(pid)\nelse: signal.pause()", tmp_path)
    assert ended.exit_code == 0
    wait_until(lambda: not is_alive(int(ended.excerpt)), "the child is dead", 30)


@pytest.mark.parametrize("signum", ["SIG_DFL", "SIG_IGN"])
@pytest.mark.parametrize("code", [0, None])
def test_one_that_left_session_and_group_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, signum: str
) -> None:
    """As daemons do: it has another parent, session and group; and a child of its own."""
    monkeypatch.setattr(programs, "KILL_SECONDS", 0.3)
    script = (
        "import os, signal\n"
        f"signal.signal(signal.SIGTERM, signal.{signum})\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.fork()\n"
        "    os.write(1, b'%d ' % os.getpid())\n"
        "    signal.pause()\n"
        "os.wait()\n" + ("" if code == 0 else "signal.pause()\n")
    )
    before = strays.children()
    ended = run(script, tmp_path, limit_seconds=60.0 if code == 0 else 1.0)
    assert ended.exit_code == code
    assert ended.left == ()
    assert not any(is_alive(int(pid)) for pid in ended.excerpt.split())
    assert strays.children() <= before, "nobody is left that was not waited for"


def test_children_of_our_own_are_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as ours:
        try:
            assert run("print(1)", tmp_path).exit_code == 0
            assert is_alive(ours.pid)
        finally:
            ours.kill()


def test_one_that_cannot_be_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "KILL_SECONDS", 0.1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda pid, signum: None)  # as with one that waits for a disk
        ended = run(
            "import os, signal\n"
            "low, high = os.pipe()\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    os.closerange(1, 3)\n"
            "    os.write(high, b'1')\n"
            "    signal.pause()\n"
            "os.read(low, 1)\n",
            tmp_path,
        )
    (left,) = ended.left
    assert is_alive(left)
    os.kill(left, signal.SIGKILL)
    os.waitpid(left, 0)


def test_of_a_flood_the_end_is_kept(tmp_path: Path) -> None:
    ended = run("print('x' * 3_000_000); print('the end')", tmp_path)
    assert ended.excerpt.endswith("the end\n")
    assert len(ended.excerpt) == EXCERPT_BYTES_MAX


def test_no_secret_is_kept_wherever_it_is_cut(tmp_path: Path) -> None:
    hide = Redaction([SECRET, "abc"])
    ended = run(f"print('{SECRET} abc')", tmp_path, hide=hide)
    assert ended.excerpt == f"{HIDDEN} abc\n"  # what is too short would be found in any text
    script = f"import os\nfor _ in range(5000): os.write(1, b'{SECRET}')"
    flood = run(script, tmp_path, hide=hide).excerpt
    assert flood
    assert not any(word in flood for word in SECRET.split())
    assert hide(f"a {SECRET} b") == f"a {HIDDEN} b"


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    assert run("import os; os.write(1, b'\\xff\\x1b[2J')", tmp_path).excerpt == "�\x1b[2J"


def test_secrets_are_known_by_their_names_and_not_handed_on() -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "1", "AWS_SESSION_TOKEN": "2", "CDP_PASSPHRASE": "3", "HOME": "/"}
    assert programs.secrets_in(environment) == ["1", "2", "3"]
    assert programs.without_secrets(environment) == {"HOME": "/"}
