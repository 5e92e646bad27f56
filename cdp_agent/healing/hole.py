"""An extent whose content is lost, and what of it was found again: by checksum, or from its very cut. PURE.

What only looks like it is never taken: a block counts if its checksum is the index's. Bytes that no checksum
covers count only where they come from the records that the extent was made of, or are the end of a file that
this very extent wrote last and whose sum the watcher's index has. Reading does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cdp_container.format.index import Extent
from cdp_container.format.layout import SUM_BYTES
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.sums import block_sums, sum_count


@dataclass(slots=True)
class Hole:
    """See the module.

    Attributes:
        extent: of data, with its sums.
        content: what is found of it so far.
        lost_blocks: the whole blocks that are not, by their first byte in the space.
        lacks_edges: whether bytes that no checksum covers are not found.
    """

    extent: Extent
    content: bytearray = field(init=False, repr=False)
    lost_blocks: set[int] = field(init=False, repr=False)
    lacks_edges: bool = field(init=False)

    def __post_init__(self) -> None:
        offset, length = self.extent.offset, self.extent.length
        first = offset + -offset % SUM_BLOCK_BYTES
        count = sum_count(offset, length)
        assert len(self.extent.sums) == count * SUM_BYTES, "an extent has the sums of all its blocks"
        self.content = bytearray(length)
        self.lost_blocks = set(range(first, first + count * SUM_BLOCK_BYTES, SUM_BLOCK_BYTES))
        self.lacks_edges = count * SUM_BLOCK_BYTES != length

    @property
    def is_filled(self) -> bool:
        """Whether all of it is found."""
        return not self.lost_blocks and not self.lacks_edges

    @property
    def found_bytes(self) -> int:
        """Of its content, as far as checksums tell; all of it where it is filled."""
        if self.is_filled:
            return self.extent.length
        return sum_count(self.extent.offset, self.extent.length) * SUM_BLOCK_BYTES - len(self.lost_blocks) * (
            SUM_BLOCK_BYTES
        )

    def offer(self, offset: int, data: bytes) -> None:
        """Look at bytes that stand, or stood, at `offset` of the space: the right blocks are taken."""
        for block in sorted(self.lost_blocks):
            at = block - offset
            if at < 0 or at + SUM_BLOCK_BYTES > len(data):
                continue
            piece = data[at : at + SUM_BLOCK_BYTES]
            if block_sums(0, piece) == self._sum_of(block):
                start = block - self.extent.offset
                self.content[start : start + SUM_BLOCK_BYTES] = piece
                self.lost_blocks.discard(block)

    @property
    def lacks_end_alone(self) -> bool:
        """Whether all bytes that no checksum covers are those after its last whole block, and not found."""
        return self.lacks_edges and not self.extent.offset % SUM_BLOCK_BYTES

    def accept_end(self, data: bytes) -> None:
        """Take what is proven to stand after its last whole block."""
        assert self.lacks_end_alone, self.extent.offset
        assert len(data) == self.extent.length % SUM_BLOCK_BYTES, len(data)
        self.content[self.extent.length - len(data) :] = data
        self.lacks_edges = False

    def accept(self, data: bytes) -> bool:
        """Take the content that the extent's own records tell, if all checksums agree; whether it did."""
        if len(data) != self.extent.length or block_sums(self.extent.offset, data) != self.extent.sums:
            return False
        self.content[:] = data
        self.lost_blocks.clear()
        self.lacks_edges = False
        return True

    def _sum_of(self, block: int) -> bytes:
        first = self.extent.offset + -self.extent.offset % SUM_BLOCK_BYTES
        number = (block - first) // SUM_BLOCK_BYTES
        return self.extent.sums[number * SUM_BYTES : (number + 1) * SUM_BYTES]
