"""One VM as it is to run at a recovery site, for whichever hypervisor: what all renderings begin from. PURE.

A description comes from a container, so it may say anything: what has a form (UUIDs, MACs, names of machines
and models) is believed only where it has that form, and told as not rendered otherwise. How a hypervisor
writes it down does not belong here (qemu, libvirt, proxmox).
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from cdp_container.domain.machine import Bus, Description, Disk, DiskKind, Nic
from cdp_container.domain.machine_records import Native
from cdp_container.errors import RenderRefused

WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
"""A name of a machine or a model that no hypervisor takes for more than that."""
MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}", re.ASCII)
FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
SOCKET_BYTES_MAX: Final = 107
"""The kernel's limit for the path of a unix socket (sun_path less its zero)."""
REHEARSED: Final = "-dr-test"
"""What names end with in a rehearsal."""
_LOCAL_CLOCK: Final = "the clock: localtime"
"""Among what a description leaves out: Windows wants it so."""
_LOST: Final = ("a TPM", "a password")
"""How words begin of what is left out, and in no document either."""
_MAC_PREFIX: Final = "52:54:00"
"""Of addresses that nobody owns, as QEMU's and libvirt's own."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A disk that lies in a file or on a block device: an absolute path. `image`: how it lies there."""

    path: str
    image: Literal["raw", "qcow2"] = "raw"


@dataclass(frozen=True, slots=True)
class NbdPlace:
    """A disk that an NBD server exports: behind a unix socket, or at a host and a port."""

    export: str
    socket: str | None = None
    host: str | None = None
    port: int = 10809


Place: TypeAlias = FilePlace | NbdPlace


class NetworkKind(enum.StrEnum):
    """What a network card is connected to."""

    BRIDGE = "bridge"
    NETWORK = "network"
    USER = "user"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Network:
    """Where a network card is connected: `name` of a bridge or of a network of libvirt; `vlan`: its tag."""

    kind: NetworkKind = NetworkKind.NONE
    name: str = ""
    vlan: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a recovery changes of a VM.

    Attributes:
        places: of its disks, by their names.
        networks: of its network cards, by their names.
        directory: of this VM alone, at the recovery site: consoles, sockets, copies of variables.
        cpus, memory_bytes: None leaves them as they were.
        without: disks that it does without.
        direct_boot: kernel, initrd and command line at the recovery site.
        new_macs: whether network cards get addresses that no machine has.
        emulate: whether the recovery site has no KVM.
        seed: the path of cloud-init's image, if it gets one.
        rehearsal: whether it must not be taken for the one that it is a copy of.
    """

    directory: str
    places: Mapping[str, Place] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    cpus: int | None = None
    memory_bytes: int | None = None
    without: frozenset[str] = frozenset()
    direct_boot: tuple[str, str | None, str] | None = None
    new_macs: bool = False
    emulate: bool = False
    seed: str | None = None
    rehearsal: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """A VM with all that the recovery changes.

    Attributes:
        file_name: what its files are called.
        one: its description, changed: name, UUID, CPUs, memory, MACs; without disks that it does without.
        native: the document that it came from.
        changes: what was changed.
        variables: UEFI's, for a file of their own; None where nobody knows them.
        generation: a new VM generation id: its guest learns that it lives a second time.
        told: what of the description is not in any rendering.
    """

    file_name: str
    one: Description
    native: Native
    changes: Changes
    variables: bytes | None
    generation: str
    told: tuple[str, ...]

    @property
    def directory(self) -> str:
        """Where its files are."""
        return self.changes.directory

    @property
    def variables_path(self) -> str:
        """Where the variables of UEFI are kept while it runs."""
        return f"{self.directory}/{self.file_name}.vars.fd"

    def left_out(self, has_document: bool) -> list[str]:
        """What the description leaves out; where there is a document, only what that lacks too."""
        words = [word for word in self.one.left_out if word != _LOCAL_CLOCK]
        return [word for word in words if not has_document or word.startswith(_LOST)]

    @property
    def has_local_clock(self) -> bool:
        """Whether its clock shows the time of its place, not UTC."""
        return _LOCAL_CLOCK in self.one.left_out

    def place_of(self, disk: Disk) -> Place | None:
        """Where a disk lies; None of drives without a medium."""
        return self.changes.places.get(disk.name)

    def network_of(self, nic: Nic) -> Network:
        """What a network card is connected to; nothing where nobody said."""
        return self.changes.networks.get(nic.name, Network())


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document for a hypervisor, and in words what of the VM is not in it."""

    text: str
    not_rendered: tuple[str, ...]


