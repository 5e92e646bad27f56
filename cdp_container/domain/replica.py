"""The newest cut that is complete in a copy of a container whose objects arrive in any order. Only reads.

A zone that is copied to may have `domain/owner` before the segments that it speaks of, segments without those
before them, and lack records or the configuration. A cut is complete here when every segment that its image
is made of is there; what a missing record said of an epoch, each of its segments repeats. What that image
holds does not belong here (contents), nor what to do with a container that is damaged (history).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_container.domain.ends import NOTHING_COLLECTED, Collected, first_segments, read_segment
from cdp_container.domain.history import DomainFacts, History, Span, owner_of_record, read_config
from cdp_container.errors import MissingObject, NoSuchDomain, NotFound, counted
from cdp_container.format.domain import EpochRecord, Owner, parse_epoch_record, parse_owner
from cdp_container.format.keys import EPOCHS_PREFIX, OWNER_KEY, KeyKind, epoch_key, log_prefix, parse_key
from cdp_container.format.limits import PREAMBLE_BYTES_MAX
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import check_key, parse_preamble
from cdp_container.store.api import Store

RECORDS_MAX: Final = 100_000
"""Records of epochs that are looked at: a stop for a listing that never ends."""


def read_replica_domain(store: Store) -> DomainFacts:
    """What stands under `domain/` as far as it arrived; `records` are all, also those that do not count.

    Where an epoch's record is not there, its first segment that is stands in for it.

    Raises:
        NoSuchDomain: neither an owner nor a record of an epoch is there.
        DamagedObject, ForeignObject, NewerFormat, LimitExceeded: something is there and cannot be read.
    """
    try:
        owner: Owner | None = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    except NotFound:
        owner = None
    found = _read_records(store, None if owner is None else owner.domain)
    domain = owner.domain if owner is not None else found[0].domain if found else None
    records = sorted([*found, *stand_ins(store, domain, found)], key=lambda one: one.epoch, reverse=True)
    notes = ["this is taken for a copy: the newest point that is complete here counts"]
    if owner is None:
        if not records:
            raise NoSuchDomain(f"open the container {store.address}", f"there is no {OWNER_KEY}")
        owner = owner_of_record(records[0])
        notes.append(f"{OWNER_KEY} is not there")
    config = None
    if any(owner.config):
        try:
            config = read_config(store, owner)
        except MissingObject:
            notes.append("the configuration is not there")
    if len(records) > len(found):
        notes.append(f"{counted(len(records) - len(found), 'record')} of epochs not there")
    return DomainFacts(owner, config, tuple(records), tuple(notes))


def read_replica(store: Store, facts: DomainFacts, collected: Collected = NOTHING_COLLECTED) -> History:
    """Which epochs the newest complete cut is made of; `newest` is NOWHERE where none is complete.

    `facts` are those of `read_replica_domain`. Errors as there, and of segments that cannot be read.
    """
    copy = _Copy(store, facts.owner.domain, {record.epoch: record for record in facts.records}, collected)
    newest, ends = copy.newest(facts.owner.epoch_in_force)
    spans = {epoch: Span(copy.records[epoch], end) for epoch, end in sorted(ends.items())}
    owner, notes = facts.owner, list(facts.notes)
    if newest < owner.protected:
        proven = f"{owner.protected.epoch}.{owner.protected.cut}"
        notes.append(f"cut {proven} was proven, and is not whole in this copy")
    known = replace(owner, version=max(1, owner.version))  # what 0 would doubt, whoever reads a copy accepts
    return History(known, facts.config, spans, newest, None, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Copy:
    """What is there of a container; `runs` are the lengths of epochs' contiguous runs, once looked up."""

    store: Store
    domain: bytes
    records: dict[int, EpochRecord]
    collected: Collected
    runs: dict[int, int] = field(default_factory=dict)

    def newest(self, in_force: int) -> tuple[Place, dict[int, Place]]:
        """The newest complete cut, and the end of every epoch that its image is made of."""
        begun = [epoch for epoch in self.records if epoch > in_force and self.last_cut(epoch, None)]
        head = max(begun, default=in_force)
        known = head in self.records
        heads = ([head] if known else []) + sorted((e for e in self.records if e < head), reverse=True)
        for epoch in heads:
            cap, is_head = self.stated_end(epoch), known and epoch == head
            if not is_head and not self.last_cut(epoch, cap):
                continue  # a claim that came to nothing, or nothing of it is here: no image of its own
            found = self.descend(epoch, cap)
            if found or (is_head and self.is_followed(epoch)):
                return found, self.branch(found)
        return NOWHERE, {}

    def descend(self, epoch: int, cap: Place | None) -> Place:
        """The newest complete cut of an epoch, up to `cap`, or of what it is based on."""
        while epoch:
            record = self.records.get(epoch)
            if record is None:
                return NOWHERE
            place = self.last_cut(epoch, cap)
            if place and self.is_complete(record.base):
                return place
            epoch, cap = record.base.epoch, record.base
        return NOWHERE

    def is_followed(self, epoch: int) -> bool:
        """Whether every record along the bases of an epoch is there."""
        while epoch:
            if epoch not in self.records:
                return False
            epoch = self.records[epoch].base.epoch
        return True

    def is_complete(self, place: Place) -> bool:
        """Whether every segment and record that the image of a cut is made of is there."""
        while place:
            record = self.records.get(place.epoch)
            if record is None or self.run(place.epoch) < place.seq:
                return False
            place = record.base
        return True

    def branch(self, place: Place) -> dict[int, Place]:
        """The cuts that an image is based on, by epoch."""
        ends = {}
        while place:
            ends[place.epoch] = place
            place = self.records[place.epoch].base
        return ends

    def stated_end(self, epoch: int) -> Place | None:
        """Where an epoch ends by the newest record that says so; None where none is here.

        Also where `domain/owner` does not know of that record yet: what was proven never lies beyond it.
        """
        later = [record for record in self.records.values() if record.previous == epoch]
        return max(later, key=lambda record: record.epoch).end if later else None

    def last_cut(self, epoch: int, cap: Place | None) -> Place:
        """The newest cut of the contiguous run of an epoch, up to `cap`; NOWHERE if there is none."""
        if cap is not None and cap.epoch != epoch:
            return NOWHERE  # it ended before its first cut
        last = self.run(epoch) if cap is None else min(cap.seq, self.run(epoch))
        for seq in range(last, 0, -1):
            place = self.cut_at(epoch, seq)
            if place:
                return place
        return NOWHERE

    def cut_at(self, epoch: int, seq: int) -> Place:
        """The cut that a segment completes, NOWHERE if none, or one that is retired."""
        if self.collected.ledger.is_retired(epoch, seq):
            return NOWHERE
        if self.collected.ledger.is_collected(epoch, seq):
            return self.collected.cuts.get((epoch, seq), NOWHERE)
        preamble = read_segment(self.store, self.domain, epoch, seq).preamble
        return preamble.place if preamble.complete else NOWHERE

    def run(self, epoch: int) -> int:
        """How many segments of an epoch are here or collected, from the first one without a gap."""
        if epoch not in self.runs:
            seq = 0
            for found in self.store.list(log_prefix(epoch)):
                parsed = parse_key(found.key)
                if parsed is None or parsed.kind is not KeyKind.SEGMENT or parsed.number <= seq:
                    continue
                seq = self.past_collected(epoch, seq)
                if parsed.number > seq + 1:
                    break
                seq = max(seq, parsed.number)
            self.runs[epoch] = self.past_collected(epoch, seq)
        return self.runs[epoch]

    def past_collected(self, epoch: int, seq: int) -> int:
        """The last of the collected segments that follow `seq` without a gap, `seq` where there are none."""
        while self.collected.ledger.is_collected(epoch, seq + 1):
            seq += 1
        return seq


