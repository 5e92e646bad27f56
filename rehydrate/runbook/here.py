"""What this machine has that a runbook asks for: the edge of `check`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol


class Here(Protocol):
    """A machine, as a runbook sees it."""

    def has_program(self, name: str) -> bool:
        """Whether a program is found by its name or path, and may be run."""

    def has_bridge(self, name: str) -> bool:
        """Whether there is a network interface of this name that machines can be connected to."""

    def has_file(self, path: str) -> bool:
        """Whether a file is there and can be read."""

    def can_make(self, directory: str) -> bool:
        """Whether a directory is there, or can be made, and be written to."""

    def has_kvm(self) -> bool:
        """Whether guests can run without emulation."""

    def memory_bytes(self) -> int:
        """How much memory there is in all."""


class ThisMachine:
    """The machine that we run on."""

    def has_program(self, name: str) -> bool:
        """See `Here`."""
        return shutil.which(name) is not None

    def has_bridge(self, name: str) -> bool:
        """See `Here`; one of Open vSwitch has no directory `bridge`, so any interface counts."""
        return Path("/sys/class/net", name).exists()

    def has_file(self, path: str) -> bool:
        """See `Here`."""
        return os.path.isfile(path) and os.access(path, os.R_OK)

    def can_make(self, directory: str) -> bool:
        """See `Here`."""
        path = Path(directory)
        while not path.exists() and path != path.parent:
            path = path.parent
        return path.is_dir() and os.access(path, os.W_OK)

    def has_kvm(self) -> bool:
        """See `Here`."""
        return os.access("/dev/kvm", os.R_OK | os.W_OK)

    def memory_bytes(self) -> int:
        """See `Here`."""
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
