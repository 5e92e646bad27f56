"""Disks and network cards of a libvirt domain: made of a description, or changed in a document. PURE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from cdp_container.domain.machine import Bus, Disk, DiskKind, Nic
from cdp_container.errors import RenderRefused
from rehydrate.render.libvirt_kept import keep_known
from rehydrate.render.recovered import FilePlace, Network, NetworkKind, Place, Recovered, word_or_none

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_PREFIXES: Final = {
    Bus.VIRTIO: "vd", Bus.SCSI: "sd", Bus.SATA: "sd", Bus.IDE: "hd", Bus.USB: "sd", Bus.FLOPPY: "fd",
    Bus.NVME: "vd",
}  # fmt: skip
_STAYS: Final = frozenset(
    {"target", "address", "alias", "boot", "serial", "wwn", "vendor", "product", "readonly", "iotune",
     "blockio", "geometry", "driver", "acpi"}
)  # fmt: skip
"""Of a disk: what its guest sees of it."""
_NIC_STAYS: Final = frozenset(
    {"mac", "model", "driver", "boot", "address", "alias", "mtu", "bandwidth", "coalesce", "acpi", "tune"}
)  # fmt: skip
_DRIVER_STAYS: Final = frozenset(
    {
        "name",
        "cache",
        "discard",
        "detect_zeroes",
        "iothread",
        "queues",
        "rerror_policy",
        "error_policy",
        "ioeventfd",
        "event_idx",
        "packed",
        "iommu",
        "ats",
        "queue_size",
    }
)
_DISK_VALUES: Final = {
    "device": ("disk", "cdrom", "floppy"),
    "model": ("virtio", "virtio-transitional", "virtio-non-transitional"),
}
_RECONNECT_SECONDS: Final = "3600"
"""So long requests wait for an NBD server that is gone; only then guests see errors."""


# --- libvirt's document --------------------------------------------------------------------------


def changed_disks(vm: Recovered, devices: Element, told: list[str]) -> None:
    """Put the disks of a document where they are now; those that the VM does without are taken out."""
    kept = {disk.name: disk for disk in vm.one.disks}
    for number, one in enumerate(devices.findall("disk")):
        target = one.find("target")
        name = (None if target is None else target.get("dev")) or f"disk{number}"
        disk = kept.get(name)
        if disk is None:
            devices.remove(one)
            continue
        if target is None:
            raise RenderRefused(f"the libvirt document of {vm.one.name!r}", f"its disk {name} has no target")
        _cleared(one, "disk", _STAYS, told, f"disk {name}")
        if one.get("device") == "lun":
            one.set("device", "disk")
        for attribute, value in list(one.attrib.items()):
            if attribute != "type" and value not in _DISK_VALUES.get(attribute, ()):
                del one.attrib[attribute]
        _put(one, disk, vm.place_of(disk))


def changed_nics(vm: Recovered, devices: Element, told: list[str]) -> None:
    """Connect the network cards of a document to what is here."""
    kept = {nic.name: nic for nic in vm.one.nics}
    for number, one in enumerate(devices.findall("interface")):
        nic = kept.get(f"net{number}")
        if nic is None:
            devices.remove(one)
            continue
        if one.get("type") == "hostdev":
            SubElement(one, "model", {"type": "virtio"})
            told.append(f"network card {nic.name}: the host's own; virtio instead")
        is_unplugged = any(link.get("state") == "down" for link in one.findall("link"))
        _cleared(one, "interface", _NIC_STAYS, told, f"network card {nic.name}")
        for driver in one.findall("driver"):
            if driver.get("name") not in (None, "qemu", "vhost"):
                driver.attrib.pop("name")
        mac = one.find("mac")
        if mac is None:
            mac = Element("mac")
            one.insert(0, mac)
        mac.attrib = {"address": nic.mac or ""}
        _connect(one, vm, nic, told)
        if is_unplugged and one.find("link") is None:
            SubElement(one, "link", {"state": "down"})


def _cleared(one: Element, path: str, stays: frozenset[str], told: list[str], what: str) -> None:
    quiet = {"source", "backingStore", "mirror", "target", "link", "vlan", "guest", "virtualport"}
    for inner in list(one):
        if inner.tag not in stays:
            one.remove(inner)
            told += [] if inner.tag in quiet else [f"{what}: {inner.tag}"]
        else:
            keep_known(inner, f"{path}/{inner.tag}", told, f"{what} {inner.tag}")


def _put(one: Element, disk: Disk, place: Place | None) -> None:
    """Say where a disk is: first its driver, then its source, as libvirt writes them."""
    driver = one.find("driver")
    if driver is None:
        driver = Element("driver")
    else:
        one.remove(driver)
    driver.attrib = {name: value for name, value in driver.attrib.items() if name in _DRIVER_STAYS}
    driver.attrib |= {"name": "qemu", "type": place.image if isinstance(place, FilePlace) else "raw"}
    one.insert(0, driver)
    if place is None:
        one.set("type", "file")
        return
    one.insert(1, _source(one, place))
    is_read_only = disk.read_only or disk.kind is DiskKind.CDROM
    for element in one.findall("readonly"):
        if not is_read_only:
            one.remove(element)
    if is_read_only and one.find("readonly") is None:
        SubElement(one, "readonly")


def _source(one: Element, place: Place) -> Element:
    if isinstance(place, FilePlace):
        is_device = place.path.startswith("/dev/")
        one.set("type", "block" if is_device else "file")
        return Element("source", {"dev" if is_device else "file": place.path})
    one.set("type", "network")
    source = Element("source", {"protocol": "nbd", "name": place.export})
    if place.socket is not None:
        SubElement(source, "host", {"transport": "unix", "socket": place.socket})
    else:
        SubElement(source, "host", {"name": place.host or "", "port": str(place.port)})
    SubElement(source, "reconnect", {"delay": _RECONNECT_SECONDS})
    return source


def _connect(one: Element, vm: Recovered, nic: Nic, told: list[str]) -> None:
    network = vm.network_of(nic)
    if network.kind is NetworkKind.USER and vm.changes.rehearsal:
        told.append(f"network card {nic.name}: QEMU's own network, which libvirt cannot keep from the host's")
        network = Network()
    kinds = {NetworkKind.BRIDGE: "bridge", NetworkKind.NETWORK: "network"}
    one.attrib = {"type": kinds.get(network.kind, "user")}
    if network.kind in kinds:
        one.insert(1, Element("source", {kinds[network.kind]: network.name}))
    if network.kind is NetworkKind.NONE:
        SubElement(one, "link", {"state": "down"})
    if network.vlan is not None:
        SubElement(SubElement(one, "vlan"), "tag", {"id": str(network.vlan)})
    elif nic.vlan is not None:
        told.append(f"network card {nic.name}: VLAN {nic.vlan}")


# --- a description -------------------------------------------------------------------------------


def disk_elements(vm: Recovered, told: list[str]) -> Iterator[Element]:
    """The disks, each with a name of libvirt's own on its bus."""
    taken: set[str] = set()
    controllers: set[str] = set()
    for disk in vm.one.disks:
        place = vm.place_of(disk)
        bus = disk.bus
        if bus is Bus.NVME:
            told.append(f"disk {disk.name}: its bus nvme; virtio instead")
            bus = Bus.VIRTIO
        if (bus is Bus.IDE and "q35" in (vm.one.machine or "")) or (
            bus is Bus.VIRTIO and disk.kind is DiskKind.CDROM
        ):
            told.append(f"disk {disk.name}: its bus {bus}, which it cannot have; sata instead")
            bus = Bus.SATA
        if bus is Bus.SCSI and not controllers:
            controllers.add("scsi")
            yield _scsi(disk.model, disk.name, told)
        one = Element("disk", {"device": disk.kind.value})
        SubElement(one, "target", {"dev": _free(_PREFIXES[bus], taken), "bus": bus.value})
        if disk.serial is not None:
            SubElement(one, "serial").text = disk.serial
        if disk.read_only or disk.kind is DiskKind.CDROM:
            SubElement(one, "readonly")
        if disk.boot is not None:
            SubElement(one, "boot", {"order": str(disk.boot)})
        _put(one, disk, place)
        yield one


