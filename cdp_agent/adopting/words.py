"""What QEMU is told: names of nodes and jobs, and the arguments of commands. PURE.

Names are made of the volume and the disk alone, so another run finds what an earlier one left. When what is
said does not belong here (`work`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "cdp-adopt-"
"""Of every name: what begins so is ours."""
RECONNECT_SECONDS: Final = 3600
"""How long a guest waits for an agent that is away, before it would see an error."""
OPEN_SECONDS: Final = 3
"""How long QEMU, which does nothing else meanwhile, may take to connect."""

FIND_ZEROES: Final = "unmap"
"""What an old image holds of zeros takes no room in a journal, a container or a file."""

Arguments = dict[str, object]


@dataclass(frozen=True, slots=True)
class Names:
    """Of one disk on its way to one volume.

    Attributes:
        top: the node that the guest's device has afterwards.
        seed: its connection while it is copied.
        direct: its connection from the cut-over on.
        job: which copies.
    """

    top: str
    seed: str
    direct: str
    job: str


def names_of(space: bytes, device: str) -> Names:
    """Of a volume's id and a device's path. A node's name may have 31 characters."""
    top = f"{PREFIX}{space.hex()[:12]}"
    return Names(
        top, f"{top}-s", f"{top}-d", f"{top}-{hashlib.blake2b(device.encode(), digest_size=6).hexdigest()}"
    )


def connection(node: str, socket: str, export: str, reconnect_seconds: int) -> Arguments:
    """`blockdev-add`: an export."""
    return {
        "driver": "nbd",
        "node-name": node,
        "server": {"type": "unix", "path": socket},
        "export": export,
        "reconnect-delay": reconnect_seconds,
        "open-timeout": OPEN_SECONDS,
        "discard": "unmap",
    }


def top(node: str, below: str, detect_zeroes: str) -> Arguments:
    """`blockdev-add`: what the guest's device gets; `blockdev-reopen` lays it over another connection.

    `detect_zeroes`: FIND_ZEROES while it is copied, then as the disk had it before.
    """
    return {
        "driver": "raw",
        "node-name": node,
        "file": below,
        "discard": "unmap",
        "detect-zeroes": detect_zeroes,
    }


def yank(nodes: Iterable[str]) -> Arguments:
    """`yank`: connections of which every request fails at once, and that never come back."""
    return {"instances": [{"type": "block-node", "node-name": node} for node in nodes]}


def mirror(job: str, source: str, target: str, speed: int) -> Arguments:
    """`blockdev-mirror`; `speed` in bytes per second, 0: unlimited."""
    return {
        "job-id": job,
        "device": source,
        "target": target,
        "sync": "full",
        "copy-mode": "write-blocking",
        "on-target-error": "stop",
        "on-source-error": "report",
        "auto-dismiss": False,
        "speed": speed,
    }
