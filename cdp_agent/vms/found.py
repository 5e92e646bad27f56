"""What a hypervisor's document says of a VM, before it is known which of its disks are volumes. PURE."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_container.domain.machine import NATIVE_BYTES_MAX, Description, Disk, Native, Nic
from cdp_container.errors import HypervisorFailed

SECRET: Final = "a password, which is taken out of the document"  # noqa: S105  that there is one, not which

TAKEN_OUT: Final = "…"
"""What stands where a password stood."""
_PASSWORD: Final = re.compile(r"(\bpassw(?:or)?d=)(?!on\b|off\b)[^,\s'\"]+", re.IGNORECASE)
_SECRET_DATA: Final = re.compile(r"(\bsecret,[^\s'\"]*?\bdata=)[^,\s'\"]+")
_USER: Final = re.compile(r"(\w://)[^/@\s'\"]+@")


def without_passwords(arguments: str) -> str:
    """Arguments of QEMU, or names of its files, without passwords that stand in them."""
    for pattern in (_PASSWORD, _SECRET_DATA):
        arguments = pattern.sub(rf"\1{TAKEN_OUT}", arguments)
    return _USER.sub(rf"\1{TAKEN_OUT}@", arguments)


@dataclass(frozen=True, slots=True)
class DiskSource:
    """Where a disk lies: a path, or an export of an NBD server.

    `server`: the path of a unix socket, or `host:port`.
    """

    path: str | None = None
    export: str | None = None
    server: str | None = None


NO_SOURCE: Final = DiskSource()


@dataclass(frozen=True, slots=True)
class Found:
    """A VM as its hypervisor has it.

    `sources`: by the names of disks; `variables_path`: of UEFI's. `devices`: what QEMU calls disks, by their
    names, where that is something else.
    """

    description: Description
    native: Native
    sources: Mapping[str, DiskSource] = field(default_factory=dict)
    variables_path: str | None = None
    devices: Mapping[str, str] = field(default_factory=dict)


def check_document(text: str, what: str) -> str:
    """A document that a record can carry. Raises HypervisorFailed."""
    if len(text.encode("utf-8", "replace")) > NATIVE_BYTES_MAX:
        raise HypervisorFailed(what, f"it is longer than {NATIVE_BYTES_MAX} bytes (NATIVE_BYTES_MAX)")
    if "\0" in text:
        raise HypervisorFailed(what, "it is no text")
    return text


def booted_in(
    disks: Iterable[Disk], nics: Iterable[Nic], order: Iterable[str]
) -> tuple[tuple[Disk, ...], tuple[Nic, ...]]:
    """Disks and cards with their places in a boot order that names them; names that nothing has count not."""
    disks, nics = tuple(disks), tuple(nics)
    names = {*(disk.name for disk in disks), *(nic.name for nic in nics)}
    places: dict[str, int] = {}
    for name in order:
        if name in names and name not in places:
            places[name] = len(places) + 1
    return (
        tuple(replace(disk, boot=places.get(disk.name)) for disk in disks),
        tuple(replace(nic, boot=places.get(nic.name)) for nic in nics),
    )
