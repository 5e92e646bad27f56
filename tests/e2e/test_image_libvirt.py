"""A VM that libvirt runs, as another user than ours, is captured over a second QMP socket of its QEMU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.hypervisors import LIBVIRT
from tests.e2e.libvirt_domain import NAME, Domain, folder_for_qemu, libvirt_domain
from tests.e2e.site import MIB, Site, new_site
from tests.e2e.system_libvirt import QEMU_USER, SYSTEM_LIBVIRT, system_libvirtd
from tests.e2e.test_image_guests import count
from tests.tiny_vm import NEEDS, Job, tiny_guest

pytestmark = [pytest.mark.e2e, pytest.mark.needs(*NEEDS, *LIBVIRT, *SYSTEM_LIBVIRT)]

NAMES = ("data", "log")
POINTS_MAX = 5
CONNECTS = """
import os, sys
from cdp_agent.vms.qmp_asked import Qmp
from cdp_container.errors import HypervisorFailed
os.setgroups([int(group) for group in sys.argv[2:]])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    Qmp(sys.argv[1], lambda: 30.0).close()
except HypervisorFailed as error:
    print(f"{error.why}\\n{error.hint}")
else:
    print("it answers")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_for_qemu() as made:
        yield made


def configure(site: Site, domain: Domain) -> None:
    """Its two disks as volumes: one by libvirt's name, one by QEMU's."""
    member = f"{{name: db, libvirt: {{uri: '{domain.uri}', domain: {NAME}}}, qmp: {domain.qmp}}}"
    site.write_config("capture_every: 300ms", "vms_every: 1h", f"vms: [{member}]", "volumes:")
    with site.config.open("a") as file:
        file.write("  - {name: data, vm: db, disk: vda}\n  - {name: log, vm: db, disk: virtio-disk1}\n")


def test_two_disks_of_a_domain_come_back_as_of_one_instant(folder: Path) -> None:
    disks = {name: folder / f"{name}.raw" for name in ("vda", "vdb")}
    for disk in disks.values():
        disk.write_bytes(bytes(16 * MIB))
    counts = []
    with (
        system_libvirtd(user="libvirt-qemu") as (uri, _),
        libvirt_domain(uri, folder, disks, Job("write-pairs", n=4000)) as domain,
        new_site({}, with_key=True) as site,
    ):
        assert domain.qmp.stat().st_uid == QEMU_USER
        refused = connects(domain.qmp, [])
        assert "Permission denied" in refused
        assert "the group of its QEMU" in refused
        assert connects(domain.qmp, [QEMU_USER]) == "it answers\n"
        configure(site, domain)
        site.init().must()
        agent = site.start()
        site.flush_when_ready()
        domain.virsh("resume", NAME)
        for number in (20, 60, 100):
            domain.console.wait_for(f"MARK pair {number} ")
            site.flush().must()
        cycle = site.status().json["images"]["last_cycle"]
        (described,) = site.agent_command("describe", "--json").must().json["vms"]
        agent.kill_group()
        domain.virsh("destroy", NAME)
        for disk in disks.values():
            disk.unlink()
        points = [point for point in site.points() if point["whole"]][-POINTS_MAX:]
        for number, point in enumerate(points):
            there = site.base / f"point-{number}"
            site.restore_all(there, "--at", f"{point['epoch']}.{point['cut']}")
            counts.append(tuple(count((there / f"{name}.raw").read_bytes()) for name in NAMES))
        restored = [site.base / f"point-{len(points) - 1}" / f"{name}.raw" for name in NAMES]
        with tiny_guest(site.base / "after", restored, Job("count-pairs", n=4000)) as after:
            after.wait_for_end()
            (pairs,) = after.marks("pairs")
    print(f"pairs at {len(points)} points: {counts}; last cycle: {cycle}")
    for data, log in counts:
        assert data <= log <= data + 1, counts
    assert counts == sorted(counts)
    assert counts[-1][0] >= 100
    assert len({*counts}) > 2
    assert pairs.words == tuple(map(str, counts[-1]))
    assert [(disk["name"], disk["volume"] is None) for disk in described["description"]["disks"]] == [
        ("vda", False),
        ("vdb", False),
    ]


def connects(path: Path, groups: Sequence[int]) -> str:
    """What nobody hears who has these groups beside its own."""
    words = [sys.executable, "-c", CONNECTS, str(path), *map(str, groups)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
