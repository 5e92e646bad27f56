"""What a plain QEMU says of itself by QMP, as a description. PURE: it is given a way to ask.

QEMU's answers also tell what changes by itself (threads, how large files are by now, who looks at the
screen): that is not kept, or every look would find another VM. How the socket is talked to does not belong
here (`qmp_asked`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from cdp_agent.vms.found import NO_SOURCE, DiskSource, Found, booted_in, check_document, without_passwords
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
from cdp_container.errors import HypervisorFailed

Answers = Mapping[str, Any]
Ask = Callable[[str, Mapping[str, object]], Any]
"""Asks by a command's name and its arguments; gives what it returns, None where QEMU knows no such thing."""

DEVICES_MAX: Final = 1_000
"""Devices that are looked at."""
PROPERTIES_MAX: Final = 2_000
AGENT_PORT: Final = "org.qemu.guest_agent.0"
NO_UUID: Final = "00000000-0000-0000-0000-000000000000"

_MACHINE: Final = ("type", "kernel", "initrd", "append", "firmware")
_PROPERTIES: Final = ("mac", "netdev", "bootindex", "serial", "drive", "name", "host", "pflash0", "chardev")
_PLACES: Final = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached")
_TOLD: Final = (
    (re.compile(r"vfio-.*"), "a passed-through device"),
    (re.compile(r"usb-host"), "a USB device of the host"),
    (re.compile(r"(virtio-9p|vhost-user-fs).*"), "a shared folder"),
    (re.compile(r"tpm-.*"), "a TPM and its state"),
    (re.compile(r"ivshmem.*"), "shared memory"),
    (re.compile(r"(vhost-vsock).*"), "a vsock"),
    (re.compile(r"(pc|nv)-?dimm"), "a memory module"),
)
_BUSES: Final = {
    "virtio": Bus.VIRTIO,
    "scsi": Bus.SCSI,
    "nvme": Bus.NVME,
    "usb": Bus.USB,
    "floppy": Bus.FLOPPY,
}
_CHILD: Final = re.compile(r"child<(.+)>")


# --- asking --------------------------------------------------------------------------------------


def ask_all(ask: Ask, what: str) -> dict[str, Any]:
    """Everything that is wanted of a QEMU, without what changes by itself. Raises HypervisorFailed."""
    network = networks_of(str(ask("human-monitor-command", {"command-line": "info network"}) or ""))
    devices = [_with_network(device, network) for device in _devices(ask, what)]
    return {
        "name": (ask("query-name", {}) or {}).get("name"),
        "uuid": (ask("query-uuid", {}) or {}).get("UUID"),
        "target": (ask("query-target", {}) or {}).get("arch"),
        "machine": {name: _property(ask, "/machine", name) for name in _MACHINE},
        "flash": _property(ask, "/machine", "pflash0"),
        "cpus": [
            _cpu(ask, number, one) for number, one in enumerate(_list(ask("query-cpus-fast", {}), what))
        ],
        "memory": ask("query-memory-size-summary", {}),
        "blocks": [_block(ask, one) for one in _list(ask("query-block", {}), what)],
        "devices": devices,
        "chardevs": [_chardev(one) for one in _list(ask("query-chardev", {}), what)],
        "vnc": (ask("query-vnc", {}) or {}).get("enabled"),
        "spice": (ask("query-spice", {}) or {}).get("enabled"),
    }


def _devices(ask: Ask, what: str) -> Iterator[dict[str, Any]]:
    """What was asked for on QEMU's command line, and cards that the board brings."""
    seen = 0
    for place in _PLACES:
        found = _list(ask("qom-list", {"path": place}), what)
        for one in sorted(found, key=lambda one: _by_number(str(one.get("name")))):  # QEMU has no order
            match = _CHILD.fullmatch(str(one.get("type")))
            if match is None or (
                place == _PLACES[-1] and not _is_card(ask, f"{place}/{one['name']}", match[1])
            ):
                continue
            seen += 1
            if seen > DEVICES_MAX:
                raise HypervisorFailed(what, f"it has more than {DEVICES_MAX} devices (DEVICES_MAX)")
            path = f"{place}/{one['name']}"
            values = {name: _property(ask, path, name) for name in _known(ask, path, what)}
            kept = {name: value for name, value in values.items() if value not in (None, "")}
            yield {"path": path, "type": match[1], **kept}


