"""How much memory the requests of all connections may hold together, and who gets it next.

Large requests ask before a byte of them is received or read, and wait in the order in which they
asked. Small ones do not ask, they are only counted: a connection gets along with little for ever.
What does not belong here: what a connection holds (`session` counts it).
"""

from __future__ import annotations

from collections.abc import Callable


class Memory:
    """The bytes of one server; all of it runs in the event loop.

    `is_full` says that no connection should begin more than its least share.
    """

    __slots__ = ("_limit_bytes", "_waiting", "is_full", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: dict[Callable[[], None], None] = {}
        self.used_bytes = 0
        self.is_full = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for some."""
        return bool(self._waiting)

    def take(self, wake: Callable[[], None], count: int) -> bool:
        """Take `count` bytes if they are free and nobody waits for longer; otherwise wait for being woken."""
        first = next(iter(self._waiting), wake)
        if first != wake or (self.used_bytes + count > self._limit_bytes and self.used_bytes):
            self._waiting[wake] = None
            return False
        self._waiting.pop(wake, None)
        self.change(count)
        self._wake_first()  # there may be room for the next one too
        return True

    def change(self, by: int) -> None:
        """Count bytes that were taken without asking, or given back."""
        self.used_bytes += by
        assert self.used_bytes >= 0, "more was given back than taken"
        self.is_full = self.used_bytes >= self._limit_bytes
        if by < 0:
            self._wake_first()

    def forget(self, wake: Callable[[], None]) -> None:
        """This one waits no longer."""
        if wake in self._waiting:
            del self._waiting[wake]
            self._wake_first()

    def _wake_first(self) -> None:
        first = next(iter(self._waiting), None)
        if first is not None:
            first()
