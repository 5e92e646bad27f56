"""What a VM is, in words that all hypervisors share: the description, to and from JSON. PURE.

docs/vms.md has its members and what they mean. How a hypervisor says the same does not belong here
(`cdp_agent.vms`), nor the record that carries it (`machine_records`).
"""

from __future__ import annotations

import base64
import binascii
import enum
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from cdp_container.domain.machine_members import TEXT_CHARS_MAX as TEXT_CHARS_MAX
from cdp_container.domain.machine_members import WORDS_MAX, Said
from cdp_container.errors import DamagedObject, LimitExceeded, NewerFormat
from cdp_container.format.jsontext import JsonObject, dump_object, load_object
from cdp_container.format.members import U64_MAX

VERSION: Final = 1
DESCRIPTION_BYTES_MAX: Final = 192 << 10
"""Of a description as JSON; with NATIVE_BYTES_MAX it fits a record."""
NATIVE_BYTES_MAX: Final = 128 << 10
"""Of the hypervisor's own document, in UTF-8. As JSON it may be twice as long."""
NOTE_CHARS_MAX: Final = 16_384
DISKS_MAX: Final = 256
NICS_MAX: Final = 64
CPUS_MAX: Final = 65_536
VARIABLES_BYTES_MAX: Final = 64 << 20
"""Of UEFI variables as they lie in their store: 64 MiB on aarch64, nearly all of it zeros."""
VARIABLES_TEXT_CHARS_MAX: Final = 128 << 10
"""Of the same, compressed and in base64."""

Extra: TypeAlias = Mapping[str, Any]
"""Members that a later release added, kept as they are."""


class Bus(enum.StrEnum):
    """How a disk is attached."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"
    NVME = "nvme"
    USB = "usb"
    FLOPPY = "fdc"


class DiskKind(enum.StrEnum):
    """What a disk is to its guest."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"


class FirmwareKind(enum.StrEnum):
    """What the VM starts with."""

    BIOS = "bios"
    UEFI = "uefi"


class Console(enum.StrEnum):
    """How people look at a VM."""

    SERIAL = "serial"
    VNC = "vnc"
    SPICE = "spice"
    VIRTIO = "virtio"


@dataclass(frozen=True, slots=True)
class Firmware:
    """`variables`: the content of UEFI's variable store, zlib in base64; None where it could not be read."""

    kind: FirmwareKind = FirmwareKind.BIOS
    secure_boot: bool = False
    variables: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk.

    Attributes:
        name: what the hypervisor calls it; each once in a VM.
        volume: the id of the space that holds it; None where it is no volume of the domain.
        bus: how it is attached.
        kind: what it is to the guest.
        boot: its place in the boot order, from 1.
        serial: what the guest is told.
        read_only: whether the guest may only read it.
        model: in the hypervisor's words.
    """

    name: str
    volume: bytes | None = None
    bus: Bus = Bus.VIRTIO
    kind: DiskKind = DiskKind.DISK
    boot: int | None = None
    serial: str | None = None
    read_only: bool = False
    model: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card; `network`: what it was connected to, in the hypervisor's words."""

    name: str
    mac: str | None = None
    network: str | None = None
    model: str | None = None
    boot: int | None = None
    vlan: int | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """What a VM starts by, where that is no disk: paths at the protected site."""

    kernel: str
    initrd: str | None = None
    command_line: str = ""
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """One VM. `extra`, here and in its parts: members that we do not know; they are kept."""

    name: str
    uuid: str | None = None
    architecture: str = "x86_64"
    machine: str | None = None
    cpus: int = 1
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    cpu_model: str | None = None
    memory_bytes: int = 0
    firmware: Firmware = Firmware()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    direct_boot: DirectBoot | None = None
    consoles: tuple[Console, ...] = ()
    owner: str | None = None
    permissions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    note: str = ""
    guest_agent: bool = False
    autostart: bool = False
    left_out: tuple[str, ...] = ()
    extra: Extra = field(default_factory=dict)

    def with_left_out(self, *words: str) -> Description:
        """The same, saying of more that it is not in it."""
        new = dict.fromkeys((*self.left_out, *words))
        return replace(self, left_out=tuple(new))


