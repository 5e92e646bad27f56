"""The history of a domain: which epochs count, up to where, and what an image of a cut is made of.

Reads `domain/` and, for the newest epoch's end, the segments behind what is proven (ends.py). Follows
docs/container-format.md, section 4, steps 1 and 2. What segments hold does not belong here (contents).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdp_container.domain.ends import NOTHING_COLLECTED, Collected, find_end
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NoSuchDomain,
    NotFound,
)
from cdp_container.format.domain import (
    DomainConfig,
    EpochRecord,
    Owner,
    OwnerState,
    config_digest,
    parse_config,
    parse_epoch_record,
    parse_owner,
)
from cdp_container.format.keys import (
    EPOCHS_PREFIX,
    OWNER_KEY,
    KeyKind,
    config_key,
    epoch_key,
    log_prefix,
    parse_key,
)
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.api import Store

_WITHOUT_OWNER: Final = (
    f"bring it back from a replica or a version; a copy of the container without {OWNER_KEY} can be restored "
    "from with --at"
)

EPOCHS_MAX: Final = 1_000_000
"""Epochs of one chain: a stop for records that lead nowhere."""

LOOKS_MAX: Final = 8
"""At `domain/owner`, where it changes hands while a reader looks."""

READ_AHEAD: Final = 32
"""Segments that are asked for at once behind what is proven: without `domain/owner` that is a whole epoch."""


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """What stands under `domain/`: owner, configuration (None where the owner is gone), records of epochs.

    `records` are those of the epochs that count, newest first; `notes` what a reader should be told; `doubt`
    why nobody knows what the newest proven cut is.
    """

    owner: Owner
    config: DomainConfig | None
    records: tuple[EpochRecord, ...]
    notes: tuple[str, ...]
    doubt: CdpError | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """One epoch that counts: its record, and the last cut of it that does (NOWHERE if it has none)."""

    record: EpochRecord
    end: Place


@dataclass(frozen=True, slots=True)
class History:
    """Which epochs count.

    Attributes:
        owner: as `domain/owner` said, or as the highest epoch record tells where that object is gone.
        config: the configuration in force; None where `domain/owner` is gone.
        spans: by epoch, oldest first.
        newest: the newest cut, which a takeover now would start from; NOWHERE if there is none.
        lost: why a cut that was proven to be there is not; `newest` is then what can still be followed to.
        notes: what a reader should be told.
    """

    owner: Owner
    config: DomainConfig | None
    spans: dict[int, Span]
    newest: Place
    lost: CdpError | None
    notes: tuple[str, ...]

    @property
    def in_doubt(self) -> CdpError | None:
        """Why there may be newer cuts that were proven than `newest`; None where there are none."""
        if self.lost is None and not self.owner.version:  # no owner was ever written with version 0
            return MissingObject(OWNER_KEY, "it is gone, so nobody knows how new the newest proven cut was")
        return self.lost

    @property
    def domain(self) -> bytes:
        """The domain's id."""
        return self.owner.domain

    def branch_of(self, place: Place) -> dict[int, int]:
        """What a cut's image is made of: for each epoch the last seq. Raises DamagedObject, MissingObject."""
        branch: dict[int, int] = {}
        while place:
            span = self.spans.get(place.epoch)
            if span is None:
                why = "a base lies in an epoch that is not part of the domain's history"
                raise MissingObject(epoch_key(place.epoch), why)
            if place.cut > span.end.cut or place.seq > span.end.seq or place.epoch in branch:
                raise DamagedObject(epoch_key(place.epoch), f"a base lies beyond its end: {place}")
            branch[place.epoch] = place.seq
            place = span.record.base
        return branch

    def everything(self) -> dict[int, int]:
        """Every segment that counts, side branches included: for each epoch the last seq."""
        return {epoch: span.end.seq for epoch, span in self.spans.items() if span.end}

    def origins(self) -> dict[int, tuple[Place, Place]]:
        """For every epoch its base and the end of the one before it, which each of its segments repeats."""
        return {epoch: (span.record.base, span.record.end) for epoch, span in self.spans.items()}

    def is_protected(self, place: Place) -> bool:
        """Whether a cut is proven to belong to its epoch; a newer one would count if the owner died now."""
        return place.epoch < self.owner.epoch_in_force or place <= self.owner.protected


def read_domain(store: Store) -> DomainFacts:
    """Read what stands under `domain/`.

    Raises:
        NoSuchDomain: there is no container here.
        MissingObject, DamagedObject, ForeignObject, NewerFormat: the history cannot be followed.
    """
    notes: list[str] = []
    owner = _read_owner(store, notes)
    owner, doubt = _highest_owner(store, owner, notes)
    config = read_config(store, owner) if any(owner.config) else None
    return DomainFacts(owner, config, tuple(_read_chain(store, owner)), tuple(notes), doubt)


def read_history(
    store: Store, facts: DomainFacts | None = None, collected: Collected = NOTHING_COLLECTED
) -> History:
    """Read which epochs count, and up to where. `facts` are read where they are not given.

    Raises:
        NoSuchDomain, MissingObject, DamagedObject, ForeignObject, NewerFormat: see `read_domain`.
    """
    facts = read_domain(store) if facts is None else facts
    notes = list(facts.notes)
    spans: dict[int, Span] = {}
    newest, lost = NOWHERE, facts.doubt
    if facts.records:
        newest, lost = _newest(store, facts.owner, facts.records[0].epoch, collected, notes)
        lost = lost or facts.doubt
        ends = _ends(facts.records, newest)
        spans = {record.epoch: Span(record, ends[record.epoch]) for record in reversed(facts.records)}
    return History(facts.owner, facts.config, spans, newest, lost, tuple(notes))


