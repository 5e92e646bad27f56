"""A VM's file of Proxmox VE (qemu-server/ID.conf). PURE: values in, lines out, each key once.

From Proxmox's own file where there is one, and else from the description. Of a file stays what its guest sees
and what any host has; what the protected host alone has (its storages, passed-through devices), and what
would have this one run something (`args`, `hookscript`), is taken out and told.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from cdp_container.domain.machine import Bus, Console, Disk, DiskKind, FirmwareKind, Nic
from cdp_container.domain.machine_records import NativeKind
from cdp_container.errors import RenderRefused
from rehydrate.render.recovered import (
    MAC,
    FilePlace,
    Network,
    NetworkKind,
    Recovered,
    Rendered,
    word_or_none,
)

Lines = dict[str, str]

_STAYS: Final = re.compile(
    r"acpi|agent|autostart|balloon|bios|boot|bootdisk|cores|cpu|cpulimit|cpuunits|freeze|hotplug|keyboard|kvm"
    r"|localtime|machine|memory|meta|migrate_downtime|migrate_speed|name|numa|onboot|ostype|protection|reboot"
    r"|scsihw|serial\d|shares|smbios1|sockets|spice_enhancements|startdate|startup|tablet|tags|tdf|vcpus|vga"
    r"|vmgenid|watchdog|net\d{1,2}|(?:ide|sata|scsi|virtio)\d{1,2}|rng0|audio0|arch"
)
_LINE: Final = re.compile(r"([a-z][a-z0-9_-]*):\s*(.*?)\s*")
_DISK: Final = re.compile(r"(?:ide|sata|scsi|virtio)\d{1,2}")
_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9-]{1,63})*", re.ASCII
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", re.ASCII)
_PATH: Final = re.compile(r"/[A-Za-z0-9._+@/=:-]+", re.ASCII)
_BRIDGE: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,14}", re.ASCII)
_DISK_OPTIONS: Final = frozenset(
    {"aio", "backup", "bps", "cache", "discard", "iothread", "queues", "replicate", "rerror", "ro", "serial",
     "ssd", "werror", "wwn", "model", "detect_zeroes", "scsiblock", "media", "product", "vendor"}
)  # fmt: skip
_NIC_OPTIONS: Final = frozenset({"firewall", "mtu", "queues", "rate", "link_down"})
_BUSES: Final = {
    Bus.IDE: ("ide", 4), Bus.SATA: ("sata", 6), Bus.SCSI: ("scsi", 31), Bus.VIRTIO: ("virtio", 16),
}  # fmt: skip
_SCSI: Final = {
    "lsi": "lsi", "lsilogic": "lsi", "lsi53c810": "lsi53c810", "megasas": "megasas", "lsisas1078": "megasas",
    "pvscsi": "pvscsi", "vmpvscsi": "pvscsi", "virtio-scsi": "virtio-scsi-pci",
    "virtio-scsi-pci": "virtio-scsi-pci", "virtio-scsi-single": "virtio-scsi-single",
}  # fmt: skip
_MODELS: Final = frozenset(
    {"virtio", "e1000", "e1000-82540em", "e1000e", "rtl8139", "vmxnet3", "ne2k_pci", "pcnet", "i82551"}
)
_SEED_PLACES: Final = ("ide2", "ide3", "sata5", "sata4", "ide0", "ide1", "scsi30")


def render_proxmox(vm: Recovered) -> Rendered:
    """The lines of a VM's file. Raises RenderRefused: a disk is on an NBD server, or there are too many."""
    has_document = vm.native.kind == NativeKind.PROXMOX
    told = [*vm.left_out(has_document), *vm.told]
    lines = _from_native(vm, told) if has_document else _from_description(vm, told)
    if vm.changes.seed is not None:
        place = next(place for place in _SEED_PLACES if place not in lines)
        lines[place] = f"{_path(vm.changes.seed)},media=cdrom"
    notes = [f"#{quote(line, safe=' :/,.()@=')}" for line in vm.one.note.split("\n")] if vm.one.note else []
    written = [f"{key}: {value}" for key, value in sorted(lines.items())]
    assert all(line.isprintable() for line in (*notes, *written)), "a line is one line"
    return Rendered("\n".join((*notes, *written)) + "\n", tuple(dict.fromkeys(told)))


