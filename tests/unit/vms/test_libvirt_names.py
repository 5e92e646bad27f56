"""What QEMU calls the disks of a domain, by its XML, whether it runs or not; and volumes named so."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.vms import asking
from cdp_agent.vms.asking import ask_vms, volumes_served
from cdp_agent.vms.libvirt_asked import Asked
from cdp_agent.vms.libvirt_xml import hot_plugged, parse_domain
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import AgentIdentity, DiskIdentity, VmIdentity

GOLDEN = Path(__file__).parents[2] / "golden" / "vms"
Q35 = (GOLDEN / "q35-uefi.xml").read_text()
PAGE = """<domain><name>x</name><devices>
<controller type='scsi' index='0' model='{model}'/>
<disk><target dev='{dev}' bus='{bus}'/><address type='drive' controller='0' bus='1' target='2' unit='3'/>
</disk></devices></domain>"""


@pytest.mark.parametrize(
    ("dev", "bus", "model", "device"),
    [
        ("vdb", "virtio", "virtio-scsi", "virtio-disk1"),
        ("sdb", "scsi", "virtio-scsi", "scsi0-1-2-3"),
        ("sdb", "scsi", "lsilogic", "scsi0-1-3"),
        ("sdb", "sata", "", "sata0-1-3"),
        ("hdb", "ide", "", "ide0-1-3"),
        ("sdb", "usb", "", None),
    ],
)
def test_names_go_by_bus_and_address(dev: str, bus: str, model: str, device: str | None) -> None:
    found = parse_domain(PAGE.format(dev=dev, bus=bus, model=model), "it")
    assert found.devices.get(dev) == device


def test_an_alias_counts_more_and_most_that_of_the_vm_that_runs() -> None:
    kept = parse_domain(Q35, "it")
    assert kept.devices == {"vda": "virtio-disk0", "sda": "scsi0-0-0-0", "sdb": "sata0-0-1"}
    live = parse_domain(Q35.replace("<boot order='1'/>", "<boot order='1'/><alias name='ua-root'/>"), "it")
    assert live.devices["vda"] == "ua-root"
    assert hot_plugged(live, kept).devices == {**kept.devices, "vda": "ua-root"}


@pytest.mark.parametrize(("root", "data"), [("vda", "scsi0-0-0-0"), ("virtio-disk0", "sda")])
def test_a_captured_disk_is_its_volume_by_whichever_name(
    monkeypatch: pytest.MonkeyPatch, root: str, data: str
) -> None:
    monkeypatch.setattr(asking, "ask_libvirt", lambda *_: Asked(Q35, None, False))
    vm = VmIdentity("web", b"w" * 16, "libvirt", "qemu:///system", "web", qmp="/run/web.sock")
    disks = (
        DiskIdentity("root", "web", root, b"r" * 16, 4096),
        DiskIdentity("data", "web", data, b"d" * 16, 4096),
    )
    identity = AgentIdentity(
        b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), (), vms=(vm,), disks=disks
    )
    (told,) = ask_vms(identity, volumes_served(identity, "/nbd.sock", None), SystemClock())
    assert (told.problem, told.unprotected, told.odd) == ("", (), ())
    assert told.configuration is not None
    assert [(disk.name, disk.volume) for disk in told.configuration.description.disks] == [
        ("vda", b"r" * 16),
        ("sda", b"d" * 16),
        ("sdb", None),
    ]
