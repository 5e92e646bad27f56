"""The splitter's process: open, serve, keep house, stop.

While guests write nothing ends it but SIGTERM. What the store, the network or the
streamer do cannot reach it: it reads their page of `shared`, no more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.closing import GATE_SECONDS, Closing
from cdp_agent.splitter.ending import stop as end_capture
from cdp_agent.splitter.holding import HoldServer
from cdp_agent.splitter.opening import SHARED, open_capture
from cdp_agent.splitter.reloading import Decision, reload_volumes
from cdp_agent.splitter.settings import (
    DRAIN_SECONDS,
    FACTS_NAME,
    HOUSEKEEPING_SECONDS,
    LOCK_NAME,
    SplitterSettings,
)
from cdp_agent.splitter.tcp import TcpExports
from cdp_agent.splitter.volume import Volume
from cdp_agent.supervisor import take_lock
from cdp_container.clock import Clock, SystemClock
from cdp_container.domain.carried import look_at
from cdp_container.domain.notes import load_notes
from cdp_container.domain.stopped import Stopped, save_stopped
from cdp_container.errors import CdpError, DeviceError, ReloadRefused
from cdp_container.journal.shared import GateLevel, SharedPages
from nbd_export.backend import FixedExports
from nbd_export.errors import SocketInUse
from nbd_export.files import Files, OsFiles
from nbd_export.polling import polling_loop
from nbd_export.server import NbdServer, serve

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log: Final = logging.getLogger(__name__)


def run_splitter(
    settings: SplitterSettings,
    clock: Clock | None = None,
    files: Files | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
    on_opened: Callable[[], None] = lambda: None,
    reload: Callable[[], Decision | None] = lambda: None,
) -> int:
    """Serve until told to stop; returns 0, or 1 for a stop that was not clean.

    `on_opened` is called once disks and journal are as they were wished for, durably, and before
    any export opens. `reload` is asked on SIGHUP which other volumes were decided on.

    Raises:
        AlreadyRunning: another splitter runs in this journal directory; nothing of it was touched.
        CdpError: it could not begin to serve; left in splitter.json too, for `status`.
    """
    clock = clock or SystemClock()
    settings.journal_dir.mkdir(parents=True, exist_ok=True)
    lock = take_lock(settings.journal_dir / LOCK_NAME, clock)  # before anything: splitter.json has one writer
    process = _Process(settings, clock, files or OsFiles(), entropy, on_opened, reload)
    try:
        return process.run()
    except CdpError as error:
        process.show_error(error)
        raise
    finally:
        os.close(lock)


class _Process:
    def __init__(
        self,
        settings: SplitterSettings,
        clock: Clock,
        files: Files,
        entropy: Callable[[int], bytes],
        on_opened: Callable[[], None],
        reload: Callable[[], Decision | None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._files = files
        self._entropy = entropy
        self._on_opened = on_opened
        self._find_decision = reload
        self._reload = "", ""  # the newest decision's name, and why it was refused
        self._last_error = "", 0  # and when it was, by the wall clock
        self._started_ns = clock.wall_ns()
        self._holds: HoldServer | None = None
        self._tcp = None if settings.tcp is None else TcpExports(settings.tcp)

    def run(self) -> int:
        boot = bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))
        pages = SharedPages(self._settings.journal_dir / SHARED)
        try:
            self._show("opening", {})
            with asyncio.Runner(loop_factory=polling_loop) as runner:
                return runner.run(self._serve(pages, boot))
        finally:
            pages.close()

    async def _serve(self, pages: SharedPages, boot: bytes) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        hangup = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        capture, backings = open_capture(
            self._settings, self._files, self._clock, self._entropy, boot, pages,
            lambda progress: self._show("redo", {"progress": progress}),
        )  # fmt: skip
        self._on_opened()
        volumes = [Volume(backing, capture) for backing in backings]
        syncing = asyncio.create_task(self._sync_from_time_to_time(capture))
        syncing.add_done_callback(lambda ended: stop.set())  # nothing but a bug ends it
        closing = Closing(capture, partial(load_notes, self._settings.journal_dir))
        server: NbdServer | None = None
        holds = self._holds = HoldServer(capture.appending)
        try:
            await holds.open(self._settings.journal_dir)
            while not stop.is_set():
                server = await self._serve_or_not(closing.level, server, volumes, capture)
                if self._tcp is not None and server is not None:
                    await self._tcp.keep(server)
                if hangup.is_set():
                    hangup.clear()
                    await self._reload_volumes(closing.level, capture, backings, volumes)
                closing.keep()
                self._keep_house(capture, volumes)
                await _wait_for_gate(closing, stop)
        finally:
            await holds.close()
            drained = server is None or await server.close(DRAIN_SECONDS)
            await closing.end()
            await _end(syncing)
            clean = await end_capture(capture) and drained
            if clean:
                self._note_stop(capture, backings)
            self._show_volumes("stopped" if clean else "stopped, not clean", capture, volumes)
            for backing in backings:
                self._files.close(backing.fd)
        return 0 if clean else 1

    async def _reload_volumes(
        self, level: GateLevel, capture: Capture, backings: list[Backing], volumes: list[Volume]
    ) -> None:
        """What cannot be done is told to whoever asked; the volumes that there are go on."""
        try:
            decision = self._find_decision()
            if decision is None:
                return
            self._reload = decision.name, "it was begun"
            try:
                if level is not GateLevel.OPEN:  # a release that began after `reload` had looked
                    raise ReloadRefused("nothing was changed", "the domain is released, or about to be")
                await reload_volumes(decision, self._files, capture, backings, volumes)
            except BaseException:
                decision.withdraw()
                raise
            self._reload = decision.name, ""
        except (CdpError, OSError) as error:
            self._reload = self._reload[0], str(error)

    async def _serve_or_not(
        self, level: GateLevel, server: NbdServer | None, volumes: Sequence[Volume], capture: Capture
    ) -> NbdServer | None:
        if level is not GateLevel.CLOSED:
            return server or await self._open_exports(volumes, capture)
        if server is not None:
            await server.close(DRAIN_SECONDS)
            capture.publish(replace(capture.page, exports_open=False))
            if self._tcp is not None:
                self._tcp.closed()
        return None

    async def _open_exports(self, volumes: Sequence[Volume], capture: Capture) -> NbdServer:
        # First: whoever sees a write must have seen this.
        capture.publish(replace(capture.page, exports_open=True))
        try:
            return await serve(FixedExports(volumes), self._settings.socket)
        except (SocketInUse, OSError) as error:
            capture.publish(replace(capture.page, exports_open=False))
            raise DeviceError(
                "opening the exports", str(error), "check journal.directory and what else uses its socket"
            ) from error

    async def _sync_from_time_to_time(self, capture: Capture) -> None:
        while True:
            await _wait(capture.appending.sync_is_due, self._settings.sync_seconds)
            if capture.failures.first is not None and not await capture.mend():
                capture.appending.sync_is_due.clear()
                continue
            try:
                await capture.go_on()
            except (CdpError, OSError) as error:
                capture.failures.last_error = f"going on with the journal: {error}"
            try:
                await capture.sync()
            except OSError as error:
                # Of a failure it is told what failed, and every flush fails; the next round tries to mend it.
                if capture.failures.first is None:
                    capture.failures.last_error = f"syncing: {error}"
            await capture.keep_intents()

    def _note_stop(self, capture: Capture, backings: Sequence[Backing]) -> None:
        """What the disks look like now; where it cannot be noted, a failback has only times to go by."""
        try:
            volumes = tuple(look_at(str(one.volume.backing), one.volume.space) for one in backings)
            save_stopped(self._settings.journal_dir, Stopped(capture.page.generation, volumes))
        except CdpError as error:
            capture.failures.last_error = f"noting the stop: {error}"

    def _keep_house(self, capture: Capture, volumes: Sequence[Volume]) -> None:
        try:
            capture.trim()
            self._show_volumes("serving" if capture.page.exports_open else "exports closed", capture, volumes)
        except (CdpError, OSError) as error:  # a full disk, a torn page: guests must not notice
            capture.failures.last_error = f"housekeeping: {error}"

    # --- facts -------------------------------------------------------------------------------

    def show_error(self, error: CdpError) -> None:
        """Leave an error for `status`."""
        code = type(error).__name__
        fault = {
            "type": code,
            "what": error.what,
            "why": error.why,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        try:
            self._show("refused", {"error": fault})
        except OSError:
            _log.error("the journal directory cannot be written")

    def _take_error(self, capture: Capture) -> None:
        """What is said again is as new as that."""
        if capture.failures.last_error:
            self._last_error = capture.failures.last_error, self._clock.wall_ns()
            capture.failures.last_error = ""

    def _show_volumes(self, state: str, capture: Capture, volumes: Sequence[Volume]) -> None:
        self._take_error(capture)
        page = capture.page
        self._show(
            state,
            {
                "generation": f"{page.generation:016x}",
                "tail": str(page.tail),
                "synced": str(page.synced),
                "overflowed": page.overflowed,
                "episode": f"{page.episode:016x}",
                "compare_all": page.compare_all,
                "sync_failed": page.sync_failed,
                "exports_open": page.exports_open,
                "writes_closed": page.writes_closed,
                "writes_wait": capture.why_writes_wait,
                "used_bytes": page.used_bytes,
                "limit_bytes": page.limit_bytes,
                "last_error": self._last_error[0],
                "last_error_ns": self._last_error[1],
                "reload": {"name": self._reload[0], "error": self._reload[1]},
                "holds": None if self._holds is None else self._holds.facts(),
                "tcp": None if self._tcp is None else self._tcp.facts(),
                "volumes": [
                    {
                        "name": volume.name,
                        "size_bytes": volume.size_bytes,
                        "writes": volume.write_count,
                        "written_bytes": volume.written_bytes,
                    }
                    for volume in volumes
                ],
            },
        )

    def _show(self, state: str, facts: dict[str, object]) -> None:
        path = self._settings.journal_dir / FACTS_NAME
        shown = {
            "pid": os.getpid(),
            "state": state,
            "wall_ns": self._clock.wall_ns(),
            "started_ns": self._started_ns,
        }
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(shown | facts))
        temporary.replace(path)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task; what it died of before that is raised."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


async def _wait_for_gate(closing: Closing, stop: asyncio.Event) -> None:
    """Until it is time to keep house, or what guests may do has changed."""
    for _ in range(round(HOUSEKEEPING_SECONDS / GATE_SECONDS)):
        if stop.is_set() or closing.look():
            return
        await _wait(stop, GATE_SECONDS)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, but no longer than that."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
