"""The record `vm` of a container: the whole configuration of one VM, and which VMs a cut has. PURE.

What is in a description does not belong here (`machine`), nor how a hypervisor is asked (`cdp_agent.vms`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cdp_container.domain.contents import VmRecord
from cdp_container.domain.image import Branch, on_branch
from cdp_container.domain.machine import NATIVE_BYTES_MAX as NATIVE_BYTES_MAX
from cdp_container.domain.machine import (
    TEXT_CHARS_MAX,
    build_description,
    description_members,
    read_description,
)
from cdp_container.domain.machine import Configuration as Configuration
from cdp_container.domain.machine import Native as Native
from cdp_container.domain.machine import NativeKind as NativeKind
from cdp_container.errors import CdpError, DamagedObject, LimitExceeded
from cdp_container.format.index import Record
from cdp_container.format.jsontext import load_object
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import RECORD_VALUE_BYTES_MAX
from cdp_container.format.members import Members
from cdp_container.format.records import make_record

RECORD: Final = "vm"


@dataclass(frozen=True, slots=True)
class Member:
    """A VM as it was at a cut."""

    vm: bytes
    configuration: Configuration


def vm_record(vm: bytes, configuration: Configuration | None) -> Record:
    """The record of a VM, or (None) that it left the domain. Equal configurations have equal bytes.

    Raises LimitExceeded, DamagedObject: it is no configuration that a reader would take.
    """
    assert len(vm) == ID_BYTES, len(vm)
    if configuration is None:
        return make_record(RECORD, vm, {})
    one = configuration
    _check(one.name, one.native, f"the configuration of VM {one.name!r}")
    build_description(one.description)
    native = {"kind": one.native.kind, "document": one.native.document}
    value = {"name": one.name, "description": description_members(one.description), "native": native}
    return make_record(RECORD, vm, value)


def parse_vm(value: bytes, what: str) -> Configuration | None:
    """What a `vm` record says; None where the VM left the domain.

    Raises DamagedObject, LimitExceeded, NewerFormat: it contradicts the document, or is of a later version.
    """
    members = load_object(value, RECORD_VALUE_BYTES_MAX, what)
    if not members:
        return None
    said = Members(members, what)
    name, inner = said.text("name"), said.object("native")
    native = Native(inner.text("kind"), inner.text("document"))
    _check(name, native, what)
    return Configuration(name, read_description(said.object("description").members, what), native)


def _check(name: str, native: Native, what: str) -> None:
    if not name or len(name) > TEXT_CHARS_MAX or not name.isprintable():
        raise DamagedObject(what, "its name is none")
    if len(native.document.encode("utf-8", "surrogatepass")) > NATIVE_BYTES_MAX:
        raise LimitExceeded(what, "the hypervisor's document is longer than NATIVE_BYTES_MAX")


def newest_values(records: Iterable[VmRecord], branch: Branch) -> dict[bytes, bytes]:
    """The value of the newest record of each VM on a branch, `{}` of those that left."""
    found: dict[bytes, bytes] = {}
    for record in sorted(records, key=lambda record: record.place):
        if on_branch(record.place, branch):
            found[record.vm] = record.value
    return found


def members_known(records: Iterable[VmRecord], branch: Branch, told: Callable[[str], None]) -> list[Member]:
    """The VMs that a cut has, as far as their configurations make sense; `told`: of each other one."""
    members = []
    for vm, value in newest_values(records, branch).items():
        try:
            configuration = parse_vm(value, f"VM {vm.hex()}")
        except CdpError as error:
            told(f"its configuration cannot be used: {error}")
            continue
        if configuration is not None:
            members.append(Member(vm, configuration))
    return sorted(members, key=lambda member: (member.configuration.name, member.vm))


def members_at(records: Iterable[VmRecord], branch: Branch) -> list[Member]:
    """The VMs that a cut has, by name; `branch`: what the cut is made of.

    Raises as `parse_vm` does.
    """
    members = []
    for vm, value in newest_values(records, branch).items():
        configuration = parse_vm(value, f"VM {vm.hex()}")
        if configuration is not None:
            members.append(Member(vm, configuration))
    return sorted(members, key=lambda member: (member.configuration.name, member.vm))
