"""VMs of real hypervisors: every point has the configuration of its time, and the disks with it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hypervisors import LIBVIRT, define, own_libvirtd, stopped_qemu
from tests.e2e.site import MIB, Site, new_site
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

SIZE = 8 * MIB
SECONDS_MAX = 60.0


def shown(site: Site, *choice: str) -> dict[str, dict[str, Any]]:
    """What a recovery site sees of each VM at a point, by name."""
    found = site.rehydrate("show", "vms", "--json", *choice).must().json["vms"]
    return {vm["name"]: vm for vm in found}


def described(site: Site) -> dict[str, dict[str, Any]]:
    """What `describe` says just now."""
    done = site.agent_command("describe", "--json")
    assert done.code in (0, 3), done
    return {vm["name"]: vm for vm in json.loads(done.out)["vms"]}


def qemu(site: Site, memory: int) -> list[str]:
    """Two disks: our export, and one that nobody protects."""
    other = site.base / "other.raw"
    if not other.exists():
        with other.open("wb") as file:
            file.truncate(MIB)
    node = (
        f"driver=nbd,node-name=root,server.type=unix,server.path={site.socket},export=root,reconnect-delay=30"
    )
    return [
        "-m", str(memory), "-smp", "2", "-name", "tiny",
        "-blockdev", node, "-device", "virtio-blk-pci,drive=root,id=vda,bootindex=1",
        "-drive", f"file={other},format=raw,if=none,id=scratch",
        "-device", "virtio-blk-pci,drive=scratch,id=vdb",
        "-nic", "user,model=virtio-net-pci,mac=52:54:00:11:22:33",
    ]  # fmt: skip


@pytest.mark.needs("qemu-system-x86_64")
def test_two_points_have_two_configurations_and_the_disk_of_each() -> None:
    page = "name: old\nmemory_bytes: 1048576\ncpus: 1\ndisks: [{name: hda, bus: ide}]\n"
    with new_site({"root": SIZE}, with_key=True) as site:
        qmp, by_hand = site.base / "qmp", site.base / "old.yaml"
        by_hand.write_text(page)
        members = [
            "vms_every: 1h",
            "vms:",
            f"  - {{name: tiny, qmp: {qmp}, disks: {{vdb: null}}}}",
            f"  - {{name: old, description: {by_hand}, disks: {{hda: null}}}}",
        ]
        site.write_config(*members)
        site.init().must()
        site.start()
        images = []
        for memory in (64, 96):
            with stopped_qemu(qmp, qemu(site, memory)):
                with site.client("root") as client:
                    client.write(memory * 4096, os.urandom(64 << 10))
                site.flush_when_ready()
                site.marker(f"m{memory}").must()
                images.append(site.backing("root").read_bytes())
            by_hand.write_text(page.replace("cpus: 1", "cpus: 7"))
        for memory, cpus, image in zip((64, 96), (1, 7), images, strict=True):
            at = ("--marker", f"m{memory}")
            vms = shown(site, *at)
            tiny = vms["tiny"]["description"]
            assert tiny["memory_bytes"] == memory * MIB
            assert [disk["volume"] is not None for disk in tiny["disks"]] == [True, False]
            assert vms["tiny"]["volumes"] == {"vda": "root"}
            assert tiny["nics"][0]["mac"] == "52:54:00:11:22:33"
            assert vms["old"]["description"]["cpus"] == cpus
            target = site.base / "b" / f"{memory}.raw"
            site.restore("root", target, *at)
            assert target.read_bytes() == image
        # The hypervisor is gone now: what was known stays, and a flush does not wait for it.
        site.flush_when_ready()
        wait_until(lambda: problems_of(site), "that it cannot be asked is told", SECONDS_MAX)
        assert any("VM tiny cannot be asked since" in problem for problem in problems_of(site))
        assert shown(site)["tiny"]["description"]["memory_bytes"] == 96 * MIB
        # And a member that left is not there any more, but where it was.
        site.write_config(*members[:3])
        site.agent_command("reload").must()
        with site.client("root") as client:
            client.write(0, b"x" * 4096)
        site.flush_when_ready()
        wait_until(lambda: shown(site).keys() == {"tiny"}, "it left the domain", SECONDS_MAX)
        assert shown(site, "--marker", "m64").keys() == {"tiny", "old"}
        target = site.base / "b" / "last.raw"
        site.restore("root", target)
        assert target.read_bytes() == site.backing("root").read_bytes()


def problems_of(site: Site) -> list[str]:
    found: list[str] = site.status().json["problems"]
    return found


DOMAIN = """<domain type='qemu'>
  <name>web</name><title>Shop</title><memory unit='MiB'>64</memory><vcpu>{cpus}</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type></os>
  <devices>
    <disk type='network' device='disk'><driver name='qemu' type='raw'/>
      <source protocol='nbd' name='root'><host transport='unix' socket='{socket}'/></source>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <source file='{backing}'/><target dev='sda' bus='sata'/></disk>
    <interface type='user'><mac address='52:54:00:00:00:09'/><model type='virtio'/></interface>
    <graphics type='vnc' passwd='hunter2'/><serial type='pty'/>
  </devices>
</domain>"""


@pytest.mark.needs(*LIBVIRT)
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_libvirt_is_asked(machine: str) -> None:
    with new_site({"root": SIZE, "data": SIZE}, encrypted=False) as site, own_libvirtd() as (uri, libvirtd):
        place = {"machine": machine, "socket": site.socket, "backing": site.backing("data")}
        define(uri, DOMAIN.format(cpus=2, **place))
        site.write_config(
            "vms:",
            f"  - {{name: shop-web, libvirt: {{uri: {json.dumps(uri)}, domain: web}}}}",
            f"  - {{name: gone, libvirt: {{uri: {json.dumps(uri)}, domain: nobody}}}}",
        )
        site.init().must()
        found = described(site)
        assert "nobody" in found["gone"]["problem"]
        web = found["shop-web"]
        assert web["problem"] is None
        assert web["unprotected"] == []
        description = web["description"]
        assert (description["name"], description["cpus"], description["note"]) == ("web", 2, "Shop")
        assert machine in description["machine"] or "i440fx" in description["machine"]
        assert [disk["name"] for disk in description["disks"] if disk["volume"]] == ["vda", "sda"]
        assert len({disk["volume"] for disk in description["disks"]}) == 2
        assert "hunter2" not in json.dumps(web)
        assert web["native"]["document"].startswith("<domain")
        assert described(site)["shop-web"] == web, "what did not change is described alike"
        define(
            uri, DOMAIN.format(cpus=4, **place).replace("<name>", f"<uuid>{description['uuid']}</uuid><name>")
        )
        assert described(site)["shop-web"]["description"]["cpus"] == 4
        if machine == "q35":
            hung(site, libvirtd.pid)


def hung(site: Site, pid: int) -> None:
    """A libvirtd that does not answer: everything is told, in time, and nothing hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        found = described(site)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "did not answer" in found["shop-web"]["problem"]


def test_hypervisors_that_are_not_there_are_problems_and_no_more(tmp_path: Path) -> None:
    with new_site({"root": SIZE}, with_key=True) as site:
        site.write_config("vms_every: 5s", "vms:", f"  - {{name: tiny, qmp: {tmp_path}/none}}")
        site.init().must()
        site.start()
        with site.client("root") as client:
            client.write(0, os.urandom(MIB))
        site.flush_when_ready()
        assert described(site)["tiny"]["problem"]
        assert shown(site) == {}
        target = site.base / "b" / "root.raw"
        site.restore("root", target)
        assert target.read_bytes() == site.backing("root").read_bytes()
