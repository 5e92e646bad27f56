"""A shell script that starts a VM as a plain QEMU. PURE: values in, text out.

Every word of QEMU's command line is quoted by itself, and what comes from a description stands in JSON or is
of a form that we know: nothing of it is seen by the shell, nor taken for an option. Needs QEMU 6.2 or later,
whose -device takes JSON. What is on a bus of PCI and where does not belong here (qemu_devices).
"""

from __future__ import annotations

import shlex
from typing import Final

from cdp_container.domain.machine import VARIABLES_BYTES_MAX, FirmwareKind
from cdp_container.errors import RenderRefused
from rehydrate.render.qemu_devices import Architecture, Devices, device_words
from rehydrate.render.recovered import Recovered, Rendered, word_or_none

ARCHITECTURES: Final = {
    "x86_64": Architecture("qemu-system-x86_64", "pc", "q35"),
    "i686": Architecture("qemu-system-i386", "pc", "q35"),
    "aarch64": Architecture("qemu-system-aarch64", "virt", "virt"),
    "armv7l": Architecture("qemu-system-arm", "virt", "virt"),
    "ppc64": Architecture("qemu-system-ppc64", "pseries", "pseries"),
    "ppc64le": Architecture("qemu-system-ppc64", "pseries", "pseries"),
    "riscv64": Architecture("qemu-system-riscv64", "virt", "virt"),
}
"""By the names that descriptions have; machines for BIOS and for UEFI, where a description names none."""
_CODES: Final = {
    ("x86_64", 528 << 10): (
        "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/qemu/ovmf-x86_64-4m-code.bin",
    ),
    ("x86_64", 128 << 10): (
        "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/qemu/ovmf-x86_64-code.bin",
    ),
    ("aarch64", 64 << 20): (
        "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
    ),
}  # fmt: skip
"""Where distributions put UEFI's code, by architecture and by how large its variables are."""
_SECURE_CODES: Final = {
    ("x86_64", 528 << 10): (
        "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
    ),
    ("x86_64", 128 << 10): (
        "/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
    ),
}  # fmt: skip
_TEMPLATE: Final = (
    'template=$(printf %s "$code" | sed "s/CODE_4M\\.[a-z]*\\.fd/CODE_4M.fd/; s/CODE/VARS/; s/-code/-vars/")'
)
"""Where the variables lie that belong to the code."""
_MODELS: Final = {"host-passthrough": "max", "host-model": "max", "maximum": "max", "host": "max"}
"""CPUs that only one kind of acceleration has, and one that all have."""


def render_qemu(vm: Recovered) -> Rendered:
    """A script for the VM; run with ACCEL=kvm or ACCEL=tcg it uses that alone, its arguments go to QEMU.

    Raises RenderRefused: an architecture that we do not know, a path too long, a network of libvirt's.
    """
    told = [*vm.left_out(False), *vm.told]
    architecture = ARCHITECTURES.get(vm.one.architecture)
    if architecture is None:
        raise RenderRefused(f"VM {vm.one.name!r}", f"its architecture is {vm.one.architecture[:40]!r}")
    machine = _machine(vm, architecture, told)
    devices = device_words(vm, machine, told)
    told += [f"{word}: {', '.join(values)}" for word, values in (
        ("permissions", vm.one.permissions), ("tags", vm.one.tags),
    ) if values]  # fmt: skip
    told += [f"owner: {vm.one.owner}"] if vm.one.owner else []
    told += ["note"] if vm.one.note else []
    told += ["that it starts by itself"] if vm.one.autostart else []
    words = [architecture.program, "-nodefaults", "-no-user-config", *_machine_words(vm, machine, told)]
    return Rendered(_script(vm, words, devices), tuple(dict.fromkeys(told)))


def _machine(vm: Recovered, architecture: Architecture, told: list[str]) -> str:
    """The type of machine as QEMU knows it: Proxmox marks its own with +pve."""
    default = architecture.uefi if vm.one.firmware.kind is FirmwareKind.UEFI else architecture.bios
    found = word_or_none(vm.one.machine, "its type of machine", told)
    if found is None:
        return default
    plain = found.partition("+")[0]
    if plain.startswith(("s390", "microvm", "xen", "none")):
        raise RenderRefused(f"VM {vm.one.name!r}", f"its type of machine is {plain}, which has no PCI")
    return plain


