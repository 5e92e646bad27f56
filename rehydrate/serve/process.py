"""Serving the volumes of an overlay until it is told to end: exports, syncs, the filling, what is told.

Opening the container does not belong here (cli), nor making the overlay (directory).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cdp_container.errors import CdpError, DeviceError, TargetUnsuitable
from nbd_export.backend import FixedExports
from nbd_export.errors import NbdExportError
from nbd_export.limits import ServerLimits
from nbd_export.listening import TcpEndpoint
from nbd_export.server import NbdServer
from rehydrate.serve.control import ControlServer
from rehydrate.serve.filling import Filling
from rehydrate.serve.image import Image, Threads

NBD_SOCKET: Final = "nbd.sock"
SOCKET_PATH_BYTES_MAX: Final = 107
"""Linux takes no longer one, of us and of the guests that connect to it."""

SYNC_SECONDS: Final = 5.0
"""So often all is made durable without being asked."""

LOOK_SECONDS: Final = 5.0
"""So often the hold is looked at."""

DRAIN_SECONDS: Final = 20.0
"""At the end: how long begun requests may take."""

PROGRESS_SECONDS: Final = 10.0
"""So often it is told how far the streaming is: a log of hours is to stay readable."""

WAITING_SECONDS: Final = 1.0
"""The same where some wait for the store: their clients get no answer, and ask again after a reconnect."""


class Container(Protocol):
    """Where the rest is. Its methods run in threads, but for `facts`."""

    def opened(self) -> None:
        """Returns once it can be read, or was stopped. Raises CdpError: it never can."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What `serving` is told of it; at once."""
        ...

    def look(self) -> None:
        """See to the hold."""
        ...

    def let_go(self) -> None:
        """All is here, durably: note that, and use it no more. Raises CdpError."""
        ...

    def stop(self) -> None:
        """Whoever waits for content waits no longer. Nothing may block here."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the streaming is: bytes of all volumes, those that were here when it began, and since when."""

    here_bytes: int
    total_bytes: int
    began_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ways:
    """How it is served: where by TCP, whether to fill, and how fast at the most."""

    tcp: TcpEndpoint | None = None
    finish: bool = False
    bytes_per_second: int | None = None


def check_socket_path(directory: Path) -> None:
    """Raises TargetUnsuitable: no socket can have a path in this overlay, so nobody could use it."""
    path = directory / NBD_SOCKET
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        why = f"{path} has {size} bytes, and a socket's path may have {SOCKET_PATH_BYTES_MAX} at the most"
        raise TargetUnsuitable(f"serve into {directory}", why, "choose a directory with a shorter path")


