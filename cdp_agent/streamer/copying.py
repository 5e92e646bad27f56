"""What is being copied in an epoch: which volumes, round by round, and what of them has to be sent.

Used by the builder's thread; what it counts is looked at by others when no round is being read. When a round
may be read does not belong here (`steps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cdp_agent.streamer.compare import Comparison
from cdp_agent.streamer.copy import Doubt, Reading, joined
from cdp_agent.streamer.payloads import Chunk
from cdp_container.journal.position import NOWHERE, Position


class Copying:
    """See the module.

    Args:
        doubts: by source.
        comparison: with the base cut; None where the container holds nothing yet.
        beyond: what its cuts beyond this position wrote is in doubt, too.
    """

    def __init__(
        self, doubts: Mapping[int, Doubt], comparison: Comparison | None, beyond: Position = NOWHERE
    ) -> None:
        self._doubts = dict(doubts)
        self._comparison = comparison
        self._beyond = beyond
        self._reading: Reading | None = None

    def round(self, source: int) -> Iterator[Chunk]:
        """The next round of a source: lazy, to be taken to its end before the next one.

        Raises:
            BackingUnreadable, DeviceError: the volume cannot be read.
            StoreUnavailable and its kin: what the container has cannot be read now.
        """
        reading = self._reading
        if reading is None or reading.source != source:
            # Over older data zeros count too.
            reading = self._reading = Reading(self._doubt(source), cover=self._comparison is not None)
        return self._sent(reading, self._comparison)

    def _doubt(self, source: int) -> Doubt:
        doubt, comparison = self._doubts.pop(source), self._comparison
        if doubt.ranges is None or comparison is None or self._beyond == NOWHERE:
            return doubt
        written = comparison.written_beyond(source, self._beyond)
        return replace(doubt, ranges=None if written is None else joined(doubt.ranges, written))

    def _sent(self, reading: Reading, comparison: Comparison | None) -> Iterator[Chunk]:
        chunks = reading.round()
        for chunk in chunks if comparison is None else comparison.different(chunks):
            reading.sent(chunk.length if chunk.data is not None else 0)
            yield chunk

    @property
    def ended(self) -> int | None:
        """The source of which the last round was the last one."""
        reading = self._reading
        return reading.source if reading is not None and reading.is_done else None

    def take_read_bytes(self) -> int:
        """What was read of the volumes since this was asked last."""
        return self._reading.take_read_bytes() if self._reading is not None else 0

    @property
    def compared_bytes(self) -> int:
        """Of the volumes, with the base cut."""
        return self._comparison.compared_bytes if self._comparison else 0

    @property
    def different_bytes(self) -> int:
        """What of these differed, and was sent."""
        return self._comparison.different_bytes if self._comparison else 0

    @property
    def why_everything(self) -> str:
        """Why everything is sent although the container has older data; "" if it is not."""
        return self._comparison.why_everything if self._comparison else ""

    def close(self) -> None:
        """There is no further round."""
        self._doubts.clear()
        self._reading = None
        if self._comparison is not None:
            self._comparison.close()