def _newest(
    store: Store, owner: Owner, epoch: int, collected: Collected, notes: list[str]
) -> tuple[Place, CdpError | None]:
    """The newest cut, and why it is older than what was proven, if it is."""
    lost: CdpError | None = None
    try:
        end = find_end(store, owner.domain, epoch, owner.protected, collected, READ_AHEAD)
    except (MissingObject, DamagedObject, ForeignObject, NewerFormat, LimitExceeded) as error:
        # What is left may still be restored, by those who are told.
        lost = type(error)(error.what, error.why, MissingObject.default_hint)
        notes.append(f"the newest protected cut is lost: {error}")
        end = find_end(store, owner.domain, epoch, NOWHERE, collected, READ_AHEAD)
    if end.stopped_by:
        place = f"cut {end.place.cut} of epoch {end.place.epoch}"
        notes.append(f"nothing counts after {place}: {end.stopped_by}")
    return end.place, lost


def _read_owner(store: Store, notes: list[str]) -> Owner:
    try:
        return parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    except DamagedObject as error:
        raise DamagedObject(error.what, error.why, _WITHOUT_OWNER) from error
    except NotFound:
        record = _highest_record(store)
    if record is None:
        raise NoSuchDomain(f"open the container {store.address}", f"there is no {OWNER_KEY}")
    notes.append(f"{OWNER_KEY} is missing: the highest record of an epoch stands in for it")
    return owner_of_record(record)


def owner_of_record(record: EpochRecord) -> Owner:
    """What stands in for an owner that is gone: version 0, and nothing known to be proven."""
    return Owner(
        domain=record.domain,
        name="",
        version=0,
        nonce=bytes(16),
        site=record.site,
        instance=record.instance,
        epoch=record.epoch,
        state=OwnerState.ACTIVE,
        previous=record.previous,
        since_ns=record.began_ns,
        renewals=0,
        lease_seconds=0,
        config=bytes(32),
    )


def _highest_owner(store: Store, owner: Owner, notes: list[str]) -> tuple[Owner, CdpError | None]:
    """The owner, or what stands in for it where a higher epoch began.

    An epoch is claimed in `domain/owner` before anything of it is written. So where there is a record of a
    higher one, and segments, another zone's older object was put in the place of the newer one. One without
    segments may have come to nothing, and nothing is lost by passing it over.
    """
    for _ in range(LOOKS_MAX):
        epochs = [epoch for epoch in _recorded(store, owner.epoch) if any(store.list(log_prefix(epoch)))]
        if not epochs:
            return owner, None
        # Perhaps it was claimed since we looked.
        again = _read_owner(store, [])
        if again.epoch < max(epochs) and again.nonce == owner.nonce:
            return _overruled(owner, _read_record(store, max(epochs), owner.domain), notes)
        owner = again
    return owner, None


def _overruled(owner: Owner, record: EpochRecord, notes: list[str]) -> tuple[Owner, CdpError]:
    why = f"it tells of epoch {owner.epoch}, an older one of another zone, as epoch {record.epoch} began"
    notes.append(f"{OWNER_KEY}: {why}; the higher epoch counts")
    stand_in = replace(
        owner_of_record(record),
        name=owner.name,
        version=owner.version,
        lease_seconds=owner.lease_seconds,
        config=owner.config,
    )
    hint = "--at names a point; the owner of the higher epoch writes its own object back"
    return stand_in, MissingObject(OWNER_KEY, f"{why}: how new its newest proven cut is, nobody knows", hint)


def _highest_record(store: Store) -> EpochRecord | None:
    epochs = _recorded(store, 0)
    return _read_record(store, max(epochs), None) if epochs else None


def _recorded(store: Store, after: int) -> list[int]:
    """The epochs above `after` that have a record."""
    listed = store.list(EPOCHS_PREFIX, epoch_key(after) if after else "")
    parsed = [parse_key(found.key) for found in listed]
    return [key.epoch for key in parsed if key is not None and key.kind is KeyKind.EPOCH_RECORD]


def _read_record(store: Store, epoch: int, domain: bytes | None) -> EpochRecord:
    return parse_epoch_record(store.get(epoch_key(epoch)).data, epoch_key(epoch), domain)


def read_config(store: Store, owner: Owner) -> DomainConfig:
    """The configuration that `owner` names. Raises MissingObject, DamagedObject and their kin."""
    key = config_key(owner.config)
    try:
        data = store.get(key).data
    except NotFound as error:
        why = f"{OWNER_KEY} names this configuration, and it is gone"
        raise MissingObject(key, why, _WITHOUT_OWNER) from error
    if config_digest(data) != owner.config:
        raise DamagedObject(key, "it has not the digest that its key names", _WITHOUT_OWNER)
    return parse_config(data, key, owner.domain)


def _read_chain(store: Store, owner: Owner) -> list[EpochRecord]:
    """The records of all epochs that count, newest first."""
    records: list[EpochRecord] = []
    epoch = owner.epoch_in_force
    while epoch and len(records) < EPOCHS_MAX:
        key = epoch_key(epoch)
        try:
            record = parse_epoch_record(store.get(key).data, key, owner.domain)
        except NotFound as error:
            raise MissingObject(key, "the history of the domain needs this record") from error
        if record.epoch != epoch:
            raise DamagedObject(key, f"it is the record of epoch {record.epoch}")
        records.append(record)
        epoch = record.previous
    return records


def _ends(records: Sequence[EpochRecord], newest: Place) -> dict[int, Place]:
    """For every epoch of a chain (newest first) the last cut of it that counts."""
    stated = [newest, *(record.end for record in records[:-1])]
    return {
        record.epoch: end if end.epoch == record.epoch else NOWHERE
        for record, end in zip(records, stated, strict=True)
    }
