"""What the imager is told at its start. The configuration file is the agent's matter; here are values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "imager.sock"
CAPTURE_SECONDS: Final = 2.0
GRANULARITY_BYTES: Final = 4096
"""Of dirty bitmaps: QEMU keeps one bit for each, 1/32768 of a disk in memory."""


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """One volume: the id of its space, its name, the name of its disk in the VM, and its size."""

    space: bytes
    name: str
    disk: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class VmSettings:
    """One VM: its name, its QMP socket, and those of its disks that are captured here."""

    name: str
    qmp: str
    disks: tuple[DiskSettings, ...]


@dataclass(frozen=True, slots=True)
class ImagerSettings:
    """All that `run_imager` must know. `every_seconds`: from the beginning of a cycle to the next."""

    directory: Path
    vms: tuple[VmSettings, ...]
    every_seconds: float = CAPTURE_SECONDS

    @property
    def late_seconds(self) -> float:
        """An image that is older than this makes its volumes not whole: other sources are too far ahead."""
        return 2 * self.every_seconds + LATE_SECONDS


LATE_SECONDS: Final = 5.0
"""A cycle with much to read may last so long, and more than one cut passes meanwhile."""
