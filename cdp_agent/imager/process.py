"""The imager's process: lock, capture, answer, stop. What it does is in core.py."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from cdp_agent.imager.core import FOLDER, Imager
from cdp_agent.imager.guard import Guard
from cdp_agent.imager.hypervisor import Hypervisor
from cdp_agent.imager.memory import VmMemory, memory_of
from cdp_agent.imager.qmp import Commanding
from cdp_agent.imager.rounds import clear_all
from cdp_agent.imager.settings import SOCKET_NAME, ImagerSettings
from cdp_agent.supervisor import take_lock
from cdp_agent.watcher.server import serve
from cdp_container.clock import Clock, SystemClock
from cdp_container.errors import HypervisorFailed

LOCK: Final = "imager.lock"
LOCK_SECONDS: Final = 60.0
"""An old imager whose supervisor was killed has ended by then."""
STALL_SECONDS: Final = 3.0
"""For how long a QEMU may not answer; the others wait for it meanwhile."""
CYCLE_SECONDS_MAX: Final = 30.0
"""For how long one VM is talked to in all: what its guest overwrites is kept meanwhile."""


def run_imager(
    settings: ImagerSettings, clock: Clock | None = None, entropy: Callable[[int], bytes] = os.urandom
) -> int:
    """Capture until told to stop; returns 0.

    Raises:
        AlreadyRunning: another imager runs in this journal directory.
    """
    clock = clock or SystemClock()
    lock = take_lock(settings.directory / LOCK, clock, LOCK_SECONDS)
    stop = _Stop()
    before = signal.signal(signal.SIGTERM, stop.handle)
    try:
        folder = settings.directory / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        open_vm = opener(folder, clock, entropy(4).hex())
        guard = Guard(lambda: clear(settings, open_vm))
        imager = Imager(settings, clock, entropy, open_vm)
        imager.start()
        try:
            serve(settings.directory, imager, lambda: stop.requested, SOCKET_NAME)
        finally:
            is_clear = imager.close()
        if is_clear:
            guard.ended_well()  # else it goes on with what did not answer
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(lock)


def clear(settings: ImagerSettings, open_vm: Callable[[VmMemory], Hypervisor]) -> None:
    """Take away all that is ours in every QEMU that answers; one that hangs is the next imager's matter."""
    clear_all([memory_of(vm) for vm in settings.vms], open_vm)


def opener(folder: Path, clock: Clock, run: str) -> Callable[[VmMemory], Hypervisor]:
    """How a VM's QEMU is connected to for one cycle; `run`: part of the names of all that is ours in it."""

    def open_vm(vm: VmMemory) -> Hypervisor:
        until_ns = clock.boottime_ns() + int(CYCLE_SECONDS_MAX * 1e9)

        def left_seconds() -> float:
            return min(STALL_SECONDS, (until_ns - clock.boottime_ns()) / 1e9)

        if _is_missing(vm.settings.qmp):
            why = f"there is no socket {vm.settings.qmp}: the VM does not run"
            raise HypervisorFailed(f"capturing VM {vm.settings.name}", why, "")
        qmp = Commanding(vm.settings.qmp, left_seconds)
        return Hypervisor(qmp, run, folder, socket_of(vm.settings.name), left_seconds, clock.sleep)

    return open_vm


def _is_missing(path: str) -> bool:
    """Whether it is not there; what may not be looked at is told by who connects."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def socket_of(vm: str) -> str:
    """The name of the socket for reading: short, as a VM's name may be longer than a socket's may be.

    It is the same whatever other VMs there are: what a killed imager left in the QEMU is known by it.
    """
    return f"read-{hashlib.sha256(vm.encode()).hexdigest()[:16]}.sock"


class _Stop:
    def __init__(self) -> None:
        self.requested = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
