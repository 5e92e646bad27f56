"""A rehearsal whose VMs really boot, under names of their own, and of which nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest

from cdp_container.errors import AlreadyRunning, ChecksFailed, RunbookUnfit
from tests.boot_sector import copied_text
from tests.e2e.booted import (
    DISK_BYTES,
    UP_SECONDS_MAX,
    environment,
    force_word,
    machines_of,
    names_of,
    protected,
    runbook,
)
from tests.e2e.processes import Done, run
from tests.e2e.site import BIN, Site
from tests.fuse import missing_for_fuse
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs("qemu-system-x86_64", "qemu-img")]


def words_of(site: Site, page: Path, *options: str) -> list[str]:
    base = [str(BIN / "rehydrate"), "dr-test", site.store, "--into", str(site.base / "dr")]
    base += ["--history", str(site.base / "history"), "--json", "--boot", "--runbook", str(page)]
    return [*base, *options, *site.secret_options()]


def rehearse(site: Site, page: Path, *options: str) -> Done:
    return run(words_of(site, page, *options), environment(site), UP_SECONDS_MAX)


def assert_nothing_left(site: Site) -> None:
    assert machines_of(site.base) == {}
    assert not (site.base / "dr").exists()
    assert sorted(path.name for path in (site.base / "t").iterdir()) == [".dr-test-machines.lock"]
    for name in ("db", "web"):
        assert copied_text(site.backing(name).read_bytes()) == "", "no guest ran on production's disk"


def test_guests_boot_beside_production_and_vanish() -> None:
    with protected() as site:
        before = force_word(site)[:2]
        says = 'sh -c "grep -q \\"I am db\\" $CDP_DR_DIR/machines/db-dr-test.console"'
        page = site.base / "report.html"
        done = rehearse(site, runbook(site.base), "--check", says, "--report", str(page)).must().json
        assert [(one["name"], one["title"], one["state"]) for one in done["machines"]] == [
            ("db", "db-dr-test", "running"),
            ("web", "web-dr-test", "running"),
        ]
        db, web = done["machines"]
        assert 0 < db["running_seconds"] <= web["started_seconds"] <= web["running_seconds"]
        assert web["checks"][0]["check"] == r"console 'I am web\\.'"
        assert done["rto"]["with_machines_seconds"] >= web["running_seconds"]
        stages = [(one["number"], one["name"], one["done"], one["total"]) for one in done["stages"]]
        assert stages[3] == (4, "machines", 2, 2)
        assert [number for number, *_ in stages] == [1, 2, 3, 4, 5, 6]
        states = {(one["kind"], one["subject"]): one["state"] for one in done["checks"]}
        assert states[("checksums", "db")] == states[("machine", "db")] == "passed", states
        assert "<h2>Machines</h2>" in page.read_text()
        assert_nothing_left(site)
        assert force_word(site)[:2] == before
        listed = [str(BIN / "rehydrate"), "rehearsals", "--history", str(site.base / "history"), "--json"]
        (past,) = run(listed, environment(site)).must().json["rehearsals"]
        assert past["machines"] == {"running": 2}


@pytest.mark.needs(*missing_for_fuse())
def test_guests_boot_from_what_is_served_on_demand() -> None:
    with protected() as site:
        done = rehearse(site, runbook(site.base), "--content", "on-demand").must().json
        assert [one["state"] for one in done["machines"]] == ["running", "running"]
        assert done["rto"] is None
        assert_nothing_left(site)


def test_one_that_does_not_come_up_fails_the_rehearsal_and_is_taken_away() -> None:
    with protected() as site:
        test = json.loads(runbook(site.base).read_text())["test"]
        test["vms"] = {"db": {"checks": [{"tcp": "127.0.0.1:1"}], "start": {"within": "4s"}}}
        done = rehearse(site, runbook(site.base, test=test))
        done.must(ChecksFailed.exit_code)
        assert [one["state"] for one in done.json["machines"]] == ["failed", "not started"]
        assert "refused" in done.json["machines"][0]["why"]
        assert done.json["rto"]["with_machines_seconds"] is None
        assert_nothing_left(site)


def test_networks_of_production_and_a_page_without_test_are_refused_before_anything_is_made() -> None:
    with protected() as site:
        done = rehearse(site, runbook(site.base, test=None))
        done.must(RunbookUnfit.exit_code)
        shared = runbook(
            site.base, networks={"*": {"bridge": "lo"}}, test={"networks": {"*": {"bridge": "lo"}}}
        )
        done = rehearse(site, shared)
        done.must(RunbookUnfit.exit_code)
        assert "lo is a network of production too" in done.err
        asks = json.loads(runbook(site.base).read_text())["vms"]
        asks["db"]["checks"].append({"tcp": "127.0.0.1:1"})
        done = rehearse(site, runbook(site.base, vms=asks))
        done.must(RunbookUnfit.exit_code)
        assert "others would answer" in done.err
        assert machines_of(site.base) == {}
        assert not (site.base / "dr").exists()


def amid_checks(site: Site, page: Path, *options: str) -> subprocess.Popen[bytes]:
    """A rehearsal that waits for a check that hangs."""
    process = subprocess.Popen(
        words_of(site, page, *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(site),
        start_new_session=True,
    )
    try:
        wait_until(
            lambda: (site.base / "hangs").exists() or process.poll() is not None, "it hangs", UP_SECONDS_MAX
        )
        assert process.poll() is None, read(process.stderr)
    except BaseException:
        process.kill()
        raise
    return process


def read(stream: IO[bytes] | None) -> str:
    assert stream is not None
    return stream.read().decode()


def hanging(site: Site) -> Path:
    waits = json.loads(runbook(site.base).read_text())["vms"]
    waits["db"]["checks"].append({"command": ["/bin/sh", "-c", f"touch {site.base}/hangs; exec sleep 600"]})
    return runbook(site.base, vms=waits)


def test_ended_amid_it_nothing_stays() -> None:
    with protected() as site:
        process = amid_checks(site, hanging(site))
        try:
            os.kill(process.pid, signal.SIGTERM)
            out, err = process.communicate(timeout=UP_SECONDS_MAX)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 143, err.decode()
        assert json.loads(out)["outcome"] == "interrupted"
        assert_nothing_left(site)


@pytest.mark.parametrize(
    "content", ["all", pytest.param("on-demand", marks=pytest.mark.needs(*missing_for_fuse()))]
)
def test_killed_amid_it_the_next_rehearsal_takes_away_what_was_left_and_no_more(content: str) -> None:
    with protected() as site:
        process = amid_checks(site, hanging(site), "--content", content)
        busy = rehearse(site, hanging(site), "--into", str(site.base / "dr2"))
        busy.must(AlreadyRunning.exit_code)
        process.kill()
        process.communicate()
        assert names_of(site.base) == ["guest=db-dr-test"]
        words = next(iter(machines_of(site.base).values()))
        # One of production's, which is called so much like it.
        other = subprocess.Popen([*other_machine(site, words)], stdin=subprocess.DEVNULL)
        try:
            done = rehearse(site, runbook(site.base), "--into", str(site.base / "dr2")).must()
            assert "a rehearsal that was killed left VMs, which were taken away: db-dr-test" in done.err
            assert names_of(site.base) == ["guest=db-dr-test-of-mine"]
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()
        assert not served(site)
        assert not (site.base / "dr2").exists()
        unmount(site.base / "dr" / "mount")


def other_machine(site: Site, words: list[str]) -> list[str]:
    """A machine that nobody noted."""
    disk = site.base / "mine.raw"
    disk.write_bytes(bytes(DISK_BYTES))
    return [
        words[0], "-name", "guest=db-dr-test-of-mine", "-S", "-nodefaults", "-display", "none",
        "-accel", "tcg", "-drive", f"file={disk},format=raw,if=virtio",
    ]  # fmt: skip


def served(site: Site) -> list[int]:
    """Processes that serve an overlay of the rehearsal."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "serve" in words and f"{site.base}/dr/served" in words:
                found.append(int(path.name))
    return found


def unmount(path: Path) -> None:
    """What the killed one showed is left to its user, as without VMs."""
    subprocess.run(["fusermount3", "-u", "-z", str(path)], capture_output=True, check=False)
