"""What the container holds, as far as ownership can see it: records of epochs, and segments that landed.

A cut is one segment, so a set of numbers tells everything. Who writes what does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from cdp_container.domain import owner_types as ot
from cdp_container.format.domain import EpochRecord, Owner
from cdp_container.format.place import NOWHERE, Place

SEQ_BITS = 4
"""Seqs of an epoch are below 16: budgets are far smaller."""


class Stored(NamedTuple):
    """`segments` has a bit for each (epoch, seq); `records` are by epoch."""

    segments: tuple[tuple[int, int], ...] = ()
    records: tuple[EpochRecord, ...] = ()

    def with_segment(self, epoch: int, seq: int) -> Stored:
        assert seq < 1 << SEQ_BITS, seq
        old = dict(self.segments)
        old[epoch] = old.get(epoch, 0) | 1 << seq
        return self._replace(segments=tuple(sorted(old.items())))

    def with_record(self, record: EpochRecord) -> Stored:
        """Create-only: where there is one, it stays."""
        if self.record(record.epoch) is not None:
            return self
        return self._replace(records=tuple(sorted((*self.records, record), key=lambda item: item.epoch)))

    def record(self, epoch: int) -> EpochRecord | None:
        return next((record for record in self.records if record.epoch == epoch), None)

    def has(self, epoch: int, seq: int) -> bool:
        return bool(dict(self.segments).get(epoch, 0) >> seq & 1)

    def highest(self) -> int:
        """As `ends.highest_epoch` finds it."""
        epochs = [record.epoch for record in self.records] + [epoch for epoch, _ in self.segments]
        return max(epochs, default=0)

    def chain(self, owner: Owner) -> list[EpochRecord]:
        """The records that count, newest first; it ends where one is missing."""
        found: list[EpochRecord] = []
        epoch = owner.epoch_in_force
        while (record := self.record(epoch)) is not None:
            found.append(record)
            epoch = record.previous
        return found

    def without_tails(self, ends: Mapping[int, Place]) -> Stored:
        """Without segments beyond the ends that stand: no reader ever asks for them."""
        kept = []
        for epoch, bits in self.segments:
            end = ends.get(epoch)
            if end is not None:
                bits &= (1 << (end.seq if end.epoch == epoch else 0) + 1) - 1
            if bits:
                kept.append((epoch, bits))
        return self._replace(segments=tuple(kept))


Found: TypeAlias = ot.EndFound | ot.WorkFailed
Find: TypeAlias = Callable[[Stored, int, Place], Found]


def find_end(stored: Stored, epoch: int, protected: Place) -> Found:
    """The newest cut of the contiguous run, as `ends.find_end` finds it."""
    if epoch == 0:
        return ot.EndFound(ot.End())
    record = stored.record(epoch)
    start = protected if protected.epoch == epoch else NOWHERE if record is None else record.base
    if start.epoch and not stored.has(start.epoch, start.seq):
        return ot.WorkFailed(ot.Failure.LOST, f"{start} is gone")
    seq = start.seq if start.epoch == epoch else 0
    while stored.has(epoch, seq + 1):
        seq += 1
    return ot.EndFound(ot.End(Place(epoch, seq, seq) if seq else start))
