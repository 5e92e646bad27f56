"""Content checksums per 4 KiB, and zeros found at the same grain.

Pure helpers for whoever writes or compares content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES

_ZEROS: Final = bytes(SUM_BLOCK_BYTES)


def block_sums(offset: int, data: bytes | memoryview) -> bytes:
    """16 bytes of SHA-256 for every aligned block that lies wholly in `data`, which begins at `offset`."""
    first = -offset % SUM_BLOCK_BYTES
    sha256 = hashlib.sha256
    view = memoryview(data)
    return b"".join(
        [
            sha256(view[at : at + SUM_BLOCK_BYTES]).digest()[:SUM_BYTES]
            for at in range(first, len(view) - SUM_BLOCK_BYTES + 1, SUM_BLOCK_BYTES)
        ]
    )


def split_zeros(offset: int, data: bytes | memoryview) -> Iterator[tuple[int, int, bool]]:
    """Runs (offset, length, is_zero) of `data`, which begins at `offset`, without gaps.

    Only aligned blocks that lie wholly in `data` count as zero: a shorter run of zeros costs
    less as data than as an extent of its own.
    """
    view = memoryview(data)
    end = len(view)
    begun, zero = 0, False
    for at in range(-offset % SUM_BLOCK_BYTES, end - SUM_BLOCK_BYTES + 1, SUM_BLOCK_BYTES):
        # The first byte decides for most blocks; comparing bytes is much quicker than comparing views.
        is_zero = view[at] == 0 and bytes(view[at : at + SUM_BLOCK_BYTES]) == _ZEROS
        if is_zero != zero:
            if at > begun:
                yield offset + begun, at - begun, zero
            begun, zero = at, is_zero
    tail = end - (end + offset) % SUM_BLOCK_BYTES
    if zero and begun < tail < end:
        yield offset + begun, tail - begun, True
        begun, zero = tail, False
    if end > begun:
        yield offset + begun, end - begun, zero
