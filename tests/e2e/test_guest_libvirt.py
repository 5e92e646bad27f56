"""libvirt defines and starts what was rendered for it, and a real guest comes up in it with all its files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.guests import (
    VM,
    acknowledged,
    assert_no_error,
    check_file_system,
    guest_folder,
    lose,
    member_lines,
    rendered,
    write_runbook,
)
from tests.e2e.hypervisors import LIBVIRT, own_libvirtd
from tests.e2e.networks import BRIDGE, HAS_BRIDGE, PREFIX, own_network
from tests.e2e.processes import run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.e2e.system_libvirt import SYSTEM_LIBVIRT, system_libvirtd
from tests.tiny_vm import (
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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400), pytest.mark.needs(*NEEDS, *LIBVIRT, "e2fsck")]

DISK_BYTES = 48 * MIB


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a libvirtd that is nobody may read and write."""
    with tempfile.TemporaryDirectory(prefix="gl-") as made:
        Path(made).chmod(0o777)
        yield Path(made)


def virsh(uri: str, *words: str) -> str:
    done = subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def lost_guest(site: Site) -> dict[int, str]:
    """A guest of a plain QEMU wrote, all is protected, and nothing is left of it; gives the files' sums."""
    formatted(site.backing("root"), DISK_BYTES)
    site.write_config(*member_lines(site))
    site.init().must()
    agent = site.start()
    with tiny_guest(guest_folder(site), [site.uri("root")], Job(n=12, net=True, hold=True)) as guest:
        guest.wait_for("MARK done")
        site.flush_when_ready()
        agent.kill_group()
        guest.kill()
    lose(site)
    return {number: mark.words[1] for number, mark in acknowledged(guest).items()}


def test_a_guest_of_a_plain_qemu_comes_up_in_libvirt(folder: Path) -> None:
    with new_site({"root": DISK_BYTES}, with_key=True) as site:
        sums = lost_guest(site)
        kernel = Path(shutil.copy(KERNEL, folder / "vmlinuz"))
        for rehearsal in (True, False):
            image = folder / f"root-{rehearsal}.raw"
            site.restore("root", image)
            # What is expected of a rehearsal is wrong in one file: the check is a check.
            expected = {**sums, 5: "0" * 64} if rehearsal else sums
            initrd = initrd_expecting(folder / f"initrd-{rehearsal}", expected)
            for path in (image, kernel, initrd):
                path.chmod(0o666)
            job = Job("verify", hold=True)
            networks = {"test": {"networks": {"*": {"user": True}}}}
            runbook = write_runbook(folder / f"vm-{rehearsal}", "libvirt", job, initrd, kernel, **networks)
            runbook.parent.chmod(0o777)
            document = rendered(site, runbook, {"vda": image}, *(["--rehearsal"] if rehearsal else []))
            verified = comes_up(document, f"{VM}-dr-test" if rehearsal else VM)
            assert verified == (("11", "1") if rehearsal else ("12", "0"))
            check_file_system(image)


def comes_up(document: Path, name: str) -> tuple[str, ...]:
    """Libvirt defines and starts it; gives what it found on its disk, as its console tells."""
    with own_libvirtd() as (uri, _), Console(document.with_name(f"{name}.console")) as console:
        virsh(uri, "define", "--validate", str(document))
        virsh(uri, "start", name)
        try:
            console.wait_for("MARK done")
            assert_no_error(console)
            assert virsh(uri, "domstate", name) == "running"
        finally:
            virsh(uri, "destroy", name)
            print(console.tail())
        (mark,) = console.marks("verified")
        return mark.words


@pytest.mark.needs(*SYSTEM_LIBVIRT, *(("a bridge",) if not HAS_BRIDGE else ()))
def test_a_guest_is_rehearsed_in_libvirt_and_asked_over_its_bridge() -> None:
    """The system's libvirtd, which makes the guest's card a port of the bridge."""
    with new_site({"root": DISK_BYTES}, with_key=True) as site, own_network(site.base) as network:
        sums = lost_guest(site)
        site.base.chmod(0o711)
        kernel = Path(shutil.copy(KERNEL, site.base / "vmlinuz"))
        kernel.chmod(0o644)
        with system_libvirtd(network) as (uri, _):
            page = bridged_page(site, uri, kernel, sums)
            words = [str(BIN / "rehydrate"), "dr-test", site.store, "--into", str(site.base / "dr"), "--json"]
            words += ["--boot", "--runbook", str(page), *site.secret_options()]
            home = site.environment(site.base / "home")
            (vm,) = run([*network, *words], home, SECONDS_MAX).must().json["machines"]
            print(f"well after {vm['running_seconds']} s: {vm['checks']}")
            assert (vm["title"], vm["state"], len(vm["checks"])) == (f"{VM}-dr-test", "running", 3)
            assert virsh(uri, "list", "--all", "--name") == ""


def bridged_page(site: Site, uri: str, kernel: Path, sums: dict[int, str]) -> Path:
    """A runbook by which the guest is well once it answers, and found all its files."""
    folder = site.base / "v"
    folder.mkdir()
    folder.chmod(0o755)
    initrd = initrd_expecting(folder / "initrd", sums)
    initrd.chmod(0o644)
    there = f"{PREFIX}.5"
    checks = [
        {"console": rf"MARK verified {len(sums)} 0 "},
        {"tcp": f"{there}:{PORT}"},
        {"http": f"http://{there}:{PORT}/", "body": "tiny: ok"},
    ]
    return write_runbook(
        folder,
        "libvirt",
        Job("verify", hold=True, net=True, address=f"{there}/24"),
        initrd,
        kernel,
        vm={"checks": checks, "start": {"within": "150s"}},
        uri=uri,
        test={"networks": {"*": {"bridge": BRIDGE}}, "directory": str(folder / "t")},
    )