class Service:
    """One run.

    Args:
        directory: of the overlay.
        images: all volumes.
        threads: of the images.
        container: None where all is here.
        ways: see `Ways`.
        told: given lines for people.
        progress: told how far the streaming is, now and then.
        facts: what `serving` is told beside the volumes.
    """

    def __init__(
        self,
        directory: Path,
        images: Sequence[Image],
        threads: Threads,
        container: Container | None,
        ways: Ways,
        told: Callable[[str], None],
        progress: Callable[[Progress], None],
        facts: Mapping[str, Any],
    ) -> None:
        self._directory = directory
        self._images = images
        self._threads = threads
        self._container = container
        self._ways = ways
        self._told = told
        self._progress = progress
        self._facts = facts
        self._wants_filling = asyncio.Event()
        self._filling = "finished" if container is None else "no"
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, opened: Callable[[], None]) -> bool:
        """Until SIGTERM, SIGINT or SIGHUP; `opened` is called when clients can come.

        Returns whether everything is durable. Raises DeviceError: the exports cannot be opened.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        server = NbdServer(FixedExports(list(self._images)), ServerLimits())
        control = ControlServer({"status": self.status, "finish": self._finish})
        try:
            await self._open(server, control)
            opened()
            if self._ways.finish:
                self._ask_to_fill()
            self._tasks = [asyncio.create_task(self._sync_now_and_then()), asyncio.create_task(self._fill())]
            if self._container is not None:
                self._tasks.append(asyncio.create_task(self._look_now_and_then(self._container)))
                self._tasks.append(asyncio.create_task(self._wait_until_opened(self._container)))
            ended = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
        finally:
            await self._close(server, control)
        return await self._sync()

    def status(self) -> dict[str, Any]:
        """For `serving`."""
        return {
            **self._facts,
            **({} if self._container is None else self._container.facts()),
            "pid": os.getpid(),
            "filling": self._filling,
            "finished": self._container is None,
            "volumes": [
                {
                    "name": image.name,
                    "size_bytes": image.size_bytes,
                    "here_bytes": image.overlay.here_bytes,
                    "waiting": image.waiting,
                    "store_away": image.is_away,
                    "disk_full": image.is_full,
                    "damages": [
                        {"offset": one.offset, "length": one.end - one.offset, "why": one.why}
                        for _, one in sorted(image.damages.items())
                    ],
                }
                for image in self._images
            ],
        }

    # --- inside ----------------------------------------------------------------------------------

    async def _open(self, server: NbdServer, control: ControlServer) -> None:
        path = self._directory / NBD_SOCKET
        try:
            await server.listen(path)
            if self._ways.tcp is not None:
                await server.listen_tcp(self._ways.tcp)
            await control.open(self._directory)
        except (NbdExportError, OSError, ValueError) as error:
            raise DeviceError(
                f"open the exports at {path}", str(error), "see what else listens there"
            ) from error

    async def _close(self, server: NbdServer, control: ControlServer) -> None:
        waits = any(image.waiting for image in self._images)
        await server.close(WAITING_SECONDS if waits else DRAIN_SECONDS)
        await control.close()
        for image in self._images:
            image.end()
        if self._container is not None:
            self._container.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.result()  # what it died of

    def _finish(self) -> dict[str, Any]:
        self._ask_to_fill()
        return self.status()

    def _ask_to_fill(self) -> None:
        """It is said to stream from now on, not only once the task came to it."""
        if self._container is not None:
            self._wants_filling.set()
            self._filling = "yes"

    async def _sync(self) -> bool:
        results = await asyncio.gather(*(image.flush() for image in self._images), return_exceptions=True)
        return not any(isinstance(one, BaseException) for one in results)

    async def _sync_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            await self._sync()  # a failure is told once, by the image

    async def _look_now_and_then(self, container: Container) -> None:
        while True:  # which does nothing more once it was let go of: that a task ends, ends all
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(container.look)
            except CdpError as error:
                self._told(str(error))

    async def _wait_until_opened(self, container: Container) -> None:
        """What cannot be opened ends all: it is another container, or none."""
        await asyncio.to_thread(container.opened)
        await asyncio.Event().wait()

    async def _tell_progress(self) -> None:
        loop = asyncio.get_running_loop()
        began, began_bytes = loop.time(), self._here_bytes
        total_bytes = sum(image.size_bytes for image in self._images)
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            self._progress(Progress(self._here_bytes, total_bytes, began_bytes, loop.time() - began))

    @property
    def _here_bytes(self) -> int:
        return sum(image.overlay.here_bytes for image in self._images)

    async def _fill(self) -> None:
        """As often as it is wished for, until all is here; all may be here without it."""
        container = self._container
        while container is not None and self._container is not None:
            await self._wants_filling.wait()
            self._wants_filling.clear()
            self._filling = "yes"
            telling = asyncio.create_task(self._tell_progress())
            try:
                is_whole = await Filling(self._images, self._ways.bytes_per_second).run()
                if is_whole and await self._sync():
                    await self._let_go(container)
                else:
                    self._tell_unfinished()
            except OSError as error:
                self._filling = f"failed: {error.strerror}"
                self._told(f"not finished: {error.strerror}; `rehydrate serving {self._directory} --finish`")
            finally:
                telling.cancel()
        await asyncio.Event().wait()

    def _tell_unfinished(self) -> None:
        damages = [one for image in self._images for one in image.damages.values()]
        self._filling = "damaged" if damages else "failed: it could not be made durable"
        count = len(damages)
        why = f"{count} ranges are damaged, and named above" if count else "it could not be made durable"
        self._told(f"not finished: {why}")

    async def _let_go(self, container: Container) -> None:
        try:
            await asyncio.to_thread(container.let_go)
        except CdpError as error:
            self._filling = f"failed: {error}"
            self._told(f"not finished: {error}")
            return
        for image in self._images:
            image.let_go()
        self._container = None
        self._filling = "finished"
        self._told("finished: everything is here, and the container is needed no more")
