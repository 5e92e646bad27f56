"""How an object is parted for an upload, and which parts the store has already. PURE.

What is asked of the store does not belong here (bucket), nor what is noted (workspace).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from s3transfer.utils import ChunksizeAdjuster

from cdp_container.errors import UsageError

PART_BYTES: Final = 16 << 20
"""Of a part, unless the store would not take so many: then twice as much, and so on."""

OBJECT_BYTES_MAX: Final = 5 << 40
"""The largest object of most stores."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an object; `number` from 1 on, as the store counts."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A part that the store acknowledged: its ETag as the store spelled it, and what was sent."""

    number: int
    etag: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A part as the store lists it."""

    number: int
    etag: str
    size_bytes: int


def part_bytes_for(size_bytes: int) -> int:
    """How large the parts of an object of this size are. Raises UsageError where no store would take it."""
    if size_bytes > OBJECT_BYTES_MAX:
        why = f"an object holds {OBJECT_BYTES_MAX >> 40} TiB at the most, and this has {size_bytes} bytes"
        raise UsageError("upload an image", why, "choose a compressed format, or export into a file")
    found: int = ChunksizeAdjuster().adjust_chunksize(PART_BYTES, size_bytes)
    return found


def parts_of(size_bytes: int, part_bytes: int) -> list[Part]:
    """All parts, in their order; an empty object has one, that is empty."""
    assert part_bytes > 0, part_bytes
    count = max(-(-size_bytes // part_bytes), 1)
    return [
        Part(number + 1, number * part_bytes, min(part_bytes, size_bytes - number * part_bytes))
        for number in range(count)
    ]


def parts_there(parts: Iterable[Part], listed: Iterable[Listed], sent: Mapping[int, Sent]) -> dict[int, Sent]:
    """The parts that need not be sent again: noted as acknowledged, and listed just so."""
    at_store = {one.number: one for one in listed}
    found: dict[int, Sent] = {}
    for part in parts:
        there, noted = at_store.get(part.number), sent.get(part.number)
        if there is None or noted is None:
            continue
        # Some stores list ETags with quotes, and answer without, or the other way round.
        if there.etag.strip('"') == noted.etag.strip('"') and there.size_bytes == part.length:
            found[part.number] = noted
    return found
