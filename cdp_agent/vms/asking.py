"""Asking every hypervisor for the VMs of the domain, all at once, each in a thread that may hang.

Only for a process of its own (`cdp-agent describe`), which ends whatever hangs. What is to be sent of the
answers does not belong here (`cdp_agent.streamer.vms`).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_agent.vms.by_hand import parse_by_hand
from cdp_agent.vms.found import Found
from cdp_agent.vms.libvirt_asked import ask_libvirt
from cdp_agent.vms.libvirt_xml import hot_plugged, parse_domain
from cdp_agent.vms.matching import Volumes, match_disks
from cdp_agent.vms.proxmox_conf import parse_conf, parse_storages
from cdp_agent.vms.qmp_answers import ask_all, parse_answers
from cdp_agent.vms.qmp_asked import Qmp
from cdp_container.clock import Clock
from cdp_container.domain.identity import AgentIdentity, VmIdentity
from cdp_container.domain.machine import VARIABLES_BYTES_MAX, pack_variables
from cdp_container.domain.machine_records import NATIVE_BYTES_MAX, Configuration, vm_record
from cdp_container.errors import CdpError, HypervisorFailed

ASKED_AT_ONCE: Final = 16
"""Threads that ask; those that hang take theirs with them."""
DESCRIBE_SECONDS_MAX: Final = 20.0
"""Of a round; who started it kills it then."""
ROUND_SECONDS: Final = 10.0
"""What was not answered by then is told, while there is time to tell it."""
VM_SECONDS: Final = 5.0
"""Of one QEMU."""
THREADS: Final = "describe-"
"""How the names of the threads begin."""
_SIGNATURE: Final = slice(0x28, 0x2C), b"_FVH"
"""Where a firmware volume says that it is one: nothing else is ever taken for variables."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a round says of one VM: its configuration, or the problem that there is with it.

    `unprotected`: disks that are no volume and not meant so; `odd`: what of `disks` fits nothing.
    """

    vm: VmIdentity
    configuration: Configuration | None = None
    problem: str = ""
    unprotected: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


def volumes_served(identity: AgentIdentity, socket: str, listen: str | None) -> Volumes:
    """The domain's volumes; `socket`, `listen`: where they are exported."""
    active = identity.active.values()
    return Volumes(
        by_path={os.path.realpath(source.path): source.space for source in active},
        by_name={source.name: source.space for source in active}
        | {disk.name: disk.space for disk in identity.active_disks},
        servers=(socket,) if listen is None else (socket, listen),
    )


def ask_vms(identity: AgentIdentity, volumes: Volumes, clock: Clock) -> Iterator[Told]:
    """Every VM that somebody here knows, in the order in which they answer; those that do not come last."""
    wanted = {vm.vm: _with_captured(vm, identity) for vm in identity.active_vms if vm.kind}
    # Whose C library may hang comes last: threads are few.
    to_ask = sorted(wanted.values(), key=lambda vm: vm.kind == "libvirt")
    waiting: queue.SimpleQueue[VmIdentity] = queue.SimpleQueue()
    for vm in to_ask:
        waiting.put(vm)
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    until_ns = clock.boottime_ns() + int(ROUND_SECONDS * 1e9)

    def work() -> None:
        while True:
            try:
                vm = waiting.get_nowait()
            except queue.Empty:
                return
            told.put(ask_vm(vm, volumes, clock))

    for number in range(min(ASKED_AT_ONCE, len(to_ask))):
        threading.Thread(target=work, name=f"{THREADS}{number}", daemon=True).start()
    while wanted:
        left_seconds = (until_ns - clock.boottime_ns()) / 1e9
        try:
            one = told.get(timeout=max(0.0, left_seconds))
        except queue.Empty:
            break
        del wanted[one.vm.vm]
        yield one
    for vm in wanted.values():
        yield Told(vm, problem=f"{vm.at} did not answer within {ROUND_SECONDS:g} s")


