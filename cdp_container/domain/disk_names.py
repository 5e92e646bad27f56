"""What QEMU calls a disk that its owner names as libvirt does. PURE.

How a domain's XML says it does not belong here (`cdp_agent.vms.libvirt_xml`).
"""

from __future__ import annotations

import re
from typing import Final

_VIRTIO: Final = re.compile(r"vd([a-z]{1,4})")


def device_of_target(name: str) -> str:
    """QEMU's name (`virtio-disk0`) of a disk by libvirt's (`vda`); any other is as it was.

    libvirt gives these names itself, and no other disk may have one: an alias of the owner's begins with
    `ua-`. Disks of other buses are named by their address, which stands in no name.
    """
    match = _VIRTIO.fullmatch(name)
    if match is None:
        return name
    number = 0
    for letter in match[1]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return f"virtio-disk{number - 1}"
