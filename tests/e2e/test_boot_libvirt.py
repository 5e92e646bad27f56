"""VMs that libvirt defines and starts: rehearsed and taken away, and after a failover, on TCP exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cdp_container.machine_errors import VmsNotRunning
from tests.boot_sector import copied_text
from tests.e2e.booted import (
    UP_SECONDS_MAX,
    environment,
    failover,
    force_word,
    machines_of,
    names_of,
    protected,
    runbook,
    taken_over,
)
from tests.e2e.processes import run
from tests.e2e.site import Site
from tests.e2e.system_libvirt import SYSTEM_LIBVIRT, system_libvirtd, virsh
from tests.e2e.test_boot_rehearsal import words_of
from tests.tiny_vm import free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*SYSTEM_LIBVIRT)]

UUID = "11111111-2222-4333-8444-000000000001"


def define_productions(uri: str, base: Path) -> None:
    """A VM of production that is called as one of the domain."""
    page = base / "mine.xml"
    page.write_text(
        "<domain type='qemu'><name>db</name><memory>32768</memory><os><type>hvm</type></os></domain>"
    )
    virsh(uri, "define", str(page))


def defined(uri: str) -> list[str]:
    return sorted(virsh(uri, "list", "--all", "--name").split())


def test_a_rehearsal_leaves_productions_vm_alone_and_nothing_behind() -> None:
    with protected() as site, system_libvirtd(user="libvirt-qemu") as (uri, _):
        site.base.chmod(0o711)
        define_productions(uri, site.base)
        before = virsh(uri, "dumpxml", "db")
        page = runbook(site.base, target="libvirt", uri=uri)
        done = run(words_of(site, page), environment(site), UP_SECONDS_MAX).must().json
        assert [(one["title"], one["state"]) for one in done["machines"]] == [
            ("db-dr-test", "running"),
            ("web-dr-test", "running"),
        ]
        assert defined(uri) == ["db"]
        assert virsh(uri, "dumpxml", "db") == before
        assert machines_of(site.base) == {}
        assert not (site.base / "dr").exists()


def test_while_libvirtd_is_away_what_runs_stays_noted_and_the_next_rehearsal_takes_it_away() -> None:
    with protected() as site:
        site.base.chmod(0o711)
        with system_libvirtd(user="libvirt-qemu") as (uri, daemon):
            waits = json.loads(runbook(site.base).read_text())["vms"]
            waits["db"]["checks"].append(
                {"command": ["/bin/sh", "-c", f"touch {site.base}/hangs; exec sleep 600"]}
            )
            page = runbook(site.base, target="libvirt", uri=uri, vms=waits)
            process = subprocess.Popen(
                words_of(site, page),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(site),
                start_new_session=True,
            )
            try:
                wait_until((site.base / "hangs").exists, "a VM runs", UP_SECONDS_MAX)
                os.kill(daemon.pid, signal.SIGSTOP)
                os.kill(process.pid, signal.SIGTERM)
                out, err = process.communicate(timeout=UP_SECONDS_MAX)
            finally:
                os.kill(daemon.pid, signal.SIGCONT)
                process.kill()
                process.communicate()
            report = json.loads(out)
            assert report["outcome"] == "interrupted", err.decode()
            assert "VM db-dr-test" in report["left"]
            assert (site.base / "t" / ".dr-test-machines.json").exists()
            assert defined(uri) == ["db-dr-test"]
            again = words_of(site, runbook(site.base, target="libvirt", uri=uri))
            again[again.index("--into") + 1] = str(site.base / "dr2")
            done = run(again, environment(site), UP_SECONDS_MAX).must()
            assert "which were taken away: db-dr-test" in done.err
            assert defined(uri) == []
            assert machines_of(site.base) == {}


def test_after_a_failover_libvirts_machines_boot_from_exports_on_tcp() -> None:
    with protected() as a, system_libvirtd(user="libvirt-qemu") as (uri, _), taken_over(a) as b:
        a.base.chmod(0o711)
        listen = f"127.0.0.1:{free_port()}"
        b.config.write_text(b.config.read_text() + f"nbd: {{listen: '{listen}'}}\n")
        page = runbook(a.base, target="libvirt", uri=uri)
        try:
            done = failover(b, page, "--force", force_word(b)).must().json
            assert [one["state"] for one in done["vms"]] == ["running", "running"]
            assert defined(uri) == ["db", "web"]
            assert "127.0.0.1" in virsh(uri, "dumpxml", "db")
            b.flush_when_ready()
            wait_until(lambda: copied_text(restored(b)) == "I am db.", "it is protected", UP_SECONDS_MAX)
        finally:
            for name in virsh(uri, "list", "--name").split():
                virsh(uri, "destroy", name)  # else they outlive their libvirtd


def restored(site: Site) -> bytes:
    target = site.base / "again.raw"
    target.unlink(missing_ok=True)
    site.restore("db", target)
    return target.read_bytes()


def test_one_of_productions_that_has_the_same_uuid_is_never_touched() -> None:
    with protected(uuid=UUID) as a, system_libvirtd(user="libvirt-qemu") as (uri, _), taken_over(a) as b:
        a.base.chmod(0o711)
        mine = a.base / "mine.xml"
        mine.write_text(
            f"<domain type='qemu'><name>old</name><uuid>{UUID}</uuid><memory>32768</memory>"
            "<os><type>hvm</type></os></domain>"
        )
        virsh(uri, "define", str(mine))
        vms = {"db": {"start": {"within": "30s"}}}
        page = runbook(a.base, target="libvirt", uri=uri, vms=vms, leave_out=["web"])
        done = failover(b, page, "--force", force_word(b)).must(VmsNotRunning.exit_code)
        assert "a VM that we did not define has this UUID" in done.json["vms"][0]["why"]
        assert defined(uri) == ["old"]
        assert names_of(a.base / "v") == []
