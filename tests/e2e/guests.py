"""A tiny guest on a protected site and what recovers it: what the stories of real guests share.

What does not belong here: judging what came back.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.e2e.site import Site
from tests.tiny_vm import INITRD, KERNEL, SECONDS_MAX, Console, Guest, Job, Mark
from tests.waiting import wait_until

VM = "tiny"


def member_lines(site: Site) -> tuple[str, ...]:
    """agent.yaml's lines for a guest that runs in `guest_folder`."""
    return ("vms_every: 1h", "vms:", f"  - {{name: {VM}, qmp: {guest_folder(site)}/qmp.sock}}")


def guest_folder(site: Site) -> Path:
    """At the protected site: gone with it."""
    return site.root / "g"


def acknowledged(guest: Guest) -> dict[int, Mark]:
    """The files that the guest knows to be safe, by number."""
    return {int(mark.words[0]): mark for mark in guest.marks("fsync")}


def longest_stall_seconds(marks: Sequence[Mark]) -> float:
    """Between two answers, by the guest's own clock."""
    return max((b.up_seconds - a.up_seconds for a, b in itertools.pairwise(marks)), default=0.0)


def let_write(guest: Guest, what: str, more: int) -> None:
    """Go on when the guest said `what` so many times more."""
    due = len(guest.marks(what)) + more

    def goes_on() -> bool:
        assert guest.alive, guest.console.tail()
        return len(guest.marks(what)) >= due

    wait_until(goes_on, f"the guest says {what} {more} times more", SECONDS_MAX)
    assert_no_error(guest.console)


def assert_no_error(console: Console) -> None:
    """No disk failed, as its guest saw it."""
    text = console.text()
    for word in ("I/O error", "EXT4-fs error", "EXT4-fs warning", "blocked for more than", "Remounting"):
        assert word not in text, console.tail()


def pause(seconds: float) -> None:
    """Until a moment that was drawn by chance: not to wait for anything is the point of it."""
    threading.Event().wait(seconds)


def lose(site: Site) -> None:
    """Nothing of it is where it was."""
    site.root.rename(site.base / "lost")
    site.root.mkdir()


# --- recovery -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Booted:
    """A VM that was started by what `rehydrate render` wrote."""

    process: subprocess.Popen[bytes]
    folder: Path
    console: Console

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, text: str) -> str:
        return self.console.wait_for(text, lambda: self.alive)

    def wait_for_end(self) -> None:
        """Until it powered off by itself, and said that all is done."""
        self.wait_for("MARK done")
        wait_until(lambda: not self.alive, "the VM is off", SECONDS_MAX)

    def words(self, what: str) -> tuple[str, ...]:
        """Of the only mark of that kind."""
        (mark,) = self.console.marks(what)
        return mark.words

    def files(self) -> dict[int, str]:
        """What `verify` found on the disk."""
        return {int(mark.words[0]): mark.words[1] for mark in self.console.marks("file")}


def write_runbook(
    folder: Path,
    target: str,
    job: Job,
    initrd: Path,
    kernel: Path = KERNEL,
    vm: Mapping[str, object] = MappingProxyType({}),
    **more: object,
) -> Path:
    """How the VM runs here: by a kernel of this site, emulated; without `more` with no network."""
    folder.mkdir(parents=True, exist_ok=True)
    boot = {"kernel": str(kernel), "initrd": str(initrd), "command_line": job.words()}
    page = {
        "target": target,
        "directory": str(folder),
        "emulate": True,
        "networks": {"*": {"none": True}},
        "vms": {VM: {"direct_boot": boot, **vm}},
        **more,
    }
    path = folder / "runbook.yaml"
    path.write_text(json.dumps(page))  # which is YAML
    return path


def rendered(site: Site, runbook: Path, disks: Mapping[str, Path | str], *choice: str) -> Path:
    """What `rehydrate render` wrote for the VM, beside the runbook that fits it."""
    into = runbook.parent
    places = [word for name, place in disks.items() for word in ("--disk", f"{name}={place}")]
    options = ("--vm", VM, "--into", str(into), "--runbook", str(runbook), *places, *choice, "--json")
    made = site.rehydrate("render", *options).must().json
    return Path(made["files"][0])


@contextmanager
def booted(
    site: Site, folder: Path, disks: Mapping[str, Path | str], job: Job, initrd: Path = INITRD, *choice: str
) -> Iterator[Booted]:
    """Render the VM as a script for a plain QEMU, and run it."""
    script = rendered(site, write_runbook(folder, "qemu", job, initrd), disks, *choice)
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(["sh", str(script)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with Console(folder / f"{VM}.console") as console:
            yield Booted(process, folder, console)
    finally:
        process.kill()
        process.wait()
        print(f"--- {folder}\n{console_of(folder)}\n{(folder / 'qemu.log').read_text()}")


def console_of(folder: Path) -> str:
    """The end of what a VM said, for people."""
    return Console(folder / f"{VM}.console").tail()


def check_file_system(image: Path) -> None:
    """ext4's own checker finds nothing to mend in what a guest unmounted."""
    done = subprocess.run(["e2fsck", "-f", "-n", str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
