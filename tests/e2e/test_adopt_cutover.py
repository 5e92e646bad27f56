"""The cut-over with a real QEMU and a real guest, of which the target hangs or dies at the worst command."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.adopting.checks import Plan, Volume, Wishes, plan_moves
from cdp_agent.adopting.link import Link, Refused
from cdp_agent.adopting.relay import Relay, check_answers
from cdp_agent.adopting.seen import Job as MirrorJob
from cdp_agent.adopting.seen import look
from cdp_agent.adopting.turn import Agent, Turn
from cdp_agent.adopting.work import Ways, adopt
from cdp_container.clock import SystemClock
from cdp_container.machine_errors import AdoptionUndone
from tests import tiny_vm
from tests.tiny_vm import Guest, Job, formatted, initrd_expecting, tiny_guest
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs("qemu-nbd", *tiny_vm.NEEDS),
    pytest.mark.timeout(400),
]

SIZE = 32 << 20
SECONDS_MAX = 150.0
GIVE_UP_SECONDS = 3.0
HANG_SECONDS = 4.0


class Meddling:
    """A connection to QEMU that does something right before a command, once."""

    def __init__(self, link: Link, at: str, act: Callable[[], None]) -> None:
        self._link = link
        self._at = at
        self._act = act
        self.is_done = False

    def do(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401
        self._look(command, str((arguments or {}).get("node-name", "-d")))
        return self._link.do(command, arguments)

    def do_together(self, commands: Sequence[tuple[str, Mapping[str, object]]]) -> list[Refused | None]:
        for command, _ in commands:
            self._look(command, "-d")
        return self._link.do_together(commands)

    def do_past_all(self, command: str, arguments: Mapping[str, object]) -> None:
        self._link.do_past_all(command, arguments)

    def connect_again(self) -> None:
        self._link.connect_again()

    def _look(self, command: str, node: str) -> None:
        """Of nodes only the direct connections, which are made in the cut-over."""
        if command == self._at and node.endswith("-d") and not self.is_done:
            self.is_done = True
            self._act()


class Quiet:
    """Whoever does not listen."""

    def progress(self, moves: Mapping[str, MirrorJob], turn: Turn) -> None:
        return None

    def tell(self, line: str) -> None:
        print(line)


@contextlib.contextmanager
def target(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An export of an empty disk, as the agent would have it."""
    image, path = folder / "new.raw", folder / "nbd.sock"
    path.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(SIZE)
    process = subprocess.Popen(
        ["qemu-nbd", "-f", "raw", "-k", str(path), "-x", "root", "-t", "-e", "16", str(image)],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(path.exists, "the export is there", SECONDS_MAX)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.wait()


def planned(link: Link) -> Plan:
    volume = Volume("root", b"r" * 16, SIZE)
    return plan_moves(
        look(link.do), Wishes({"vda": "root"}), {"root": volume}, lambda disk: None, lambda name: False
    )


def more_files(guest: Guest) -> None:
    before = len(guest.marks("fsync"))
    wait_until(lambda: len(guest.marks("fsync")) >= before + 3, "the guest goes on", SECONDS_MAX)


def cut_over(folder: Path, guest: Guest, at: str, act: Callable[[], None]) -> str:
    """Adopt, with something done right before a command; why it was undone, "" where it was not."""
    with closing(Link(str(guest.qmp_path), SystemClock())) as link:
        plan = planned(link)
        relay = Relay(folder, str(folder / "nbd.sock"), SystemClock())
        meddling = Meddling(link, at, act)
        export = str(folder / "nbd.sock")
        ways = Ways(
            relay.path, export, lambda: check_answers(export), Agent, relay.close, relay.hurry,
            lambda: False, 0, GIVE_UP_SECONDS,
        )  # fmt: skip
        try:
            adopt(plan, meddling, ways, SystemClock(), Quiet())
        except AdoptionUndone as error:
            return error.why
        finally:
            relay.close()
            assert meddling.is_done
        return ""


@contextlib.contextmanager
def writing_guest(folder: Path) -> Iterator[Guest]:
    """A guest that writes to old.raw."""
    folder.mkdir()
    old = formatted(folder / "old.raw", SIZE)
    job = Job(n=1_000_000, size_bytes=4096, delay_microseconds=20_000)
    with tiny_guest(folder / "g", [old], job) as guest:
        guest.wait_for("MARK fsync 2 ")
        yield guest


def check_files(folder: Path, guest: Guest, image: Path) -> None:
    """Whatever the guest, which is dead, was told to be safe is there."""
    marks = guest.marks("fsync")
    stalls = [after.up_seconds - before.up_seconds for before, after in itertools.pairwise(marks)]
    print(f"{len(marks)} files, longest stall {max(stalls):.3f} s")
    sums = {int(mark.words[0]): mark.words[1] for mark in marks}
    initrd = initrd_expecting(folder / "initrd", sums)
    with tiny_guest(folder / "g2", [image], Job("verify"), initrd=initrd) as verifying:
        verifying.wait_for_end()
        assert [int(word) for word in verifying.marks("verified")[0].words] == [len(sums), 0]


def test_a_target_that_fails_before_the_cut_over_is_final_costs_nothing_but_time(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with writing_guest(folder) as guest:
        for at in ("blockdev-add", "blockdev-reopen"):
            for number in (signal.SIGSTOP, signal.SIGKILL):
                with target(folder) as process:
                    why = cut_over(folder, guest, at, partial(os.kill, process.pid, number))
                print(f"{at}, {number.name}: {why}")
                assert why
                nodes = [one["node-name"] for one in guest.qmp("query-named-block-nodes", flat=True)]
                assert not [name for name in nodes if name.startswith("cdp-adopt-")]
                assert guest.qmp("query-jobs") == []
                more_files(guest)
        guest.kill()
        check_files(folder, guest, folder / "old.raw")


def test_a_target_that_hangs_amid_it_is_waited_for(tmp_path: Path) -> None:
    """From then on the guest waits for the agent, and either disk has all that it wrote."""
    folder = tmp_path / "a"
    with contextlib.ExitStack() as stack:
        guest, process = stack.enter_context(writing_guest(folder)), stack.enter_context(target(folder))

        def act() -> None:
            os.kill(process.pid, signal.SIGSTOP)
            going_on = threading.Timer(HANG_SECONDS, os.kill, (process.pid, signal.SIGCONT))
            going_on.daemon = True
            going_on.start()

        why = cut_over(folder, guest, "block-job-complete", act)
        more_files(guest)
        nodes = [one["inserted"]["node-name"] for one in guest.qmp("query-block") if one.get("inserted")]
        is_over = any(name.startswith("cdp-adopt-") for name in nodes)
        print(f"cut over: {is_over}; {why}")
        assert is_over is not bool(why)
        guest.kill()
    check_files(folder, guest, folder / ("new.raw" if is_over else "old.raw"))
