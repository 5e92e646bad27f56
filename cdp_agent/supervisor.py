"""The parent of splitter, streamer and watcher: starts them, watches them, restarts the one that died.

It touches neither data nor store, so there is little that can end it. What does not belong here:
anything that decides about writes, cuts or ownership.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from cdp_container.clock import Clock
from cdp_container.errors import AlreadyRunning, CdpError

POLL_SECONDS = 0.1
"""How often children and signals are looked at."""
LOCK_SECONDS = 0.5
"""`status` holds the lock for a moment, to see whether somebody does."""
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 60.0
"""A child that dies again and again costs one start a minute (and one epoch at most)."""
STEADY_SECONDS = 60.0
"""A child that lived this long starts from the first back-off again."""
ANEW_NS_MIN = 2_000_000_000
"""Whoever begins anew after less than this is slowed down like one that fails."""
STOP_SECONDS = 60.0
"""How long a child may take to end after SIGTERM: a drain of guests' writes and one sync."""
ALLOCATOR: Final = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}
"""For glibc, unless the environment has its own. Else a child keeps some 80 MiB of what it freed: objects of
8 MiB, made by one thread and freed by another, leave the heap in pieces; so they get pages of their own.
Large pages (where Linux gives them on request) make up for the faults that this costs."""
SUPERVISOR_PID: Final = "CDP_SUPERVISOR_PID"
"""Tells a child in its environment who started it: it may come to life when that one is dead."""
STREAMER_LOCK = "streamer.lock"
STREAMER_LOCK_SECONDS = 60.0
"""An old streamer whose supervisor was killed has ended by then, on a machine that is hardly moving too."""


ALWAYS: Final = "always"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start one child, and which of its exit codes mean that starting it again is no use.

    With one of `anew_codes` it asks to be started again at once: nothing failed. `wish` is asked again and
    again: with another answer than at its start it is ended and started anew; with "" it does not run.
    """

    name: str
    argv: tuple[str, ...]
    final_codes: frozenset[int]
    ends_everything: bool
    anew_codes: frozenset[int] = frozenset()
    wish: Callable[[], str] = lambda: ALWAYS


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_ns: int = 0
    due_ns: int = 0
    deaths: int = 0
    final_code: int | None = None
    wish: str = ""
    told_ns: int = 0


@dataclass(slots=True)
class _Stop:
    requested: bool = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True


def take_lock(path: Path, clock: Clock, wait_seconds: float = LOCK_SECONDS) -> int:
    """Hold a lock of a journal directory until the process ends; gives its descriptor.

    Raises AlreadyRunning, which names the holder, and CdpError where the file cannot be made.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        why = error.strerror or "refused"
        raise CdpError(f"cannot lock {path}", why, "check the directory and its permissions") from error
    until_ns = clock.boottime_ns() + int(wait_seconds * 1e9)
    while not _is_taken(fd):
        if clock.boottime_ns() >= until_ns:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(f"cannot lock {path}", f"process {holder} holds it")
        clock.sleep(POLL_SECONDS)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _is_taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds this lock of a journal directory. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def streamer_lock(directory: Path, clock: Clock) -> Iterator[None]:
    """Be the one that writes notes.json and the streamer's page; waits for a streamer that is ending.

    Raises AlreadyRunning, which names the holder.
    """
    fd = take_lock(directory / STREAMER_LOCK, clock, STREAMER_LOCK_SECONDS)
    try:
        yield
    finally:
        os.close(fd)