def _by_number(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    return (name, 0) if match is None else (match[1], int(match[2]))


def _with_network(device: dict[str, Any], network: Mapping[str, str]) -> dict[str, Any]:
    """A card with what it is connected to; a name that QEMU made up for that is another one every time."""
    netdev = device.get("netdev")
    if netdev is None:
        return device
    kept = {
        name: value for name, value in device.items() if name != "netdev" or not str(value).startswith("#")
    }
    return {**kept, "network": network.get(str(netdev), str(netdev))}


def _is_card(ask: Ask, path: str, kind: str) -> bool:
    return bool(re.search(r"net|e1000|rtl8139|ne2k|pcnet|i8255|tulip|eepro", kind)) and bool(
        _property(ask, path, "mac")
    )


def _known(ask: Ask, path: str, what: str) -> list[str]:
    """Those of the properties that we want which a device has."""
    names = {str(one.get("name")) for one in _list(ask("qom-list", {"path": path}), what)}
    return [name for name in _PROPERTIES if name in names]


def _property(ask: Ask, path: str, name: str) -> Any:  # noqa: ANN401  whatever QEMU has there
    return ask("qom-get", {"path": path, "property": name})


def _list(value: object, what: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise HypervisorFailed(what, "an answer is no list of objects")
    if len(value) > PROPERTIES_MAX:
        raise HypervisorFailed(what, f"an answer has {len(value)} entries (PROPERTIES_MAX)")
    return value


def _cpu(ask: Ask, number: int, one: Answers) -> dict[str, Any]:
    path = one.get("qom-path")
    kind = _property(ask, str(path), "type") if number == 0 and path else None
    props = one.get("props")
    return {"props": props if isinstance(props, dict) else {}, **({"type": kind} if kind else {})}


def _block(ask: Ask, one: Answers) -> dict[str, Any]:
    qdev, inserted = one.get("qdev"), one.get("inserted")
    kept: dict[str, Any] = {"device": one.get("device"), "qdev": qdev, "removable": one.get("removable")}
    if qdev:
        kept["type"] = _property(ask, str(qdev), "type")
    if isinstance(inserted, dict):
        kept |= {name: inserted.get(name) for name in ("drv", "ro")}
        kept |= {name: _clean(inserted.get(name)) for name in ("file", "backing_file")}
        node = str(inserted.get("node-name", ""))
        if not node.startswith("#"):  # QEMU made that one up
            kept["node-name"] = node
    return {name: value for name, value in kept.items() if value is not None}


def _clean(file: object) -> str | None:
    return without_passwords(file) if isinstance(file, str) else None


def _chardev(one: Answers) -> dict[str, Any]:
    """Without the number of a terminal, and whether somebody is connected."""
    kind = str(one.get("filename", "")).removeprefix("disconnected:").partition(":")[0]
    return {"label": one.get("label"), "kind": kind}


# --- reading -------------------------------------------------------------------------------------


def parse_answers(answers: Answers, what: str) -> Found:
    """What answers of `ask_all` say. Raises HypervisorFailed."""
    document = check_document(json.dumps(answers, sort_keys=True, indent=1), what)
    try:
        return _found(answers, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HypervisorFailed(
            what, f"QEMU's answers make no sense: {type(error).__name__}: {error}"
        ) from error


def _found(answers: Answers, document: str) -> Found:
    devices: Sequence[Answers] = answers["devices"]
    machine, cpus, memory = answers["machine"], answers["cpus"], answers["memory"] or {}
    disks, sources = _disks(answers["blocks"], devices)
    nics = tuple(_nics(devices))
    order = sorted(
        (index, name)
        for index, name in _boot_places(answers["blocks"], devices)
        if isinstance(index, int) and index >= 0
    )
    disks, nics = booted_in(disks, nics, [name for _, name in order])
    uuid, topology = answers["uuid"], _topology([one["props"] for one in cpus])
    description = Description(
        name=answers["name"] or "qemu",
        uuid=uuid if uuid != NO_UUID else None,
        architecture=answers["target"] or "x86_64",
        machine=(machine["type"] or "").removesuffix("-machine") or None,
        cpus=max(1, len(cpus)),
        sockets=topology[0],
        cores=topology[1],
        threads=topology[2],
        cpu_model=_cpu_model(cpus, answers["target"]),
        memory_bytes=int(memory.get("base-memory", 0)) + int(memory.get("plugged-memory", 0)),
        firmware=_firmware(answers),
        disks=disks,
        nics=nics,
        direct_boot=DirectBoot(machine["kernel"], machine["initrd"] or None, machine["append"] or "")
        if machine["kernel"]
        else None,
        consoles=tuple(_consoles(answers, devices)),
        guest_agent=any(device.get("name") == AGENT_PORT for device in devices),
        left_out=tuple(dict.fromkeys(_left_out(devices))),
    )
    variables = next((block for block in answers["blocks"] if _is_flash(block, 1)), None)
    return Found(
        description,
        Native(NativeKind.QMP, document),
        sources,
        None if variables is None else source_of(str(variables.get("file", ""))).path,
    )


def _topology(props: Sequence[Answers]) -> tuple[int | None, int | None, int | None]:
    """Sockets, cores in each, threads in each of those; None where QEMU does not tell."""
    if not props or not all("thread-id" in one for one in props):
        return None, None, None
    names = ("socket-id", "die-id", "cluster-id", "core-id", "thread-id")
    counts = [max(int(one.get(name, 0)) for one in props) + 1 for name in names]
    return counts[0], counts[1] * counts[2] * counts[3], counts[4]


def _cpu_model(cpus: Sequence[Answers], target: str | None) -> str | None:
    kind = cpus[0].get("type") if cpus else None
    return None if kind is None else str(kind).removesuffix("-cpu").removesuffix(f"-{target}")


def _firmware(answers: Answers) -> Firmware:
    """A flash device is how UEFI comes; QEMU does not tell whether it checks signatures."""
    flash = answers["flash"] or any(_is_flash(one) for one in answers["blocks"])
    name = str(answers["machine"]["firmware"] or "").lower()
    is_uefi = bool(flash) or any(word in name for word in ("ovmf", "edk2", "efi", "aavmf"))
    return Firmware(FirmwareKind.UEFI if is_uefi else FirmwareKind.BIOS)


def _is_flash(block: Answers, unit: int | None = None) -> bool:
    """Whether it is the machine's flash, as a drive or as a node: 0 is the code, 1 the variables."""
    number = r"\d" if unit is None else str(unit)
    device, qdev = str(block.get("device")), str(block.get("qdev"))
    as_drive = re.fullmatch(rf"pflash{number}", device)
    return bool(as_drive or re.fullmatch(rf"/machine/\w+\.flash{number}", qdev))


def _consoles(answers: Answers, devices: Sequence[Answers]) -> Iterator[Console]:
    labels = [str(one["label"]) for one in answers["chardevs"] if one["kind"] != "null"]
    if any(re.fullmatch(r"serial\d+", label) for label in labels):
        yield Console.SERIAL
    if any(device["type"] == "virtconsole" for device in devices):
        yield Console.VIRTIO
    if answers["vnc"]:
        yield Console.VNC
    if answers["spice"]:
        yield Console.SPICE


def _left_out(devices: Sequence[Answers]) -> Iterator[str]:
    for device in devices:
        for pattern, word in _TOLD:
            if pattern.fullmatch(device["type"]):
                yield f"{word}: {device['host']}" if "host" in device else word


# --- disks and network cards ---------------------------------------------------------------------


def _disks(
    blocks: Sequence[Answers], devices: Sequence[Answers]
) -> tuple[tuple[Disk, ...], dict[str, DiskSource]]:
    disks: dict[str, Disk] = {}
    sources: dict[str, DiskSource] = {}
    paths = [one["path"] for one in devices]
    # As their devices come: QEMU lists drives of the old kind first.
    for block in sorted(blocks, key=lambda block: _place(_device_of(block, devices), paths)):
        if _is_flash(block) or not block.get("qdev"):
            continue  # firmware, or what no device shows to the guest
        name = disk_name(block)
        if name in disks:
            name = f"{name}-{len(disks)}"
        kind = str(block.get("type", ""))
        device = _device_of(block, devices)
        disks[name] = Disk(
            name=name,
            bus=_bus(kind),
            kind=_kind(kind),
            serial=device.get("serial"),
            read_only=bool(block.get("ro")),
            model=kind or None,
        )
        sources[name] = source_of(str(block.get("file", "")))
    return tuple(disks.values()), sources


def _place(device: Answers, paths: Sequence[str]) -> int:
    return paths.index(device["path"]) if device else len(paths)


def disk_name(block: Answers) -> str:
    """What its owner called it: the device, the drive, the node; else its place among devices."""
    parts = str(block["qdev"]).split("/")
    if len(parts) == 1:
        return parts[0]  # the device has an id, and is the disk itself, as of SCSI and IDE
    if "peripheral" in parts:
        return parts[parts.index("peripheral") + 1]
    return str(block.get("device") or block.get("node-name") or parts[-1])


def _device_of(block: Answers, devices: Sequence[Answers]) -> Answers:
    """The device that shows a block device: itself, or what it is a part of."""
    path = str(block.get("qdev"))
    if "/" not in path:
        path = f"{_PLACES[0]}/{path}"
    return next((one for one in devices if path == one["path"] or path.startswith(f"{one['path']}/")), {})


def _bus(kind: str) -> Bus:
    for word, bus in _BUSES.items():
        if word in kind:
            return bus
    return Bus.IDE if kind.startswith("ide") else Bus.VIRTIO


def _kind(kind: str) -> DiskKind:
    if kind.endswith("-cd"):
        return DiskKind.CDROM
    return DiskKind.FLOPPY if "floppy" in kind else DiskKind.DISK


def source_of(file: str) -> DiskSource:
    """Where QEMU's name of a file leads: a path, or an export of an NBD server."""
    if file.startswith("json:"):
        found = json.loads(file.removeprefix("json:"))
        return _source_of_options(found) if isinstance(found, dict) else NO_SOURCE
    if file.startswith("nbd:") and not file.startswith("nbd://"):
        return _old_nbd(file)
    if not file.startswith(("nbd+", "nbd://")):
        return DiskSource(path=file) if file.startswith("/") else NO_SOURCE
    parts = urlsplit(file)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme.endswith("unix"):
        return DiskSource(export=name, server=parse_qs(parts.query).get("socket", [""])[0])
    return DiskSource(export=name, server=f"{parts.hostname or ''}:{parts.port or 10809}")


def _source_of_options(options: Mapping[str, Any]) -> DiskSource:
    """Down from the format to what holds it; never into a backing file, which is another disk."""
    for _ in range(16):
        inner = options.get("file")
        if options.get("driver") == "nbd" or not isinstance(inner, dict):
            break
        options = inner
    if options.get("driver") != "nbd":
        name = options.get("filename")
        return DiskSource(path=name) if isinstance(name, str) and name.startswith("/") else NO_SOURCE
    server = options.get("server")
    server = server if isinstance(server, dict) else _dotted(options)
    where = (
        server.get("path") if server.get("type") == "unix" else f"{server.get('host')}:{server.get('port')}"
    )
    return DiskSource(export=str(options.get("export", "")), server=where)


def _dotted(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("server."): value for key, value in options.items() if key.startswith("server.")}


def _old_nbd(file: str) -> DiskSource:
    """`nbd:unix:/path:exportname=x`, `nbd:host:port:exportname=x`."""
    where, _, name = file.removeprefix("nbd:").partition(":exportname=")
    return DiskSource(export=name, server=where.removeprefix("unix:"))


def _boot_places(blocks: Sequence[Answers], devices: Sequence[Answers]) -> Iterator[tuple[object, str]]:
    for block in blocks:
        if block.get("qdev"):
            yield _device_of(block, devices).get("bootindex"), disk_name(block)
    for device in devices:
        if "mac" in device:
            yield device.get("bootindex"), _card_name(device)


def _card_name(device: Answers) -> str:
    return str(device["path"]).rpartition("/")[2] if "/peripheral/" in device["path"] else str(device["mac"])


def networks_of(text: str) -> dict[str, str]:
    """What each network of QEMU's own is connected to, of what `info network` prints."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"[\s\\]*([^\s:]+): index=\d+,type=(\w+)(.*)", line)
        if match is None or match[2] == "nic":
            continue
        words = dict(part.partition("=")[::2] for part in match[3].split(","))
        found[match[1]] = words.get("br") or words.get("ifname") or match[2]
    return found


def _nics(devices: Sequence[Answers]) -> Iterator[Nic]:
    for device in devices:
        if "mac" in device:
            yield Nic(
                name=_card_name(device),
                mac=str(device["mac"]),
                network=device.get("network"),
                model=str(device["type"]),
            )
