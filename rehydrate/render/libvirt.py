"""A libvirt domain. PURE: values in, XML out, by an XML library.

From libvirt's own document where there is one, and else from the description. What the protected host alone
has is taken out of a document, and what would have this host run or read something that the document names:
its programs, scripts, passed-through devices, paths. The list of what stays is ours; the rest is told. How
disks and network cards are written does not belong here (libvirt_devices), nor what stays inside of an
element that stays (libvirt_kept).
"""

from __future__ import annotations

from functools import partial
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from cdp_container.domain.machine import Console, FirmwareKind
from cdp_container.domain.machine_records import NativeKind
from cdp_container.domain.xml_page import load_xml
from cdp_container.errors import RenderRefused
from rehydrate.render.libvirt_devices import (
    add_seed,
    changed_disks,
    changed_nics,
    disk_elements,
    nic_elements,
)
from rehydrate.render.libvirt_kept import keep_known, keep_metadata
from rehydrate.render.recovered import WORD, Recovered, Rendered, word_or_none

_STAYS: Final = frozenset(
    {
        "name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "maxMemory", "vcpu",
        "vcpus", "iothreads", "iothreadids", "os", "features", "cpu", "clock", "on_poweroff", "on_reboot",
        "on_crash", "pm", "devices", "genid", "memoryBacking", "sysinfo",
    }
)  # fmt: skip
_DEVICES_STAY: Final = frozenset(
    {
        "disk", "interface", "controller", "input", "graphics", "video", "console", "serial", "channel",
        "memballoon", "hub", "panic", "audio", "rng", "sound", "watchdog", "tpm", "vsock", "redirdev",
        "iommu",
    }
)  # fmt: skip
_KINDS: Final = {
    "input": ("mouse", "keyboard", "tablet"),
    "channel": ("unix", "spicevmc", "spiceport", "qemu-vdagent", "pty"),
    "redirdev": ("spicevmc",),
    "graphics": ("vnc", "spice"),
    "audio": ("none", "spice"),
}
"""Of devices that also come in kinds that name something of the host."""
_OF_THE_HOST: Final = ("source", "log", "protocol")
_OTHERWISE: Final = {
    "graphics": ("listen", "port", "autoport", "tlsPort", "websocket", "passwd", "passwdValidTo"),
    "rng": ("backend",), "vsock": ("cid",),
    **dict.fromkeys(("serial", "console"), (*_OF_THE_HOST, "tty")),
    **dict.fromkeys(("channel", "redirdev"), _OF_THE_HOST),
}  # fmt: skip
"""Of devices what we say ourselves, or a host chooses."""
_BOOTS: Final = ("loader", "nvram", "initrd", "kernel", "cmdline", "dtb", "acpi")
_NO_MACHINES: Final = ("bootloader", "bootloader_args", "init", "initarg", "initenv")
_XML_ESCAPES: Final = {number: None for number in range(32) if number not in (9, 10, 13)} | {
    0xFFFE: None,
    0xFFFF: None,
}
_DOMAIN_KINDS: Final = ("kvm", "qemu")


def render_libvirt(vm: Recovered) -> Rendered:
    """The XML of a domain. Raises RenderRefused: the document is no domain, or of another hypervisor."""
    has_document = vm.native.kind == NativeKind.LIBVIRT
    told = [*vm.left_out(has_document), *vm.told]
    if has_document:
        root = _from_native(vm, told)
    else:
        root = _from_description(vm, told)
    for element in root.iter():
        element.text = None if element.text is None else element.text.translate(_XML_ESCAPES)
        element.attrib = {name: value.translate(_XML_ESCAPES) for name, value in element.attrib.items()}
    indent(root)
    return Rendered(tostring(root, encoding="unicode") + "\n", tuple(dict.fromkeys(told)))


def _set(root: Element, name: str, text: str, **attributes: str) -> Element:
    """The text of an element, which is made where there is none; its attributes are these alone."""
    found = root.find(name)
    if found is None:
        found = SubElement(root, name)
    found.text = text
    found.attrib = attributes
    return found


def _drop(root: Element, *names: str) -> bool:
    """Take elements out; whether there were any."""
    gone = [one for one in root if one.tag in names]
    for one in gone:
        root.remove(one)
    return bool(gone)


# --- from libvirt's document ---------------------------------------------------------------------


def _from_native(vm: Recovered, told: list[str]) -> Element:
    what = f"the libvirt document of {vm.one.name!r}"
    root = load_xml(vm.native.document, partial(RenderRefused, what))
    kind = root.get("type") or ""
    if root.tag != "domain" or kind not in _DOMAIN_KINDS:
        raise RenderRefused(what, f"it is a domain of the type {kind[:40]!r}, and these are known: kvm, qemu")
    spaces, root.attrib = root.attrib, {"type": kind}
    for one in list(root):
        if one.tag not in _STAYS or (one.tag == "sysinfo" and one.get("type") != "smbios"):
            root.remove(one)
            told.append(f"{one.tag}: what this host has stands instead")
        elif one.tag == "metadata":
            keep_metadata(one, spaces, told)
        elif one.tag not in ("os", "devices"):
            keep_known(one, one.tag, told)
            if one.tag.startswith("on_") and not one.text:
                root.remove(one)
    _change_machine(vm, root, told)
    _change_boot(vm, root, told)
    devices = root.find("devices")
    if devices is None:
        devices = SubElement(root, "devices")
    _change_devices(devices, told)
    changed_disks(vm, devices, told)
    changed_nics(vm, devices, told)
    if vm.changes.seed is not None:
        add_seed(devices, vm.changes.seed)
    _log_console(vm, devices)
    return root