def _scsi(model: str | None, name: str, told: list[str]) -> Element:
    """The controller of all disks on SCSI; libvirt makes more of its kind."""
    known = {
        "scsi-hd": "virtio-scsi", "scsi-block": "virtio-scsi",
        "virtio-scsi": "virtio-scsi", "virtio-scsi-pci": "virtio-scsi", "virtio-scsi-single": "virtio-scsi",
        "lsi": "lsilogic", "lsilogic": "lsilogic", "lsisas1068": "lsisas1068", "megasas": "lsisas1078",
        "lsisas1078": "lsisas1078", "pvscsi": "vmpvscsi", "vmpvscsi": "vmpvscsi",
    }  # fmt: skip
    found = known.get(model or "virtio-scsi")
    if found is None:
        told.append(f"disk {name}: its controller {(model or '')[:40]!r}; virtio-scsi instead")
    return Element("controller", {"type": "scsi", "index": "0", "model": found or "virtio-scsi"})


def _free(prefix: str, taken: set[str]) -> str:
    """The next name of a disk: vda to vdz, vdaa and on."""
    number = 0
    while (name := prefix + _suffix(number)) in taken:
        number += 1
    taken.add(name)
    return name


def _suffix(number: int) -> str:
    first, last = divmod(number, len(_LETTERS))
    return (_LETTERS[first - 1] if first else "") + _LETTERS[last]


def nic_elements(vm: Recovered, told: list[str]) -> Iterator[Element]:
    """The network cards."""
    for nic in vm.one.nics:
        one = Element("interface")
        SubElement(one, "mac", {"address": nic.mac or ""})
        model = word_or_none(nic.model, f"network card {nic.name}: its model", told)
        known = {None: "virtio", "virtio-net-pci": "virtio", "virtio-net": "virtio"}
        SubElement(one, "model", {"type": known.get(model, model or "virtio")})
        if nic.boot is not None:
            SubElement(one, "boot", {"order": str(nic.boot)})
        _connect(one, vm, nic, told)
        yield one


def add_seed(devices: Element, path: str) -> None:
    """cloud-init's image, as a CD-ROM with a name that no other disk has."""
    taken = {target.get("dev") or "" for target in devices.findall("disk/target")}
    one = SubElement(devices, "disk", {"type": "file", "device": "cdrom"})
    SubElement(one, "driver", {"name": "qemu", "type": "raw"})
    SubElement(one, "source", {"file": path})
    SubElement(one, "target", {"dev": _free("sd", taken), "bus": "sata"})
    SubElement(one, "readonly")
