"""What an image has in every 4 KiB of a space, as far as indexes tell: zeros, a checksum, or unknown. PURE.

Runs are painted oldest first into one window, so memory follows the window. Content that no checksum covers
is unknown and must be taken for different. Reading a volume, and what is done with a difference, does not
belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.domain.contents import Contents
from cdp_container.extents.tables import SUMS, Table
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import SUM_BLOCK_BYTES

WINDOW_BYTES: Final = 4 << 30
"""Of one window: a million blocks, 17 MiB of memory."""

ZEROS: Final = 0
SUM: Final = 1
UNKNOWN: Final = 2


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks from number `first` on: what each is, and its sum where that is SUM."""

    first: int
    kinds: NDArray[np.uint8]
    sums: Table


def blocks_of(contents: Contents, runs: Table, start: int, end: int) -> Blocks:
    """The blocks of `[start, end)` of a space, both multiples of a block.

    Args:
        contents: gathered with sums.
        runs: of the space on the branch, the newest first, as `image.runs_of` gives them.
        start: first byte of the window.
        end: the byte after its last one.
    """
    count = (end - start) // SUM_BLOCK_BYTES
    blocks = Blocks(start // SUM_BLOCK_BYTES, np.zeros(count, np.uint8), np.zeros(count, SUMS))
    extents, (first_sums, sums) = contents.extents(), contents.extent_sums()
    for run in runs[(runs["start"] < end) & (runs["end"] > start)][::-1]:
        rows = slice(int(run["first"]), int(run["first"] + run["count"]))
        _paint(blocks, extents[rows], first_sums[rows], sums)
    return blocks


def _paint(blocks: Blocks, extents: Table, first_sums: Table, sums: Table) -> None:
    """Lay extents of one run, sorted and disjoint, over what is older."""
    size, low, high = SUM_BLOCK_BYTES, blocks.first, blocks.first + len(blocks.kinds)
    starts, ends = extents["offset"], extents["offset"] + extents["length"]
    whole_from, whole_to = -(-starts // size), ends // size
    # A block of which an extent has a part is never whole in another one of its run.
    for cut in (starts[starts % size != 0] // size, ends[ends % size != 0] // size):
        blocks.kinds[cut[(cut >= low) & (cut < high)] - low] = UNKNOWN
    begins, stops = np.maximum(whole_from, low), np.minimum(whole_to, high)
    kept = begins < stops
    is_data = extents["kind"] == ExtentKind.DATA
    for begin, stop in zip(begins[kept & ~is_data].tolist(), stops[kept & ~is_data].tolist(), strict=True):
        blocks.kinds[begin - low : stop - low] = ZEROS
    kept &= is_data
    counts = stops[kept] - begins[kept]
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    where = np.repeat(begins[kept], counts) + within - low
    blocks.kinds[where] = SUM
    blocks.sums[where] = sums[np.repeat(first_sums[kept] + begins[kept] - whole_from[kept], counts) + within]