class NativeKind(enum.StrEnum):
    """Whose document it is."""

    LIBVIRT = "libvirt"
    PROXMOX = "proxmox"
    QMP = "qmp"
    BY_HAND = "description"


@dataclass(frozen=True, slots=True)
class Native:
    """The hypervisor's own document. `kind` is one of NativeKind, or what a later release knows."""

    kind: str
    document: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a `vm` record says of a VM: its name in the domain, what it is, and the document it came from."""

    name: str
    description: Description
    native: Native


def pack_variables(data: bytes) -> str | None:
    """UEFI variables as a description has them; None where they are too large for one."""
    if len(data) > VARIABLES_BYTES_MAX:
        return None
    text = base64.b64encode(zlib.compress(data, 9)).decode("ascii")
    return text if len(text) <= VARIABLES_TEXT_CHARS_MAX else None


def unpack_variables(text: str, what: str) -> bytes:
    """The content of the variable store. Raises DamagedObject, LimitExceeded."""
    try:
        packed = base64.b64decode(text, validate=True)
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(packed, VARIABLES_BYTES_MAX + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise DamagedObject(what, f"its UEFI variables make no sense: {error}") from error
    if len(data) > VARIABLES_BYTES_MAX:
        raise LimitExceeded(what, "its UEFI variables are more than VARIABLES_BYTES_MAX")
    if not unpacking.eof or unpacking.unused_data:
        raise DamagedObject(what, "its UEFI variables make no sense: they do not end where they should")
    return data


# --- to JSON -------------------------------------------------------------------------------------


def description_members(description: Description) -> dict[str, Any]:
    """The members of a description, as docs/vms.md has them."""
    one = description
    return {
        **one.extra,
        "version": VERSION,
        "name": one.name,
        "uuid": one.uuid,
        "architecture": one.architecture,
        "machine": one.machine,
        "cpus": one.cpus,
        "sockets": one.sockets,
        "cores": one.cores,
        "threads": one.threads,
        "cpu_model": one.cpu_model,
        "memory_bytes": one.memory_bytes,
        "firmware": {
            **one.firmware.extra,
            "kind": one.firmware.kind.value,
            "secure_boot": one.firmware.secure_boot,
            "variables": one.firmware.variables,
        },
        "disks": [_disk_members(disk) for disk in one.disks],
        "nics": [_nic_members(nic) for nic in one.nics],
        "direct_boot": None if one.direct_boot is None else _boot_members(one.direct_boot),
        "consoles": [console.value for console in one.consoles],
        "owner": one.owner,
        "permissions": list(one.permissions),
        "tags": list(one.tags),
        "note": one.note,
        "guest_agent": one.guest_agent,
        "autostart": one.autostart,
        "left_out": list(one.left_out),
    }


def _disk_members(disk: Disk) -> dict[str, Any]:
    return {
        **disk.extra,
        "name": disk.name,
        "volume": None if disk.volume is None else disk.volume.hex(),
        "bus": disk.bus.value,
        "kind": disk.kind.value,
        "boot": disk.boot,
        "serial": disk.serial,
        "read_only": disk.read_only,
        "model": disk.model,
    }


def _nic_members(nic: Nic) -> dict[str, Any]:
    return {
        **nic.extra,
        "name": nic.name,
        "mac": nic.mac,
        "network": nic.network,
        "model": nic.model,
        "boot": nic.boot,
        "vlan": nic.vlan,
    }


def _boot_members(boot: DirectBoot) -> dict[str, Any]:
    return {
        **boot.extra,
        "kernel": boot.kernel,
        "initrd": boot.initrd,
        "command_line": boot.command_line,
    }


def build_description(description: Description) -> bytes:
    """The one encoding: equal descriptions have equal bytes.

    Raises:
        LimitExceeded: it is longer than DESCRIPTION_BYTES_MAX.
        DamagedObject: it is none that a reader would take.
    """
    data = dump_object(description_members(description))
    found = parse_description(data, f"the description of {description.name!r}")
    assert found == description, "what is read is what was written"
    return data


# --- from JSON -----------------------------------------------------------------------------------


def parse_description(data: bytes, what: str) -> Description:
    """A description from its JSON; `what` names it in errors.

    Raises:
        LimitExceeded: it is longer than DESCRIPTION_BYTES_MAX, or has more of something than may be.
        NewerFormat: it is of a later version.
        DamagedObject: it contradicts the document.
    """
    return read_description(load_object(data, DESCRIPTION_BYTES_MAX, what), what)


def read_description(members: JsonObject, what: str) -> Description:
    """A description from its members; raises as `parse_description` does."""
    said = Said(members, what)
    version = said.number("version", U64_MAX, 1, VERSION)
    if version > VERSION:
        raise NewerFormat(what, f"it is of version {version}, and this release knows {VERSION}")
    name = said.text("name")
    if not name:
        raise said.fault("name", "is empty")
    disks = tuple(_disk(one) for one in said.objects("disks", DISKS_MAX))
    nics = tuple(_nic(one) for one in said.objects("nics", NICS_MAX))
    for kind, names in (("disks", [disk.name for disk in disks]), ("nics", [nic.name for nic in nics])):
        if len(set(names)) < len(names):
            raise said.fault(kind, "names one of them twice")
    boot = said.object_or_none("direct_boot")
    firmware = said.object_or_none("firmware")
    return Description(
        name=name,
        uuid=said.text_or_none("uuid"),
        architecture=said.text("architecture", "x86_64"),
        machine=said.text_or_none("machine"),
        cpus=said.number("cpus", CPUS_MAX, 1, 1),
        sockets=said.number_or_none("sockets", CPUS_MAX, 1),
        cores=said.number_or_none("cores", CPUS_MAX, 1),
        threads=said.number_or_none("threads", CPUS_MAX, 1),
        cpu_model=said.text_or_none("cpu_model"),
        memory_bytes=said.number("memory_bytes", U64_MAX, 0, 0),
        firmware=Firmware() if firmware is None else _firmware(firmware),
        disks=disks,
        nics=nics,
        direct_boot=None if boot is None else _boot(boot),
        consoles=tuple(said.choice_of(word, "consoles", Console) for word in said.texts("consoles")),
        owner=said.text_or_none("owner"),
        permissions=said.texts("permissions"),
        tags=said.texts("tags"),
        note=said.text("note", "", NOTE_CHARS_MAX),
        guest_agent=said.flag("guest_agent"),
        autostart=said.flag("autostart"),
        left_out=said.texts("left_out"),
        extra=said.unknown(),
    )


def _firmware(said: Said) -> Firmware:
    variables = said.text_or_none("variables", VARIABLES_TEXT_CHARS_MAX)
    kind = said.choice("kind", FirmwareKind, FirmwareKind.BIOS)
    return Firmware(kind, said.flag("secure_boot"), variables, said.unknown())


def _disk(said: Said) -> Disk:
    return Disk(
        name=said.text("name"),
        volume=said.id_or_none("volume"),
        bus=said.choice("bus", Bus, Bus.VIRTIO),
        kind=said.choice("kind", DiskKind, DiskKind.DISK),
        boot=said.number_or_none("boot", WORDS_MAX, 1),
        serial=said.text_or_none("serial"),
        read_only=said.flag("read_only"),
        model=said.text_or_none("model"),
        extra=said.unknown(),
    )


def _nic(said: Said) -> Nic:
    return Nic(
        name=said.text("name"),
        mac=said.text_or_none("mac"),
        network=said.text_or_none("network"),
        model=said.text_or_none("model"),
        boot=said.number_or_none("boot", WORDS_MAX, 1),
        vlan=said.number_or_none("vlan", 4094, 0),
        extra=said.unknown(),
    )


def _boot(said: Said) -> DirectBoot:
    return DirectBoot(
        kernel=said.text("kernel"),
        initrd=said.text_or_none("initrd"),
        command_line=said.text("command_line", "", NOTE_CHARS_MAX),
        extra=said.unknown(),
    )
