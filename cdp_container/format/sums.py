"""Content checksums per 4 KiB.

Pure helpers for whoever writes or compares content.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES

_PIECE_BYTES: Final = 31 * 64
"""Whole blocks of SHA-256, so that nothing is kept back between pieces."""


def block_sums(offset: int, data: bytes | memoryview) -> bytes:
    """16 bytes of SHA-256 for every aligned block that lies wholly in `data`, which begins at `offset`.

    A block is hashed in pieces below the 2,048 bytes from which on hashlib lets go of Python's lock: to take
    the lock back after each block costs packing threads more than the sum of it.
    """
    first = -offset % SUM_BLOCK_BYTES
    sha256 = hashlib.sha256
    view = memoryview(data)
    sums = []
    for at in range(first, len(view) - SUM_BLOCK_BYTES + 1, SUM_BLOCK_BYTES):
        block = sha256(view[at : at + _PIECE_BYTES])
        block.update(view[at + _PIECE_BYTES : at + 2 * _PIECE_BYTES])
        block.update(view[at + 2 * _PIECE_BYTES : at + SUM_BLOCK_BYTES])
        sums.append(block.digest()[:SUM_BYTES])
    return b"".join(sums)


def sum_count(offset: int, length: int) -> int:
    """How many sums `block_sums` gives for `length` bytes that begin at `offset`."""
    return max(0, (length - -offset % SUM_BLOCK_BYTES) // SUM_BLOCK_BYTES)
