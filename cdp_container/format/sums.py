"""Content checksums per 4 KiB.

Pure helpers for whoever writes or compares content.
"""

from __future__ import annotations

import hashlib

from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES


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


def sum_count(offset: int, length: int) -> int:
    """How many sums `block_sums` gives for `length` bytes that begin at `offset`."""
    return max(0, (length - -offset % SUM_BLOCK_BYTES) // SUM_BLOCK_BYTES)
