"""The bytes of a volume for an export: on demand, with zeros behind its end; waits while the store is away.

Who asks for them (qemu-img through an NBD export, parts of an upload) does not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from cdp_container.clock import Clock
from cdp_container.errors import CdpError, Incomplete
from cdp_container.store.retry import is_temporary
from rehydrate.ondemand.reader import Content, Reader

AWAY_SECONDS_MAX: Final = 900.0
"""So long a read waits for the store: a conversion cannot be gone on with, but must not hang for ever."""

PAUSE_SECONDS: Final = 2.0
"""Between two looks, beside the pauses of the requests themselves."""

Reported = Callable[[int], None]
"""Told of bytes that were read and were not known to be zeros, from any thread."""


class Bytes:
    """A volume's bytes at a point. Any thread may read.

    Args:
        reader: of the container.
        content: the volume.
        size_bytes: of the image: what lies behind the volume reads as zeros.
        clock: measures how long the store is away.
        told: is given lines for people.
        reported: see `Reported`.
        ended: once it is set nobody waits for the store any more; one of its own where there is none.

    `failure` is the first error that a read ended with: whoever reads through a program only sees that the
    program failed.
    """

    def __init__(
        self,
        reader: Reader,
        content: Content,
        size_bytes: int,
        clock: Clock,
        told: Callable[[str], None],
        reported: Reported = lambda count: None,
        ended: threading.Event | None = None,
    ) -> None:
        assert size_bytes >= content.size_bytes, (size_bytes, content.size_bytes)
        self.size_bytes = size_bytes
        self.failure: CdpError | None = None
        self._reader = reader
        self._content = content
        self._opened = reader.open(content)
        self._clock = clock
        self._told = told
        self._reported = reported
        self._ended = threading.Event() if ended is None else ended
        self._lock = threading.Lock()
        self._is_away = False

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many bytes, inside of the image.

        Raises:
            DamagedObject, MissingObject and their kin: they are not what was written, or gone.
            StoreUnavailable: the store was away for AWAY_SECONDS_MAX.
            Incomplete: this was ended.
        """
        assert 0 <= offset <= offset + length <= self.size_bytes, (offset, length)
        try:
            data = self._read_waiting(offset, length)
        except CdpError as error:
            with self._lock:
                self.failure = self.failure or error
            raise
        return data + bytes(length - len(data))

    def stretches(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where data stands in a range, each (from, beyond), in their order; all else reads as zeros."""
        return self._reader.stretches(self._content, start, min(end, self._content.size_bytes))

    def end(self) -> None:
        """Whoever waits, waits no longer."""
        self._ended.set()

    def _read_waiting(self, offset: int, length: int) -> bytes:
        began_ns = self._clock.boottime_ns()
        while True:
            try:
                data = self._opened.read(offset, length)
            except CdpError as error:
                away_seconds = (self._clock.boottime_ns() - began_ns) / 1e9
                if not is_temporary(error) or away_seconds >= AWAY_SECONDS_MAX:
                    raise
                self._say_away(error)
            else:
                self._is_away = False
                self._reported(sum(high - low for low, high in self.stretches(offset, offset + length)))
                return data
            if self._ended.wait(PAUSE_SECONDS):
                raise Incomplete("read the volume", "it was ended meanwhile", "begin again")

    def _say_away(self, error: CdpError) -> None:
        with self._lock:
            is_new, self._is_away = not self._is_away, True
        if is_new:
            self._told(f"{error}: the store is waited for, up to {AWAY_SECONDS_MAX / 60:.0f} min")