def recovered_of(
    name: str,
    vm: bytes,
    description: Description,
    native: Native,
    changes: Changes,
    variables: bytes | None,
    random: Callable[[int], bytes],
) -> Recovered:
    """What a VM is to be at a recovery site; `random` gives so many bytes of entropy.

    Raises RenderRefused: a disk has no place, it boots from files that nobody named, or has no memory.
    """
    what = f"VM {name!r}"
    told: list[str] = []
    disks = tuple(disk for disk in description.disks if disk.name not in changes.without)
    told += [f"disk {disk.name}: the VM does without it" for disk in description.disks if disk not in disks]
    _check_places(what, disks, changes)
    if description.direct_boot is not None and changes.direct_boot is None:
        why = f"it boots from {description.direct_boot.kernel!r}, which is not protected"
        raise RenderRefused(what, why, "say `direct_boot` in the runbook, with files of this site")
    memory_bytes = changes.memory_bytes or description.memory_bytes
    if not memory_bytes:
        raise RenderRefused(what, "how much memory it had is not known", "say `memory` in the runbook")
    one = replace(
        description,
        name=f"{description.name}{REHEARSED}" if changes.rehearsal else description.name,
        uuid=_uuid_of(random(16)) if changes.rehearsal else _kept_uuid(description.uuid, told),
        cpus=changes.cpus or description.cpus,
        memory_bytes=memory_bytes,
        disks=disks,
        nics=tuple(_nic(nic, changes.new_macs, random, told) for nic in description.nics),
        autostart=description.autostart and not changes.rehearsal,
    )
    if changes.cpus is not None and changes.cpus != description.cpus:
        one = replace(one, sockets=1, cores=changes.cpus, threads=1)
    file_name = (name if FILE_NAME.fullmatch(name) else vm.hex()) + (REHEARSED if changes.rehearsal else "")
    one = _in_order(replace(one, disks=tuple(_writable(disk, told) for disk in one.disks)))
    for words in _texts(one):
        if "\0" in words or (not words.isascii() and _is_torn(words)):
            raise RenderRefused(what, "its description has a text that is none")
    return Recovered(file_name, one, native, changes, variables, _uuid_of(random(16)), tuple(told))


def _check_places(what: str, disks: tuple[Disk, ...], changes: Changes) -> None:
    missing = [disk.name for disk in disks if disk.kind is DiskKind.DISK and disk.name not in changes.places]
    if missing:
        why = f"nobody said where these disks are: {', '.join(missing)}"
        raise RenderRefused(what, why, "name each with --disk DISK=PATH, or in `without` of the runbook")
    unknown = sorted({*changes.places} - {disk.name for disk in disks})
    if unknown:
        raise RenderRefused(what, f"it has no such disks: {', '.join(unknown)}")
    for place in changes.places.values():
        path = place.path if isinstance(place, FilePlace) else place.socket
        if path is not None and (not path.startswith("/") or "\0" in path):
            raise RenderRefused(what, f"{path!r} is no absolute path")


def _in_order(one: Description) -> Description:
    """Each place in the boot order once: the first that claims it has it."""
    taken: set[int] = set()

    def first(boot: int | None) -> int | None:
        if boot is None or boot in taken:
            return None
        taken.add(boot)
        return boot

    disks = tuple(replace(disk, boot=first(disk.boot)) for disk in one.disks)
    return replace(one, disks=disks, nics=tuple(replace(nic, boot=first(nic.boot)) for nic in one.nics))


def _texts(one: Description) -> list[str]:
    texts = [one.name, one.note, *one.tags, one.machine or "", one.cpu_model or ""]
    texts += [text for disk in one.disks for text in (disk.name, disk.serial or "", disk.model or "")]
    return texts + [text for nic in one.nics for text in (nic.name, nic.network or "", nic.model or "")]


def _is_torn(text: str) -> bool:
    """Whether it has halves of characters, which no file can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _kept_uuid(text: str | None, told: list[str]) -> str | None:
    if text is None:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        told.append("its UUID, which is none")
        return None


def _writable(disk: Disk, told: list[str]) -> Disk:
    """ATA has no hard disks that are read only, and no hypervisor takes one."""
    if disk.kind is DiskKind.DISK and disk.read_only and disk.bus in (Bus.IDE, Bus.SATA):
        told.append(f"disk {disk.name}: that it is read only, which a disk on {disk.bus} cannot be")
        return replace(disk, read_only=False)
    return disk


def _uuid_of(entropy: bytes) -> str:
    return str(uuid.UUID(bytes=entropy, version=4))


def _nic(nic: Nic, is_new: bool, random: Callable[[int], bytes], told: list[str]) -> Nic:
    mac = nic.mac
    if mac is not None and not MAC.fullmatch(mac):
        told.append(f"network card {nic.name}: its MAC, which is none")
        mac = None
    if is_new or mac is None:
        mac = ":".join([_MAC_PREFIX, *(f"{byte:02x}" for byte in random(3))])
    return replace(nic, mac=mac.lower())


def word_or_none(text: str | None, what: str, told: list[str]) -> str | None:
    """A name that a hypervisor takes for no more than a name; else None, and told."""
    if text is None or WORD.fullmatch(text):
        return text
    told.append(f"{what}, which is no name")
    return None


def socket_path(path: str) -> str:
    """The path of a unix socket that the kernel takes. Raises RenderRefused."""
    if len(path.encode()) > SOCKET_BYTES_MAX:
        why = f"{path} is longer than {SOCKET_BYTES_MAX} bytes"
        raise RenderRefused("make the VM's sockets", why, "choose a shorter directory in the runbook")
    return path
