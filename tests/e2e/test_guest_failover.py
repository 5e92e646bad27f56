"""A real guest goes on at another site (`failover --boot`), and rehearsed beside itself (`dr-test --boot`).

Where we are root the recovery site has a bridge of its own, in a network that only these commands see, and
the guest is asked over it by TCP and HTTP; else its console alone says that it is well.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_container.errors import ChecksFailed
from tests.e2e.guests import (
    VM,
    acknowledged,
    assert_no_error,
    check_file_system,
    guest_folder,
    let_write,
    member_lines,
    write_runbook,
)
from tests.e2e.networks import BRIDGE, HAS_BRIDGE, PREFIX, own_network
from tests.e2e.processes import Done, command_line, is_gone, processes, run
from tests.e2e.recovery import Sites, history
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.tiny_vm import (
    NEEDS,
    PORT,
    SECONDS_MAX,
    Console,
    Guest,
    Job,
    formatted,
    initrd_expecting,
    tiny_guest,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400), pytest.mark.needs(*NEEDS, "e2fsck", "qemu-img")]

DISK_BYTES = 64 * MIB
FILE_BYTES = 16 << 10
FOR_EVER = 1_000_000
GENTLY_MICROSECONDS = 100_000
"""Between two files: other machines run beside this one."""
GUEST_ADDRESS = f"{PREFIX}.5"


@contextmanager
def living(site: Site) -> Iterator[Guest]:
    """A guest that writes for ever on a site that protects it."""
    formatted(site.backing("root"), DISK_BYTES)
    site.write_config(*member_lines(site))
    site.init().must()
    site.start()
    job = Job(n=FOR_EVER, size_bytes=FILE_BYTES, net=True, delay_microseconds=GENTLY_MICROSECONDS)
    with tiny_guest(guest_folder(site), [site.uri("root")], job) as guest:
        guest.wait_for("MARK fsync 15 ")
        yield guest


def flushed(site: Site, guest: Guest) -> dict[int, str]:
    """Files that are protected when this returns."""
    sums = {number: mark.words[1] for number, mark in acknowledged(guest).items()}
    site.flush_when_ready()
    return sums


def page_of(
    folder: Path, job: Job, sums: dict[int, str], within: str = "150s", rehearsed: bool = False
) -> Path:
    """A runbook by which the guest is well once it found all these files."""
    folder.mkdir(parents=True)
    initrd = initrd_expecting(folder / "initrd", sums)
    alone = {"*": {"none": True}}
    networks = {"*": {"bridge": BRIDGE}} if HAS_BRIDGE else alone
    checks: list[dict[str, object]] = [{"console": rf"MARK verified {len(sums)} 0 "}]
    if HAS_BRIDGE:
        checks += [
            {"tcp": f"{GUEST_ADDRESS}:{PORT}"},
            {"http": f"http://{GUEST_ADDRESS}:{PORT}/", "status": 200, "body": "tiny: ok"},
        ]
    return write_runbook(
        folder,
        "qemu",
        job,
        initrd,
        vm={"checks": checks, "start": {"within": within}},
        networks=alone if rehearsed else networks,
        test={"networks": networks if rehearsed else alone, "directory": str(folder / "rehearsed")},
    )


def vm_pids(folder: Path) -> list[int]:
    """QEMUs whose documents and sockets lie below a directory."""
    return [
        pid
        for pid, _, state in processes()
        if state not in "ZX"
        and (words := command_line(pid))
        and "qemu-system" in words[0]
        and any(f"{folder}/" in word for word in words)
    ]


def kill_vms(folder: Path) -> None:
    for pid in vm_pids(folder):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: is_gone(pid), "the VM is dead", SECONDS_MAX)  # type: ignore[misc]


# --- failover -------------------------------------------------------------------------------------


def take_over(site: Site, page: Path, network: list[str]) -> Done:
    """`rehydrate failover --boot` at that site, which waits for the lease of the one before."""
    words = [str(BIN / "rehydrate"), "failover", site.store, "--site", site.base.name, "--json"]
    words += ["--journal", str(site.journal), "--config", str(site.config), "--to", str(site.root)]
    words += ["--boot", "--runbook", str(page), *site.secret_options()]
    return run([*network, *words], site.environment(site.base / "home"), SECONDS_MAX)


def test_a_guest_goes_on_at_another_site_and_stays_protected() -> None:
    with new_site({"root": DISK_BYTES}, with_key=True) as first, own_network(first.base) as network:
        with living(first) as guest:
            sums = flushed(first, guest)
            guest.kill()
            first.agents[-1].kill_group()
        known = {number: mark.words[1] for number, mark in acknowledged(guest).items()}
        sites = Sites(first)
        b = sites.add("b")
        job = Job(
            "verify-write",
            n=FOR_EVER,
            first=1000,
            size_bytes=FILE_BYTES,
            net=True,
            delay_microseconds=GENTLY_MICROSECONDS,
            address=f"{GUEST_ADDRESS}/24",
        )
        folder = first.base / "v"
        try:
            answer = take_over(b, page_of(folder, job, sums), network).must().json
            (vm,) = answer["vms"]
            print(f"the guest was well after {vm['running_seconds']} s: {vm['checks']}")
            assert (vm["name"], vm["state"]) == (VM, "running")
            assert len(vm["checks"]) == (3 if HAS_BRIDGE else 1)
            after = goes_on(b, Path(vm["console"]), known)
            kill_vms(folder)
        finally:
            kill_vms(folder)
            sites.end()
        image = first.base / "b" / "root.raw"
        first.restore("root", image)
        found = looked_at(first.base / "g", image, {**sums, **after})
        assert found == (str(len(sums) + len(after)), "0")
        check_file_system(image)


def goes_on(site: Site, path: Path, known: dict[int, str]) -> dict[int, str]:
    """What was there is whole; what the guest writes now is protected when this returns: gives that."""
    with Console(path) as console:
        console.wait_for("MARK fsync 1010 ")
        written = {int(mark.words[0]): mark.words[1] for mark in console.marks("fsync")}
        site.flush_when_ready()
        found = {int(mark.words[0]): mark.words[1] for mark in console.marks("file")}
        assert_no_error(console)
    assert all(found[number] == known[number] for number in sorted(found)[:-1] if number in known)
    return written


def looked_at(folder: Path, image: Path, sums: dict[int, str]) -> tuple[str, ...]:
    """What a guest finds on an image."""
    folder.mkdir()
    initrd = initrd_expecting(folder / "initrd", sums)
    with tiny_guest(folder / "vm", [image], Job("verify"), initrd=initrd) as guest:
        guest.wait_for_end()
        (mark,) = guest.marks("verified")
        return mark.words


# --- rehearsal ------------------------------------------------------------------------------------


def rehearse(site: Site, page: Path, network: list[str], *options: str) -> Done:
    """`rehydrate dr-test --boot` anywhere."""
    words = [str(BIN / "rehydrate"), "dr-test", site.store, "--into", str(site.base / "dr"), "--json"]
    words += ["--boot", "--runbook", str(page), *options, *site.secret_options()]
    return run([*network, *words], site.environment(site.base / "home"), SECONDS_MAX)


def machine_of(answer: dict[str, Any]) -> dict[str, Any]:
    (vm,) = answer["machines"]
    assert (vm["name"], vm["title"]) == (VM, f"{VM}-dr-test")
    found: dict[str, Any] = vm
    return found


def test_a_guest_is_rehearsed_while_it_runs_and_notices_nothing() -> None:
    with (
        new_site({"root": DISK_BYTES}, with_key=True) as site,
        own_network(site.base) as network,
        living(site) as guest,
    ):
        job = Job("verify-write", n=10, first=1000, hold=True, net=True, address=f"{GUEST_ADDRESS}/24")
        for content in ("all", "on-demand"):
            sums = flushed(site, guest)
            folder = site.base / f"v-{content}"
            page = page_of(folder, job, sums, rehearsed=True)
            answer = rehearse(site, page, network, "--content", content).must().json
            vm = machine_of(answer)
            assert vm["state"] == "running"
            print(f"content {content}: well after {vm['running_seconds']} s, all: {answer['rto']}")
            assert vm_pids(site.base) == [guest.process.pid]
            let_write(guest, "fsync", 5)
        wrong = page_of(site.base / "w", job, {**flushed(site, guest), 3: "0" * 64}, "12s", rehearsed=True)
        done = rehearse(site, wrong, network).must(ChecksFailed.exit_code)
        assert machine_of(done.json)["state"] == "failed"
        assert vm_pids(site.base) == [guest.process.pid]
        let_write(guest, "fsync", 5)
        assert len(history(site)) == 1, "nothing was claimed"
        assert_no_error(guest.console)
