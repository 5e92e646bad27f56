"""A history that begins with an image which other writes than its own made, as a takeover leaves it. Pure.

The image's sectors are the history's first writes, one of each, done at the instant 0: whoever judges names a
later one that everything before must show. How an image is judged stands in `history`.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.oracle.history import SECTOR_BYTES, History

_ZEROS = bytes(SECTOR_BYTES)


def sector_of(image: bytes, sector: int) -> bytes:
    """The bytes of one sector."""
    return image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]


def history_above(space: int, base: bytes) -> History:
    """The history of `space`, which no image made so far may name, from `base` on."""
    sectors = len(base) // SECTOR_BYTES
    known = History(space, sectors)
    for sector in range(sectors):
        is_void = sector_of(base, sector) == _ZEROS
        known.submit(sector, 1, voids=is_void, now_ns=0).acknowledged_ns = 0
    return known


def sectors_above(base: bytes, image: bytes, known: History) -> Callable[[int], bytes]:
    """The image as `verify_image` takes it: a sector that is as in `base` shows the first write of it."""

    def read(sector: int) -> bytes:
        content = sector_of(image, sector)
        if content == _ZEROS or content != sector_of(base, sector):
            return content
        return known.data_of(known.writes[sector])

    return read