def _with_captured(vm: VmIdentity, identity: AgentIdentity) -> VmIdentity:
    """Its disks that are captured from it are volumes, whatever they lie on."""
    captured = {disk.disk: disk.name for disk in identity.active_disks if disk.vm == vm.name}
    return replace(vm, disks=tuple({**dict(vm.disks), **captured}.items()))


def _as_described(disks: Iterable[tuple[str, str | None]], found: Found) -> dict[str, str | None]:
    """What is said of disks, some of which may be called as QEMU calls them."""
    names = {device: name for name, device in found.devices.items()}
    return {names.get(disk, disk): volume for disk, volume in disks}


def ask_vm(vm: VmIdentity, volumes: Volumes, clock: Clock) -> Told:
    """One VM."""
    try:
        found = _found(vm, clock)
        matched = match_disks(found, _as_described(vm.disks, found), volumes, os.path.realpath)
        description = matched.description
        if found.variables_path is not None and description.firmware.variables is None:
            firmware = replace(description.firmware, variables=read_variables(Path(found.variables_path)))
            description = replace(description, firmware=firmware)
        configuration = Configuration(vm.name, description, found.native)
        vm_record(vm.vm, configuration)  # it fits a record
    except CdpError as error:
        return Told(vm, problem=str(error))
    return Told(vm, configuration, "", matched.unprotected, matched.odd)


def _found(vm: VmIdentity, clock: Clock) -> Found:
    what = f"the configuration of VM {vm.name}"
    match vm.kind:
        case "libvirt":
            return _libvirt(vm, what)
        case "proxmox":
            return _proxmox(Path(vm.at), what)
        case "qmp":
            return _qmp(vm.at, what, clock)
        case "description":
            return parse_by_hand(_text(Path(vm.at), what), what)
        case _:
            raise HypervisorFailed(what, f"{vm.kind!r} is no hypervisor that this release knows")


def _libvirt(vm: VmIdentity, what: str) -> Found:
    asked = ask_libvirt(vm.at, vm.domain, what)
    found = parse_domain(asked.kept, what)
    found = replace(found, description=replace(found.description, autostart=asked.autostart))
    return found if asked.live is None else hot_plugged(parse_domain(asked.live, what), found)


def _proxmox(path: Path, what: str) -> Found:
    text = _text(path, what)
    # By the path as it was given: the directory may be a link into another one.
    above = [path.parent / "storage.cfg", *(parent / "storage.cfg" for parent in path.parent.parents)]
    storages = next((other for other in above if other.is_file()), None)
    users = None if storages is None else storages.with_name("user.cfg")
    return parse_conf(
        text,
        path.stem,
        what,
        {} if storages is None else parse_storages(_text(storages, what)),
        _text(users, what) if users is not None and os.access(users, os.R_OK) else "",
    )


def _qmp(path: str, what: str, clock: Clock) -> Found:
    until_ns = clock.boottime_ns() + int(VM_SECONDS * 1e9)
    qmp = Qmp(path, lambda: (until_ns - clock.boottime_ns()) / 1e9)
    try:
        return parse_answers(ask_all(qmp.ask, what), what)
    finally:
        qmp.close()


def _text(path: Path, what: str) -> str:
    """A file that a record could hold. Raises HypervisorFailed."""
    try:
        with path.open("rb") as file:
            data = file.read(NATIVE_BYTES_MAX * 8 + 1)
        return data.decode("utf-8")
    except OSError as error:
        raise HypervisorFailed(what, f"{path}: {error.strerror or 'unreadable'}") from error
    except UnicodeDecodeError as error:
        raise HypervisorFailed(what, f"{path}: it is no text in UTF-8") from error


def read_variables(path: Path) -> str | None:
    """The content of a UEFI variable store as a description has it; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(VARIABLES_BYTES_MAX + 1)
    except OSError:
        return None
    where, signature = _SIGNATURE
    return pack_variables(data) if data[where] == signature else None
