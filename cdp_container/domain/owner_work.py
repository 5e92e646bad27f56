"""Carrying out the owner's effects on a store: one effect, one request or little more, one event.

No decision is made here, and nothing is repeated: what a failure means is for `owner.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from cdp_container.domain.ends import find_end, highest_epoch
from cdp_container.domain.opening import collected_by
from cdp_container.domain.owner_types import (
    CountEpochs,
    EndFound,
    EpochRead,
    EpochsCounted,
    EpochWritten,
    Event,
    Failure,
    FindEnd,
    OwnerFailed,
    OwnerRead,
    OwnerUnchanged,
    ReadEpoch,
    ReadOwner,
    SwapOwner,
    Swapped,
    WorkFailed,
    WriteEpoch,
)
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    DamagedObject,
    ForeignObject,
    KeyMissing,
    MissingObject,
    NewerFormat,
    NoSuchBucket,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreThrottled,
)
from cdp_container.format.domain import build_epoch_record, build_owner, parse_epoch_record, parse_owner
from cdp_container.format.keys import OWNER_KEY, epoch_key
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store

OwnerRequest: TypeAlias = ReadOwner | SwapOwner
OwnerWork: TypeAlias = FindEnd | WriteEpoch | ReadEpoch | CountEpochs


def failure_of(error: CdpError) -> Failure:
    """What an error of the store says about whether the request was done."""
    match error:
        case PreconditionFailed():
            return Failure.PRECONDITION
        case Contention():
            return Failure.CONTENTION
        case StoreThrottled() | AccessDenied() | StoreFull():
            return Failure.THROTTLED
        case (
            NotFound()
            | NoSuchBucket()
            | MissingObject()
            | DamagedObject()
            | ForeignObject()
            | NewerFormat()
            | KeyMissing()
        ):
            return Failure.LOST
        case _:
            return Failure.UNKNOWN


def request_owner(store: Store, domain: bytes, effect: OwnerRequest) -> Event:
    """Read or swap `domain/owner`. `store` must not repeat a request, and gives up what hangs (`prompt`)."""
    try:
        if isinstance(effect, SwapOwner):
            return Swapped(store.put_if(OWNER_KEY, build_owner(effect.owner), effect.tag))
        if effect.unless_tag is None:
            blob = store.get(OWNER_KEY)
        else:
            changed = store.get_unless(OWNER_KEY, effect.unless_tag)
            if changed is None:
                return OwnerUnchanged()
            blob = changed
        return OwnerRead(parse_owner(blob.data, OWNER_KEY, domain), blob.found.tag)
    except CdpError as error:
        return OwnerFailed(failure_of(error), str(error))


def do_work(patient: Store, prompt: Store, domain: bytes, effect: OwnerWork, keys: ReaderKeys) -> Event:
    """The longer work of a claim.

    Args:
        patient: may repeat reads.
        prompt: is as for `request_owner`.
        domain: its id.
        effect: what is to be done.
        keys: with the index key of a domain that is encrypted: its ledger is sealed.
    """
    try:
        match effect:
            case FindEnd(epoch, protected, ledger):
                collected = collected_by(patient, domain, ledger, epoch, protected, keys)
                end = find_end(patient, domain, epoch, protected, collected)
                return EndFound(replace(end, unread=collected.unread))
            case WriteEpoch(record):
                prompt.put_new(epoch_key(record.epoch), build_epoch_record(record))
                return EpochWritten()
            case ReadEpoch(epoch):
                return _read_epoch(prompt, domain, epoch)
            case CountEpochs():
                return EpochsCounted(highest_epoch(patient))
    except CdpError as error:
        return WorkFailed(failure_of(error), str(error))


def _read_epoch(store: Store, domain: bytes, epoch: int) -> EpochRead:
    key = epoch_key(epoch)
    try:
        return EpochRead(parse_epoch_record(store.get(key).data, key, domain))
    except NotFound:
        return EpochRead(None)
