"""QEMU's own guest agent, asked as a plain QEMU's guest's; here it runs on this machine, without a guest."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.machines import Known
from rehydrate.boot.qemu import QemuMachines
from tests.unit.rehydrate.boot.vms import ready
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("qemu-ga")

SECONDS_MAX = 60.0


@contextmanager
def talking(*words: str) -> Iterator[Known]:
    """A VM whose agent's socket is one of a real agent, started with some words more."""
    with tempfile.TemporaryDirectory(prefix="ga-") as folder:
        known = ready(Path(folder)).known
        path = known.path("agent.sock")
        process = subprocess.Popen(["qemu-ga", "-m", "unix-listen", "-p", path, "-t", folder, *words])
        try:
            wait_until(lambda: Path(path).exists() or process.poll() is not None, "it is there", SECONDS_MAX)
            yield known
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def agent() -> Iterator[Known]:
    """One as it comes."""
    with talking() as known:
        yield known


def asked(vm: Known, *commands: list[str]) -> None:
    async def within() -> None:
        await asyncio.wait_for(QemuMachines().ask_agent(vm, commands), SECONDS_MAX)

    asyncio.run(within())


def test_it_runs_all_of_it_in_order_at_the_first_try(agent: Known) -> None:
    said = Path(agent.path("said"))
    append = ["/bin/sh", "-c", 'printf "%s\\n" "$1" >>"$2"', "sh"]
    asked(agent, [*append, "first; $(id)", str(said)], [*append, "second", str(said)])
    assert said.read_text() == "first; $(id)\nsecond\n"


def test_what_fails_there_is_told(agent: Known) -> None:
    with pytest.raises(MachineFailed, match="/bin/sh ended with 3: no card"):
        asked(agent, ["/bin/sh", "-c", "echo no card >&2; exit 3"])
    with pytest.raises(MachineFailed, match="no-such-program"):
        asked(agent, ["/no-such-program"])


def test_one_that_may_run_nothing_says_so() -> None:
    """As some distributions have it."""
    with (
        talking("-b", "guest-exec") as vm,
        pytest.raises(MachineFailed, match=r"guest-exec: .*(disabled|blocked)"),
    ):
        asked(vm, ["/bin/true"])


def test_what_somebody_before_half_said_is_forgotten(agent: Known) -> None:
    with socket.socket(socket.AF_UNIX) as before:
        before.connect(agent.path("agent.sock"))
        before.sendall(b'{"execute": "guest-ping", "argum')
    asked(agent, ["/bin/true"])
