"""Disks, network cards, consoles and their controllers of a plain QEMU: options, each a word. PURE.

What is said of a device is JSON, so that no text in it is taken for another option.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cdp_container.domain.machine import Bus, Console, Disk, DiskKind, Nic
from cdp_container.errors import RenderRefused
from rehydrate.render.recovered import (
    FilePlace,
    NbdPlace,
    NetworkKind,
    Place,
    Recovered,
    socket_path,
    word_or_none,
)

SLOTS_MAX: Final = 16
"""Devices on the machine's own bus of PCI, which has its chipset too; more are behind bridges."""
BRIDGE_SLOTS_MAX: Final = 24
AHCI_PORTS: Final = 6
SCSI_TARGETS_MAX: Final = 7
"""Of the oldest controllers; so all get no more."""
RECONNECT_SECONDS: Final = 3600
"""So long requests wait for an NBD server that is gone; only then guests see errors."""
SERIAL_CHARS_MAX: Final = 20
"""Of a disk's serial number, as virtio has room for."""

_SCSI: Final = {
    "lsi": "lsi53c895a", "lsilogic": "lsi53c895a", "lsi53c810": "lsi53c810", "megasas": "megasas",
    "pvscsi": "pvscsi", "vmpvscsi": "pvscsi", "lsisas1068": "mptsas1068", "lsisas1078": "megasas",
    "virtio-scsi": "virtio-scsi-pci", "virtio-scsi-pci": "virtio-scsi-pci",
    "virtio-scsi-single": "virtio-scsi-pci", "scsi-hd": "virtio-scsi-pci", "scsi-block": "virtio-scsi-pci",
}  # fmt: skip
_NICS: Final = {
    "virtio": "virtio-net-pci", "virtio-net-pci": "virtio-net-pci", "virtio-net": "virtio-net-pci",
    "e1000": "e1000", "e1000-82540em": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3", "ne2k_pci": "ne2k_pci", "pcnet": "pcnet", "i82551": "i82551", "igb": "igb",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """The program, and its machines where a description names none."""

    program: str
    bios: str
    uefi: str


@dataclass(slots=True)
class Devices:
    """Words of the command line as they come to be, and which buses have room."""

    machine: str
    words: list[str] = field(default_factory=list)
    pci: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_pc(self) -> bool:
        """Whether it is a machine of the i440FX, which has IDE and a floppy."""
        return self.machine.startswith(("pc-i440", "pc-0", "pc-1")) or self.machine == "pc"

    @property
    def is_q35(self) -> bool:
        """Whether it is a machine of the Q35, which has AHCI."""
        return "q35" in self.machine

    def option(self, name: str, value: str) -> None:
        """One option and its value."""
        self.words += [name, value]

    def device(self, driver: str, **members: object) -> None:
        """A device; members that are None are left out."""
        named = {name: value for name, value in members.items() if value is not None}
        self.option("-device", dumped({"driver": driver, **named}))

    def on_pci(self, driver: str, **members: object) -> None:
        """A device of PCI, behind a bridge where the machine's own bus is full."""
        self.pci += 1
        if self.pci <= SLOTS_MAX:
            self.device(driver, **members)
            return
        number, slot = divmod(self.pci - SLOTS_MAX - 1, BRIDGE_SLOTS_MAX)
        if slot == 0:
            kind = {"chassis_nr": number + 1} if self.is_pc else {}
            self.device("pci-bridge" if self.is_pc else "pcie-pci-bridge", id=f"bridge{number}", **kind)
        self.device(driver, bus=f"bridge{number}", addr=f"{slot + 1:x}", **members)

    def next_of(self, what: str) -> int:
        """A number that counts up, from 0."""
        number = self.counts.get(what, 0)
        self.counts[what] = number + 1
        return number


def dumped(members: Mapping[str, Any]) -> str:
    """JSON of one line, in ASCII."""
    return json.dumps(members, ensure_ascii=True)


def device_words(vm: Recovered, machine: str, told: list[str]) -> Devices:
    """The options of all devices. Raises RenderRefused."""
    devices = Devices(machine)
    _consoles(devices, vm, told)
    for number, disk in enumerate(vm.one.disks):
        _disk(devices, number, disk, vm.place_of(disk), told)
    if vm.changes.seed is not None:
        seed = Disk("seed", bus=Bus.SCSI, kind=DiskKind.CDROM, read_only=True)
        _disk(devices, len(vm.one.disks), seed, FilePlace(vm.changes.seed), told)
    for number, nic in enumerate(vm.one.nics):
        _nic(devices, number, nic, vm, told)
    return devices


# --- consoles ------------------------------------------------------------------------------------


def _consoles(devices: Devices, vm: Recovered, told: list[str]) -> None:
    """A serial console always, as a socket and a log; others where the VM had them."""
    one = vm.one
    serial = _chardev(devices, vm, "serial", f"{vm.directory}/{vm.file_name}.console")
    devices.option("-serial", f"chardev:{serial}")
    devices.option("-mon", f"chardev={_chardev(devices, vm, 'qmp')},mode=control")
    devices.option("-pidfile", f"{vm.directory}/{vm.file_name}.pid")
    needs_virtio = one.guest_agent or Console.VIRTIO in one.consoles
    if needs_virtio:
        devices.on_pci("virtio-serial-pci", id="vserial")
    if one.guest_agent:
        agent = _chardev(devices, vm, "agent")
        name = "org.qemu.guest_agent.0"
        devices.device("virtserialport", bus="vserial.0", chardev=agent, name=name, id="agent0")
    if Console.VIRTIO in one.consoles:
        devices.device("virtconsole", bus="vserial.0", chardev=_chardev(devices, vm, "hvc"), id="hvc0")
    if Console.SPICE in one.consoles:
        told.append("console spice: VNC instead")
    if {Console.VNC, Console.SPICE} & {*one.consoles}:
        devices.on_pci("VGA" if devices.is_pc or devices.is_q35 else "virtio-gpu-pci", id="video0")
        path = socket_path(f"{vm.directory}/{vm.file_name}.vnc.sock")
        devices.option("-vnc", f"unix:{path.replace(',', ',,')}")
        if not (devices.is_pc or devices.is_q35):
            devices.on_pci("qemu-xhci", id="keys")
            devices.device("usb-kbd", bus="keys.0")
    devices.option("-display", "none")


def _chardev(devices: Devices, vm: Recovered, name: str, log: str | None = None) -> str:
    """A unix socket, and what came over it in a file; gives its id."""
    path = socket_path(f"{vm.directory}/{vm.file_name}.{name}.sock").replace(",", ",,")
    logged = f",logfile={log.replace(',', ',,')},logappend=on" if log is not None else ""
    devices.option("-chardev", f"socket,id={name}0,path={path},server=on,wait=off{logged}")
    return f"{name}0"


# --- disks ---------------------------------------------------------------------------------------


def _disk(devices: Devices, number: int, disk: Disk, place: Place | None, told: list[str]) -> None:
    if disk.kind is DiskKind.FLOPPY and place is None:
        told.append(f"disk {disk.name}: a floppy drive without a medium")
        return
    node = None if place is None else f"disk{number}"
    read_only = disk.read_only or disk.kind is DiskKind.CDROM
    if place is not None:
        devices.option("-blockdev", dumped(_node(f"disk{number}", place, read_only)))
    members: dict[str, Any] = {"id": f"dev{number}", "drive": node, "bootindex": disk.boot}
    serial = disk.serial
    if serial is not None and len(serial) > SERIAL_CHARS_MAX and disk.bus is Bus.VIRTIO:
        serial = serial[:SERIAL_CHARS_MAX]
        told.append(f"disk {disk.name}: its serial number but for {SERIAL_CHARS_MAX} characters")
    members["serial"] = serial
    is_cdrom = disk.kind is DiskKind.CDROM
    match disk.bus:
        case Bus.VIRTIO if not is_cdrom:
            devices.on_pci("virtio-blk-pci", **members)
        case Bus.NVME if not is_cdrom:
            devices.on_pci("nvme", **{**members, "serial": serial or disk.name})
        case Bus.USB:
            _on_usb(devices, members, is_cdrom)
        case Bus.FLOPPY:
            if not devices.is_pc and devices.next_of("isa-fdc") == 0:
                devices.device("isa-fdc", id="fdc0")
            devices.device("floppy", unit=devices.next_of("floppy"), drive=node, id=members["id"])
        case Bus.IDE | Bus.SATA if devices.is_pc or devices.is_q35:
            _on_ata(devices, disk, members, told)
        case _:
            _on_scsi(devices, disk, members, told)


def _node(name: str, place: Place, read_only: bool) -> dict[str, Any]:
    """A raw disk over a file, a device or an export."""
    inner: dict[str, Any]
    if isinstance(place, FilePlace):
        driver = "host_device" if place.path.startswith("/dev/") else "file"
        inner = {"driver": driver, "filename": place.path, "discard": "unmap"}
    else:
        inner = {
            "driver": "nbd",
            "server": _server(place),
            "export": place.export,
            "reconnect-delay": RECONNECT_SECONDS,
        }
    inner["read-only"] = read_only
    image = place.image if isinstance(place, FilePlace) else "raw"
    return {"driver": image, "node-name": name, "file": inner, "read-only": read_only, "discard": "unmap"}


def _server(place: NbdPlace) -> dict[str, str]:
    if place.socket is not None:
        return {"type": "unix", "path": place.socket}
    if place.host is None:
        raise RenderRefused("write an NBD disk", "it has neither a socket nor a host")
    return {"type": "inet", "host": place.host, "port": str(place.port)}


def _on_usb(devices: Devices, members: dict[str, Any], is_cdrom: bool) -> None:
    number = devices.next_of("usb")
    if number % SCSI_TARGETS_MAX == 0:
        devices.on_pci("qemu-xhci", id=f"usb{number // SCSI_TARGETS_MAX}", p2=8, p3=8)
    bus = f"usb{number // SCSI_TARGETS_MAX}.0"
    if is_cdrom:
        devices.device("usb-bot", id=f"bot{number}", bus=bus)
        devices.device("scsi-cd", bus=f"bot{number}.0", lun=0, **members)
    elif members["drive"] is not None:
        devices.device("usb-storage", bus=bus, removable=False, **members)


def _on_ata(devices: Devices, disk: Disk, members: dict[str, Any], told: list[str]) -> None:
    driver = "ide-cd" if disk.kind is DiskKind.CDROM else "ide-hd"
    if disk.bus is Bus.IDE and devices.is_pc and devices.counts.get("ide", 0) < 4:
        number = devices.next_of("ide")
        devices.device(driver, bus=f"ide.{number // 2}", unit=number % 2, **members)
        return
    if disk.bus is Bus.IDE:
        told.append(f"disk {disk.name}: its bus ide, of which the machine has no more; sata instead")
    number = devices.next_of("sata")
    own = AHCI_PORTS if devices.is_q35 else 0
    controller, port = divmod(number - own, AHCI_PORTS) if number >= own else (-1, number)
    if controller >= 0 and port == 0:
        devices.on_pci("ich9-ahci", id=f"ahci{controller}")
    devices.device(driver, bus=f"ahci{controller}.{port}" if controller >= 0 else f"ide.{port}", **members)


def _on_scsi(devices: Devices, disk: Disk, members: dict[str, Any], told: list[str]) -> None:
    if disk.bus is not Bus.SCSI:
        told.append(f"disk {disk.name}: its bus {disk.bus}; scsi instead")
    model = _SCSI.get(disk.model or "virtio-scsi") if disk.bus is Bus.SCSI else "virtio-scsi-pci"
    if model is None:
        told.append(f"disk {disk.name}: its controller {(disk.model or '')[:40]!r}; virtio-scsi instead")
        model = "virtio-scsi-pci"
    number = devices.next_of(model)
    group, target = divmod(number, SCSI_TARGETS_MAX)
    name = f"{model.partition('-')[0]}{group}"
    if target == 0:
        devices.on_pci(model, id=name)
    driver = "scsi-cd" if disk.kind is DiskKind.CDROM else "scsi-hd"
    devices.device(driver, bus=f"{name}.0", **{"scsi-id": target}, **members)


# --- network cards -------------------------------------------------------------------------------


def _nic(devices: Devices, number: int, nic: Nic, vm: Recovered, told: list[str]) -> None:
    network = vm.network_of(nic)
    model = _NICS.get(nic.model or "virtio")
    if model is None:
        told.append(f"network card {nic.name}: its model {(nic.model or '')[:40]!r}; virtio instead")
        model = "virtio-net-pci"
    peer: str | None = f"net{number}"
    match network.kind:
        case NetworkKind.BRIDGE:
            name = word_or_none(network.name, f"network card {nic.name}: its bridge", told)
            devices.option(
                "-netdev", f"bridge,id={peer},br={name}" if name else f"user,id={peer},restrict=on"
            )
        case NetworkKind.USER:
            # A machine of a rehearsal must reach nothing that this host reaches, nor its loopback.
            alone = ",restrict=on" if vm.changes.rehearsal else ""
            devices.option("-netdev", f"user,id={peer}{alone}")
        case NetworkKind.NETWORK:
            why = f"network {network.name!r} is one of libvirt's"
            raise RenderRefused(f"connect network card {nic.name}", why, "name a bridge in the runbook")
        case _:
            # A hub of its own: connected, and nobody else is there.
            devices.option("-netdev", f"hubport,id={peer},hubid={number + 1}")
    if nic.vlan is not None or network.vlan is not None:
        told.append(f"network card {nic.name}: VLAN {network.vlan or nic.vlan}")
    devices.on_pci(model, id=f"nic{number}", netdev=peer, mac=nic.mac, bootindex=nic.boot)
