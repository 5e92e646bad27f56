"""`rehydrate render` and `rehydrate check-runbook`, from a container to files and exit codes."""

from __future__ import annotations

import json
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pycdlib
import pytest
import yaml

from cdp_container.domain.machine import Description, Disk, Firmware, FirmwareKind, Nic, pack_variables
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.store.directory import DirectoryStore
from rehydrate.render.addresses import Address, agent_commands, seed_files
from rehydrate.render.seed import seed_image
from rehydrate.runbook.here import ThisMachine
from rehydrate.runbook.installed import ThisInstallation
from tests.containers import Site
from tests.unit.rehydrate.conftest import Run, answer
from tests.unit.rehydrate.test_cli import refused

VM = b"V" * 16
RUNBOOK = """\
target: qemu
directory: {directory}
emulate: true
networks: {{prod: {{user: true}}}}
vms:
  shop-web:
    cpus: 4
    addresses: [{{nic: 0, address: 10.9.0.5/24, gateway: 10.9.0.1}}]
test:
  networks: {{"*": {{none: true}}}}
"""


@pytest.fixture
def protected(place: Path) -> Site:
    site = Site(DirectoryStore(place), seed=3)
    disk = site.add_volume("root", 4096)
    site.begin_epoch()
    web = Description(
        "web",
        memory_bytes=1 << 28,
        uuid="8ae9fbb1-6c5d-4f2b-9a51-0f2f5e0a4a11",
        firmware=Firmware(FirmwareKind.UEFI, variables=pack_variables(bytes(528 << 10))),
        disks=(Disk("vda", disk, boot=1),),
        nics=(Nic("net0", "52:54:00:00:00:01", "prod"),),
        left_out=("a TPM and its state",),
    )
    site.say(vm_record(VM, Configuration("shop-web", web, Native("qmp", "{}"))))
    site.cut([], marker="first")
    site.protect(max(site.images))
    return site


