"""What is remembered of one VM from cycle to cycle: bitmaps, what is in doubt, what was given away. PURE.

The rule that data hangs on: every byte of a disk is at any time in one of these: it is in the container as
of the newest image; or a bitmap that QEMU keeps says that it was written; or it is in doubt here; or it was
given away in a batch that may never be in the container, and comes back into doubt if so; or the disk's first
reading has not come to it yet. What is read from where does not belong here (`cycle`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cdp_agent.imager.ranges import Range, bounded, joined, total_bytes
from cdp_agent.imager.settings import GRANULARITY_BYTES, DiskSettings, VmSettings


class Instant(NamedTuple):
    """Of which an image is: the wall clock and the boot-time clock just before.

    `ran`: its guest ran then, or wrote since the image before.
    """

    wall_ns: int
    boottime_ns: int
    ran: bool


@dataclass(frozen=True, slots=True)
class Given:
    """What a batch has of a disk. `first`: of the first reading, which goes back to where that began."""

    batch: int
    ranges: tuple[Range, ...]
    first: bool


@dataclass(slots=True)
class DiskMemory:
    """One disk.

    Attributes:
        settings: which it is.
        node: its node in the QEMU.
        read_to: up to where its first reading came; all of it is to be read until this is its size.
        doubt: what is to be read again, whatever the bitmap says.
        given: not yet known to be in the container.
    """

    settings: DiskSettings
    node: str = ""
    read_to: int = 0
    doubt: list[Range] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)

    @property
    def is_read(self) -> bool:
        """Whether all of it was read once."""
        return self.read_to >= self.settings.size_bytes

    def put_in_doubt(self, ranges: Iterable[Range]) -> None:
        """These are to be read again."""
        self.doubt = bounded(joined(self.doubt, ranges), GRANULARITY_BYTES, self.settings.size_bytes)

    def give(self, batch: int, ranges: Sequence[Range], first: bool = False) -> None:
        """They are in this batch: not in doubt while it may come to the container."""
        kept = bounded(ranges, GRANULARITY_BYTES, self.settings.size_bytes)
        if kept:
            self.given.append(Given(batch, tuple(kept), first))

    def undo(self, batches: Iterable[int]) -> bool:
        """These batches are not in the container; whether that says anything."""
        wanted = {*batches}
        undone = [given for given in self.given if given.batch in wanted]
        self.given = [given for given in self.given if given.batch not in wanted]
        for given in undone:
            if given.first:
                self.read_to = min(self.read_to, given.ranges[0][0])
            else:
                self.put_in_doubt(given.ranges)
        return bool(undone)

    def settle(self, batches: Iterable[int]) -> None:
        """These are."""
        wanted = {*batches}
        self.given = [given for given in self.given if given.batch not in wanted]

    def forget(self) -> None:
        """Nothing is known of it any more: all of it is to be read and compared."""
        self.node, self.read_to = "", 0
        self.doubt, self.given = [], []


@dataclass(slots=True)
class VmMemory:
    """One VM.

    Attributes:
        settings: which it is.
        disks: its disks.
        bitmap: number of the one that records, on all of its disks; 0 where none does.
        next_bitmap: of the one that replaces it, where it is not known whether that was done; else 0.
        last_bitmap: the highest number that was ever used.
        doubtful_bytes: what was dirty when it was looked at last.
        problem: why it cannot be captured, "" while it can.
        failures: in a row.
        again_ns: it is not tried before this time of the boot-time clock.
        is_clean: nothing of ours was left in it by the last cycle.
        may_keep: a backup job of ours may be in it, which keeps what the guest overwrites; until it is gone
            that is tried every second, as QEMU fails the guest's writes where room for that ends.
        let_go_ns: when it is tried next.
    """

    settings: VmSettings
    disks: tuple[DiskMemory, ...]
    bitmap: int = 0
    next_bitmap: int = 0
    last_bitmap: int = 0
    doubtful_bytes: int = 0
    problem: str = ""
    failures: int = 0
    again_ns: int = 0
    is_clean: bool = False
    may_keep: bool = False
    let_go_ns: int = 0

    def cleaned(self) -> None:
        """Nothing of ours is left in it but the bitmaps that are remembered."""
        self.is_clean, self.may_keep = True, False

    @property
    def is_read(self) -> bool:
        """Whether all of its disks were read once."""
        return all(disk.is_read for disk in self.disks)

    @property
    def doubt_bytes(self) -> int:
        """What is in doubt beside the bitmap."""
        return sum(total_bytes(disk.doubt) for disk in self.disks)

    def forget(self) -> None:
        """It is another QEMU, or one of which we know nothing."""
        self.bitmap = self.next_bitmap = 0
        for disk in self.disks:
            disk.forget()

    def undo(self, batches: Iterable[int]) -> bool:
        """These batches are not in the container; whether that says anything."""
        wanted = {*batches}
        undone = [disk.undo(wanted) for disk in self.disks]
        return any(undone)

    def undo_all(self) -> bool:
        """None that was given is."""
        return self.undo({given.batch for disk in self.disks for given in disk.given})

    def settle(self, batches: Iterable[int]) -> None:
        """These are."""
        wanted = {*batches}
        for disk in self.disks:
            disk.settle(wanted)

    @property
    def bitmaps(self) -> tuple[int, ...]:
        """Numbers of those that are, or may be, ours now."""
        return tuple(number for number in (self.bitmap, self.next_bitmap) if number)

    def fresh_bitmap(self) -> int:
        """A number that no bitmap had."""
        self.last_bitmap += 1
        return self.last_bitmap


def memory_of(settings: VmSettings) -> VmMemory:
    """Of a VM of which nothing is known."""
    return VmMemory(settings, tuple(DiskMemory(disk) for disk in settings.disks))
