"""Which blocks are here: a bit for each, in the order of blocks, the lowest bit of a byte first. PURE, numpy.

Where bits are kept does not belong here (map_file), nor what a block holds (overlay).
"""

from __future__ import annotations

from typing import Final

import numpy as np

_FEW: Final = 8
"""So many blocks are looked at one by one: a request of a guest has hardly more."""


class Bits:
    """Bits are only ever set.

    Args:
        count: of blocks.
        data: a byte for eight of them each; it is used, not copied.
    """

    def __init__(self, count: int, data: bytearray) -> None:
        assert len(data) == bytes_of(count), (count, len(data))
        self.count = count
        self.data = data
        self._array = np.frombuffer(data, dtype=np.uint8)
        self.here = _sum(data)

    def has_all(self, low: int, high: int) -> bool:
        """Whether every block from `low` up to `high` is here."""
        data = self.data
        if high - low <= _FEW:
            for block in range(low, high):  # noqa: SIM110 (all() takes twice as long)
                if not data[block >> 3] >> (block & 7) & 1:
                    return False
            return True
        return not self._absent(low, high).any()

    def missing(self, low: int, high: int) -> list[tuple[int, int]]:
        """The runs of blocks in a range that are not here: (first, beyond), in their order."""
        edges = np.diff(self._absent(low, high).astype(np.int8), prepend=0, append=0)
        firsts, beyonds = np.flatnonzero(edges > 0) + low, np.flatnonzero(edges < 0) + low
        return list(zip(firsts.tolist(), beyonds.tolist(), strict=True))

    def with_set(self, low: int, high: int) -> tuple[int, bytes]:
        """The bytes in which a range of blocks is here: where they begin, and what they are then."""
        first, beyond = low >> 3, (high + 7) >> 3
        changed = bytearray(self.data[first:beyond])
        head, tail = 0xFF << (low & 7) & 0xFF, 0xFF >> (-high & 7)
        if len(changed) == 1:
            changed[0] |= head & tail
        else:
            changed[0] |= head
            changed[-1] |= tail
            changed[1:-1] = b"\xff" * (len(changed) - 2)
        return first, bytes(changed)

    def put(self, first: int, changed: bytes) -> None:
        """Replace bytes, by those of `with_set`."""
        beyond = first + len(changed)
        before = _sum(self.data[first:beyond])
        self.data[first:beyond] = changed
        self.here += _sum(changed) - before

    def _absent(self, low: int, high: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        bits = np.unpackbits(self._array[low >> 3 : (high + 7) >> 3], bitorder="little")
        absent: np.ndarray[tuple[int], np.dtype[np.bool_]] = bits[low & 7 : (low & 7) + high - low] == 0
        return absent


def bytes_of(count: int) -> int:
    """Of the bits of so many blocks."""
    return -(-count // 8)


def pages_that_differ(one: bytes | bytearray, other: bytes | bytearray, page_bytes: int) -> list[int]:
    """The numbers of the pages in which two maps of one length differ."""
    differs = np.frombuffer(one, dtype=np.uint8) != np.frombuffer(other, dtype=np.uint8)
    pages: list[int] = np.unique(np.flatnonzero(differs) // page_bytes).tolist()
    return pages


def _sum(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "little").bit_count()