def notify_systemd(message: str) -> None:
    """Tell systemd (sd_notify(3)) a line such as READY=1; nothing where it did not ask."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
        try:
            peer.sendto(message.encode(), name)
        except OSError:
            return  # systemd is gone or restarting: nobody to tell, and guests matter more


def _see_nothing() -> None:
    """Nobody watches."""


@dataclass(slots=True)
class Supervisor:
    """Runs children until it is told to stop, or one of them ends for good.

    `ready` is asked until it says something: that is reported, and systemd told. `watch` is called in every
    round and must return at once; `last_look` once, when all have stopped.
    """

    specs: Sequence[ChildSpec]
    clock: Clock
    ready: Callable[[], str]
    report: Callable[[str], None]
    watch: Callable[[], None] = _see_nothing
    last_look: Callable[[], None] = _see_nothing
    _children: list[_Child] = field(default_factory=list)

    def run(self) -> int:
        """Give the exit code: 0 after a requested stop, a child's own where it ended everything."""
        stop = _Stop()
        before = {signum: signal.signal(signum, stop.handle) for signum in (signal.SIGTERM, signal.SIGINT)}
        self._children = [_Child(spec) for spec in self.specs]
        told = False
        try:
            while not stop.requested:
                for child in self._children:
                    code = self._look_after(child)
                    if code is not None and child.spec.ends_everything:
                        return code
                if not told and (standing := self.ready()):
                    told = True
                    notify_systemd("READY=1")
                    self.report(standing)
                self.watch()
                notify_systemd("WATCHDOG=1")
                self.clock.sleep(POLL_SECONDS)
            return 0
        finally:
            notify_systemd("STOPPING=1")
            self._stop_all()
            self.last_look()
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _look_after(self, child: _Child) -> int | None:
        """Start, reap or leave alone; gives the exit code of a child that ended for good."""
        now_ns = self.clock.boottime_ns()
        if child.final_code is not None:
            return child.final_code
        wish = child.spec.wish()
        if child.process is None:
            if now_ns >= child.due_ns and wish:
                child.wish = wish
                environment = {**ALLOCATOR, **os.environ, SUPERVISOR_PID: str(os.getpid())}
                child.process = subprocess.Popen(child.spec.argv, env=environment)
                child.started_ns = now_ns
            return None
        code = child.process.poll()
        if code is None:
            self._tell(child, wish, now_ns)
            return None
        child.process = None
        if child.told_ns:
            child.told_ns = 0
            self.report(
                f"{child.spec.name} begins anew" if wish else f"{child.spec.name} is not needed any more"
            )
            return None
        if code in child.spec.final_codes:
            child.final_code = code
            self.report(f"{child.spec.name} ended for good with exit code {code}")
            return code
        if code in child.spec.anew_codes and now_ns - child.started_ns >= ANEW_NS_MIN:
            self.report(f"{child.spec.name} begins anew")
            return None
        lived_seconds = (now_ns - child.started_ns) / 1e9
        child.deaths = 1 if lived_seconds >= STEADY_SECONDS else child.deaths + 1
        pause_seconds = backoff_seconds(child.deaths)
        child.due_ns = now_ns + int(pause_seconds * 1e9)
        self.report(
            f"{child.spec.name} ended with {_describe(code)}; starting it again in {pause_seconds:g} s"
        )
        return None

    def _tell(self, child: _Child, wish: str, now_ns: int) -> None:
        """To end, if it is to run otherwise than it does, or not at all; again and again."""
        assert child.process is not None, "it runs"
        if wish != child.wish and now_ns >= child.told_ns + int(STOP_SECONDS * 1e9) * bool(child.told_ns):
            child.process.send_signal(signal.SIGKILL if child.told_ns else signal.SIGTERM)
            child.told_ns = now_ns

    def _stop_all(self) -> None:
        """In their order, so that the streamer can send what the splitter captured last.

        Each gets STOP_SECONDS, then SIGKILL.
        """
        for child in self._children:
            process = child.process
            if process is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.report(f"{child.spec.name} did not stop within {STOP_SECONDS:g} s: killed")
                process.kill()
                process.wait()


def backoff_seconds(deaths: int) -> float:
    """The pause before start number `deaths` + 1."""
    doubled = BACKOFF_FIRST_SECONDS * float(2 ** min(deaths - 1, 10))
    return min(BACKOFF_MAX_SECONDS, doubled)


def _describe(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
