"""Asking the splitter to hold the guests' writes for a moment, over `hold.sock`.

`hold` is answered by `held <generation> <offset>` once no write can be appended any more: the journal's tail
stands there. `release` is answered by `kept`, or by `expired` where the splitter let go by itself meanwhile
(HOLD_SECONDS_MAX). A connection that ends releases. Every failure is `WatcherFailed`: the cut is taken
without a hold then.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from cdp_agent.watcher.wire import HOLD_SOCKET_NAME, connect_to
from cdp_container.errors import WatcherFailed
from cdp_container.journal.position import Position

HOLD_SECONDS_MAX: Final = 0.05
"""The splitter lets guests write again after this, whatever the watcher does."""
HOLD_TIMEOUT_SECONDS: Final = 2.0
"""A splitter that is in the middle of a sync answers a little later."""
_LINE_BYTES_MAX: Final = 100


class HoldClient:
    """One hold: `hold`, then `release`; closed in any case."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._peer: socket.socket | None = None

    def hold(self) -> Position:
        """Have all writes wait; gives the journal's tail. Raises WatcherFailed."""
        self.close()
        try:
            self._peer = connect_to(self._directory, HOLD_SOCKET_NAME, HOLD_TIMEOUT_SECONDS)
            self._peer.sendall(b"hold\n")
            words = self._line().split()
            if len(words) != 3 or words[0] != b"held":
                raise ValueError(f"it says {b' '.join(words)!r}")
            return Position(int(words[1]), int(words[2]))
        except (OSError, ValueError) as error:
            self.close()
            raise _failed(error) from error

    def release(self) -> bool:
        """Let writes go on; gives whether they were held all the time."""
        peer = self._peer
        if peer is None:
            return False
        try:
            peer.sendall(b"release\n")
            return self._line() == b"kept"
        except (OSError, ValueError):
            return False  # the splitter is gone or late: whether it held is not known
        finally:
            self.close()

    def close(self) -> None:
        """End the connection, which releases."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _line(self) -> bytes:
        assert self._peer is not None
        data = b""
        while not data.endswith(b"\n"):
            piece = self._peer.recv(_LINE_BYTES_MAX)
            if not piece or len(data) + len(piece) > _LINE_BYTES_MAX:
                raise ValueError("its answer ends early, or never")
            data += piece
        return data.strip()


def _failed(error: Exception) -> WatcherFailed:
    return WatcherFailed("the guests' writes cannot be held", str(error) or type(error).__name__)
