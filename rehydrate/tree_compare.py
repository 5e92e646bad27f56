"""What of a file that is there differs from what the container has, by checksums: only that is fetched.

Content that no checksum covers counts as different. Which files are compared is decided in tree_target.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from cdp_container.domain.blocks import SUM, WINDOW_BYTES, ZEROS, Blocks, blocks_of
from cdp_container.domain.contents import Contents
from cdp_container.extents.intervals import Intervals, merged
from cdp_container.extents.tables import SUMS, Table
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.sums import block_sums

READ_BYTES: Final = 1 << 20
_ZERO_SUM: Final = np.frombuffer(block_sums(0, bytes(SUM_BLOCK_BYTES)), dtype=SUMS)[0]


def different(contents: Contents, runs: Table, fd: int, start: int, end: int) -> Intervals:
    """Where a file differs in `[start, end)`: intervals of whole blocks, but for the end.

    Args:
        contents: gathered with sums.
        runs: of the file's content, the newest first.
        fd: of the file, opened for reading; it is long enough already.
        start: a multiple of a block.
        end: the same, or the file's size.
    """
    starts: list[int] = []
    for window in range(start, end, WINDOW_BYTES):
        upto = min(window + WINDOW_BYTES, end)
        rounded = -(-upto // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
        blocks = blocks_of(contents, runs, window, rounded)
        for at in range(window, upto, READ_BYTES):
            starts += _differing(blocks, at, os.pread(fd, min(READ_BYTES, upto - at), at))
    begins = np.array(starts, dtype=np.int64)
    return merged(Intervals(begins, np.minimum(begins + SUM_BLOCK_BYTES, end)))


def _differing(blocks: Blocks, at: int, data: bytes) -> list[int]:
    """The offsets of the blocks that differ, of those from `at` on."""
    first = at // SUM_BLOCK_BYTES - blocks.first
    count = len(data) // SUM_BLOCK_BYTES
    kinds, sums = blocks.kinds[first : first + count], blocks.sums[first : first + count]
    mine = np.frombuffer(block_sums(0, data[: count * SUM_BLOCK_BYTES]), dtype=SUMS)
    same = ((kinds == SUM) & (mine == sums)) | ((kinds == ZEROS) & (mine == _ZERO_SUM))
    found: list[int] = (at + np.flatnonzero(~same) * SUM_BLOCK_BYTES).tolist()
    rest = data[count * SUM_BLOCK_BYTES :]
    if rest and (blocks.kinds[first + count] != ZEROS or any(rest)):
        found.append(at + count * SUM_BLOCK_BYTES)
    return found
