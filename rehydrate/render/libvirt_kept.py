"""What stays inside of an element of a libvirt document: attributes and elements by name. PURE.

A document comes from a container, so it may say anything anywhere: what is not listed is taken out, and so
is a value that could be a path, an address or a command, wherever it stands. Which elements a domain keeps
at all, and what a recovery changes of them, does not belong here (libvirt, libvirt_devices).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import product
from typing import Final
from xml.etree.ElementTree import Element, SubElement

_PLAIN: Final = re.compile(r"[A-Za-z0-9 ._,:^+-]{0,256}", re.ASCII)
"""No path, no address of a page, nothing that a shell takes for more than a word."""
_WORDS_MAX: Final = 60
"""Characters of a name that is told."""

_LIBOSINFO: Final = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
_SYSTEM: Final = re.compile(r"https?://[a-z0-9.-]{1,64}(?:/[A-Za-z0-9._-]{1,64}){1,4}", re.ASCII)
_VIRTIO: Final = "iommu ats packed page_per_vq"
_HYPERV: Final = (
    "relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "stimer/direct", "reset", "frequencies",
    "reenlightenment", "tlbflush", "tlbflush/direct", "tlbflush/extended", "ipi", "avic", "evmcs",
    "emsr_bitmap", "xmm_input",
)  # fmt: skip
_FEATURES: Final = (
    "acpi", "pae", "hap", "viridian", "pvspinlock", "pmu", "vmport", "smm", "vmcoreinfo", "htm", "nested-hv",
    "ccf-assist", "ras", "ps2", "async-teardown", "kvm/hidden", "kvm/hint-dedicated", "kvm/poll-control",
    "kvm/pv-ipi", *(f"hyperv/{one}" for one in _HYPERV),
)  # fmt: skip
_IOTUNE: Final = tuple(
    f"{which}_{what}_sec{end}"
    for which, what, end in product(
        ("total", "read", "write"), ("bytes", "iops"), ("", "_max", "_max_length")
    )
)
_OFFLOADS: Final = "csum gso tso4 tso6 ecn ufo mrg_rxbuf"

_LISTED: Final = {
    # --- of the machine
    "name": "", "uuid": "", "title": "", "description": "", "genid": "",
    "memory": "unit dumpCore", "currentMemory": "unit", "maxMemory": "slots unit",
    "vcpu": "placement current", "vcpus": "", "vcpus/vcpu": "id enabled hotpluggable order",
    "iothreads": "", "iothreadids": "", "iothreadids/iothread": "id thread_pool_min thread_pool_max",
    "iothreadids/iothread/poll": "max grow shrink",
    "os": "firmware", "os/type": "arch machine", "os/boot": "dev", "os/bootmenu": "enable timeout",
    "os/bios": "useserial rebootTimeout", "os/smbios": "mode", "os/firmware": "",
    "os/firmware/feature": "enabled name",
    "features": "", "features/apic": "eoi", "features/gic": "version", "features/ioapic": "driver",
    "features/hpt": "resizing", "features/hpt/maxpagesize": "unit", "features/smm/tseg": "unit",
    "features/hyperv": "mode", "features/hyperv/spinlocks": "state retries",
    "features/hyperv/vendor_id": "state value", "features/kvm": "", "features/kvm/dirty-ring": "state size",
    "features/tcg": "", "features/tcg/tb-cache": "unit", "features/msrs": "unknown",
    "features/cfpc": "value", "features/sbbc": "value", "features/ibs": "value", "features/aia": "value",
    **{f"features/{one}": "state" for one in _FEATURES},
    "cpu": "mode match check migratable deprecated_features", "cpu/model": "fallback vendor_id",
    "cpu/vendor": "", "cpu/topology": "sockets dies clusters cores threads", "cpu/feature": "policy name",
    "cpu/cache": "level mode", "cpu/maxphysaddr": "mode bits limit", "cpu/numa": "",
    "cpu/numa/cell": "id cpus memory unit memAccess discard", "cpu/numa/cell/distances": "",
    "cpu/numa/cell/distances/sibling": "id value", "cpu/numa/cell/cache": "level associativity policy",
    "cpu/numa/cell/cache/size": "value unit", "cpu/numa/cell/cache/line": "value unit",
    "clock": "offset adjustment basis start",
    "clock/timer": "name tickpolicy track wallclock frequency mode present",
    "clock/timer/catchup": "threshold slew limit",
    "on_poweroff": "", "on_reboot": "", "on_crash": "",
    "pm": "", "pm/suspend-to-mem": "enabled", "pm/suspend-to-disk": "enabled",
    "memoryBacking": "", "memoryBacking/hugepages": "", "memoryBacking/hugepages/page": "size unit nodeset",
    "memoryBacking/nosharepages": "", "memoryBacking/locked": "", "memoryBacking/source": "type",
    "memoryBacking/access": "mode", "memoryBacking/allocation": "mode threads", "memoryBacking/discard": "",
    "sysinfo": "type",
    **{f"sysinfo/{one}": "" for one in ("bios", "system", "baseBoard", "chassis", "oemStrings")},
    **{f"sysinfo/{one}/entry": "name" for one in ("bios", "system", "baseBoard", "chassis", "oemStrings")},
    # --- of its devices
    "disk": "type device model", "disk/target": "dev bus tray removable rotation_rate", "disk/serial": "",
    "disk/wwn": "", "disk/vendor": "", "disk/product": "", "disk/readonly": "", "disk/iotune": "",
    **{f"disk/iotune/{one}": "" for one in (*_IOTUNE, "size_iops_sec", "group_name")},
    "disk/blockio": "logical_block_size physical_block_size discard_granularity",
    "disk/geometry": "cyls heads secs trans",
    "disk/driver": "name type io cache discard detect_zeroes iothread queues rerror_policy error_policy "
    f"ioeventfd event_idx queue_size {_VIRTIO}",
    "interface/mac": "address type check", "interface/model": "type", "interface/mtu": "size",
    "interface/driver": "name txmode ioeventfd event_idx queues rx_queue_size tx_queue_size rss "
    f"rss_hash_report {_VIRTIO}",
    "interface/driver/host": _OFFLOADS, "interface/driver/guest": _OFFLOADS, "interface/bandwidth": "",
    "interface/bandwidth/inbound": "average peak burst", "interface/bandwidth/outbound": "average peak burst",
    "interface/coalesce": "", "interface/coalesce/rx": "", "interface/coalesce/rx/frames": "max",
    "interface/tune": "", "interface/tune/sndbuf": "",
    "controller": "type index model ports vectors", "controller/master": "startport",
    "controller/driver": f"queues cmd_per_lun max_sectors ioeventfd iothread {_VIRTIO}",
    "controller/model": "name", "controller/pcihole64": "unit",
    "controller/target": "chassisNr chassis port busNr index hotplug memReserve",
    "controller/target/node": "",
    "input": "type bus model", "input/driver": _VIRTIO,
    "graphics": "type keymap sharePolicy", "graphics/image": "compression", "graphics/jpeg": "compression",
    "graphics/zlib": "compression", "graphics/playback": "compression", "graphics/streaming": "mode",
    "graphics/clipboard": "copypaste", "graphics/filetransfer": "enable", "graphics/mouse": "mode",
    "graphics/audio": "id",
    "video": "", "video/model": "type heads ram vram vram64 vgamem primary blob",
    "video/model/acceleration": "accel2d", "video/model/resolution": "x y", "video/driver": f"name {_VIRTIO}",
    "serial": "type", "serial/target": "type port", "serial/target/model": "name",
    "console": "type", "console/target": "type port",
    "channel": "type", "channel/target": "type name",
    "memballoon": "model autodeflate freePageReporting", "memballoon/stats": "period",
    "memballoon/driver": _VIRTIO,
    "hub": "type", "panic": "model",
    "audio": "id type timerPeriod",
    **{f"audio/{one}": "mixingEngine fixedSettings voices bufferLength" for one in ("input", "output")},
    **{f"audio/{one}/settings": "frequency channels format" for one in ("input", "output")},
    "rng": "model", "rng/rate": "bytes period", "rng/driver": _VIRTIO,
    "sound": "model multichannel streams", "sound/codec": "type", "sound/audio": "id",
    "sound/driver": _VIRTIO,
    "watchdog": "model action",
    "tpm": "model", "tpm/backend": "type version",
    "vsock": "model", "vsock/cid": "auto", "vsock/driver": _VIRTIO,
    "redirdev": "type bus",
    "iommu": "model", "iommu/driver": "intremap caching_mode eim iotlb aw_bits dma_translation",
}  # fmt: skip
_OF_ANY_DEVICE: Final = {
    "address": "type domain bus slot function multifunction controller target unit port cssid ssid devno "
    "iobase irq reg base",
    "alias": "name", "boot": "order", "acpi": "index",
}  # fmt: skip
"""Where its guest finds it, and what it is called."""
_KEPT: Final = {path: frozenset(names.split()) for path, names in _LISTED.items()} | {
    f"{path}/{name}": frozenset(names.split())
    for path in ("disk", "interface", "controller", "input", "video", "serial", "console", "channel",
                 "memballoon", "hub", "panic", "audio", "rng", "sound", "watchdog", "vsock", "redirdev",
                 "iommu")
    for name, names in _OF_ANY_DEVICE.items()
}  # fmt: skip
_FREE_TEXT: Final = frozenset(
    {"name", "title", "description", "disk/serial", "disk/vendor", "disk/product"}
    | {path for path in _KEPT if path.startswith("sysinfo/") and path.endswith("/entry")}
)
"""What is shown to people and guests alone."""

_ON_EVENT: Final = ("destroy", "restart", "preserve", "rename-restart")
_WORDS: Final = {
    "os/type": ("hvm",), "on_poweroff": _ON_EVENT, "on_reboot": _ON_EVENT, "on_crash": _ON_EVENT,
}  # fmt: skip
"""Texts of which only these stay."""
_VALUES: Final = {
    ("os", "firmware"): ("efi", "bios"),
    ("os/smbios", "mode"): ("emulate", "sysinfo"),
    ("clock", "offset"): ("utc", "localtime", "variable", "absolute"),
    ("video/driver", "name"): ("qemu",),
    ("watchdog", "action"): ("reset", "shutdown", "poweroff", "pause", "none", "inject-nmi"),
    ("memoryBacking/source", "type"): ("file", "anonymous", "memfd"),
    ("channel/target", "type"): ("virtio",),
}  # fmt: skip
"""Attributes of which only these values stay."""
_INSTEAD: Final = {
    ("on_crash", ""): {"coredump-destroy": "destroy", "coredump-restart": "restart"},
    ("watchdog", "action"): {"dump": "reset"},
    ("clock", "offset"): {"timezone": "utc"},
    ("os/smbios", "mode"): {"host": "emulate"},
}  # fmt: skip
"""What this host would write to a file of its own, or read of itself, and what it does instead."""


def keep_known(
    element: Element, path: str, told: list[str], what: str = "", quiet: Collection[str] = ()
) -> None:
    """Take out of an element all that is not listed for it, and tell it. `path`: as in the list.

    `what`: how it is called where that is told. `quiet`: what somebody changes anyway.
    """
    what = what or path.replace("/", " ")
    known = _KEPT[path]
    for name, value in list(element.attrib.items()):
        stays = _value_that_stays(path, name, value) if name in known else None
        if stays is None:
            del element.attrib[name]
        else:
            element.set(name, stays)
        if stays != value and name not in quiet:
            told.append(_told(what, name, value, stays))
    text = (element.text or "").strip()
    stays = text if path in _FREE_TEXT else _value_that_stays(path, "", text)
    if stays != text:
        element.text = stays
        told.append(_told(what, "", text, stays))
    for inner in list(element):
        below = f"{path}/{inner.tag}"
        if below in _KEPT:
            keep_known(inner, below, told, f"{what} {inner.tag}")
            continue
        element.remove(inner)
        if inner.tag not in quiet:
            told.append(f"{what}: {inner.tag[:_WORDS_MAX]}")


def keep_metadata(metadata: Element, spaces: Mapping[str, str], told: list[str]) -> None:
    """Leave in it only what libosinfo calls the system of the guest, an address that nobody asks.

    Hooks of libvirt, and tools beside it, are given all the rest, and act by it. `spaces`: attributes of
    elements around it, among them names of namespaces.
    """
    metadata.attrib, metadata.text = {}, None
    for holder in list(metadata):
        metadata.remove(holder)
        prefix, colon, name = holder.tag.rpartition(":")
        space = f"xmlns:{prefix}" if colon else "xmlns"
        known = name == "libosinfo" and holder.get(space, spaces.get(space)) == _LIBOSINFO
        systems = [one.get("id") or "" for one in holder if one.tag.rpartition(":")[2] == "os"]
        if known and len(systems) == 1 and _SYSTEM.fullmatch(systems[0]):
            kept = SubElement(metadata, "libosinfo:libosinfo", {"xmlns:libosinfo": _LIBOSINFO})
            SubElement(kept, "libosinfo:os", {"id": systems[0]})
        else:
            told.append(f"metadata: {holder.tag[:_WORDS_MAX]}, which tools of the protected host wrote")


def _value_that_stays(path: str, name: str, value: str) -> str | None:
    """An attribute's value, or with no name the text, as it may stand; None: it may not."""
    value = _INSTEAD.get((path, name), {}).get(value, value)
    words = _VALUES.get((path, name)) if name else _WORDS.get(path)
    if words is not None:
        return value if value in words else None
    return value if _PLAIN.fullmatch(value) else None


def _told(what: str, name: str, value: str, stays: str | None) -> str:
    words = f"{what}: {name[:_WORDS_MAX]} {value[:_WORDS_MAX]!r}".replace(":  ", ": ")
    return words if stays is None else f"{words}; {stays} instead"
