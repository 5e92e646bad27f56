"""All files of a rendered VM: its document, and what that names beside it. Who writes them is the caller."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rehydrate.render.addresses import Address, seed_files
from rehydrate.render.libvirt import render_libvirt
from rehydrate.render.proxmox import render_proxmox
from rehydrate.render.qemu import render_qemu
from rehydrate.render.recovered import Recovered, Rendered
from rehydrate.render.seed import seed_image


class Target(enum.StrEnum):
    """For which hypervisor."""

    QEMU = "qemu"
    LIBVIRT = "libvirt"
    PROXMOX = "proxmox"


_RENDER: Final[Mapping[Target, Callable[[Recovered], Rendered]]] = {
    Target.QEMU: render_qemu,
    Target.LIBVIRT: render_libvirt,
    Target.PROXMOX: render_proxmox,
}
GUESTS_OWN: Final = ".vars.fd"
"""How the name ends of a file that the guest itself writes: one that is there stays."""
_ENDINGS: Final = {Target.QEMU: "sh", Target.LIBVIRT: "xml", Target.PROXMOX: "conf"}


@dataclass(frozen=True, slots=True)
class Documents:
    """`name` of the file that the hypervisor takes, its text; `beside`: other files, by their names."""

    name: str
    text: str
    beside: Mapping[str, bytes]
    not_rendered: tuple[str, ...]


def documents_of(vm: Recovered, target: Target, addresses: Sequence[Address] = ()) -> Documents:
    """Raises RenderRefused. `vm.changes.seed` must be in `vm.directory`, as all that is `beside`."""
    rendered = _RENDER[target](vm)
    beside: dict[str, bytes] = {}
    if vm.variables is not None:
        # A plain QEMU copies them when it first starts; libvirt's are written by the guest itself.
        ending = ".vars.saved" if target is Target.QEMU else GUESTS_OWN
        beside[f"{vm.file_name}{ending}"] = vm.variables
    if vm.changes.seed is not None:
        beside[vm.changes.seed.rpartition("/")[2]] = seed_image(
            seed_files(vm.generation, vm.one.nics, addresses)
        )
    return Documents(f"{vm.file_name}.{_ENDINGS[target]}", rendered.text, beside, rendered.not_rendered)
