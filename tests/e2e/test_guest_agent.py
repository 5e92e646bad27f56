"""Addresses that a real guest's agent is handed (`handed_over: guest-agent`), by a failover and a rehearsal.

The guest has QEMU's own agent, of this machine's package, and no address of its own: it says on its console
what it was given, and where we are root it is asked there by TCP and HTTP over a bridge.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cdp_container.errors import ChecksFailed
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot import qemu
from rehydrate.boot.machines import Known
from rehydrate.boot.qemu import QemuMachines
from tests.e2e.guests import VM, acknowledged, guest_folder, lose, member_lines, write_runbook
from tests.e2e.hypervisors import LIBVIRT
from tests.e2e.networks import BRIDGE, HAS_BRIDGE, PREFIX, own_network
from tests.e2e.recovery import Sites
from tests.e2e.site import MIB, Site, new_site
from tests.e2e.system_libvirt import SYSTEM_LIBVIRT, system_libvirtd, virsh
from tests.e2e.test_guest_failover import kill_vms, machine_of, rehearse, take_over
from tests.tiny_guest.programs import programs_archive
from tests.tiny_vm import (
    AGENT,
    KERNEL,
    NEEDS,
    PORT,
    SECONDS_MAX,
    Console,
    Job,
    formatted,
    initrd_expecting,
    tiny_guest,
)
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.needs(*NEEDS, "qemu-ga", "ip", "qemu-img"),
]

DISK_BYTES = 48 * MIB
FILES = 3
GUEST_ADDRESS = f"{PREFIX}.5"
ADDRESSES = [
    {"nic": 0, "address": "fd77::5/64"},
    {"nic": 0, "address": f"{GUEST_ADDRESS}/24", "gateway": f"{PREFIX}.1"},
]
WITH_AGENT = Job("verify", hold=True, net=True, address="", agent=True)
PORT_WORDS = (
    "-device", "virtio-serial", "-chardev", "null,id=agent0",
    "-device", "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0",
)  # fmt: skip
IPROUTE = {"bin/ip": "ip"}
"""As distributions have it; without it the guest has busybox's."""
IMPATIENT_SECONDS = 0.1
IMPATIENT_TIMES = 5
"""Much less than the guest takes to boot."""


def lost_guest(site: Site) -> dict[int, str]:
    """A guest with a port for an agent wrote, and is gone with its site; gives its files' sums."""
    formatted(site.backing("root"), DISK_BYTES)
    site.write_config(*member_lines(site))
    site.init().must()
    agent = site.start()
    job = Job(n=FILES, net=True, hold=True)
    with tiny_guest(guest_folder(site), [site.uri("root")], job, extra=PORT_WORDS) as guest:
        guest.wait_for("MARK done")
        site.flush_when_ready()
        agent.kill_group()
        guest.kill()
    (vm,) = site.rehydrate("show", "vms", "--json").must().json["vms"]
    assert vm["description"]["guest_agent"] is True
    lose(site)
    return {number: mark.words[1] for number, mark in acknowledged(guest).items()}


