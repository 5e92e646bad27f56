"""Answers what comes over `watcher.sock`, one request after the other; in between the watcher works."""

from __future__ import annotations

import os
import select
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cdp_agent.watcher.asked import accept, ask_scan
from cdp_agent.watcher.client import taken_members
from cdp_agent.watcher.core import Watcher
from cdp_agent.watcher.wire import SOCKET_NAME, listen_at, read_line, send_line
from cdp_container.errors import CdpError
from cdp_container.format.place import Place

BACKLOG: Final = 16
REQUEST_SECONDS_MAX: Final = 5.0
"""How long a client may take to say what it wants, or to take the answer."""
POLL_SECONDS: Final = 0.2
"""How often a stop, and what is due, is looked at while nobody asks for anything."""


def serve(directory: Path, watcher: Watcher, stopped: Callable[[], bool]) -> None:
    """Serve until `stopped` says so. Raises OSError where the socket cannot be made."""
    with listen_at(directory, SOCKET_NAME, BACKLOG) as listener:
        try:
            while not stopped():
                busy = watcher.idle()
                ready, _, _ = select.select([listener], [], [], 0.0 if busy else POLL_SECONDS)
                if ready:
                    peer, _ = listener.accept()
                    with peer:
                        _answer(peer, watcher)
        finally:
            (directory / SOCKET_NAME).unlink(missing_ok=True)


def _answer(peer: socket.socket, watcher: Watcher) -> None:
    fd: int | None = None
    try:
        peer.settimeout(REQUEST_SECONDS_MAX)
        request, stray = read_line(peer)
        if stray is not None:
            os.close(stray)
        try:
            members, fd = _handled(request, watcher)
        except (CdpError, sqlite3.Error) as error:
            members = {"ok": False, "error": str(error)}
        send_line(peer, members, fd)
    except (OSError, ValueError, KeyError, TypeError):
        return  # the client is gone, or is none of ours: it begins again
    finally:
        if fd is not None:
            os.close(fd)


def _handled(request: dict[str, Any], watcher: Watcher) -> tuple[dict[str, Any], int | None]:
    command = request["command"]
    if command == "take":
        taken = watcher.take(int(request["epoch"]), int(request["cut"]), bool(request["hold"]))
        return taken_members(taken), taken.fd
    if command == "status":
        return {"ok": True, **watcher.status()}, None
    if command == "begin":
        epoch, cut, seq = request["base"]
        watcher.begin(int(request["epoch"]), Place(int(epoch), int(cut), int(seq)))
    elif command == "place":
        watcher.place(int(request["batch"]), int(request["epoch"]), int(request["cut"]))
    elif command == "protected":
        watcher.protected(int(request["epoch"]), int(request["cut"]))
    elif command == "accept":
        mounts = {bytes.fromhex(path): bytes.fromhex(found) for path, found in request["mounts"]}
        accept(watcher.trees, bytes.fromhex(request["tree"]), bytes.fromhex(request["root"]), mounts)
    elif command == "scan":
        tree, read_all = bytes.fromhex(request["tree"]), bool(request["read_all"])
        return {"ok": True, "scan": ask_scan(watcher.trees, tree, read_all)}, None
    else:
        return {"ok": False, "error": "there is no such command"}, None
    return {"ok": True}, None