def _change_machine(vm: Recovered, root: Element, told: list[str]) -> None:
    one, changes = vm.one, vm.changes
    _set(root, "name", one.name)
    if one.uuid is not None:
        _set(root, "uuid", one.uuid)
    else:
        _drop(root, "uuid")
    if changes.rehearsal:
        for entry in root.findall("sysinfo/system/entry"):
            if entry.get("name") == "uuid":
                entry.text = one.uuid
    if root.find("genid") is not None:
        _set(root, "genid", vm.generation)
    if changes.cpus is not None:
        _set(root, "vcpu", str(changes.cpus))
        _drop(root, "vcpus")
        for cpu in root.findall("cpu"):
            _drop(cpu, "topology", "numa")
        told.append("the topology of its CPUs, as another number was asked for")
    if changes.memory_bytes is not None:
        _set(root, "memory", str(changes.memory_bytes), unit="b")
        _drop(root, "currentMemory", "maxMemory")
        for cpu in root.findall("cpu"):
            _drop(cpu, "numa")
    if changes.emulate:
        root.set("type", "qemu")
        for cpu in root.findall("cpu"):
            if cpu.get("mode") in ("host-passthrough", "host-model"):
                cpu.attrib = {"mode": "maximum"}
                _drop(cpu, "model", "vendor", "feature", "cache", "maxphysaddr")
                told.append("its CPU, which needs KVM: all that emulation has instead")


def _change_boot(vm: Recovered, root: Element, told: list[str]) -> None:
    """Firmware of this host, variables of the VM; kernel and initrd of this site."""
    system = root.find("os")
    if system is None:
        raise RenderRefused(f"the libvirt document of {vm.one.name!r}", "it does not say what it boots")
    loader, nvram = system.find("loader"), system.find("nvram")
    is_secure = loader is not None and loader.get("secure") == "yes"
    if loader is not None or nvram is not None:
        _drop(system, "loader", "nvram")
        if vm.one.firmware.kind is FirmwareKind.BIOS:
            told.append("firmware: its own BIOS; this host's instead")
    if _drop(system, *_NO_MACHINES):
        told.append("what is not booted by a machine")
    keep_known(system, "os", told, quiet=_BOOTS)
    if vm.one.firmware.kind is FirmwareKind.UEFI:
        _uefi(vm, system, is_secure)
    _direct_boot(vm, system)


def _uefi(vm: Recovered, system: Element, is_secure: bool) -> None:
    system.set("firmware", "efi")
    if is_secure:
        SubElement(system, "loader", {"secure": "yes"})
    if vm.variables is not None:
        SubElement(system, "nvram").text = vm.variables_path


def _direct_boot(vm: Recovered, system: Element) -> None:
    if vm.changes.direct_boot is not None:
        for name, text in zip(("kernel", "initrd", "cmdline"), vm.changes.direct_boot, strict=True):
            if text:
                SubElement(system, name).text = text


def _change_devices(devices: Element, told: list[str]) -> None:
    for one in list(devices):
        kinds = _KINDS.get(one.tag)
        is_ours = one.tag in _DEVICES_STAY and (kinds is None or one.get("type") in kinds)
        if one.tag == "tpm":
            backend = one.find("backend")
            is_ours = backend is not None and backend.get("type") == "emulator"
        elif one.tag == "channel":
            # Others are forwarded from addresses of a network.
            is_ours &= all(target.get("type") in (None, "virtio") for target in one.findall("target"))
        if not is_ours:
            devices.remove(one)
            if one.tag != "emulator":
                told.append(f"device {one.tag}: it is of the protected host")
            continue
        if one.tag not in ("disk", "interface"):
            keep_known(one, one.tag, told, quiet=_OTHERWISE.get(one.tag, ()))
        if one.tag in ("serial", "console"):
            one.attrib = {"type": "pty"}
        elif one.tag == "vsock":
            _set(one, "cid", "", auto="yes")
        elif one.tag == "rng":
            SubElement(one, "backend", {"model": "random"}).text = "/dev/urandom"
        elif one.tag == "graphics":
            _at_home(one, told)


def _at_home(graphics: Element, told: list[str]) -> None:
    """A console that this host alone can see: its password is not in a container."""
    keymap = graphics.get("keymap")
    if keymap is not None and WORD.fullmatch(keymap) is None:
        # QEMU opens a file of that name.
        del graphics.attrib["keymap"]
        told.append(f"graphics: keymap {keymap[:40]!r}")
    graphics.attrib |= {"port": "-1", "autoport": "yes"}
    SubElement(graphics, "listen", {"type": "address", "address": "127.0.0.1"})


