"""What `rehydrate check-runbook` asks of a hypervisor, asked of real ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rehydrate.runbook.installed import ThisInstallation
from tests.e2e.hypervisors import LIBVIRT, own_libvirtd

pytestmark = pytest.mark.e2e


@pytest.mark.needs(*LIBVIRT)
def test_a_libvirt_tells_its_networks_and_which_are_started(tmp_path: Path) -> None:
    page = tmp_path / "network.xml"
    page.write_text("<network><name>dr net</name></network>")
    with own_libvirtd() as (uri, _):
        assert ThisInstallation().silence(uri) == ""
        assert ThisInstallation().silence(uri.replace("///session", "///nowhere"))
        assert ThisInstallation().networks(uri) == {}
        command = ["virsh", "-c", uri, "net-define", str(page)]
        subprocess.run(command, check=True, capture_output=True)
        assert ThisInstallation().networks(uri) == {"dr net": False}
    assert ThisInstallation().networks(uri) is None  # it is gone
    assert "libvirt-sock" in ThisInstallation().silence(uri)


@pytest.mark.needs("qemu-system-x86_64")
def test_qemu_tells_the_types_of_machines_that_it_starts() -> None:
    types = ThisInstallation().machine_types("qemu-system-x86_64")
    assert types is not None
    assert {"q35", "pc"} <= set(types)
    assert "pc-q35-1000.0" not in types
    for name in ("q35", "pc-q35-1000.0"):
        words = ["qemu-system-x86_64", "-S", "-display", "none", "-accel", "tcg", "-monitor", "stdio"]
        done = subprocess.run([*words, "-machine", name], input=b"quit\n", capture_output=True)
        assert (done.returncode == 0) == (name in types), done.stderr
