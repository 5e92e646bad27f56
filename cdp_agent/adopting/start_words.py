"""What the next start of a VM needs to use its volumes, and what libvirt can do of an adoption. PURE.

Rendering a VM from a container does not belong here (`rehydrate.render`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from cdp_agent.adopting.words import RECONNECT_SECONDS


def qemu_words(disk: str, volume: str, socket: str) -> str:
    """The arguments of a plain QEMU for one disk; its device names the node."""
    node = {
        "driver": "raw",
        "node-name": disk,
        "discard": "unmap",
        "file": {
            "driver": "nbd",
            "server": {"type": "unix", "path": socket},
            "export": volume,
            "reconnect-delay": RECONNECT_SECONDS,
            "discard": "unmap",
        },
    }
    return f"-blockdev {shlex.quote(json.dumps(node))}"


def libvirt_disk(disk: str, volume: str, socket: str) -> str:
    """The element of a disk of libvirt; `disk` is its target's name."""
    element = Element("disk", {"type": "network", "device": "disk"})
    SubElement(element, "driver", {"name": "qemu", "type": "raw", "discard": "unmap"})
    source = SubElement(element, "source", {"protocol": "nbd", "name": volume})
    SubElement(source, "host", {"transport": "unix", "socket": socket})
    SubElement(source, "reconnect", {"delay": str(RECONNECT_SECONDS)})
    SubElement(element, "target", {"dev": disk, "bus": "virtio"})
    indent(element)
    return tostring(element, encoding="unicode")


def libvirt_steps(uri: str, domain: str, disks: Mapping[str, str], socket: str) -> Iterator[str]:
    """Lines: how libvirt itself copies each disk, and goes over to the volume."""
    for disk, volume in disks.items():
        yield f"# {disk}.xml:"
        yield libvirt_disk(disk, volume, socket)
        words = [
            "virsh", "-c", uri, "blockcopy", domain, disk, "--xml", f"{disk}.xml", "--reuse-external",
            "--transient-job", "--synchronous-writes", "--wait", "--verbose", "--pivot",
        ]  # fmt: skip
        yield shlex.join(words)
    yield "# then the same elements into the domain's definition, for its next start: virsh edit"
