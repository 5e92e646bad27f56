"""The watcher's process: lock, watch, answer, stop. What it does is in core.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

from cdp_agent.supervisor import take_lock
from cdp_agent.watcher.anew import Image
from cdp_agent.watcher.core import Watcher
from cdp_agent.watcher.hold_client import HoldClient
from cdp_agent.watcher.served import ServedWatcher
from cdp_agent.watcher.server import serve
from cdp_agent.watcher.settings import WatcherSettings
from cdp_container.clock import Clock, SystemClock
from cdp_container.format.place import Place

LOCK: Final = "watcher.lock"
LOCK_SECONDS: Final = 60.0
"""An old watcher whose supervisor was killed has ended by then."""


def run_watcher(
    settings: WatcherSettings,
    clock: Clock | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
) -> int:
    """Serve until told to stop; returns 0.

    Raises:
        AlreadyRunning: another watcher runs in this journal directory.
        WatcherFailed: nothing can be watched on this machine.
    """
    clock = clock or SystemClock()
    lock = take_lock(settings.directory / LOCK, clock, LOCK_SECONDS)
    stop = _Stop()
    before = signal.signal(signal.SIGTERM, stop.handle)

    def open_image(base: Place) -> Image:
        # Not above: numpy and the store are needed where an index is made anew, and take memory.
        from cdp_agent.watcher.image import ContainerImage
        from cdp_container.store.address import open_store

        return ContainerImage(open_store(settings.store, clock), settings.domain, settings.index_key, base)

    try:
        watcher = Watcher(settings, clock, entropy, lambda: HoldClient(settings.directory), open_image)
        try:
            serve(settings.directory, ServedWatcher(watcher), lambda: stop.requested)
        finally:
            watcher.close()
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(lock)


class _Stop:
    def __init__(self) -> None:
        self.requested = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
