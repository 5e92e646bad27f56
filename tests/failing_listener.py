"""A listening socket that fails for a moment: whoever accepts by it must hear the next one all the same."""

from __future__ import annotations

import errno
import socket


class FailingListener(socket.socket):
    """It cannot take the first who comes, who waits in its queue."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        """As of any socket, but for the first time."""
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()
