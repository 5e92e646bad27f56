"""The documents of a VM on disk, and its console's file: written before it is defined.

Rendering does not belong here (rehydrate.render).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cdp_container.domain.durable import replace_file
from rehydrate.boot.machines import Ready
from rehydrate.localio import os_errors
from rehydrate.render.documents import GUESTS_OWN

SCRIPT_MODE: Final = 0o700
OLD_CONSOLE: Final = "console.before"
"""What the console of the start before said."""


def write_documents(vm: Ready) -> Path:
    """All files of a VM; gives that which the hypervisor takes. Raises LocalDiskFull, CdpError, DeviceError.

    Variables of UEFI that are there stay: the guest wrote them since.
    """
    directory = Path(vm.known.directory)
    with os_errors(f"make {directory}"):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    for name, data in vm.documents.beside.items():
        if not (name.endswith(GUESTS_OWN) and (directory / name).exists()):
            replace_file(directory / name, data)
    path = directory / vm.documents.name
    replace_file(path, vm.documents.text.encode())
    if path.suffix == ".sh":
        path.chmod(SCRIPT_MODE)
    return path


def put_console_aside(vm: Ready) -> None:
    """So that checks see what this start says, and no other. Raises DeviceError and its kin."""
    with os_errors("put the console's file aside"):
        try:
            os.rename(vm.known.path("console"), vm.known.path(OLD_CONSOLE))
        except FileNotFoundError:
            return
