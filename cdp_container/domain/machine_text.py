"""Configurations of VMs for people and programs: lines of text, and members of JSON. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cdp_container.domain.machine import (
    Configuration,
    Description,
    Disk,
    DiskKind,
    FirmwareKind,
    Nic,
    description_members,
)


def configuration_members(configuration: Configuration) -> dict[str, Any]:
    """All that is known of a VM; its name aside."""
    native = configuration.native
    return {
        "description": description_members(configuration.description),
        "native": {"kind": native.kind, "document": native.document},
    }


def configuration_lines(configuration: Configuration, volumes: Mapping[bytes, str]) -> Iterator[str]:
    """A VM in a few lines; `volumes`: names by ids of spaces."""
    one, native = configuration.description, configuration.native
    called = "" if one.name == configuration.name else f", called {one.name}"
    yield f"{configuration.name}: {_size(one)}, {_machine(one)} ({native.kind}{called})"
    for disk in one.disks:
        yield f"  disk {disk.name}: {_disk(disk, volumes)}"
    for nic in one.nics:
        yield f"  network card {nic.name}: {_nic(nic)}"
    if one.direct_boot is not None:
        yield f"  boots {one.direct_boot.kernel} {one.direct_boot.command_line}".rstrip()
    for word, values in (("consoles", one.consoles), ("tags", one.tags), ("permissions", one.permissions)):
        if values:
            yield f"  {word}: {', '.join(values)}"
    for word, value in (("owner", one.owner), ("note", " / ".join(one.note.strip().split("\n")))):
        if value:
            yield f"  {word}: {value}"
    for word in one.left_out:
        yield f"  not described: {word}"


def _size(one: Description) -> str:
    cpus = "1 CPU" if one.cpus == 1 else f"{one.cpus} CPUs"
    mebibytes = one.memory_bytes / (1 << 20)
    memory = f"{mebibytes / 1024:g} GiB" if mebibytes >= 1024 else f"{mebibytes:g} MiB"
    return f"{cpus}, {memory}"


def _machine(one: Description) -> str:
    firmware = "BIOS" if one.firmware.kind is FirmwareKind.BIOS else "UEFI"
    if one.firmware.secure_boot:
        firmware += " with secure boot"
    if one.firmware.variables is not None:
        firmware += ", its variables kept"
    return f"{one.architecture} {one.machine or 'machine'}, {firmware}"


def _disk(disk: Disk, volumes: Mapping[bytes, str]) -> str:
    if disk.volume is not None:
        where = f"volume {volumes.get(disk.volume, disk.volume.hex())}"
    else:
        where = "not protected" if disk.kind is DiskKind.DISK else str(disk.kind)
    words = [where, str(disk.bus)]
    words += [f"boot {disk.boot}"] if disk.boot is not None else []
    words += ["read only"] if disk.read_only and disk.kind is DiskKind.DISK else []
    return ", ".join(words)


def _nic(nic: Nic) -> str:
    words = [nic.mac or "no MAC", nic.network or "no network", nic.model or "", ""]
    words[3] = "" if nic.vlan is None else f"VLAN {nic.vlan}"
    return ", ".join(filter(None, words))
