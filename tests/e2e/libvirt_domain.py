"""A domain of libvirt with a second QMP socket, by which its disks are captured; emulated.

    with folder_for_qemu() as folder, libvirt_domain(uri, folder, {"vda": image}, Job(...)) as domain:
        domain.virsh("resume", NAME)
        domain.console.wait_for("MARK ...")

Its guest does not run before `resume`. What does not belong here: libvirtd itself (`system_libvirt`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from tests.e2e.system_libvirt import QEMU_USER, virsh
from tests.tiny_vm import INITRD, KERNEL, Console, Job

NAME: Final = "tiny"
_PAGE: Final = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{folder}/vmlinuz</kernel>
    <initrd>{folder}/initrd</initrd>
    <cmdline>{words}</cmdline>
  </os>
  <cpu mode='maximum'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <controller type='usb' model='none'/>
    <controller type='scsi' model='virtio-scsi'/>
    <memballoon model='none'/>
{disks}
    <serial type='file'><source path='{folder}/console'/></serial>
  </devices>
  <qemu:commandline>
{sockets}
  </qemu:commandline>
</domain>
"""
_DISK: Final = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/>
      <source file={path}/>
      <target dev='{name}' bus='{bus}'/>
    </disk>"""
_SOCKET: Final = """
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:{path},server=on,wait=off'/>"""


@dataclass(slots=True)
class Domain:
    """A domain that is defined. `sockets`: where QEMU may make files; `qmp`: its socket for the agent."""

    uri: str
    folder: Path
    console: Console

    @property
    def sockets(self) -> Path:
        return self.folder / "qmp"

    @property
    def qmp(self) -> Path:
        return self.sockets / "agent.sock"

    @property
    def own(self) -> Path:
        """One for the test."""
        return self.sockets / "own.sock"

    def virsh(self, *words: str) -> str:
        """What it answers; AssertionError where it failed."""
        return virsh(self.uri, *words)

    def refused(self, *words: str) -> str:
        """Why virsh refuses this."""
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *words], capture_output=True, text=True)
        assert done.returncode != 0, done.stdout
        return done.stderr


@contextmanager
def folder_for_qemu() -> Iterator[Path]:
    """A directory that QEMU may enter as whomever it runs, with one in which it may make sockets."""
    with tempfile.TemporaryDirectory(prefix="ld-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "qmp").mkdir(mode=0o750)
        if os.geteuid() == 0:
            os.chown(folder / "qmp", QEMU_USER, QEMU_USER)
        yield folder


@contextmanager
def libvirt_domain(
    uri: str, folder: Path, disks: Mapping[str, Path], job: Job | None = None
) -> Iterator[Domain]:
    """Define one, and start it before its first instruction; it is destroyed in the end.

    `disks`: raw images by the names of targets, of which those of `vd…` are virtio's, the others SCSI's.
    """
    for name, source in (("vmlinuz", KERNEL), ("initrd", INITRD)):
        Path(shutil.copy(source, folder / name)).chmod(0o644)  # its owner is changed by libvirt
    page = folder / "domain.xml"
    sockets = "".join(_SOCKET.format(path=folder / "qmp" / name) for name in ("agent.sock", "own.sock"))
    page.write_text(
        _PAGE.format(
            name=NAME,
            folder=folder,
            words=(job or Job("wait")).words(),
            disks="".join(
                _DISK.format(
                    path=quoteattr(str(path)), name=name, bus="virtio" if name.startswith("vd") else "scsi"
                )
                for name, path in disks.items()
            ),
            sockets=sockets,
        )
    )
    virsh(uri, "define", "--validate", str(page))
    with Console(folder / "console") as console:
        domain = Domain(uri, folder, console)
        try:
            domain.virsh("start", "--paused", NAME)
            yield domain
        finally:
            for word in ("destroy", "undefine"):
                subprocess.run(["virsh", "-q", "-c", uri, word, NAME], capture_output=True, check=False)
