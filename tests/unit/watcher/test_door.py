"""The door of the watcher and of the imager: whatever fails there, the next one is heard."""

from __future__ import annotations

import socket
from pathlib import Path

from cdp_agent.watcher.server import _Door
from cdp_agent.watcher.wire import connect_to, read_line, send_line
from tests.failing_listener import FailingListener


def test_who_could_not_be_let_in_is_not_the_last_one(tmp_path: Path) -> None:
    """Else nobody was heard any more, and nothing captured, by a process that goes on."""
    with FailingListener(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(4)
        door = _Door(listener, {"shown": "this"})
        try:
            with connect_to(tmp_path, "s", 30.0) as peer:
                send_line(peer, {"command": "status"})
                assert read_line(peer)[0] == {"ok": True, "shown": "this"}
        finally:
            door.close()
