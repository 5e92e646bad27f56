"""What a guest had UEFI keep is there when OVMF boots it elsewhere, from the container alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.guests import (
    VM,
    acknowledged,
    assert_no_error,
    booted,
    check_file_system,
    guest_folder,
    lose,
    member_lines,
    rendered,
    write_runbook,
)
from tests.e2e.hypervisors import LIBVIRT, own_libvirtd
from tests.e2e.site import MIB, Site, new_site
from tests.e2e.system_libvirt import virsh
from tests.tiny_vm import KERNEL, NEEDS, Console, Job, formatted, initrd_expecting, tiny_guest

CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
"""Of the package ovmf: what a new machine begins with."""
UEFI = ("e2fsck",) if CODE.exists() else ("e2fsck", "ovmf")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400), pytest.mark.needs(*NEEDS, *UEFI)]

DISK_BYTES = 48 * MIB
KEPT = "kept-by-the-lost-site"
FILES = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a libvirtd that is nobody may read and write."""
    with tempfile.TemporaryDirectory(prefix="gu-") as made:
        Path(made).chmod(0o777)
        yield Path(made)


def flash_words(variables: Path) -> list[str]:
    """A machine with UEFI, whose variables are in that file."""
    flash = "if=pflash,format=raw,unit={},file={}"
    return [
        "-drive",
        flash.format(0, CODE) + ",readonly=on",
        "-drive",
        flash.format(1, variables),
    ]


@dataclass(frozen=True, slots=True)
class Lost:
    """What is known of a guest that is gone with its site: its files' sums, and UEFI's variables."""

    site: Site
    sums: dict[int, str]
    variables: bytes


@pytest.fixture(scope="module")
def lost() -> Iterator[Lost]:
    """A guest had its firmware keep a word, and is lost with its site."""
    with new_site({"root": DISK_BYTES}, with_key=True) as site:
        yield lost_guest(site)


def lost_guest(site: Site) -> Lost:
    formatted(site.backing("root"), DISK_BYTES)
    site.write_config(*member_lines(site))
    site.init().must()
    agent = site.start()
    variables = Path(shutil.copy(VARIABLES, site.root / "vars.fd"))
    job = Job(n=FILES, hold=True)
    words = [*flash_words(variables), "-append", f"{job.words()} cdp.keep={KEPT}"]
    with tiny_guest(guest_folder(site), [site.uri("root")], job, extra=words) as guest:
        guest.wait_for("MARK done")
        assert [mark.words for mark in guest.marks("firmware")] == [("uefi", "-")], "nothing was kept yet"
        assert guest.marks("kept")[0].words == (KEPT,)
        site.flush_when_ready()
        agent.kill_group()
        guest.kill()
    content = variables.read_bytes()
    assert content != VARIABLES.read_bytes()
    lose(site)
    sums = {number: mark.words[1] for number, mark in acknowledged(guest).items()}
    return Lost(site, sums, content)


def test_a_plain_qemu_boots_by_ovmf_with_the_variables_of_the_lost_site(lost: Lost, folder: Path) -> None:
    (vm,) = lost.site.rehydrate("show", "vms", "--json").must().json["vms"]
    assert vm["description"]["firmware"]["kind"] == "uefi"
    image = folder / "root.raw"
    lost.site.restore("root", image)
    initrd = initrd_expecting(folder / "initrd", lost.sums)
    with booted(lost.site, folder / "vm", {"vda": image}, Job("verify"), initrd) as machine:
        machine.wait_for_end()
        assert (folder / "vm" / f"{VM}.vars.saved").read_bytes() == lost.variables
        assert machine.words("firmware") == ("uefi", KEPT)
        assert machine.words("verified") == (str(FILES), "0")
    assert_no_error(machine.console)
    check_file_system(image)


@pytest.mark.needs(*LIBVIRT)
def test_libvirt_boots_by_ovmf_with_the_variables_of_the_lost_site(lost: Lost, folder: Path) -> None:
    image, kernel = folder / "root.raw", Path(shutil.copy(KERNEL, folder / "vmlinuz"))
    lost.site.restore("root", image)
    initrd = initrd_expecting(folder / "initrd", lost.sums)
    runbook = write_runbook(folder / "vm", "libvirt", Job("verify", hold=True), initrd, kernel)
    document = rendered(lost.site, runbook, {"vda": image})
    for path in (image, kernel, initrd, document.parent / f"{VM}.vars.fd"):
        path.chmod(0o666)
    document.parent.chmod(0o777)
    with own_libvirtd() as (uri, _), Console(document.parent / f"{VM}.console") as console:
        virsh(uri, "define", "--validate", str(document))
        virsh(uri, "start", VM)
        try:
            console.wait_for("MARK done")
        finally:
            virsh(uri, "destroy", VM)
            print(console.tail())
    assert [mark.words for mark in console.marks("firmware")] == [("uefi", KEPT)]
    assert [mark.words for mark in console.marks("verified")] == [(str(FILES), "0")]
