"""Volumes that are captured from their VMs, as cuts have them: what of their batches is sent.

What was read at leisure (a first reading) is compared with the base cut of the epoch, and only what differs
is sent; but where this epoch sent something already, the base says nothing of it any more. Where batches come
from, and into which cut they go, does not belong here (`trees`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdp_agent.imager.ranges import Range, bounded, joined, parts
from cdp_agent.streamer.compare import Comparison
from cdp_agent.streamer.payloads import Chunk
from cdp_agent.streamer.trees import Batch
from cdp_container.domain.identity import DiskIdentity, SourceIdentity
from cdp_container.format.index import Record
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.records import make_record
from cdp_container.format.segment import NewExtent


def as_source(disk: DiskIdentity) -> SourceIdentity:
    """As comparisons name it: by its place among the disks of agent.json."""
    return SourceIdentity(disk.name, "", disk.space, disk.size_bytes, removed=disk.removed)


def volume_record(volume: DiskIdentity | SourceIdentity, block_bytes: int) -> Record:
    """What the container is told of one volume, however it is captured: that it is there, or left."""
    if volume.removed:
        return make_record("space-", volume.space, {})
    value = {
        "kind": "volume",
        "name": volume.name,
        "size_bytes": volume.size_bytes,
        "block_bytes": block_bytes,
    }
    return make_record("space+", volume.space, value)


class Images:
    """Used by the builder's thread alone.

    Args:
        disks: those of agent.json.
        comparison: with the base cut, its sources being these; None where the container holds nothing yet.
    """

    def __init__(self, disks: Sequence[DiskIdentity], comparison: Comparison | None) -> None:
        self._disks = disks
        self._numbers = {disk.space: number for number, disk in enumerate(disks)}
        self._comparison = comparison
        self._sent: dict[bytes, list[Range]] = {disk.space: [] for disk in disks}

    @property
    def spaces(self) -> tuple[bytes, ...]:
        """Of those that are protected."""
        return tuple(disk.space for disk in self._disks if not disk.removed)

    def space_records(self, block_bytes: int) -> Iterator[Record]:
        """What the container is told of which volumes there are."""
        return (volume_record(disk, block_bytes) for disk in self._disks)

    def sent_of(self, batch: Batch) -> Iterator[NewExtent]:
        """The extents of a batch that are to be sent; those of trees as they are.

        Raises StoreUnavailable and its kin: what the container has cannot be read now.
        """
        fresh: dict[bytes, list[Range]] = {}
        for extent in batch.extents():
            number = self._numbers.get(extent.space)
            if number is None:
                yield extent
                continue
            for part in self._compared(number, extent) if batch.compare else (extent,):
                fresh.setdefault(part.space, []).append((part.offset, part.offset + part.length))
                yield part
        for space, ranges in fresh.items():
            size_bytes = self._disks[self._numbers[space]].size_bytes
            self._sent[space] = bounded(joined(self._sent[space], ranges), SUM_BLOCK_BYTES, size_bytes)
        if not batch.compare and not batch.lacking:
            self.close()

    def _compared(self, number: int, extent: NewExtent) -> Iterator[NewExtent]:
        end = extent.offset + extent.length
        for start, stop, was_sent in parts(extent.offset, end, self._sent[extent.space]):
            data = None if extent.data is None else extent.data[start - extent.offset : stop - extent.offset]
            part = NewExtent(extent.space, start, stop - start, extent.kind, data)
            if was_sent:
                yield part
            elif self._comparison is None:
                if part.kind is ExtentKind.DATA:
                    yield part  # nothing covers it: it reads as zeros
            else:
                chunk = Chunk(number, start, stop - start, extent.kind, data, 0, 0)
                for found in self._comparison.different((chunk,)):
                    yield NewExtent(extent.space, found.offset, found.length, found.kind, found.data)

    def close(self) -> None:
        """Give disk space back, until something is to be compared again."""
        if self._comparison is not None:
            self._comparison.close()