@pytest.fixture
def runbook() -> Iterator[Path]:
    """In a directory with a short path, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="rb-") as directory:
        path = Path(directory, "runbook.yaml")
        path.write_text(RUNBOOK.format(directory=directory))
        yield path


def test_a_vm_becomes_a_script_and_what_is_beside_it(
    run: Run, protected: Site, place: Path, tmp_path: Path, runbook: Path
) -> None:
    into = tmp_path / "it is here"
    code, stdout, stderr = run(
        "render", place, "--vm", "shop-web", "--disk", "vda=/r.raw", "--runbook", runbook, "--into", into
    )  # fmt: skip
    assert code == 0, stderr
    assert "not rendered: a TPM and its state" in stderr
    script, *beside = [Path(line) for line in stdout.splitlines()]
    assert (into / "shop-web.vars.saved").read_bytes() == bytes(528 << 10)
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in beside} == {0o600}
    words = shlex.split(script.read_text().partition("set -- \\\n")[2].replace("\\\n", ""))
    assert words[words.index("-smp") + 1].startswith("cpus=4,")
    assert any('"filename": "/r.raw"' in word for word in words)
    seed = pycdlib.PyCdlib()
    seed.open(str(into / f"{VM.hex()}.seed.iso"))
    assert seed.pvd.volume_identifier.strip() == b"cidata"
    seed.close()


def test_a_rehearsal_has_another_name_uuid_and_no_network(
    run: Run, protected: Site, place: Path, runbook: Path
) -> None:
    common = (
        "render",
        place,
        "--vm",
        VM.hex(),
        "--disk",
        "vda=nbd://h:1/x",
        "--into",
        "-",
        "--runbook",
        runbook,
    )
    text = answer(run, *common, "--rehearsal", "--for", "libvirt")["text"]
    assert "<name>web-dr-test</name>" in text
    assert "8ae9fbb1" not in text
    assert "52:54:00:00:00:01" not in text
    assert '<link state="down" />' in text
    kept = run(*common)[1]
    assert "8ae9fbb1" in kept
    assert "52:54:00:00:00:01" in kept


def test_what_is_missing_is_refused(run: Run, protected: Site, place: Path, tmp_path: Path) -> None:
    common = ("render", place, "--into", "-", "--vm")
    assert "vda" in refused(run, 74, *common, "shop-web", "--for", "qemu")
    assert "shop-web" in refused(run, 15, *common, "shop-db", "--for", "qemu")
    refused(run, 2, *common, "shop-web")
    refused(run, 2, *common, "shop-web", "--for", "qemu", "--disk", "vda")
    refused(run, 2, *common, "shop-web", "--for", "qemu", "--disk", "vda=nbd+unix:///x")
    refused(run, 4, *common, "shop-web", "--runbook", tmp_path / "none.yaml")
    refused(run, 13, *common, "shop-web", "--for", "qemu", "--at", "7.7")
    (tmp_path / "file").touch()
    into = ("render", place, "--vm", "shop-web", "--for", "qemu", "--disk", "vda=/x", "--into")
    assert "something else has this name" in refused(run, 64, *into, tmp_path / "file")
    refused(run, 64, *into, tmp_path / "file" / "below")


def test_a_runbook_is_held_against_container_and_machine(
    run: Run, protected: Site, place: Path, runbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThisMachine, "has_program", lambda self, name: True)
    monkeypatch.setattr(ThisInstallation, "has_any", lambda self, paths: False)
    code, _, stderr = run("check-runbook", runbook, place)
    assert (code, "starts by UEFI, and none for x86_64" in stderr) == (75, True), stderr
    monkeypatch.setattr(ThisInstallation, "has_any", lambda self, paths: True)
    code, stdout, stderr = run("check-runbook", runbook, place)
    assert (code, "fits 1 VM at 1.1" in stdout) == (0, True), stderr
    runbook.write_text(runbook.read_text().replace("shop-web:", "shop-wep:"))
    code, _, stderr = run("check-runbook", runbook, place)
    assert (code, f"{runbook}:6: there is no VM shop-wep" in stderr) == (75, True), stderr
    code, stdout, _ = run("check-runbook", runbook, place, "--json")
    assert code == 75
    assert any("shop-wep" in one["what"] and one["fault"] for one in json.loads(stdout)["findings"])
    runbook.write_text("target: qemu\n")
    code, _, stderr = run("check-runbook", runbook, place)
    assert (code, "directory: is missing" in stderr) == (4, True), stderr
    runbook.write_text("target: qemu\nemulate: perhaps\n")
    _, _, stderr = run("check-runbook", runbook, place)
    assert "emulate: 'perhaps' is neither true nor false" in stderr
    runbook.write_text("target: qemu\n  directory: /x\n")
    _, _, stderr = run("check-runbook", runbook, place)
    assert "rehydrate check-runbook" in stderr, "a runbook is not the agent's to check"


def test_what_a_rendering_would_refuse_is_told_before_the_day(
    run: Run, protected: Site, place: Path, runbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThisMachine, "has_program", lambda self, name: True)
    monkeypatch.setattr(ThisInstallation, "has_any", lambda self, paths: True)
    page, directory = runbook.read_text(), str(runbook.parent)
    runbook.write_text(page.replace(directory, f"{directory}/{'v' * 90}"))
    code, _, stderr = run("check-runbook", runbook, place)
    assert (code, stderr.count("longer than 107 bytes")) == (75, 1), stderr


def test_cloud_init_gets_what_it_needs_and_no_more() -> None:
    nics = (Nic("a", "52:54:00:00:00:01"), Nic("b", "52:54:00:00:00:02"))
    addresses = (
        Address(0, "10.9.0.5/24", "10.9.0.1", ("10.9.0.1",)),
        Address(0, "fd00::5/64", "fd00::1"),
    )
    files = seed_files("one", nics, addresses)
    assert {*files} == {"meta-data", "user-data", "network-config"}
    cards = yaml.safe_load(files["network-config"])["ethernets"]
    assert cards["nic0"]["addresses"] == ["10.9.0.5/24", "fd00::5/64"]
    assert [route["to"] for route in cards["nic0"]["routes"]] == ["0.0.0.0/0", "::/0"]
    assert cards["nic1"] == {
        "match": {"macaddress": "52:54:00:00:00:02"},
        "dhcp4": True,
        "optional": True,
    }
    assert yaml.safe_load(files["user-data"])["ssh_deletekeys"] is False
    image = seed_image(files)
    assert files["network-config"].encode() in image
    command = agent_commands(nics, addresses)[0]
    assert command[:2] == ["/bin/sh", "-c"]
    assert command[-3:] == ["52:54:00:00:00:01", "10.9.0.5/24", "10.9.0.1"]
    assert os.fspath(command[0]) == "/bin/sh"


def test_what_a_guest_wrote_since_is_not_rendered_over(
    run: Run, protected: Site, place: Path, tmp_path: Path
) -> None:
    variables = tmp_path / "shop-web.vars.fd"
    words = ("render", place, "--vm", "shop-web", "--disk", "vda=/r", "--for", "libvirt", "--into", tmp_path)
    code, _, stderr = run(*words)
    assert (code, "stays as it is" in stderr) == (0, False), stderr
    variables.write_bytes(b"what the guest wrote since")
    (tmp_path / "shop-web.xml").write_text("an older rendering")
    code, _, stderr = run(*words)
    assert (code, "shop-web.vars.fd stays as it is" in stderr) == (0, True), stderr
    assert variables.read_bytes() == b"what the guest wrote since"
    assert "<domain" in (tmp_path / "shop-web.xml").read_text()
