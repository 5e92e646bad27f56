"""How much would be lost now, by the journal and the two pages: for the streamer, and `status` without it.

What is lost of file trees does not belong here, nor what is shown besides (`facts`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from cdp_container.errors import CdpError
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.record import Record
from cdp_container.journal.shared import SplitterPage, StreamerPage


class Measured(Protocol):
    """What is needed of a journal; `cdp_container.journal.reader.JournalReader` is one."""

    @property
    def start(self) -> Position:
        """The oldest position, NOWHERE in an empty journal."""
        ...

    def distance_bytes(self, earlier: Position, later: Position) -> int:
        """Bytes of records between two positions; raises PositionUnknown."""
        ...

    def records(self, from_position: Position, to_position: Position) -> Iterable[Record]:
        """The records between two positions, oldest first; raises PositionUnknown, JournalDamaged."""
        ...


class Lag:
    """How much would be lost now. Looks at the journal only when something moved."""

    def __init__(self, journal: Measured) -> None:
        self._journal = journal
        self._known: tuple[Position, int | None] | None = None

    def measure(self, splitter: SplitterPage | None, ours: StreamerPage, wall_ns: int) -> dict[str, Any]:
        """Seconds since the oldest unprotected write, and bytes of journal from there on; None: unknown.

        After an overflow guests write on, and no journal knows how much.
        """
        if splitter is None or not splitter.generation:
            return {"lag_seconds": None, "lag_bytes": None}
        end = splitter.overflow_at if splitter.overflowed else splitter.tail
        in_doubt = splitter.overflowed or splitter.episode != ours.compared_episode
        doubt_ns = splitter.overflow_ns if in_doubt and splitter.overflow_ns else wall_ns
        try:
            start = ours.proven if ours.proven != NOWHERE else self._journal.start
            oldest_ns = None if start == end else self._oldest_ns(start, end)
            lag_bytes = 0 if oldest_ns is None else self._journal.distance_bytes(start, end)
        except CdpError as error:
            if doubt_ns == wall_ns:
                return {"lag_seconds": None, "lag_bytes": None, "lag_unknown": str(error)}
            oldest_ns, lag_bytes = None, 0
        since_ns = min(wall_ns if oldest_ns is None else oldest_ns, doubt_ns)
        seconds = round(max(0.0, (wall_ns - since_ns) / 1e9), 3)
        return {"lag_seconds": seconds, "lag_bytes": lag_bytes if doubt_ns == wall_ns else None}

    def _oldest_ns(self, start: Position, tail: Position) -> int | None:
        """When the first write behind `start` was made; None while there is none."""
        if self._known is None or self._known[0] != start or self._known[1] is None:
            first = next(iter(self._journal.records(start, tail)), None)
            self._known = (start, None if first is None else first.time_ns)
        return self._known[1]
