"""A libvirt domain's XML as a description. PURE: text in, values out.

Nothing outside of the text is ever looked at: document types and entities are refused. How libvirt is asked
does not belong here (`libvirt_asked`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from xml.etree.ElementTree import Element, tostring

from cdp_agent.vms.found import (
    NO_SOURCE,
    SECRET,
    DiskSource,
    Found,
    booted_in,
    check_document,
    without_passwords,
)
from cdp_container.domain.disk_names import device_of_target
from cdp_container.domain.machine import (
    Bus,
    Console,
    Description,
    DirectBoot,
    Disk,
    DiskKind,
    Firmware,
    FirmwareKind,
    Native,
    NativeKind,
    Nic,
)
from cdp_container.domain.xml_page import load_xml
from cdp_container.errors import HypervisorFailed

AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"

_ARGUMENT: Final = "qemu:arg"
_UNITS: Final = {
    "b": 1, "bytes": 1, "KB": 10**3, "k": 1 << 10, "KiB": 1 << 10, "MB": 10**6, "M": 1 << 20, "MiB": 1 << 20,
    "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30, "TB": 10**12, "T": 1 << 40, "TiB": 1 << 40,
}  # fmt: skip
_SAID: Final = frozenset(
    {
        "name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "maxMemory", "vcpu",
        "vcpus", "iothreads", "os", "features", "cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "pm",
        "devices", "seclabel", "resource", "genid",
    }
)  # fmt: skip
"""What of a domain is described, or is every hypervisor's own matter."""
_COMMON: Final = frozenset(
    {
        "emulator", "disk", "interface", "controller", "input", "graphics", "video", "console", "serial",
        "channel", "memballoon", "hub", "panic", "audio", "rng",
    }
)  # fmt: skip
"""Devices that are described, or that every VM has."""
_WORDS: Final = {
    "filesystem": "a shared folder", "tpm": "a TPM and its state", "hostdev": "a passed-through device",
    "redirdev": "a redirected USB device", "shmem": "shared memory", "memory": "a memory module",
    "vsock": "a vsock", "smartcard": "a smart card", "sound": "a sound card", "watchdog": "a watchdog",
}  # fmt: skip


def parse_domain(text: str, what: str) -> Found:
    """What a domain's XML says; `what` names it in errors. Raises HypervisorFailed."""
    root = load_xml(check_document(text, what), partial(HypervisorFailed, what))
    if root.tag != "domain":
        raise HypervisorFailed(what, f"it is XML, but not a domain: {root.tag[:80]!r}")
    name = _text(root, "name")
    if not name:
        raise HypervisorFailed(what, "the domain has no name")
    devices = root.find("devices")
    devices = Element("devices") if devices is None else devices
    left_out: list[str] = []
    disks, sources = _disks(devices, left_out)
    nics = tuple(_nic(number, one, left_out) for number, one in enumerate(devices.findall("interface")))
    disks, nics = _booted(root, devices, disks, nics)
    topology = root.find("cpu/topology")
    firmware, variables_path = _firmware(root)
    left_out += _not_described(root, devices)
    native, had_secrets = _without_secrets(root, text)
    left_out += [SECRET] if had_secrets else []
    description = Description(
        name=name,
        uuid=_text(root, "uuid") or None,
        architecture=_of(root.find("os/type"), "arch") or "x86_64",
        machine=_of(root.find("os/type"), "machine"),
        cpus=_cpus(root, what),
        sockets=_whole(_of(topology, "sockets"), what),
        cores=_cores(topology, what),
        threads=_whole(_of(topology, "threads"), what),
        cpu_model=_cpu_model(root),
        memory_bytes=_memory_bytes(root, what),
        firmware=firmware,
        disks=disks,
        nics=nics,
        direct_boot=_direct_boot(root),
        consoles=_consoles(devices),
        owner=_owner(root),
        permissions=tuple(_permissions(root)),
        note="\n".join(filter(None, (_text(root, "title"), _text(root, "description")))),
        guest_agent=any(target.get("name") == AGENT_CHANNEL for target in devices.findall("channel/target")),
        left_out=tuple(dict.fromkeys(left_out)),
    )
    native_document = Native(NativeKind.LIBVIRT, native)
    return Found(description, native_document, sources, variables_path, _device_names(devices, disks))


