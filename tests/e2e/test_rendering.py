"""What is rendered is taken: a plain QEMU starts from its script, libvirt defines and starts its domain."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp_container.domain.machine import Bus, Console, Description, Disk, DiskKind, Nic
from rehydrate.render.documents import Target, documents_of
from rehydrate.render.recovered import Changes, FilePlace, NbdPlace, Network, NetworkKind, Place
from rehydrate.render.seed import seed_image
from tests.e2e.hypervisors import LIBVIRT, own_libvirtd
from tests.unit.rehydrate.render.vms import described, recovered
from tests.unit.vms.test_golden import parsed
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

UP_SECONDS_MAX = 60.0
BUSES = (Bus.VIRTIO, Bus.SCSI, Bus.SATA, Bus.NVME, Bus.USB, Bus.IDE)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, as sockets want it, where everybody may write."""
    with tempfile.TemporaryDirectory(prefix="vm-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def machine(kind: str, count: int) -> Description:
    """A VM with disks on every bus, the last of them first in the boot order."""
    disks = tuple(
        Disk(f"d{number}", bus=BUSES[number % len(BUSES)], boot=count - number, serial=f"s,$(id) {number}")
        for number in range(count)
    )
    return Description(
        "we'b, $(id)",
        machine=kind,
        cpus=2,
        memory_bytes=64 << 20,
        disks=(*disks, Disk("cd", bus=Bus.SATA, kind=DiskKind.CDROM)),
        nics=(Nic("net0", "52:54:00:00:00:01", "prod"), Nic("net1", None, "lab", "e1000")),
        consoles=(Console.SERIAL, Console.VNC, Console.VIRTIO),
        guest_agent=True,
    )


def blank(path: Path) -> FilePlace:
    """A disk of 1 MiB without anything."""
    with path.open("wb") as file:
        file.truncate(1 << 20)
    path.chmod(0o666)
    return FilePlace(str(path))


def listens(path: Path) -> bool:
    """Whether somebody takes connections there: the socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def ask(path: Path, *commands: str) -> list[Any]:
    """What a QEMU answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(UP_SECONDS_MAX)
        wait_until(lambda: client.connect_ex(str(path)) == 0, "QEMU listens", UP_SECONDS_MAX)
        answers = client.makefile("r")
        answers.readline()
        found = []
        for command in ("qmp_capabilities", *commands):
            client.sendall(json.dumps({"execute": command}).encode())
            while "return" not in (answer := json.loads(answers.readline())):
                assert "error" not in answer, answer
            found.append(answer["return"])
        return found[1:]


@pytest.mark.needs("qemu-system-x86_64", "qemu-nbd")
@pytest.mark.parametrize(("kind", "count"), [("pc", 6), ("q35", 6), ("q35", 60)])
def test_a_script_starts_a_qemu_with_every_disk(directory: Path, kind: str, count: int) -> None:
    one = machine(kind, count)
    places: dict[str, Place] = {disk.name: blank(directory / f"{disk.name}.raw") for disk in one.disks}
    places["d0"] = NbdPlace("x,y", socket=str(directory / "nbd.sock"))
    (directory / "seed.iso").write_bytes(seed_image({"meta-data": "instance-id: x\n", "user-data": "#\n"}))
    networks = {"net1": Network(NetworkKind.USER)}
    vm = described(
        one, directory=str(directory), places=places, networks=networks, seed=str(directory / "seed.iso")
    )
    made = documents_of(vm, Target.QEMU)
    server = subprocess.Popen(
        ["qemu-nbd", "--persistent", "--shared=4", "--format=raw", "--export-name=x,y",
         f"--socket={directory}/nbd.sock",
         str(directory / "d0.raw")]
    )  # fmt: skip
    script = directory / made.name
    script.write_text(made.text)
    wait_until(lambda: listens(directory / "nbd.sock"), "the export is there", UP_SECONDS_MAX)
    process = subprocess.Popen(["sh", str(script), "-S"], env={**os.environ, "ACCEL": "tcg"})
    try:
        qmp = directory / "web.qmp.sock"
        wait_until(lambda: qmp.exists() or process.poll() is not None, "QEMU is there", UP_SECONDS_MAX)
        status, blocks, cpus, name = ask(qmp, "query-status", "query-block", "query-cpus-fast", "query-name")
        assert status["status"] == "prelaunch"
        assert len(cpus) == 2
        assert name == {"name": one.name}
        inserted = [block["inserted"] for block in blocks if "inserted" in block]
        files = [json.dumps(block["image"]) for block in inserted]
        assert len(inserted) == count + 2  # a CD, and cloud-init's
        for number in range(1, count):
            assert f"{directory}/d{number}.raw" in files[number]
        assert "x,y" in files[0] or "nbd" in files[0]
        assert (directory / "web.pid").read_text().strip() == str(process.pid)
        assert (directory / "web.console").exists()
    finally:
        process.kill()
        process.wait()
        server.kill()
        server.wait()


def virsh(uri: str, *words: str) -> str:
    done = subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.needs(*LIBVIRT)
def test_libvirt_takes_every_rendering(directory: Path) -> None:
    with own_libvirtd() as (uri, _):
        for name in (
            "q35-uefi.xml",
            "pve6.conf",
            "pve8.conf",
            "plain-q35.qmp",
            "by-hand.yaml",
        ):
            for rehearsal in (False, True):
                vm = recovered(parsed(name), rehearsal=rehearsal, emulate=True, networks={})
                path = directory / "domain.xml"
                path.write_text(documents_of(vm, Target.LIBVIRT).text)
                if name != "q35-uefi.xml":  # its firmware need not be here
                    virsh(uri, "define", "--validate", str(path))
                    virsh(uri, "undefine", vm.one.name)
        start(uri, directory)


def start(uri: str, directory: Path) -> None:
    """Libvirt really starts a VM, with its disks in order; its console is kept in a file."""
    buses = (Bus.VIRTIO, Bus.SCSI, Bus.SATA, Bus.USB)
    one = replace(machine("q35", 4), name="web", nics=(), consoles=(Console.VNC,), uuid=None)
    one = replace(
        one,
        disks=tuple(
            replace(disk, bus=bus, serial=disk.name) for disk, bus in zip(one.disks, buses, strict=False)
        ),
    )
    places = {disk.name: blank(directory / f"{disk.name}.raw") for disk in one.disks}
    changes = Changes(str(directory), places, emulate=True)
    made = documents_of(replace(described(one), changes=changes), Target.LIBVIRT)
    path = directory / made.name
    path.write_text(made.text)
    virsh(uri, "define", "--validate", str(path))
    virsh(uri, "start", "web")
    assert virsh(uri, "domstate", "web") == "running"
    sources = [line.split()[-1] for line in virsh(uri, "domblklist", "web").splitlines()]
    assert sources == [str(directory / f"d{number}.raw") for number in range(4)]
    wait_until((directory / "web.console").exists, "the console is kept", UP_SECONDS_MAX)
    virsh(uri, "destroy", "web")
