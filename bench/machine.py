"""What class of machine the figures are of: cores, memory, file system."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path


def machine() -> str:
    """One line."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo", "model name")), "unknown CPU"
    )
    memory_kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo", "MemTotal")), 0)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory_kib >> 20} GiB, {_file_system()}, Linux {platform.release()}"


def load() -> str:
    """What else is going on, for whoever reads the figures later."""
    return f"load average {Path('/proc/loadavg').read_text().split()[0]} at the start"


def _lines(path: str, beginning: str) -> list[str]:
    return [line for line in Path(path).read_text().splitlines() if line.startswith(beginning)]


def _file_system() -> str:
    """That of the temporary files, where journals, volumes and containers lie."""
    folder = os.path.realpath(tempfile.gettempdir())
    found, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        device, point, name = line.split()[:3]
        if (folder + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(found):
            found, kind = point, f"{name} on {device}"
    return kind