# --- the text ------------------------------------------------------------------------------------


def _without_secrets(root: Element, text: str) -> tuple[str, bool]:
    """The document, verbatim where it has no password, and whether it had one."""
    had = False
    for graphics in root.findall("devices/graphics"):
        for name in ("passwd", "passwdValidTo"):
            had |= graphics.attrib.pop(name, None) is not None
    for argument in root.iter(_ARGUMENT):
        value = argument.get("value") or ""
        if without_passwords(value) != value:
            argument.set("value", without_passwords(value))
            had = True
    return (tostring(root, encoding="unicode"), True) if had else (text, False)


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _of(element: Element | None, name: str) -> str | None:
    return None if element is None else element.get(name)


def _whole(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HypervisorFailed(what, f"{text[:40]!r} is no whole number")
    return int(text)


# --- the machine ---------------------------------------------------------------------------------


def _cpus(root: Element, what: str) -> int:
    """At its start: of those that may be plugged in later only what is there."""
    vcpu = root.find("vcpu")
    found = _whole(_of(vcpu, "current") or _text(root, "vcpu") or "1", what)
    assert found is not None, "there is a text"
    return found


def _cores(topology: Element | None, what: str) -> int | None:
    """In a socket: dies and clusters are in it."""
    cores = _whole(_of(topology, "cores"), what)
    if cores is None:
        return None
    inner = [_whole(_of(topology, name) or "1", what) or 1 for name in ("dies", "clusters")]
    return cores * inner[0] * inner[1]


def _cpu_model(root: Element) -> str | None:
    return _text(root, "cpu/model") or _of(root.find("cpu"), "mode")


def _memory_bytes(root: Element, what: str) -> int:
    memory = root.find("memory")
    unit = _of(memory, "unit") or "KiB"
    if unit not in _UNITS:
        raise HypervisorFailed(what, f"{unit[:40]!r} is no unit of memory")
    return (_whole(_text(root, "memory") or "0", what) or 0) * _UNITS[unit]


def _firmware(root: Element) -> tuple[Firmware, str | None]:
    loader, nvram = root.find("os/loader"), root.find("os/nvram")
    is_uefi = _of(root.find("os"), "firmware") == "efi" or _of(loader, "type") == "pflash"
    features = {one.get("name"): one.get("enabled") for one in root.findall("os/firmware/feature")}
    is_secure = _of(loader, "secure") == "yes" or features.get("secure-boot") == "yes"
    path = (
        (_text(root, "os/nvram") or _of(root.find("os/nvram/source"), "file")) if nvram is not None else None
    )
    kind = FirmwareKind.UEFI if is_uefi else FirmwareKind.BIOS
    return Firmware(kind, is_uefi and is_secure), path or None


def _direct_boot(root: Element) -> DirectBoot | None:
    kernel = _text(root, "os/kernel")
    if not kernel:
        return None
    return DirectBoot(kernel, _text(root, "os/initrd") or None, _text(root, "os/cmdline"))


def _owner(root: Element) -> str | None:
    """Who the VM's files belong to, where that is fixed."""
    return next(
        (_text(one, "label") for one in root.findall("seclabel") if one.get("model") == "dac"), ""
    ) or None  # fmt: skip


def _permissions(root: Element) -> Iterator[str]:
    for one in root.findall("seclabel"):
        label = _text(one, "label") or _text(one, "baselabel")
        if one.get("model") not in (None, "dac") and label:
            yield f"{one.get('model')}: {label}"


def _consoles(devices: Element) -> tuple[Console, ...]:
    found: list[Console] = []
    if devices.find("serial") is not None:
        found.append(Console.SERIAL)
    for console in devices.findall("console"):
        kind = _of(console.find("target"), "type") or "serial"
        found.append(Console.VIRTIO if kind == "virtio" else Console.SERIAL)
    found += [Console(kind) for kind in _graphics(devices) if kind in ("vnc", "spice")]
    return tuple(dict.fromkeys(found))


def _graphics(devices: Element) -> list[str]:
    return [one.get("type") or "" for one in devices.findall("graphics")]


# --- disks and network cards ---------------------------------------------------------------------


def _disks(devices: Element, left_out: list[str]) -> tuple[tuple[Disk, ...], dict[str, DiskSource]]:
    models = {
        one.get("index") or "0": one.get("model")
        for one in devices.findall("controller")
        if one.get("type") == "scsi"
    }
    disks: list[Disk] = []
    sources: dict[str, DiskSource] = {}
    for number, one in enumerate(devices.findall("disk")):
        disk = _disk(number, one, models, left_out)
        disks.append(disk)
        sources[disk.name] = _source(one.find("source"))
        special = ("encryption", "backingStore/source", "transient", "shareable")
        told = [name.partition("/")[0] for name in special if one.find(name) is not None]
        left_out += [f"disk {disk.name}: {name}" for name in told]
    return tuple(disks), sources


def _disk(number: int, one: Element, models: dict[str, str | None], left_out: list[str]) -> Disk:
    target = one.find("target")
    name = _of(target, "dev") or f"disk{number}"
    bus = _of(target, "bus") or _bus_by_name(name)
    if bus not in {known.value for known in Bus}:
        left_out.append(f"disk {name}: its bus {bus}")
        bus = Bus.SATA.value
    device = one.get("device") or "disk"
    if device == "lun":
        left_out.append(f"disk {name}: its SCSI commands are passed through")
    model = one.get("model")
    if bus == Bus.SCSI.value and model is None:
        model = models.get(_of(one.find("address"), "controller") or "0")
    return Disk(
        name=name,
        bus=Bus(bus),
        kind={"cdrom": DiskKind.CDROM, "floppy": DiskKind.FLOPPY}.get(device, DiskKind.DISK),
        serial=_text(one, "serial") or None,
        read_only=one.find("readonly") is not None,
        model=model,
    )


def _device_names(devices: Element, disks: Sequence[Disk]) -> dict[str, str]:
    """What QEMU calls the disks: an alias, where one stands (of a VM that runs always); else by the rule."""
    elements = devices.findall("disk")
    names = {
        disk.name: _of(one.find("alias"), "name") or _device_name(one, disk)
        for one, disk in zip(elements, disks, strict=True)
    }
    return {name: device for name, device in names.items() if device}


def _device_name(one: Element, disk: Disk) -> str:
    if disk.bus is Bus.VIRTIO:
        return device_of_target(disk.name)
    address = one.find("address")
    if address is None or address.get("type") != "drive" or disk.bus is Bus.USB:
        return ""
    parts = ["controller", "bus", "target", "unit"]
    if disk.bus is not Bus.SCSI or disk.model == "lsilogic":
        parts.remove("target")
    return disk.bus.value + "-".join(address.get(part) or "0" for part in parts)


def _bus_by_name(name: str) -> str:
    """What libvirt takes a disk for that names no bus."""
    by_name = {"vd": "virtio", "sd": "scsi", "hd": "ide", "fd": "fdc", "ub": "usb"}
    return by_name.get(name[:2], "virtio")


def _source(source: Element | None) -> DiskSource:
    if source is None:
        return NO_SOURCE
    if source.get("protocol") != "nbd":
        return DiskSource(path=source.get("file") or source.get("dev"))
    host = source.find("host")
    if _of(host, "transport") == "unix":
        server = _of(host, "socket")
    else:
        server = f"{_of(host, 'name') or ''}:{_of(host, 'port') or '10809'}"
    return DiskSource(export=source.get("name") or "", server=server)


def _nic(number: int, one: Element, left_out: list[str]) -> Nic:
    kind, source = one.get("type") or "", one.find("source")
    name = f"net{number}"
    tags = [tag.get("id") or "" for tag in one.findall("vlan/tag")]
    vlan = int(tags[0]) if len(tags) == 1 and tags[0].isdigit() and int(tags[0]) < 4095 else None
    if tags and (vlan is None or _of(one.find("vlan"), "trunk") == "yes"):
        left_out.append(f"network card {name}: its VLANs {', '.join(tags)}")
        vlan = None
    if kind == "hostdev":
        left_out.append(f"network card {name}: it is a passed-through device")
    words = next(
        (word for word in map(source.get, ("network", "bridge", "dev", "path", "name")) if word), None
    ) if source is not None else None  # fmt: skip
    return Nic(
        name=name,
        mac=_of(one.find("mac"), "address"),
        network=words or kind or None,
        model=_of(one.find("model"), "type"),
        vlan=vlan,
    )


def _booted(
    root: Element, devices: Element, disks: tuple[Disk, ...], nics: tuple[Nic, ...]
) -> tuple[tuple[Disk, ...], tuple[Nic, ...]]:
    """By each device's own place, or by the kinds that the firmware tries."""
    elements = [*devices.findall("disk"), *devices.findall("interface")]
    names = [*(disk.name for disk in disks), *(nic.name for nic in nics)]
    places = [(_of(one.find("boot"), "order"), name) for one, name in zip(elements, names, strict=True)]
    ordered = sorted((int(place), name) for place, name in places if place and place.isdigit())
    if ordered:
        return booted_in(disks, nics, [name for _, name in ordered])
    firsts = {
        "hd": _first(disks, DiskKind.DISK),
        "cdrom": _first(disks, DiskKind.CDROM),
        "fd": _first(disks, DiskKind.FLOPPY),
        "network": nics[0].name if nics else "",
    }
    kinds = [one.get("dev") or "" for one in root.findall("os/boot")] or ["hd"]
    return booted_in(disks, nics, [firsts.get(kind, "") for kind in kinds])


def _first(disks: Sequence[Disk], kind: DiskKind) -> str:
    return next((disk.name for disk in disks if disk.kind is kind), "")


# --- what is left out ----------------------------------------------------------------------------


def _not_described(root: Element, devices: Element) -> Iterator[str]:
    for one in root:
        if one.tag not in _SAID:
            yield one.tag.rpartition("}")[2]
    clock = root.find("clock")
    if clock is not None and clock.get("offset") not in (None, "utc"):
        yield f"the clock: {clock.get('offset')}"
    for one in devices:
        if one.tag not in _COMMON:
            yield _told(one)


def _told(one: Element) -> str:
    word = _WORDS.get(one.tag, one.tag)
    source = one.find("source")
    address = None if source is None else source.find("address")
    if one.tag == "hostdev" and address is not None:
        slot = [address.get(name) or "0" for name in ("domain", "bus", "slot", "function")]
        return f"{word}: {one.get('type')} {':'.join(slot)}"
    if one.tag == "filesystem":
        return f"{word}: {_of(source, 'dir')} as {_of(one.find('target'), 'dir')}"
    return word


def hot_plugged(live: Found, kept: Found) -> Found:
    """What is kept of a domain that runs, saying which disks and cards it has just now besides.

    What QEMU calls its disks is as it is just now.
    """
    kept = replace(kept, devices={**kept.devices, **live.devices})
    words = [
        f"disk {disk.name}: attached until the next stop"
        for disk in live.description.disks
        if disk.name not in {other.name for other in kept.description.disks}
    ]
    macs = {nic.mac for nic in kept.description.nics}
    words += [
        f"network card {nic.mac}: attached until the next stop"
        for nic in live.description.nics
        if nic.mac not in macs
    ]
    return replace(kept, description=kept.description.with_left_out(*words)) if words else kept
