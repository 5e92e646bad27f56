"""A domain that is taken over and whose VMs really boot, from disks that go on being protected."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest

from cdp_container.domain.failover_note import load_note
from cdp_container.errors import RunbookUnfit
from cdp_container.machine_errors import VmsNotRunning
from tests.boot_sector import copied_text
from tests.e2e.booted import (
    UP_SECONDS_MAX,
    environment,
    failover,
    failover_words,
    force_word,
    machines_of,
    names_of,
    protected,
    runbook,
    taken_over,
)
from tests.e2e.site import Site
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs("qemu-system-x86_64")]


def restored(site: Site, name: str) -> bytes:
    """What the container gives back of a volume now."""
    target = site.base / f"{name}-again.raw"
    target.unlink(missing_ok=True)
    site.restore(name, target)
    return target.read_bytes()


def test_guests_say_what_their_disks_have_and_what_they_write_is_protected() -> None:
    with protected() as a, taken_over(a) as b:
        done = failover(b, runbook(a.base), "--force", force_word(b)).must().json
        assert [(one["name"], one["state"], one["was_running"]) for one in done["vms"]] == [
            ("db", "running", False),
            ("web", "running", False),
        ]
        db, web = done["vms"]
        assert (
            0
            < db["running_seconds"]
            <= web["begun_seconds"]
            <= web["started_seconds"]
            <= web["running_seconds"]
        )
        assert done["elapsed_seconds"] <= db["begun_seconds"]
        assert [check["passed_seconds"] is not None for check in db["checks"]] == [True]
        assert "I am db." in Path(db["console"]).read_text()
        assert names_of(a.base / "v") == ["guest=db", "guest=web"]
        assert load_note(b.journal) is None
        for words in machines_of(a.base / "v").values():
            assert any(str(b.journal / "nbd.sock") in word for word in words)
        b.flush_when_ready()
        for name in ("db", "web"):
            wait_until(lambda name=name: copied_text(restored(b, name)) == f"I am {name}.", "protected", 60)  # type: ignore[misc]


def test_one_that_does_not_come_up_holds_the_next_and_the_same_command_goes_on() -> None:
    with protected() as a, taken_over(a) as b:
        silent = json.loads(runbook(a.base).read_text())["vms"]
        silent["db"] = {"checks": [{"console": "never said"}], "start": {"within": "3s"}}
        done = failover(b, runbook(a.base, vms=silent), "--force", force_word(b))
        done.must(VmsNotRunning.exit_code)
        assert [(one["name"], one["state"]) for one in done.json["vms"]] == [
            ("db", "failed"),
            ("web", "not started"),
        ]
        assert "never said" in done.json["vms"][0]["why"]
        assert names_of(a.base / "v") == ["guest=db"]
        assert done.json["running"] is True
        (pid,) = machines_of(a.base / "v")
        again = failover(b, runbook(a.base)).must().json
        assert [(one["name"], one["state"], one["was_running"]) for one in again["vms"]] == [
            ("db", "running", True),
            ("web", "running", False),
        ]
        assert pid in machines_of(a.base / "v")
        assert again["epoch"] == done.json["epoch"]
        assert again["elapsed_seconds"] == done.json["elapsed_seconds"]


def test_a_runbook_that_does_not_fit_stops_before_anything_is_claimed() -> None:
    with protected() as a, taken_over(a) as b:
        before = force_word(b)
        done = failover(b, runbook(a.base, vms={"db": {}}), "--force", before)
        done.must(RunbookUnfit.exit_code)
        assert "VM web is neither here nor in `leave_out`" in done.err
        done = failover(b, runbook(a.base, target="proxmox"), "--force", before)
        done.must(RunbookUnfit.exit_code)
        assert "not started: that is done by hand" in done.err
        assert force_word(b) == before
        assert machines_of(a.base) == {}
        assert not (a.base / "v").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["starting", "checking"])
def test_killed_amid_it_the_same_command_goes_on(number: signal.Signals, when: str) -> None:
    with protected() as a, taken_over(a) as b:
        waits = json.loads(runbook(a.base).read_text())["vms"]
        waits["db"]["checks"].append({"command": ["/bin/sh", "-c", "exec sleep 600"]})
        process = subprocess.Popen(
            failover_words(b, runbook(a.base, vms=waits), "--force", force_word(b)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(b),
            start_new_session=True,
        )
        try:
            assert process.stderr is not None
            seen = until_phase(process.stderr, when)
            os.kill(process.pid, number)
            process.communicate(timeout=UP_SECONDS_MAX)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == (128 + number if number == signal.SIGTERM else -number), seen
        ran = list(machines_of(a.base / "v"))
        again = failover(b, runbook(a.base)).must().json
        assert [(one["name"], one["state"]) for one in again["vms"]] == [
            ("db", "running"),
            ("web", "running"),
        ]
        assert names_of(a.base / "v") == ["guest=db", "guest=web"]
        if when == "checking":
            assert again["vms"][0]["was_running"] is True
            assert {*ran} < {*machines_of(a.base / "v")}


def until_phase(stderr: IO[bytes], phase: str) -> str:
    """Read on until a VM is so far."""
    seen = ""
    while line := stderr.readline().decode():
        seen += line
        if line.startswith("{") and json.loads(line).get("phase") == phase:
            return seen
    raise AssertionError(seen)
