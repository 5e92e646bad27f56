"""A plain QEMU as a hypervisor: scripts that fail, monitors that lie, agents, processes that stay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot import qemu
from rehydrate.boot.machines import Power, Ready, Seen
from rehydrate.boot.processes import pids_with
from rehydrate.boot.qemu import QemuMachines
from rehydrate.rehearsal import served
from tests.unit.rehydrate.boot.vms import ready
from tests.waiting import wait_until

SECONDS_MAX = 60.0
Answer = Callable[[str, Any], Any]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="q-") as folder:
        yield Path(folder)


@asynccontextmanager
async def speaking(path: str, answer: Answer, greeting: bytes = b"") -> Any:  # noqa: ANN401
    """Somebody who answers each command with what `answer` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while line := await reader.readline():
            asked = json.loads(line.rpartition(b"\xff")[2])
            said = answer(asked["execute"], asked.get("arguments"))
            writer.write(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n")
        writer.close()

    async with await asyncio.start_unix_server(serve, path) as server:
        yield server


def run(work: Awaitable[Any]) -> Any:  # noqa: ANN401
    async def within() -> Any:  # noqa: ANN401
        return await asyncio.wait_for(work, SECONDS_MAX)

    return asyncio.run(within())


# --- starting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no disk >&2; exit 3", "exit code 3: no disk"),
        ("exit 0", "it ended at once"),
        ("exec no-such-qemu -daemonize", "exit code 127: .*not found"),
        ("kill -SEGV $$", "signal 11"),
    ],
)
def test_a_script_that_ends_says_why(directory: Path, script: str, why: str) -> None:
    with pytest.raises(MachineFailed, match=why):
        run(QemuMachines().start(ready(directory, script=script + "\n")))
    assert (directory / "web-dr-test.sh").stat().st_mode & 0o777 == 0o700


def test_a_script_that_hangs_is_ended(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "START_SECONDS_MAX", 0.5)
    with pytest.raises(MachineFailed, match=r"did not start within 0\.5 s"):
        run(QemuMachines().start(ready(directory, script=f"echo $$ > {directory}/pid; exec sleep 600\n")))
    pid = (directory / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_the_console_of_the_start_before_is_put_aside(directory: Path) -> None:
    one = ready(directory, script="exit 1\n")
    Path(one.known.path("console")).write_text("login:")
    with pytest.raises(MachineFailed):
        run(QemuMachines().start(one))
    assert not Path(one.known.path("console")).exists()
    assert Path(one.known.path("console.before")).read_text() == "login:"


# --- looking ---------------------------------------------------------------------------------------


def looked(one: Ready, answer: Answer, greeting: bytes = b'{"QMP": {}}\n') -> Seen:
    async def both() -> Seen:
        async with speaking(one.known.path("qmp.sock"), answer, greeting):
            return await QemuMachines().look(one.known)

    found: Seen = run(both())
    return found


def test_how_it_is_said_to_be(directory: Path) -> None:
    one = ready(directory)
    assert run(QemuMachines().look(one.known)) == Seen(Power.OFF)
    assert looked(one, lambda *_: {"return": {"status": "running"}}) == Seen(Power.RUNNING, "running")
    ends = f"; kill $(cat {one.known.path('pid')}) ends it"
    still = looked(one, lambda *_: {"return": {"status": "io-error"}})
    assert still == Seen(Power.STILL, f"io-error: a disk failed{ends}")
    assert looked(one, lambda *_: {"return": {"status": "paused"}}).words == f"paused{ends}"
    assert "`emulate: true`" in looked(one, lambda *_: {"return": {"status": "internal-error"}}).words


def test_one_that_says_nothing_is_given_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "ASK_SECONDS_MAX", 0.2)
    with pytest.raises(MachineFailed, match=r"no answer within 0\.2 s"):
        looked(ready(directory), lambda *_: b"", b"")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"{" + b" " * (2 << 20) + b"\n", "."),
        (b'{"error": {"desc": "busy"}}\n', "busy"),
        (b'{"error": "busy"}\n', "None"),
        (b'{"event": "X"}\n' * 10_000, "no answer among 10000"),
    ],
)
def test_what_makes_no_sense_is_refused(directory: Path, said: bytes, why: str) -> None:
    with pytest.raises(MachineFailed, match=why):
        looked(ready(directory), lambda *_: said)


# --- the guest's agent -----------------------------------------------------------------------------


class Agent:
    """An agent of a guest: what was half said to somebody before comes first.

    It does as QEMU's own (test_real_agent.py), which calls the byte before a synchronisation no JSON.
    """

    def __init__(self, code: int = 0) -> None:
        self.ran: list[list[str]] = []
        self.code = code
        self.asked = 0

    def answer(self, command: str, given: Any) -> Any:  # noqa: ANN401
        if command == "guest-sync-delimited":
            return (
                b'{"retu\n{"return": {"pid": 3}}\n{"error": {"desc": "JSON parse error, stray"}}\n'
                b'\xff{"return": 5}\n\xff' + json.dumps({"return": given["id"]}).encode() + b"\n"
            )
        if command == "guest-exec":
            self.ran.append([given["path"], *given["arg"]])
            return {"return": {"pid": 7}}
        self.asked += 1
        if self.asked % 2:
            return {"return": {"exited": False}}
        return {"return": {"exited": True, "exitcode": self.code, "err-data": "bm8gY2FyZA=="}}


