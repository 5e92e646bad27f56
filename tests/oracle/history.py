"""What the workload did, and whether an image may show what it shows. Pure.

Every sector (SECTOR_BYTES) that the workload writes carries (space, sector, write number), filled up
with bytes that follow from them. The workload notes when each write was submitted and when it was
acknowledged. An image is consistent when there is an instant that explains it:

    no write that it shows was submitted after a write that it hides was acknowledged.

This is sound at any queue depth: overlapping writes in flight may have landed in either order, and an
unacknowledged write may show or not. It needs one pass over the image and one over the log.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SECTOR_BYTES = 4096
_TAG = struct.Struct("<8sIQQ")
_MAGIC = b"CDPORCL\0"
_ZEROS = bytes(SECTOR_BYTES)
_TAGS = SECTOR_BYTES // _TAG.size
"""So many fill a sector, whatever stands before them."""
NEVER = 1 << 62
"""A time after everything."""


class OracleError(AssertionError):
    """The image shows what no instant explains."""


@dataclass(slots=True)
class Write:
    """One request of the workload. `voids` marks zero and discard requests, which leave zeros.

    `settled_ns` is set for a request whose server died before it replied: from then on it may have
    landed or not, but it can land no more.
    """

    number: int
    first: int
    count: int
    voids: bool
    submitted_ns: int
    acknowledged_ns: int | None = None
    settled_ns: int | None = None

    def touches(self, sector: int) -> bool:
        """Whether the sector is among those that it wrote."""
        return self.first <= sector < self.first + self.count

    @property
    def done_ns(self) -> int:
        """When it was certainly done, NEVER if that is not known."""
        return self.acknowledged_ns if self.acknowledged_ns is not None else NEVER

    @property
    def over_ns(self) -> int:
        """From when on it cannot land any more."""
        return min(self.done_ns, self.settled_ns if self.settled_ns is not None else NEVER)


def sector_content(space: int, sector: int, number: int) -> bytes:
    """The bytes that write `number` puts into `sector`: a tag, then half noise, half repetition."""
    tag = _TAG.pack(_MAGIC, space, sector, number)
    noise = hashlib.shake_128(tag).digest(SECTOR_BYTES // 2)
    return (tag + noise + tag * _TAGS)[:SECTOR_BYTES]


@dataclass(slots=True)
class History:
    """The log of one space's workload. Numbers begin at 1; 0 means: never written."""

    space: int
    sectors: int
    writes: list[Write] = field(default_factory=list)

    def submit(self, first: int, count: int, *, voids: bool, now_ns: int) -> Write:
        """Note a request before it is sent."""
        write = Write(len(self.writes) + 1, first, count, voids, now_ns)
        self.writes.append(write)
        return write

    def data_of(self, write: Write) -> bytes:
        """What the request carries."""
        sectors = range(write.first, write.first + write.count)
        return b"".join(sector_content(self.space, sector, write.number) for sector in sectors)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a consistent image showed.

    `newest_submitted_ns` is the latest submission that shows; `oldest_hidden_ns` the earliest
    acknowledgement that does not (NEVER if none is hidden); `shown` counts sectors with a tag.
    """

    shown: int
    newest_submitted_ns: int
    oldest_hidden_ns: int


def verify_image(
    history: History, read: Callable[[int], bytes], must_show_acknowledged_before_ns: int = 0
) -> Verdict:
    """Check an image, read sector by sector, against the log. Raises OracleError.

    Args:
        history: the log of the space.
        read: gives the SECTOR_BYTES of a sector.
        must_show_acknowledged_before_ns: every write acknowledged before this instant must show or be
            overwritten: the time of a cut that was reported protected.
    """
    touching: list[list[Write]] = [[] for _ in range(history.sectors)]
    for write in history.writes:
        for sector in range(write.first, write.first + write.count):
            touching[sector].append(write)
    newest_ns, hidden_ns, shown = 0, NEVER, 0
    unclear: list[tuple[int, list[Write | None]]] = []
    for sector, writes in enumerate(touching):
        number = shown_number(history.space, sector, read(sector))
        if number:
            if number > len(history.writes) or not history.writes[number - 1].touches(sector):
                raise OracleError(f"sector {sector} shows write {number}, which never touched it")
            write = history.writes[number - 1]
            if write.voids:
                raise OracleError(f"sector {sector} shows data of write {number}, which carried none")
            shown += 1
            newest_ns = max(newest_ns, write.submitted_ns)
            hidden_ns = min(hidden_ns, _hidden_ns(writes, write))
        elif any(write.voids for write in writes):
            unclear.append((sector, [None, *(write for write in writes if write.voids)]))
        else:
            hidden_ns = min(hidden_ns, _hidden_ns(writes, None))
    if newest_ns > hidden_ns:
        raise OracleError(f"shows a write submitted at {newest_ns} but hides one acknowledged at {hidden_ns}")
    for sector, candidates in unclear:
        hidden_ns = min(hidden_ns, _explain_zeros(sector, touching[sector], candidates, newest_ns, hidden_ns))
    if hidden_ns < must_show_acknowledged_before_ns:
        raise OracleError(
            f"hides a write acknowledged at {hidden_ns}, before what was protected "
            f"at {must_show_acknowledged_before_ns}"
        )
    return Verdict(shown, newest_ns, hidden_ns)


def shown_number(space: int, sector: int, content: bytes) -> int:
    """The write that made this sector, 0 for zeros. Raises OracleError for anything that no write made."""
    if content == _ZEROS:
        return 0
    magic, its_space, its_sector, number = _TAG.unpack_from(content)
    if magic != _MAGIC or content != sector_content(its_space, its_sector, number):
        raise OracleError(f"sector {sector} holds bytes that no write made (torn, damaged or foreign)")
    if (its_space, its_sector) != (space, sector):
        raise OracleError(f"sector {sector} of space {space} holds sector {its_sector} of space {its_space}")
    return int(number)


def _hidden_ns(writes: Sequence[Write], shown: Write | None) -> int:
    """The earliest acknowledgement among the writes that must have come after the shown one."""
    since_ns = shown.over_ns if shown is not None else -1
    return min((write.done_ns for write in writes if write.submitted_ns > since_ns), default=NEVER)


def _explain_zeros(
    sector: int, writes: Sequence[Write], candidates: Sequence[Write | None], newest_ns: int, hidden_ns: int
) -> int:
    """Zeros come from a void, or from no write at all: one must fit. Gives the kindest hidden time."""
    fitting = []
    for candidate in candidates:
        its_hidden_ns = _hidden_ns(writes, candidate)
        submitted_ns = candidate.submitted_ns if candidate is not None else 0
        if its_hidden_ns >= newest_ns and submitted_ns <= hidden_ns:
            fitting.append(its_hidden_ns)
    if not fitting:
        raise OracleError(f"sector {sector} shows zeros that no instant explains")
    return max(fitting)