def page_of(
    folder: Path,
    target: str,
    sums: Mapping[int, str],
    programs: Mapping[str, str],
    kernel: Path = KERNEL,
    job: Job = WITH_AGENT,
    within: str = "150s",
    rehearsed: bool = False,
    **more: object,
) -> Path:
    """A runbook that hands over addresses by the agent, and reaches the guest at one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    initrd = initrd_expecting(folder / "initrd", sums, programs_archive(programs))
    initrd.chmod(0o644)
    alone = {"*": {"none": True}}
    networks = {"*": {"bridge": BRIDGE}} if HAS_BRIDGE else alone
    checks: list[dict[str, object]] = [{"console": rf"MARK verified {FILES} 0 "}]
    if HAS_BRIDGE:
        http = {"http": f"http://{GUEST_ADDRESS}:{PORT}/", "status": 200, "body": "tiny: ok"}
        checks += [{"tcp": f"{GUEST_ADDRESS}:{PORT}"}, http]
    run = {
        "checks": checks,
        "start": {"within": within},
        "addresses": ADDRESSES,
        "handed_over": "guest-agent",
    }
    test = {"networks": networks if rehearsed else alone, "directory": str(folder / "t")}
    return write_runbook(
        folder,
        target,
        job,
        initrd,
        kernel,
        vm=run,
        networks=alone if rehearsed else networks,
        test=test,
        **more,
    )


def assert_given(console: Console) -> None:
    """The guest says what it has."""
    console.wait_for("MARK route")
    given = {mark.words for mark in console.marks("address")}
    (route,) = console.marks("route")
    assert {("inet", f"{GUEST_ADDRESS}/24"), ("inet6", "fd77::5/64")} <= given
    assert route.words[:3] == ("default", "via", f"{PREFIX}.1")


def assert_handed_over(vm: Mapping[str, Any]) -> None:
    """The report says so."""
    print(f"the guest was well after {vm['running_seconds']} s: {vm['checks']}")
    assert (vm["name"], vm["state"]) == (VM, "running")
    assert len(vm["checks"]) == (4 if HAS_BRIDGE else 2)
    assert vm["checks"][-1]["check"] == "addresses"
    assert all(check["passed_seconds"] is not None for check in vm["checks"])


def test_after_a_failover_the_guest_has_the_addresses_that_its_agent_was_handed() -> None:
    with new_site({"root": DISK_BYTES}, with_key=True) as first, own_network(first.base) as network:
        sums = lost_guest(first)
        sites = Sites(first)
        b, folder = sites.add("b"), first.base / "v"
        silent = page_of(
            first.base / "s", "qemu", sums, {}, job=Job("wait", hold=True), within="6s", rehearsed=True
        )
        vm = machine_of(rehearse(first, silent, network).must(ChecksFailed.exit_code).json)
        assert (vm["state"], vm["checks"][-1]["passed_seconds"]) == ("failed", None)
        page = page_of(folder, "qemu", sums, {**AGENT, **IPROUTE})
        try:
            (vm,) = take_over(b, page, network).must().json["vms"]
            assert_handed_over(vm)
            with Console(Path(vm["console"])) as console:
                assert_given(console)
        finally:
            kill_vms(folder)
            sites.end()


def test_one_that_is_asked_again_and_again_before_it_begins_answers_the_last_one() -> None:
    """Whoever asked before hung up: what it was asked, or answers, is nobody's any more."""
    with tempfile.TemporaryDirectory(prefix="qa-") as made:
        folder = Path(made)
        vm = Known(VM, "", made, VM)
        there = f"socket,path={vm.path('agent.sock')},server=on,wait=off,"
        words = [word.replace("null,", there) for word in PORT_WORDS]
        initrd = initrd_expecting(folder / "initrd", {}, programs_archive(AGENT))
        job = Job("wait", hold=True, agent=True)
        command = ["/bin/sh", "-c", 'echo "MARK $1" >/dev/ttyS0', "sh", "ran"]
        with tiny_guest(folder / "g", [], job, initrd=initrd, extra=words) as guest:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(qemu, "ASK_SECONDS_MAX", IMPATIENT_SECONDS)
                assert [has_run(vm, command) for _ in range(IMPATIENT_TIMES)] == [False] * IMPATIENT_TIMES
            wait_until(lambda: has_run(vm, command), "the agent ran it", SECONDS_MAX)
            guest.wait_for("MARK ran")


def has_run(vm: Known, command: list[str]) -> bool:
    """Whether its agent ran a program to its end."""
    try:
        asyncio.run(QemuMachines().ask_agent(vm, [command]))
    except MachineFailed as error:
        print(error)
        return False
    return True


@pytest.mark.needs(*LIBVIRT, *SYSTEM_LIBVIRT, *(("a bridge",) if not HAS_BRIDGE else ()))
def test_in_a_rehearsal_libvirt_hands_them_over_to_a_guest_of_busybox() -> None:
    """Only at the address that it was handed the guest can be asked at all."""
    with new_site({"root": DISK_BYTES}, with_key=True) as site, own_network(site.base) as network:
        sums = lost_guest(site)
        site.base.chmod(0o711)
        kernel = Path(shutil.copy(KERNEL, site.base / "vmlinuz"))
        kernel.chmod(0o644)
        with system_libvirtd(network) as (uri, _):
            page = page_of(site.base / "v", "libvirt", sums, AGENT, kernel, rehearsed=True, uri=uri)
            vm = machine_of(rehearse(site, page, network).must().json)
            assert_handed_over(vm)
            assert vm["title"] == f"{VM}-dr-test"
            assert virsh(uri, "list", "--all", "--name") == ""
