"""Processes that are found by their arguments: only those that are meant, though others have their paths."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rehydrate.boot.lines import Line
from rehydrate.boot.machines import Known
from rehydrate.boot.processes import has_words, pids_with
from rehydrate.boot.qemu import QemuMachines
from rehydrate.rehearsal import served
from rehydrate.serve.companion import PARENT_VARIABLE
from tests.waiting import wait_until

SECONDS_MAX = 60.0
OURS = "00000000-0000-4000-8000-000000000001"
THEIRS = "00000000-0000-4000-8000-000000000002"


@contextmanager
def running(*words: str, parent: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process that is found by these words, of which the first two are an option."""
    program = [sys.executable, "-c", "import time; time.sleep(600)", *words]
    process = subprocess.Popen(program, env={**os.environ, PARENT_VARIABLE: parent})
    try:
        wait_until(lambda: has_words(process.pid, words[0], words[1]), "it runs", SECONDS_MAX)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_vm_of_another_rehearsal_that_has_the_same_paths_by_now_is_left_alone(tmp_path: Path) -> None:
    """A rehearsal was killed, its directory removed, and one by another runbook is at work in the same."""
    known = Known("web-dr-test", OURS, str(tmp_path), "web-dr-test")
    marked = ("-pidfile", known.path("pid"))
    with running(*marked, "-uuid", OURS) as left, running(*marked, "-uuid", THEIRS) as theirs:
        asyncio.run(QemuMachines().remove(known))
        assert left.wait(SECONDS_MAX) == -signal.SIGTERM
        assert theirs.poll() is None
        assert pids_with(*marked) == [theirs.pid], "and nobody starts another one there"


@pytest.mark.parametrize(("uuid", "is_ended"), [(OURS, True), (OURS.upper(), True), (THEIRS, False)])
def test_a_monitor_is_told_to_quit_only_where_it_is_that_of_the_vm(
    monkeypatch: pytest.MonkeyPatch, uuid: str, is_ended: bool
) -> None:
    asked: list[str] = []

    async def ask(_: Line, command: str, *__: object) -> object:
        asked.append(command)
        return {"UUID": uuid} if command == "query-uuid" else {}

    async def work() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'{"QMP": {}}\n')
            await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(answer, known.path("qmp.sock")):
            await QemuMachines().remove(known)

    monkeypatch.setattr(Line, "ask", ask)
    with tempfile.TemporaryDirectory(prefix="q-") as folder:
        known = Known("web-dr-test", OURS, folder, "web-dr-test")
        asyncio.run(asyncio.wait_for(work(), SECONDS_MAX))
    assert ("quit" in asked) == is_ended


def test_what_serves_another_rehearsal_that_lives_is_left_alone(tmp_path: Path) -> None:
    overlay = tmp_path / "served"
    option = ("--overlay", str(overlay))
    with running(*option, parent="1") as left, running(*option, parent=str(os.getpid())) as theirs:
        served.end_left(overlay)
        assert left.wait(SECONDS_MAX) == -signal.SIGTERM
        assert theirs.poll() is None