class Silent(Agent):
    """One that hears from `word` on, and says nothing."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def answer(self, command: str, given: Any) -> Any:  # noqa: ANN401
        return b"" if command == self.word else super().answer(command, given)


def asked(one: Ready, agent: Agent, commands: list[list[str]]) -> None:
    async def both() -> None:
        async with speaking(one.known.path("agent.sock"), agent.answer):
            await QemuMachines().ask_agent(one.known, commands)

    run(both())


def test_a_guests_agent_runs_all_of_it_in_order(directory: Path) -> None:
    agent = Agent()
    commands = [["/bin/sh", "-c", "x", "$(id)"], ["/bin/true"]]
    asked(ready(directory), agent, commands)
    assert agent.ran == commands


def test_what_fails_in_the_guest_is_told(directory: Path) -> None:
    agent = Agent(code=1)
    with pytest.raises(MachineFailed, match="/bin/sh ended with 1: no card"):
        asked(ready(directory), agent, [["/bin/sh"], ["/bin/true"]])
    assert agent.ran == [["/bin/sh"]]
    with pytest.raises(MachineFailed, match="refused"):
        run(QemuMachines().ask_agent(ready(directory).known, [["/bin/true"]]))


@pytest.mark.parametrize("word", ["guest-sync-delimited", "guest-exec", "guest-exec-status"])
def test_an_agent_that_does_not_answer_is_asked_anew(
    directory: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Its guest may have been restarted amid it; whoever asks says it again."""
    monkeypatch.setattr(qemu, "ASK_SECONDS_MAX", 0.2)
    with pytest.raises(MachineFailed, match=r"agent of .*no answer within 0\.2 s"):
        asked(ready(directory), Silent(word), [["/bin/true"]])


# --- taking away -----------------------------------------------------------------------------------


def test_what_does_not_run_is_gone_already(directory: Path) -> None:
    one = ready(directory)
    run(QemuMachines().remove(one.known))
    Path(one.known.path("pid")).write_text("no number")
    run(QemuMachines().remove(one.known))


def test_a_process_that_got_the_number_of_an_old_one_is_left_alone(directory: Path) -> None:
    one = ready(directory)
    other = subprocess.Popen(["/bin/sleep", "600"])
    try:
        Path(one.known.path("pid")).write_text(f"{other.pid}\n")
        run(QemuMachines().remove(one.known))
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_that_hears_neither_monitor_nor_signal_is_killed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "STOP_SECONDS_MAX", 0.5)
    one = ready(directory)
    pid = one.known.path("pid")
    deaf = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[2], 'w').write(f'{os.getpid()}\\n'); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", deaf, "-pidfile", pid, "-uuid", one.known.uuid])
    try:
        wait_until(
            lambda: os.path.exists(pid) and Path(pid).read_text().endswith("\n"), "it runs", SECONDS_MAX
        )
        run(QemuMachines().remove(one.known))
        assert process.wait(SECONDS_MAX) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


@contextmanager
def forgotten(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with some arguments, and nothing else that tells of it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_one_that_no_file_tells_of_is_found_by_its_arguments(directory: Path) -> None:
    one = ready(directory / "gone")
    pid = one.known.path("pid")
    marked, uuid = ("-pidfile", pid), ("-uuid", one.known.uuid)
    with forgotten(*marked, *uuid) as process, forgotten("-x", pid, *uuid) as other, forgotten(*uuid):
        wait_until(lambda: pids_with("-pidfile", pid), "it runs", SECONDS_MAX)
        seen = run(QemuMachines().look(one.known))
        assert seen.power is Power.STILL, "never started a second time"
        assert str(process.pid) in seen.words
        run(QemuMachines().remove(one.known))
        assert process.wait(SECONDS_MAX) == -signal.SIGTERM
        assert other.poll() is None
        assert run(QemuMachines().look(one.known)) == Seen(Power.OFF)


def test_one_that_does_not_end_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "STOP_SECONDS_MAX", 0.1)
    one = ready(directory)
    with forgotten("-pidfile", one.known.path("pid"), "-uuid", one.known.uuid) as process:
        wait_until(lambda: pids_with("-pidfile", one.known.path("pid")), "it runs", SECONDS_MAX)
        monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
        with pytest.raises(MachineFailed, match=f"process {process.pid} does not end"):
            run(QemuMachines().remove(one.known))


def test_what_serves_an_overlay_that_is_gone_is_ended(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "STOP_SECONDS_MAX", 0.5)
    overlay, other = directory / "gone" / "served", directory / "other"
    with (
        forgotten("serve", "/c", "--overlay", str(overlay)) as process,
        forgotten("--overlay", str(other)) as theirs,
    ):
        wait_until(lambda: pids_with("--overlay", str(overlay)), "it runs", SECONDS_MAX)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pidfd_send_signal", lambda *_: None)
            with pytest.raises(MachineFailed, match=f"process {process.pid} does not end"):
                served.end_left(overlay)
        served.end_left(overlay)
        assert process.wait(SECONDS_MAX) == -signal.SIGTERM
        assert theirs.poll() is None
        served.end_left(overlay)


def test_documents_that_the_guest_wrote_since_are_kept(directory: Path) -> None:
    one = ready(directory, script="exit 1\n")
    beside = {"web-dr-test.vars.fd": b"old", "x.seed.iso": b"new"}
    one = replace(one, documents=replace(one.documents, beside=beside))
    (directory / "web-dr-test.vars.fd").write_bytes(b"the guest's")
    with pytest.raises(MachineFailed):
        run(QemuMachines().start(one))
    assert (directory / "web-dr-test.vars.fd").read_bytes() == b"the guest's"
    assert (directory / "x.seed.iso").read_bytes() == b"new"