def _log_console(vm: Recovered, devices: Element) -> None:
    """What comes over the first serial console is kept in a file, for the runbook's checks."""
    serial = devices.find("serial")
    if serial is None:
        serial = SubElement(devices, "serial", {"type": "pty"})
    SubElement(serial, "log", {"file": f"{vm.directory}/{vm.file_name}.console", "append": "on"})
    # libvirt wants the console that is the first serial port to be the same.
    for console in devices.findall("console"):
        target = console.find("target")
        if target is None or target.get("type") in (None, "serial"):
            devices.remove(console)


# --- from a description --------------------------------------------------------------------------


def _from_description(vm: Recovered, told: list[str]) -> Element:
    one, changes = vm.one, vm.changes
    root = Element("domain", {"type": "qemu" if changes.emulate else "kvm"})
    SubElement(root, "name").text = one.name
    if one.uuid is not None:
        SubElement(root, "uuid").text = one.uuid
    SubElement(root, "genid").text = vm.generation
    if one.note:
        SubElement(root, "description").text = one.note
    SubElement(root, "memory", {"unit": "b"}).text = str(one.memory_bytes)
    system = SubElement(root, "os")
    architecture = word_or_none(one.architecture, "its architecture", told) or "x86_64"
    machine = word_or_none(one.machine, "its type of machine", told)
    is_uefi = one.firmware.kind is FirmwareKind.UEFI
    if machine is None and is_uefi and architecture == "x86_64":
        machine = "q35"
    kind = SubElement(system, "type", {"arch": architecture})
    kind.text = "hvm"
    if machine is not None:
        kind.set("machine", machine.partition("+")[0])
    if is_uefi:
        _uefi(vm, system, one.firmware.secure_boot)
    _direct_boot(vm, system)
    if architecture in ("x86_64", "i686"):
        features = SubElement(root, "features")
        SubElement(features, "acpi")
        SubElement(features, "apic")
        if is_uefi and one.firmware.secure_boot:
            SubElement(features, "smm", {"state": "on"})
    _cpu(vm, root, told)
    SubElement(root, "clock", {"offset": "localtime" if vm.has_local_clock else "utc"})
    devices = SubElement(root, "devices")
    for element in (*disk_elements(vm, told), *nic_elements(vm, told)):
        devices.append(element)
    if changes.seed is not None:
        add_seed(devices, changes.seed)
    _consoles(vm, devices, architecture, told)
    _log_console(vm, devices)
    told += [f"permissions: {', '.join(one.permissions)}"] if one.permissions else []
    told += [f"owner: {one.owner}"] if one.owner else []
    told += [f"tags: {', '.join(one.tags)}"] if one.tags else []
    told += ["that it starts by itself (virsh autostart)"] if one.autostart else []
    return root


def _cpu(vm: Recovered, root: Element, told: list[str]) -> None:
    one = vm.one
    product = (one.sockets or 1) * (one.cores or 1) * (one.threads or 1)
    has_topology = any(part is not None for part in (one.sockets, one.cores, one.threads))
    if product < one.cpus:
        told += ["the topology of its CPUs, which has fewer than it has"] if has_topology else []
        has_topology, product = False, one.cpus
    vcpu = SubElement(root, "vcpu")
    vcpu.text = str(product if has_topology else one.cpus)
    if has_topology and product > one.cpus:
        vcpu.set("current", str(one.cpus))
    model = word_or_none(one.cpu_model, "its model of CPU", told)
    if model is None or model == "custom":
        cpu = Element("cpu")
    elif model in ("host", "host-passthrough", "host-model", "max", "maximum") or model.startswith(
        "x86-64-v"
    ):
        cpu = Element("cpu", {"mode": "maximum" if vm.changes.emulate else "host-passthrough"})
    else:
        cpu = Element("cpu", {"mode": "custom", "match": "exact"})
        SubElement(cpu, "model", {"fallback": "allow"}).text = model
    if has_topology:
        parts = {"sockets": one.sockets, "cores": one.cores, "threads": one.threads}
        SubElement(cpu, "topology", {name: str(count or 1) for name, count in parts.items()})
    if has_topology or cpu.attrib:
        root.append(cpu)


def _consoles(vm: Recovered, devices: Element, architecture: str, told: list[str]) -> None:
    for console in vm.one.consoles:
        match console:
            case Console.VIRTIO:
                virtio = SubElement(devices, "console", {"type": "pty"})
                SubElement(virtio, "target", {"type": "virtio"})
            case Console.VNC | Console.SPICE:
                graphics = SubElement(devices, "graphics", {"type": console.value})
                _at_home(graphics, told)
            case _:
                pass  # there is one always
    if {Console.VNC, Console.SPICE} & {*vm.one.consoles}:
        video = SubElement(devices, "video")
        SubElement(video, "model", {"type": "vga" if architecture in ("x86_64", "i686") else "virtio"})
    if vm.one.guest_agent:
        channel = SubElement(devices, "channel", {"type": "unix"})
        SubElement(channel, "target", {"type": "virtio", "name": "org.qemu.guest_agent.0"})
