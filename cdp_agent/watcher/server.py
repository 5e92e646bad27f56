"""Answers what comes over `watcher.sock` (or the imager's), one request after the other; in between it works.

What the watcher alone is asked for does not belong here (`asked`).
"""

from __future__ import annotations

import os
import queue
import select
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from cdp_agent.watcher.client import Taken, taken_members
from cdp_agent.watcher.wire import SOCKET_NAME, listen_at, read_line, send_line
from cdp_container.errors import CdpError
from cdp_container.format.place import Place

BACKLOG: Final = 16
"""Requests that wait, and clients that wait to be heard."""
REQUEST_SECONDS_MAX: Final = 5.0
"""How long a client may take to say what it wants, or to take the answer."""
POLL_SECONDS: Final = 0.2
"""How often a stop, and what is due, is looked at while nobody asks for anything."""


class Served(Protocol):
    """Who gives batches for cuts: see `WatcherClient`. All raise CdpError."""

    def status(self) -> dict[str, Any]: ...  # noqa: D102

    def idle(self) -> bool:
        """Work for a moment; whether there is more to do at once."""
        ...

    def begin(self, epoch: int, base: Place) -> None: ...  # noqa: D102

    def take(self, epoch: int, cut: int, hold: bool, since_ns: int) -> Taken: ...  # noqa: D102

    def sweep(self, epoch: int, cut: int) -> Taken: ...  # noqa: D102

    def place(self, batch: int, epoch: int, cut: int) -> None: ...  # noqa: D102

    def protected(self, epoch: int, cut: int) -> None: ...  # noqa: D102

    def asked(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to what only this one is asked for; None where there is no such command."""
        ...


def serve(
    directory: Path, watcher: Served, stopped: Callable[[], bool], socket_name: str = SOCKET_NAME
) -> None:
    """Serve until `stopped` says so. Raises OSError where the socket cannot be made."""
    with listen_at(directory, socket_name, BACKLOG) as listener:
        door = _Door(listener, watcher.status())
        try:
            while not stopped():
                busy = watcher.idle()
                door.shown = watcher.status()
                asked = door.next(0.0 if busy else POLL_SECONDS)
                if asked is not None:
                    _answer(asked, watcher, door)
        finally:
            door.close()
            (directory / socket_name).unlink(missing_ok=True)


class _Asked(NamedTuple):
    """A request, and who waits for the answer."""

    peer: socket.socket
    members: dict[str, Any]


class _Door:
    """Hears requests in a thread of its own, where `status` is answered at once, however long others take.

    Args:
        listener: at which clients come.
        shown: what `status` is answered with; replaced by the thread that works.
    """

    def __init__(self, listener: socket.socket, shown: dict[str, Any]) -> None:
        self.shown = shown
        self._listener = listener
        self._asked: queue.Queue[_Asked] = queue.Queue(BACKLOG)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="door", daemon=True)
        self._thread.start()

    def next(self, timeout_seconds: float) -> _Asked | None:
        """The next request, in the order in which they came; None where none comes in time."""
        try:
            return self._asked.get(timeout_seconds > 0, timeout_seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Hear no more; whoever waits for an answer is let go."""
        self._closing.set()
        self._thread.join()
        while (asked := self.next(0.0)) is not None:
            asked.peer.close()

    def _listen(self) -> None:
        while not self._closing.is_set():
            ready, _, _ = select.select([self._listener], [], [], POLL_SECONDS)
            if ready:
                try:
                    peer, _ = self._listener.accept()
                except OSError:
                    # Who came is gone, or this process has too many files open: it hears others later.
                    self._closing.wait(POLL_SECONDS)
                    continue
                if not self._hear(peer):
                    peer.close()

    def _hear(self, peer: socket.socket) -> bool:
        """Whether somebody else goes on with this client."""
        try:
            peer.settimeout(REQUEST_SECONDS_MAX)
            members, stray = read_line(peer)
            if stray is not None:
                os.close(stray)
            if members.get("command") != "status":
                self._asked.put_nowait(_Asked(peer, members))
                return True
            send_line(peer, {"ok": True, **self.shown})
        except (OSError, ValueError, queue.Full):
            pass  # the client is gone, is none of ours, or one of too many: it begins again
        return False


def _answer(asked: _Asked, watcher: Served, door: _Door) -> None:
    fd: int | None = None
    with asked.peer:
        try:
            try:
                members, fd = _handled(asked.members, watcher)
            except (CdpError, sqlite3.Error) as error:
                members = {"ok": False, "error": str(error)}
            door.shown = watcher.status()
            send_line(asked.peer, members, fd)
        except (OSError, ValueError, KeyError, TypeError):
            return  # the client is gone, or is none of ours: it begins again
        finally:
            if fd is not None:
                os.close(fd)


def _handled(request: dict[str, Any], watcher: Served) -> tuple[dict[str, Any], int | None]:
    command = request["command"]
    if command == "take":
        since_ns = int(request.get("since_ns", 0))
        taken = watcher.take(int(request["epoch"]), int(request["cut"]), bool(request["hold"]), since_ns)
        return taken_members(taken), taken.fd
    if command == "sweep":
        taken = watcher.sweep(int(request["epoch"]), int(request["cut"]))
        return taken_members(taken), taken.fd
    if command == "begin":
        epoch, cut, seq = request["base"]
        watcher.begin(int(request["epoch"]), Place(int(epoch), int(cut), int(seq)))
    elif command == "place":
        watcher.place(int(request["batch"]), int(request["epoch"]), int(request["cut"]))
    elif command == "protected":
        watcher.protected(int(request["epoch"]), int(request["cut"]))
    else:
        answer = watcher.asked(request)
        return answer or {"ok": False, "error": "there is no such command"}, None
    return {"ok": True}, None