def _path(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise RenderRefused("write a path for Proxmox", f"{path!r} has characters that its files cannot hold")
    return path


def _options(text: str) -> list[tuple[str, str]]:
    """`a,b=1` in its order; what has no key has an empty one."""
    parts = (part.partition("=") for part in text.split(",") if part.strip())
    return [(key.strip(), value.strip()) if equals else ("", key.strip()) for key, equals, value in parts]


# --- from Proxmox's file -------------------------------------------------------------------------


def _from_native(vm: Recovered, told: list[str]) -> Lines:
    lines: Lines = {}
    for line in vm.native.document.splitlines():
        if line.startswith("["):
            told.append("snapshots and pending changes")
            break
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        key, value = match[1], match[2]
        if not _STAYS.fullmatch(key) or not value.isprintable():
            told.append(f"{key}: it is of the protected host, or not for this one")
        elif re.fullmatch(r"serial\d", key) and value != "socket":
            told.append(f"{key}: a device of the protected host")
        else:
            lines[key] = value
    _identify(vm, lines, told)
    for key in [key for key in lines if _DISK.fullmatch(key)]:
        _move_disk(vm, key, lines, told)
    nics = {nic.name: nic for nic in vm.one.nics}
    for key in [key for key in lines if key.startswith("net")]:
        if key in nics:
            kept = [f"{name}={value}" for name, value in _options(lines[key]) if name in _NIC_OPTIONS]
            lines[key] = ",".join(dict.fromkeys([*_nic_parts(vm, nics[key], told), *kept]))
        else:
            del lines[key]
    lines.setdefault("serial0", "socket")
    return lines


def _identify(vm: Recovered, lines: Lines, told: list[str]) -> None:
    """Who it is, how large it is, and that it lives a second time."""
    changes, one = vm.changes, vm.one
    if lines.get("vmgenid", "1") != "0":
        lines["vmgenid"] = vm.generation
    if changes.rehearsal:
        _name(vm, lines, told)
        others = [f"{name}={value}" for name, value in _options(lines.get("smbios1", "")) if name != "uuid"]
        lines["smbios1"] = ",".join([f"uuid={one.uuid}", *others])
        lines.pop("onboot", None)
        lines.pop("protection", None)
    if changes.cpus is not None:
        lines |= {"cores": str(changes.cpus), "sockets": "1"}
        lines.pop("vcpus", None)
    if changes.memory_bytes is not None:
        lines["memory"] = str(-(-changes.memory_bytes // (1 << 20)))
        lines.pop("balloon", None)
    if changes.emulate:
        lines["kvm"] = "0"
        if any(word in lines.get("cpu", "") for word in ("host", "x86-64-v")):
            lines["cpu"] = "max"
    if changes.direct_boot is not None:
        told.append(f"that it boots from {changes.direct_boot[0]}: Proxmox starts VMs from their disks")
    if one.firmware.kind is FirmwareKind.UEFI:
        told.append("UEFI's variables: Proxmox wants a disk for them (qm set ID --efidisk0 STORAGE:1)")


def _move_disk(vm: Recovered, key: str, lines: Lines, told: list[str]) -> None:
    disk = next((disk for disk in vm.one.disks if disk.name == key), None)
    if disk is None:
        del lines[key]
        return
    kept = [
        (name, value) for name, value in _options(lines[key]) if name in _DISK_OPTIONS and name != "backup"
    ]
    media = [f"{name}={value}" for name, value in kept]
    if disk.kind is DiskKind.CDROM and "media=cdrom" not in media:
        media.append("media=cdrom")
    lines[key] = ",".join([_where(vm, disk), *media])


def _where(vm: Recovered, disk: Disk) -> str:
    place = vm.place_of(disk)
    if place is None:
        return "none"
    if not isinstance(place, FilePlace):
        raise RenderRefused(
            f"disk {disk.name}", "Proxmox takes no disk of an NBD server", "connect it by nbd-client"
        )
    return _path(place.path)


def _nic_parts(vm: Recovered, nic: Nic, told: list[str]) -> list[str]:
    network: Network = vm.network_of(nic)
    model = (nic.model or "virtio").removesuffix("-net-pci")
    if model not in _MODELS:
        told.append(f"network card {nic.name}: its model {model[:40]!r}; virtio instead")
        model = "virtio"
    assert MAC.fullmatch(nic.mac or ""), nic.mac
    assert nic.mac is not None
    parts = [f"{model}={nic.mac.upper()}"]
    match network.kind:
        case NetworkKind.BRIDGE if _BRIDGE.fullmatch(network.name):
            parts.append(f"bridge={network.name}")
        case NetworkKind.BRIDGE | NetworkKind.NETWORK:
            why = f"{network.name!r} is no bridge of Proxmox"
            raise RenderRefused(f"connect network card {nic.name}", why, "name a bridge in the runbook")
        case NetworkKind.NONE:
            parts.append("link_down=1")
        case _:
            pass  # without a bridge it is QEMU's own network
    if network.vlan is not None:
        parts.append(f"tag={network.vlan}")
    elif nic.vlan is not None:
        told.append(f"network card {nic.name}: VLAN {nic.vlan}")
    return parts


# --- from a description --------------------------------------------------------------------------


def _name(vm: Recovered, lines: Lines, told: list[str]) -> None:
    if _NAME.fullmatch(vm.one.name):
        lines["name"] = vm.one.name
    else:
        lines["name"] = f"vm-{vm.file_name}"[:60].rstrip("-.").replace("_", "-")
        told.append(f"its name: Proxmox takes names of DNS alone, so it is {lines['name']}")


def _from_description(vm: Recovered, told: list[str]) -> Lines:
    one = vm.one
    lines: Lines = {"ostype": "other", "serial0": "socket"}
    _name(vm, lines, told)
    _identify(vm, lines, told)
    sockets, cores = one.sockets or 1, (one.cores or one.cpus) * (one.threads or 1)
    if sockets * cores < one.cpus:
        sockets, cores = 1, one.cpus
    lines |= {"sockets": str(sockets), "cores": str(cores), "memory": str(-(-one.memory_bytes // (1 << 20)))}
    if sockets * cores > one.cpus:
        lines["vcpus"] = str(one.cpus)
    if one.uuid is not None:
        lines["smbios1"] = f"uuid={one.uuid}"
    if one.firmware.kind is FirmwareKind.UEFI:
        lines |= {"bios": "ovmf", "machine": "q35"}
    machine = word_or_none(one.machine, "its type of machine", told)
    if machine is not None and machine.startswith(("pc", "q35", "virt")):
        lines["machine"] = machine
    elif machine is not None:
        told.append(f"its type of machine: {machine}")
    if one.architecture not in ("x86_64", "i686"):
        lines["arch"] = "aarch64"
        if one.architecture != "aarch64":
            raise RenderRefused(f"VM {one.name!r}", f"Proxmox has no architecture {one.architecture[:40]!r}")
    if one.cpu_model is not None:
        told.append(f"CPU {one.cpu_model[:40]!r}: Proxmox's default instead")
    lines |= {"localtime": "1"} if vm.has_local_clock else {}
    lines |= {"agent": "1"} if one.guest_agent else {}
    lines |= {"onboot": "1"} if one.autostart else {}
    tags = [tag for tag in one.tags if _TAG.fullmatch(tag)]
    told += [f"tag {tag!r}" for tag in one.tags if tag not in tags]
    lines |= {"tags": ";".join(tags)} if tags else {}
    if not {Console.VNC, Console.SPICE} & {*one.consoles}:
        lines["vga"] = "serial0"
    elif Console.SPICE in one.consoles:
        lines["vga"] = "qxl"
    told += [f"permissions: {', '.join(one.permissions)}"] if one.permissions else []
    told += [f"owner: {one.owner}"] if one.owner else []
    _add_devices(vm, lines, told)
    return lines


def _add_devices(vm: Recovered, lines: Lines, told: list[str]) -> None:
    order: list[tuple[int, str]] = []
    counts: dict[str, int] = {}
    for disk in vm.one.disks:
        if disk.kind is DiskKind.FLOPPY:
            told.append(f"disk {disk.name}: a floppy")
            continue
        name, most = _BUSES.get(disk.bus, _BUSES[Bus.SCSI])
        if disk.kind is DiskKind.CDROM and disk.bus not in (Bus.IDE, Bus.SATA, Bus.SCSI):
            name, most = _BUSES[Bus.SATA]
        if counts.get(name, 0) >= most:
            name, most = _BUSES[Bus.SCSI]
        number = counts.get(name, 0)
        if number >= most:
            raise RenderRefused(f"disk {disk.name}", f"Proxmox has room for {most} disks on {name}")
        counts[name] = number + 1
        if name != disk.bus.value:
            told.append(f"disk {disk.name}: its bus {disk.bus}; {name} instead")
        if name == "scsi" and "scsihw" not in lines:
            lines["scsihw"] = _SCSI.get(disk.model or "virtio-scsi-pci", "virtio-scsi-pci")
        key = f"{name}{number}"
        parts = [_where(vm, disk)]
        parts += ["media=cdrom"] if disk.kind is DiskKind.CDROM else []
        parts += [f"serial={quote(disk.serial, safe='')[:60]}"] if disk.serial else []
        parts += (
            ["ro=1"] if disk.read_only and name in ("scsi", "virtio") and "media=cdrom" not in parts else []
        )
        lines[key] = ",".join(parts)
        order += [(disk.boot, key)] if disk.boot is not None else []
    for number, nic in enumerate(vm.one.nics):
        if number > 31:
            raise RenderRefused(f"network card {nic.name}", "Proxmox has room for 32 of them")
        lines[f"net{number}"] = ",".join(_nic_parts(vm, nic, told))
        order += [(nic.boot, f"net{number}")] if nic.boot is not None else []
    lines |= {"boot": "order=" + ";".join(key for _, key in sorted(order))} if order else {}
