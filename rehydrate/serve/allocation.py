"""What of a range is data and what are holes: of what is here by its file, of the rest by the point.

Who is asked for either does not belong here (image).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nbd_export.backend import Extent, State
from nbd_export.holes import joined
from rehydrate.serve.map_file import BLOCK_BYTES

Ranges = Sequence[tuple[int, int]]
"""Ranges of bytes (start, end), in their order, apart from each other."""


def allocation(
    span: tuple[int, int],
    missing: Ranges,
    here: Callable[[int, int, int], Sequence[Extent]],
    data: Callable[[int, int], Ranges | None],
    count_max: int,
) -> list[Extent]:
    """The first parts of a span, at least one, at most so many.

    Args:
        span: from where to where.
        missing: what of its blocks is not here.
        here: tells the first parts of a range (start, end) that is here, at most so many.
        data: tells where the point has data in a range; None: it cannot tell now, and all counts as data.
        count_max: of parts.
    """
    parts: list[Extent] = []
    for start, end, is_here in _runs(span, missing):
        at = start
        while at < end and len(parts) < count_max:
            left = count_max - len(parts)
            found = here(at, end, left) if is_here else _of_point(at, end, data(at, end))[:left]
            parts.extend(found)
            at += sum(one.length for one in found)
        if at < end:
            break
    return joined(parts)


def _runs(span: tuple[int, int], missing: Ranges) -> Iterator[tuple[int, int, bool]]:
    """The span cut into what is here and what is not."""
    at, end = span
    for low, high in [*missing, (end, end)]:
        low, high = min(max(low, at), end), min(high, end)
        if at < low:
            yield at, low, True
        if low < high:
            yield low, high, False
        at = max(at, high)


def _of_point(start: int, end: int, data: Ranges | None) -> list[Extent]:
    """Holes between whole blocks with data: clients like no finer ones."""
    parts: list[Extent] = []
    at = start
    for low, high in ((start, end),) if data is None else data:
        low = max(low // BLOCK_BYTES * BLOCK_BYTES, at)
        high = min(-(-high // BLOCK_BYTES) * BLOCK_BYTES, end)
        if at < low:
            parts.append(Extent(low - at, State.HOLE))
        if low < high:
            parts.append(Extent(high - low, State.DATA))
            at = high
    if at < end:
        parts.append(Extent(end - at, State.HOLE))
    return joined(parts)