def _machine_words(vm: Recovered, machine: str, told: list[str]) -> list[str]:
    one = vm.one
    is_secure = one.firmware.secure_boot and one.architecture == "x86_64"
    words = [
        "-name",
        f"guest={_escaped(one.name)}",
        "-machine",
        f"{machine},smm=on" if is_secure else machine,
    ]
    words += ["-global", "driver=cfi.pflash01,property=secure,value=on"] if is_secure else []
    model = one.cpu_model
    if model is not None and (model in _MODELS or model.startswith("x86-64-v")):
        told.append(f"CPU {model}: QEMU's max instead") if model.startswith("x86-64-v") else None
        model = "max"
    elif model == "custom":
        model = None
    model = word_or_none(model, "its model of CPU", told)
    words += ["-cpu", model] if model is not None else []
    words += ["-smp", _smp(vm, told), "-m", f"{-(-one.memory_bytes // (1 << 20))}M"]
    words += ["-uuid", one.uuid] if one.uuid is not None else []
    if one.architecture in ("x86_64", "i686", "aarch64"):
        words += (
            ["-device", f"vmgenid,guid={vm.generation},id=vmgenid0"] if one.architecture != "aarch64" else []
        )
    words += ["-rtc", "base=localtime" if vm.has_local_clock else "base=utc", "-boot", "strict=on"]
    if vm.changes.direct_boot is not None:
        kernel, initrd, command_line = vm.changes.direct_boot
        words += ["-kernel", kernel, *(["-initrd", initrd] if initrd else [])]
        words += ["-append", command_line] if command_line else []
    return words


def _smp(vm: Recovered, told: list[str]) -> str:
    one = vm.one
    if one.sockets is None and one.cores is None and one.threads is None:
        return str(one.cpus)
    sockets, cores, threads = one.sockets or 1, one.cores or 1, one.threads or 1
    most = sockets * cores * threads
    if most < one.cpus:
        told.append("the topology of its CPUs, which has fewer than it has")
        return str(one.cpus)
    return f"cpus={one.cpus},maxcpus={most},sockets={sockets},cores={cores},threads={threads}"


def _escaped(text: str) -> str:
    """A value within an option: QEMU takes two commas for one."""
    return text.replace(",", ",,")


# --- the script ----------------------------------------------------------------------------------


def _script(vm: Recovered, words: list[str], devices: Devices) -> str:
    directory = shlex.quote(vm.directory)
    lines = [
        "#!/bin/sh",
        "# Starts a recovered VM. ACCEL=kvm or ACCEL=tcg uses that alone; arguments go to QEMU.",
        "set -eu",
        "umask 077",
        f"mkdir -p -- {directory}",
        f"cd -- {directory}",
        'case "${ACCEL:-kvm:tcg}" in',
        'kvm) set -- -accel kvm "$@" ;;',
        'tcg) set -- -accel tcg "$@" ;;',
        'kvm:tcg) set -- -accel kvm -accel tcg "$@" ;;',
        '*) echo "error: ACCEL is kvm or tcg" >&2; exit 2 ;;',
        "esac",
    ]
    if vm.changes.emulate:
        lines[6] = 'case "${ACCEL:-tcg}" in'
    if vm.one.firmware.kind is FirmwareKind.UEFI:
        lines += _firmware_lines(vm)
    quoted = [shlex.quote(word) for word in (*words, *devices.words)]
    lines += ["set -- \\", *(f"  {word} \\" for word in quoted), '  "$@"', 'exec "$@"']
    return "\n".join(lines) + "\n"


def firmware_codes(architecture: str, secure_boot: bool, variables_bytes: int | None) -> list[str]:
    """Where UEFI's code may lie; None: any size of variables. Empty where nobody knows."""
    return [
        path
        for (known, size), paths in (_SECURE_CODES if secure_boot else _CODES).items()
        if known == architecture and variables_bytes in (None, size)
        for path in paths
    ]


def _firmware_lines(vm: Recovered) -> list[str]:
    """Code that is found when it starts, and variables that are copied once."""
    wanted = None if vm.variables is None else len(vm.variables)
    codes = firmware_codes(vm.one.architecture, vm.one.firmware.secure_boot, wanted)
    if not codes:
        why = f"where UEFI's code is for {vm.one.architecture} with variables of {wanted} bytes is not known"
        raise RenderRefused(f"VM {vm.one.name!r}", why)
    assert wanted is None or wanted <= VARIABLES_BYTES_MAX, wanted
    variables = shlex.quote(vm.variables_path)
    lines = [
        "code=",
        f"for one in {' '.join(map(shlex.quote, codes))}; do",
        '  if [ -z "$code" ] && [ -r "$one" ]; then code=$one; fi',
        "done",
        '[ -n "$code" ] || { echo "error: UEFI is not installed here (package ovmf or edk2)" >&2; exit 3; }',
        f"variables={variables}",
    ]
    if vm.variables is not None:
        template = shlex.quote(f"{vm.directory}/{vm.file_name}.vars.saved")
        lines += [f'[ -e "$variables" ] || cp -- {template} "$variables"']
    else:
        lines += [_TEMPLATE, '[ -e "$variables" ] || cp -- "$template" "$variables"']
    pflash = "if=pflash,unit={},format=raw,{}file="
    lines += [
        f'set -- -drive "{pflash.format(0, "readonly=on,")}$code" \\',
        f'  -drive {shlex.quote(pflash.format(1, "") + _escaped(vm.variables_path))} "$@"',
    ]
    return lines