def _read_records(store: Store, domain: bytes | None) -> list[EpochRecord]:
    """All records of epochs that are there."""
    records: list[EpochRecord] = []
    for found in store.list(EPOCHS_PREFIX):
        parsed = parse_key(found.key)
        if parsed is None or parsed.kind is not KeyKind.EPOCH_RECORD or len(records) == RECORDS_MAX:
            continue
        record = parse_epoch_record(store.get(found.key).data, found.key, domain)
        if epoch_key(record.epoch) == found.key:
            domain = record.domain
            records.append(record)
    return records


def stand_ins(store: Store, domain: bytes | None, records: Sequence[EpochRecord]) -> Iterator[EpochRecord]:
    """For epochs that have segments and no record (of `records`) what any segment of theirs tells."""
    known = {record.epoch for record in records}
    for found in first_segments(store):
        parsed = parse_key(found.key)
        if parsed is None or parsed.epoch in known:
            continue
        preamble = parse_preamble(store.get_range(found.key, 0, PREAMBLE_BYTES_MAX), found.key)
        check_key(preamble, found.key, preamble.domain if domain is None else domain)
        domain = preamble.domain
        previous = max(preamble.base.epoch, preamble.end.epoch)
        yield EpochRecord(
            domain=domain,
            epoch=preamble.epoch,
            previous=previous,
            site="",
            instance=bytes(16),
            began_ns=preamble.cut_time_ns,
            base=preamble.base,
            end=preamble.end,
        )
