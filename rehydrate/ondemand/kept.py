"""What was read and may be asked for again, within a limit of bytes: the longest unused goes first. PURE.

Which threads may use it when does not belong here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, each with the bytes that it counts for. Used by one thread at a time.

    `limit_bytes`: together they never count for more; what counts for more by itself is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        assert limit_bytes >= 0, limit_bytes
        self.limit_bytes = limit_bytes
        self.total_bytes = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, which is young again; None where it is not kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value, the youngest of all, instead of the oldest ones."""
        self._drop(key)
        if size_bytes > self.limit_bytes:
            return
        while self.total_bytes + size_bytes > self.limit_bytes:
            self._drop(next(iter(self._values)))
        self._values[key] = (value, size_bytes)
        self.total_bytes += size_bytes

    def clear(self) -> None:
        """Keep nothing."""
        self._values.clear()
        self.total_bytes = 0

    def _drop(self, key: K) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self.total_bytes -= found[1]
