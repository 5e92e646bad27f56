"""What a volume held at the point, in whole blocks, when they are asked for, fit to be kept.

    origin = Origin(reader, Content(space, size_bytes))
    fetched = origin.fetch(start, end)

Waiting for a store does not belong here (image).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from rehydrate.ondemand.reader import STEP_BYTES, Content, Lost, Reader, Stretch
from rehydrate.serve.map_file import BLOCK_BYTES
from rehydrate.serve.overlay import Part

FETCH_BYTES_MAX: Final = STEP_BYTES
"""Asked for at once, at the most."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A range of whole blocks that cannot be read, and why."""

    offset: int
    end: int
    why: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a range holds, and what else came with it, each in its order; `damages` is what is missing."""

    wanted: Sequence[Part]
    others: Sequence[Part] = ()
    damages: Sequence[Damage] = ()


class Source(Protocol):
    """Where an image gets what is not here. Any thread may ask."""

    def fetch(self, start: int, end: int) -> Fetched:
        """What is in a range of whole blocks. Raises CdpError: nothing can be read now."""
        ...

    def data(self, start: int, end: int) -> Sequence[tuple[int, int]] | None:
        """Where in a range is data, (from, beyond) each: all else is zeros. None: it cannot be told now.

        Nothing is fetched for it, and nobody is waited for.
        """
        ...


class Origin:
    """A `Source`, from the container."""

    def __init__(self, reader: Reader, content: Content) -> None:
        self._reader = reader
        self._content = content

    def fetch(self, start: int, end: int) -> Fetched:
        """See `Source.fetch`."""
        found = self._reader.near(self._content, start, end)
        damages = _damages(found.lost, start, end)
        wanted: list[Part] = []
        at = start
        for low, high in [*((one.offset, one.end) for one in damages), (end, end)]:
            stretches = [_from(one, at) for one in found.wanted if at < one.end and one.offset < low]
            wanted.extend(filled(stretches, at, low))
            at = high
        return Fetched(wanted, list(whole_blocks(found.others, self._content.size_bytes)), damages)

    def data(self, start: int, end: int) -> Sequence[tuple[int, int]]:
        """See `Source.data`."""
        return list(self._reader.stretches(self._content, start, end))


def _from(stretch: Stretch, start: int) -> Stretch:
    """What of it does not lie before a place."""
    skipped = max(start - stretch.offset, 0)
    return Stretch(stretch.offset + skipped, stretch.data[skipped:])


def _damages(lost: Sequence[Lost], start: int, end: int) -> list[Damage]:
    """The blocks of which something is lost, neighbours together."""
    found: list[Damage] = []
    for one in lost:
        low = max(one.offset // BLOCK_BYTES * BLOCK_BYTES, start)
        high = min(-(-one.end // BLOCK_BYTES) * BLOCK_BYTES, end)
        if found and low <= found[-1].end:
            found[-1] = Damage(found[-1].offset, max(high, found[-1].end), found[-1].why)
        else:
            found.append(Damage(low, high, f"{one.error.what}: {one.error.why}"))
    return found


def filled(stretches: Iterable[Stretch], start: int, end: int) -> Iterator[Part]:
    """A range of whole blocks: those that a stretch touches with zeros around it, between them zeros."""
    at = start
    for low, high, group in _groups(stretches):
        high = min(high, end)
        if at < low:
            yield Part(at, low - at, None)
        data = bytearray(high - low)
        for one in group:
            beyond = min(one.end, high)  # of a block that is damaged elsewhere nothing is kept
            data[one.offset - low : beyond - low] = one.data[: beyond - one.offset]
        yield Part(low, high - low, data)
        at = high
    if at < end:
        yield Part(at, end - at, None)


def whole_blocks(stretches: Iterable[Stretch], size_bytes: int) -> Iterator[Part]:
    """The blocks that stretches cover whole; what else stands in the others is not known here."""
    for run in _runs(stretches):
        start, end = run[0].offset, run[-1].end
        low = -(-start // BLOCK_BYTES) * BLOCK_BYTES
        high = end if end == size_bytes else end // BLOCK_BYTES * BLOCK_BYTES
        if low < high:
            joined = run[0].data if len(run) == 1 else memoryview(b"".join(one.data for one in run))
            yield Part(low, high - low, joined[low - start : high - start])


def _groups(stretches: Iterable[Stretch]) -> Iterator[tuple[int, int, list[Stretch]]]:
    """Stretches whose blocks meet, and where the first of these blocks begins and the last one ends."""
    group: list[Stretch] = []
    low = high = 0
    for one in stretches:
        first = one.offset // BLOCK_BYTES * BLOCK_BYTES
        if group and first > high:
            yield low, high, group
            group = []
        if not group:
            low = first
        group.append(one)
        high = -(-one.end // BLOCK_BYTES) * BLOCK_BYTES
    if group:
        yield low, high, group


def _runs(stretches: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Stretches one behind the other without a gap."""
    run: list[Stretch] = []
    for one in stretches:
        if run and run[-1].end != one.offset:
            yield run
            run = []
        run.append(one)
    if run:
        yield run
