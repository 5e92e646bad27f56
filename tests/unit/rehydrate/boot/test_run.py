"""VMs brought up on a hypervisor that is invented: what fails, hangs, and runs already."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from rehydrate.boot import run
from rehydrate.boot.machines import Known, Power, Seen
from rehydrate.boot.plan import BootAt
from rehydrate.boot.run import ADDRESSES, FAILED, NOT_STARTED, RUNNING, Result, bring_up
from rehydrate.boot.telling import not_running_words, result_line, result_members
from tests.unit.rehydrate.boot.vms import Invented, ready


def up(vms: list[object], machines: object) -> dict[str, Result]:
    seen: list[BootAt] = []
    results = bring_up(vms, machines, SystemClock(), seen.append, 100.0)  # type: ignore[arg-type]
    assert seen[-1].is_over
    return {one.name: one for one in results}


def test_what_does_not_come_up_is_told_with_its_reason(tmp_path: Path) -> None:
    machines = Invented(refused={"db": "no room"})
    web = ready(tmp_path, "web", after=["db"])
    found = up([ready(tmp_path, "db"), web, ready(tmp_path, "mail")], machines)
    assert [found[name].state for name in ("db", "web", "mail")] == [FAILED, NOT_STARTED, RUNNING]
    assert "no room" in found["db"].why
    assert found["mail"].running_seconds is not None
    assert found["mail"].running_seconds >= 100.0
    assert machines.started == ["mail"]
    words = not_running_words(list(found.values()))
    assert "db: failed" in words
    assert "mail" not in words


def test_one_that_could_not_be_rendered_fails_alone(tmp_path: Path) -> None:
    found = up([replace(ready(tmp_path, "db"), refused="no memory"), ready(tmp_path, "web")], Invented())
    assert (found["db"].why, found["web"].state) == ("no memory", RUNNING)


def test_a_check_that_hangs_ends_with_its_vm(tmp_path: Path) -> None:
    hangs = ready(tmp_path, "db", checks=[{"command": ["/bin/sleep", "600"]}], within=0.5)
    found = up([hangs], Invented())
    assert (found["db"].state, found["db"].checks[0].tries) == (FAILED, 1)
    assert found["db"].why == "1 of 1 checks did not pass within 0.5 s: it did not end"


def test_a_start_that_hangs_ends_with_its_vm(tmp_path: Path) -> None:
    machines = Invented(starting=asyncio.Event().wait)  # type: ignore[arg-type]
    assert up([ready(tmp_path, "db", within=0.2)], machines)["db"].why == "it was not started within 0.2 s"


def test_one_that_runs_is_left_alone_and_checked(tmp_path: Path) -> None:
    (tmp_path / "web-dr-test.console").write_text("login:")
    machines = Invented({"web-dr-test": Power.RUNNING})
    found = up([ready(tmp_path, checks=[{"console": "login:"}])], machines)["web"]
    assert (found.state, found.found, machines.started) == (RUNNING, True, [])
    assert result_line(found).endswith("(it ran already), 1 check passed")
    assert json.dumps(result_members(found))


def test_one_that_stands_still_is_not_taken_for_one_that_runs(tmp_path: Path) -> None:
    found = up([ready(tmp_path)], Invented({"web-dr-test": Power.STILL}))["web"]
    assert (found.state, "it is there and does not run" in found.why) == (FAILED, True)


class Ends(Invented):
    """Its machines end when they were looked at so often."""

    looks = 0

    async def look(self, vm: Known) -> Seen:
        self.looks += 1
        return Seen(Power.OFF) if self.looks > 1 else Seen(Power.GONE)


def test_one_that_ends_at_once_has_not_come_up(tmp_path: Path) -> None:
    found = up([ready(tmp_path)], Ends())["web"]
    assert (found.state, found.why, found.running_seconds) == (FAILED, "it runs no more: off", None)


def test_one_that_ends_amid_its_checks_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WATCH_SECONDS", 0.05)
    one = ready(tmp_path, checks=[{"command": ["/bin/sleep", "600"]}])
    assert up([one], Ends())["web"].why == "it runs no more: off"


def test_addresses_that_the_agent_does_not_take_are_a_check_that_failed(tmp_path: Path) -> None:
    one = replace(ready(tmp_path, within=0.3), commands=(("/bin/sh", "-c", "x"),))
    found = up([one], Invented(refused={"web-dr-test": "no agent"}))["web"]
    assert (found.state, found.checks[0].what) == (FAILED, ADDRESSES)
    assert "no agent" in found.checks[0].why
    assert up([one], Invented())["web"].state == RUNNING


class Broken(Invented):
    async def look(self, vm: Known) -> Seen:
        raise ZeroDivisionError("a fault of ours")


def test_a_fault_of_ours_ends_all_of_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        up([ready(tmp_path)], Broken())


def test_an_interruption_ends_what_is_under_way_and_nothing_else(tmp_path: Path) -> None:
    pid, machines = tmp_path / "pid", Invented()
    one = ready(tmp_path, checks=[{"command": ["/bin/sh", "-c", f"echo $$ > {pid}; exec sleep 600"]}])
    stopping, main = threading.Event(), threading.main_thread().ident
    assert main is not None
    # Whoever runs the tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while not (pid.exists() and pid.read_text().endswith("\n")):
            if stopping.wait(0.02):
                return
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            up([one], machines)
    finally:
        stopping.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    assert machines.started == ["web"]
    assert machines.removed == []
