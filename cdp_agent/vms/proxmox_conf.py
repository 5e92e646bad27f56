"""A VM's file of Proxmox VE (/etc/pve/qemu-server/ID.conf) as a description. PURE: text in, values out.

Sections, which are snapshots, pending changes and the like, are passed over. How files are read does not
belong here (`asking`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote

from cdp_agent.vms.found import (
    NO_SOURCE,
    SECRET,
    DiskSource,
    Found,
    booted_in,
    check_document,
    without_passwords,
)
from cdp_container.domain.machine import (
    Bus,
    Console,
    Description,
    Disk,
    DiskKind,
    Firmware,
    FirmwareKind,
    Native,
    NativeKind,
    Nic,
)
from cdp_container.errors import HypervisorFailed

_LINE: Final = re.compile(r"([a-z][a-z0-9_-]*):\s*(.*?)\s*")
_DISK: Final = re.compile(r"(ide|sata|scsi|virtio)(\d{1,3})")
_NIC: Final = re.compile(r"net(\d{1,3})")
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
_SECRETS: Final = frozenset({"cipassword"})
_BUSES: Final = {"ide": Bus.IDE, "sata": Bus.SATA, "scsi": Bus.SCSI, "virtio": Bus.VIRTIO}
_LEFT_OUT: Final = (
    (re.compile(r"hostpci\d+"), "a passed-through device"),
    (re.compile(r"usb\d+"), "a USB device"),
    (re.compile(r"parallel\d+"), "a parallel port of the host"),
    (re.compile(r"unused\d+"), "a disk that is not attached"),
    (re.compile(r"virtiofs\d+"), "a shared folder"),
    (re.compile(r"tpmstate0"), "a TPM and its state"),
    (re.compile(r"audio0"), "a sound card"),
    (re.compile(r"ivshmem"), "shared memory"),
    (re.compile(r"watchdog"), "a watchdog"),
    (re.compile(r"args"), "arguments of QEMU"),
    (re.compile(r"hookscript"), "a hook script"),
    (re.compile(r"amd-sev|intel-tdx"), "an encrypted memory"),
    (re.compile(r"ci[a-z]+|sshkeys|ipconfig\d+|nameserver|searchdomain"), "cloud-init settings"),
)  # fmt: skip
"""What a description has no word for, and a recovery must not be surprised by."""

Options = dict[str, str]


def parse_conf(
    text: str, vmid: str, what: str, storages: Mapping[str, Options] | None = None, permissions: str = ""
) -> Found:
    """What a file says; `what` names it in errors.

    Args:
        text: of the file.
        vmid: the VM's number, which is its name where it has none.
        what: for errors.
        storages: of `parse_storages`, to find where disks lie.
        permissions: the text of /etc/pve/user.cfg, where it can be read.

    Raises HypervisorFailed.
    """
    values, note, odd = _lines(check_document(text, what))
    if not values.keys() & {"memory", "name", "cores", "sockets", "ostype", "scsihw", "net0", "boot"}:
        raise HypervisorFailed(what, "it is no file of a VM")
    left_out = [f"{odd} lines that make no sense"] if odd else []
    disks, sources = _disks(values, storages or {}, left_out)
    nics = tuple(_nics(values, left_out))
    disks, nics = booted_in(disks, nics, _boot_order(values, disks, nics))
    firmware, variables_path = _firmware(values, storages or {})
    left_out += _not_described(values)
    native, had_secrets = _without_secrets(text)
    left_out += [SECRET] if had_secrets else []
    sockets, cores = (_whole(values.get(name, "1"), what) for name in ("sockets", "cores"))
    cpu, machine = _options(values.get("cpu", ""), "cputype"), _options(values.get("machine", ""), "type")
    description = Description(
        name=values.get("name") or vmid,
        uuid=_options(values.get("smbios1", ""), "uuid").get("uuid"),
        architecture=values.get("arch", "x86_64"),
        machine=machine.get("type"),
        cpus=_whole(values.get("vcpus", str(sockets * cores)), what),
        sockets=sockets,
        cores=cores,
        cpu_model=cpu.get("cputype"),
        memory_bytes=_whole(_options(values.get("memory", "512"), "current").get("current", ""), what) << 20,
        firmware=firmware,
        disks=disks,
        nics=nics,
        consoles=_consoles(values),
        permissions=tuple(acl_of(permissions, vmid)),
        tags=tuple(tag for tag in re.split(r"[;,\s]+", values.get("tags", "")) if tag),
        note=note,
        guest_agent=_options(values.get("agent", "0"), "enabled").get("enabled") == "1",
        autostart=values.get("onboot") == "1",
        left_out=tuple(dict.fromkeys(left_out)),
    )
    return Found(description, Native(NativeKind.PROXMOX, native), sources, variables_path)


def parse_storages(text: str) -> dict[str, Options]:
    """The storages of storage.cfg by their names; each with its `type`; what is odd is passed over."""
    found: dict[str, Options] = {}
    now: Options = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace():
            key, _, value = line.strip().partition(" ")
            now[key] = value.strip()
        else:
            kind, _, name = line.partition(":")
            now = found.setdefault(name.strip(), {"type": kind.strip()})
    return found


def acl_of(text: str, vmid: str) -> Iterator[str]:
    """Who may do what with a VM, by the lines of /etc/pve/user.cfg that name it: `user@realm: role`."""
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= 5 and parts[0] == "acl" and parts[2] == f"/vms/{vmid}":
            for who in filter(None, parts[3].split(",")):
                yield f"{who}: {parts[4]}"


# --- the text ------------------------------------------------------------------------------------


def _lines(text: str) -> tuple[Options, str, int]:
    """Keys and values before the first section, the note, and how many lines are neither."""
    values: Options = {}
    notes: list[str] = []
    odd = 0
    for line in text.splitlines():
        if line.startswith("["):
            break
        if line.startswith("#"):
            notes.append(unquote(line[1:]))
        elif match := _LINE.fullmatch(line):
            values[match[1]] = match[2]
        elif line.strip():
            odd += 1
    return values, "\n".join(notes), odd


def _without_secrets(text: str) -> tuple[str, bool]:
    """The document without the lines that hold secrets, in all of its sections."""
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if line.partition(":")[0].strip() not in _SECRETS]
    kept = [without_passwords(line) if line.startswith("args:") else line for line in kept]
    return "".join(kept), kept != lines


def _options(text: str, first: str) -> Options:
    """`a,b=1` as keys and values; what has no key first is that of `first`."""
    found: Options = {}
    for number, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            found[key.strip()] = value.strip()
        elif number == 0 and part.strip():
            found[first] = part.strip()
    return found


def _whole(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise HypervisorFailed(what, f"{text[:40]!r} is no whole number")
    return int(text)


def _numbered(values: Options, pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
    """Keys of a kind, by kind and number."""
    found = [(key, match) for key in values if (match := pattern.fullmatch(key))]
    return sorted(found, key=lambda one: (one[1][1] if pattern is _DISK else "", int(one[1][pattern.groups])))


# --- the machine ---------------------------------------------------------------------------------


def _firmware(values: Options, storages: Mapping[str, Options]) -> tuple[Firmware, str | None]:
    if values.get("bios") != "ovmf":
        return Firmware(), None
    options = _options(values.get("efidisk0", ""), "file")
    path = _source(options.get("file", ""), storages).path
    return Firmware(FirmwareKind.UEFI, options.get("pre-enrolled-keys") == "1"), path


def _consoles(values: Options) -> tuple[Console, ...]:
    serial = any(re.fullmatch(r"serial\d", key) for key in values)
    found = [Console.SERIAL] if serial else []
    vga = _options(values.get("vga", "std"), "type").get("type", "std")
    if vga.startswith("qxl"):
        found.append(Console.SPICE)
    elif vga != "none" and not vga.startswith("serial"):
        found.append(Console.VNC)
    return tuple(found)


def _boot_order(values: Options, disks: tuple[Disk, ...], nics: tuple[Nic, ...]) -> list[str]:
    """Names in the order in which they are tried, as either way of writing says it."""
    boot = _options(values.get("boot", ""), "legacy")
    if "order" in boot:
        return re.split(r"[;\s]+", boot["order"])
    hard = [disk.name for disk in disks if disk.kind is DiskKind.DISK]
    cdroms = [disk.name for disk in disks if disk.kind is DiskKind.CDROM]
    first = values.get("bootdisk")
    hard = [first] if first else hard[:1]
    kinds = {"c": hard, "d": cdroms[:1], "n": [nic.name for nic in nics]}
    return [name for letter in boot.get("legacy", "cdn") for name in kinds.get(letter, [])]


# --- disks and network cards ---------------------------------------------------------------------


def _disks(
    values: Options, storages: Mapping[str, Options], left_out: list[str]
) -> tuple[tuple[Disk, ...], dict[str, DiskSource]]:
    disks: list[Disk] = []
    sources: dict[str, DiskSource] = {}
    for key, match in _numbered(values, _DISK):
        options = _options(values[key], "file")
        volume = options.get("file", "")
        is_cloudinit = re.search(r"vm-\d+-cloudinit", volume) is not None
        if is_cloudinit:
            left_out.append(f"cloud-init's drive {key}: Proxmox makes it")
        kind = DiskKind.CDROM if options.get("media") == "cdrom" or is_cloudinit else DiskKind.DISK
        disks.append(
            Disk(
                name=key,
                bus=_BUSES[match[1]],
                kind=kind,
                serial=unquote(options["serial"]) if "serial" in options else None,
                read_only=options.get("ro") == "1" or kind is DiskKind.CDROM,
                model=values.get("scsihw") if match[1] == "scsi" else options.get("model"),
            )
        )
        sources[key] = _source(volume, storages)
    return tuple(disks), sources


def _source(volume: str, storages: Mapping[str, Options]) -> DiskSource:
    """Where a volume lies that has a path of its own, or lies on a storage where we know what paths are."""
    if volume.startswith("/"):
        return DiskSource(path=volume)
    name, colon, rest = volume.partition(":")
    storage = storages.get(name)
    if not colon or storage is None or ".." in rest.split("/"):
        return NO_SOURCE
    return DiskSource(path=_path(storage, name, rest))


def _path(storage: Options, name: str, rest: str) -> str | None:
    match storage.get("type"):
        case "dir" | "nfs" | "cifs" | "glusterfs" | "cephfs":
            return f"{storage.get('path', f'/mnt/pve/{name}')}/images/{rest}"
        case "btrfs":
            inner = rest.removesuffix(".raw")
            return f"{storage.get('path')}/images/{inner}/disk.raw" if inner != rest else None
        case "lvm" | "lvmthin" if "vgname" in storage:
            return f"/dev/{storage['vgname']}/{rest}"
        case "zfspool" if "pool" in storage:
            return f"/dev/zvol/{storage['pool']}/{rest}"
        case "rbd":
            return f"/dev/rbd-pve/{storage['fsid']}/{storage['pool']}/{rest}" if "fsid" in storage else None
        case _:
            return None


def _nics(values: Options, left_out: list[str]) -> Iterator[Nic]:
    for key, _ in _numbered(values, _NIC):
        options = _options(values[key], "model")
        model = next((name for name, value in options.items() if _MAC.fullmatch(value)), None)
        mac = options.get("macaddr") if model in (None, "macaddr") else options[model]
        tag = options.get("tag", "")
        for name, word in (("trunks", "its VLANs"), ("rate", "its limit of bytes")):
            if name in options:
                left_out.append(f"network card {key}: {word} {options[name]}")
        if options.get("link_down") == "1":
            left_out.append(f"network card {key}: it is unplugged")
        yield Nic(
            name=key,
            mac=mac,
            network=options.get("bridge", "user"),
            model=options.get("model") if model in (None, "macaddr") else model,
            vlan=int(tag) if tag.isascii() and tag.isdigit() and int(tag) < 4095 else None,
        )


def _not_described(values: Options) -> Iterator[str]:
    for key in sorted(values):
        for pattern, word in _LEFT_OUT:
            if pattern.fullmatch(key):
                told = "" if word == "cloud-init settings" or key == "args" else f" ({key})"
                yield f"{word}{told}"
    if values.get("localtime") == "1" or values.get("ostype", "").startswith(("w", "win")):
        yield "the clock: localtime"
